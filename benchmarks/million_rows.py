"""Measure how long a large data set takes until training could begin, and in how much memory.

    python benchmarks/million_rows.py [--rows 1000000] [--tokenizer FOLDER] [--smoke] [--output FILE.json]

Rows of questions with an answer, of about 40 words, are written as JSON Lines. Then a new process makes `tril/Text-v0`
with 64 rows on the file, and resets it, as `tril-gym train` does: all rows are read and checked, a tenth is held out,
prompts in both parts are counted, and the lengths of prompts are measured on some. A prompt is tokenised when it is
first drawn. Seconds are those of the clock, and in brackets those of all processors together, which other work on the
machine does not change. Memory is the process's peak of resident memory, beside that of the same process on 100 rows:
the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = (
    *("apple", "river", "stone", "candle", "winter", "market", "garden", "window", "bridge", "paper", "silver"),
    *("morning", "travel", "number", "answer", "question", "carry", "bring", "count", "leave", "return", "double"),
    *("half", "third", "several", "every", "before", "after", "between", "without", "together"),
)
MIB = 2**20


def write_rows(path: Path, rows: int) -> None:
    """Write rows of different questions, each with its answer."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            first, second = number % 1000, number // 1000
            story = " ".join(WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(30))
            row = {
                "question": f"{story}. In the end there were {first} and {second} of them. How many in all?",
                "answer": str(first + second),
                "level": number % 5,
            }
            file.write(json.dumps(row) + "\n")


def prepare(path: str, tokenizer: str) -> dict[str, float]:
    """Make the environment of a run on a file, and reset it; return seconds of each part and the peak memory."""
    import gymnasium as gym

    import tril_gym  # noqa: F401  registers the environments
    from tril_gym.experiment.resolution import configure
    from tril_gym.experiment.run_data import training_data

    config = configure("ppo", env="tril/Text-v0", dataset=path, env_args={"column": {"prompt": "question"}})
    start = time.perf_counter(), time.process_time()
    data, _, _ = training_data(config)
    read = time.perf_counter(), time.process_time()
    envs = gym.make_vec("tril/Text-v0", num_envs=64, tokenizer=tokenizer, reward=None, **data, **config.env_args)
    envs.reset(seed=0)
    ready = time.perf_counter(), time.process_time()
    peak = peak_mib()
    found = {}
    for kind, first, middle, last in zip(("wall", "cpu"), start, read, ready, strict=True):
        found |= {f"read_{kind}": middle - first, f"tokenise_{kind}": last - middle, f"ready_{kind}": last - first}
    return found | {"peak_mib": peak, "max_prompt_length": float(envs.metadata["text"]["max_prompt_length"])}


def peak_mib() -> float:
    """Return the peak of the process's resident memory, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def in_new_process(path: Path, tokenizer: str, cache: Path) -> dict[str, float]:
    """Return what `prepare` measures in a process of its own."""
    settings = os.environ | {"TRIL_GYM_CACHE": str(cache)}
    command = [sys.executable, __file__, "--prepare", str(path), tokenizer]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def save_tokenizer(folder: Path) -> str:
    """Fit a tokenizer of 1,000 tokens to some rows, and return its folder."""
    from transformers import PreTrainedTokenizerFast

    from tril_gym.data.tokenizers import EOS_TOKEN, PAD_TOKEN, train_tokenizer

    write_rows(folder / "some.jsonl", 20_000)
    texts = [json.loads(line)["question"] for line in (folder / "some.jsonl").read_text("utf-8").splitlines()]
    fitted = train_tokenizer(texts, 1_000)
    PreTrainedTokenizerFast(tokenizer_object=fitted, pad_token=PAD_TOKEN, eos_token=EOS_TOKEN).save_pretrained(
        folder / "tokenizer"
    )
    return str(folder / "tokenizer")


def measure(rows: int, tokenizer: str | None) -> dict[str, Any]:
    """Return what a process measures on many rows, and one on 100."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = tokenizer or save_tokenizer(folder)
        few, many = folder / "few.jsonl", folder / "many.jsonl"
        write_rows(few, 100)
        write_rows(many, rows)
        return {
            "rows": rows,
            "file_mib": many.stat().st_size / MIB,
            "few": in_new_process(few, tokenizer, folder / "cache"),
            "many": in_new_process(many, tokenizer, folder / "cache"),
        }


def report(found: dict[str, Any]) -> None:
    """Print the figures."""
    part, libraries = found["many"], found["few"]["peak_mib"]
    read, tokenised, ready = (
        f"{part[f'{step}_wall']:.1f} s ({part[f'{step}_cpu']:.1f} s)" for step in ("read", "tokenise", "ready")
    )
    print(
        f"{found['rows']:,} rows, {found['file_mib']:.0f} MiB of JSON Lines: ready after {ready}, of which reading"
        f" {read}, measuring lengths and the first prompts {tokenised}; peak {part['peak_mib']:.0f} MiB,"
        f" {part['peak_mib'] - libraries:.0f} MiB more than with 100 rows"
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print; return the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tokenizer", help="folder of a tokenizer; default: one of 1,000 tokens, fitted to the rows")
    parser.add_argument("--smoke", action="store_true", help="30,000 rows")
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args(arguments)
    found = measure(30_000 if settings.smoke else settings.rows, settings.tokenizer)
    report(found)
    if settings.output is not None:
        settings.output.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        print(json.dumps(prepare(*sys.argv[2:])))
    else:
        main()
