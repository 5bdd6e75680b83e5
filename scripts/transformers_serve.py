"""Let a real `transformers serve` guide: `python scripts/transformers_serve.py`, or `make servers`.

What it needs beyond this project is installed into .interop/serve, once. It serves a tiny model on the CPU, and checks
that a guide behind it samples, writes the same texts for the same seeds where it is asked one by one, and that
AggreVaTeD trains with it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from tril_gym.agents import AggreVaTeD, Guide, Plan, TextLayout, collect, tiny_policy

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / ".interop" / "serve"
REQUIREMENTS = ("fastapi", "uvicorn", "openai>=1.98", "python-multipart")
PATIENCE = 120  # seconds until the server must answer


def install() -> None:
    """Install what `transformers serve` needs, unless it is there."""
    if (PACKAGES / "uvicorn").is_dir():
        return
    print(f"installing {', '.join(REQUIREMENTS)} in {PACKAGES.relative_to(ROOT)}", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", PACKAGES, "-c", ROOT / "constraints.txt", *REQUIREMENTS], check=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(model: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the server of a model in a folder."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PACKAGES)]))
    env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    program = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--port", str(port)]
    with log.open("wb") as file:
        server = subprocess.Popen(program, env=env, stdout=file, stderr=subprocess.STDOUT)
    for _ in range(PATIENCE):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)) == 0:
                return server
        if server.poll() is not None:
            break
        time.sleep(1)
    server.kill()
    raise SystemExit(f"transformers serve does not answer:\n{log.read_text()[-2000:]}")


def check(url: str, model: str, envs: gym.vector.VectorEnv) -> None:
    """Check a guide behind the server."""
    one_by_one, at_once = (Guide.from_server(url, model, concurrency=number, timeout=60) for number in (1, 4))
    assert one_by_one.reads_text(TextLayout.of(envs)), "it returns no ids"

    def texts(guide: Any, seed: int) -> list[str]:
        found = collect(envs, Plan(rollout=guide), episodes=8, generator=torch.Generator().manual_seed(seed))
        return [info["completion"] for info in found.infos]

    first = texts(one_by_one, 1)
    print(f"{one_by_one!r} writes {first[0]!r}; {one_by_one.metrics()}")
    assert len(set(first)) == 8, "it samples"
    assert texts(one_by_one, 1) == first, "the same seeds give the same texts, one by one"
    print(f"the same seeds give the same texts, four at once: {texts(at_once, 1) == first}")
    agent = AggreVaTeD(tiny_policy(envs, samples=0), at_once, envs)
    history = agent.learn(2, progress=False)
    assert all(row["guide/failures"] == 0 and row["guide/requests"] > 0 for row in history), history
    print("AggreVaTeD trained for 2 iterations")


def main() -> None:
    install()
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=8, autoreset_mode="Disabled")
    with tempfile.TemporaryDirectory() as folder:
        model, log, port = Path(folder) / "tiny", Path(folder) / "serve.log", free_port()
        tiny_policy(envs, samples=64).save(model)
        server = start(model, port, log)
        try:
            check(f"http://127.0.0.1:{port}/v1", str(model), envs)
        except BaseException:
            print(log.read_text()[-3000:])
            raise
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
