"""PPO++ with a guide behind a server, asked by the /v1/completions protocol that vLLM, llama.cpp and others speak.

The server here is a small one of this file's own, with a tiny model, so that the example runs anywhere; with a real
one, only the address is another. Each iteration prints how the server was asked, and a text that the guide started,
with a bar where the policy continued it.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gymnasium as gym

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import Guide, LMPolicy, PPOPlusPlus, PPOPlusPlusConfig, tiny_guide, tiny_policy


class Completions(BaseHTTPRequestHandler):
    """Answers POST /v1/completions with a text of the server's model."""

    protocol_version, wbufsize = "HTTP/1.1", -1

    def do_POST(self) -> None:
        """Answer a request."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/completions" or not isinstance(asked["prompt"], str):
            return self.reply(404, {"error": {"message": "this server continues texts, at /v1/completions"}})
        with self.server.lock:
            text = self.server.model.generate(
                asked["prompt"], max_new_tokens=min(asked["max_tokens"], 20), seed=asked["seed"]
            )
        choice = {"index": 0, "text": text, "finish_reason": "stop"}
        return self.reply(200, {"choices": [choice], "usage": {"completion_tokens": len(text.split())}})

    def reply(self, status: int, content: dict) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Print nothing."""


@contextmanager
def serving(model: LMPolicy) -> Iterator[str]:
    """Yield the address of a server that runs in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    server.model, server.lock, server.daemon_threads = model, threading.Lock(), True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1#tiny"
    finally:
        server.shutdown()
        server.server_close()


def main(iterations: int = 8, num_envs: int = 32, samples: int = 3000) -> int:
    envs = gym.make_vec("tril/CommonGen-v0", num_envs=num_envs, autoreset_mode="Disabled")
    policy = tiny_policy(envs, samples=samples)  # pretrained on the references, and cached on disk
    with serving(tiny_guide(envs, samples=samples).policy) as address:
        guide = Guide.from_server(address)
        config = PPOPlusPlusConfig(rollin_prob=0.5, learning_rate=3e-4, critic_learning_rate=1e-3, kl_coef=0.01)
        agent = PPOPlusPlus(policy, guide, envs, config, seed=0)

        def show(report) -> None:
            trajectories, metrics = report.trajectories, report.metrics
            row = int((trajectories.switch > 0).int().argmax())  # the first text that has a rollin
            tokens, switch = trajectories.texts.completion_ids(row), int(trajectories.switch[row])
            begun, rest = (envs.unwrapped.tokenizer.decode(part) for part in (tokens[:switch], tokens[switch:]))
            print(
                f"{report.iteration:3d}  reward {metrics['reward/mean']:.3f}  {metrics['guide/requests']:.0f} requests,"
                f" {metrics['guide/tokens']:.0f} tokens, {metrics['guide/seconds']:.1f} s:{begun} |{rest}"
            )

        history = agent.learn(iterations, callbacks=[show], progress=False)
    return int(sum(row["guide/requests"] for row in history))


if __name__ == "__main__":
    main()
