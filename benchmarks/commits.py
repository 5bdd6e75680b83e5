"""Measure an iteration of PPO at two commits of this repository, alternately, in processor time.

    python benchmarks/commits.py BEFORE AFTER [--repeat N] [--output FILE.json]

32 texts of 16 + 16 tokens, one epoch in minibatches of 8, a GPT-2 of 2 layers and width 128: small enough that the
overhead of the package shows. Each commit is checked out into a temporary folder and runs in its own process, on one
thread. Processor time counts no waiting, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import side_by_side
from side_by_side import Comparison, Sample, Target
from worker import Bench, Worker

ROOT = Path(__file__).parents[1]
ROWS, WORDS, NEW_TOKENS = 32, 16, 16


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Have the files of a commit in a folder."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def serve(package: str, is_small: str) -> None:
    """Run iterations in this process with the package of a folder."""
    sys.path.insert(0, package)
    bench = Bench()
    import torch
    from benchmark_models import gpt2, prompts_of_words, text_envs, tokenizer_of_words

    import tril_gym
    from tril_gym.agents import PPO, LMPolicy, PPOConfig

    assert Path(tril_gym.__file__).is_relative_to(package), tril_gym.__file__
    torch.set_num_threads(1)
    rows, words, new_tokens = (4, 6, 4) if is_small == "small" else (ROWS, WORDS, NEW_TOKENS)

    def reward(prompts: Any, completions: Sequence[str], references: Any, extras: Any) -> list[float]:
        return [text.count("0") / max(1, len(text)) for text in completions]

    sizes = {"prompt_length": words, "new_tokens": new_tokens, "min_new_tokens": new_tokens}
    envs = text_envs(prompts_of_words(4 * rows, words), tokenizer_of_words(), rows, reward=reward, **sizes)
    config = PPOConfig(epochs=1, minibatch_size=rows // 4)
    agent = PPO(LMPolicy(gpt2(layers=2), tokenizer_of_words()), envs, config)

    def measure() -> dict[str, float]:
        begin = time.process_time()
        (row,) = agent.learn(1, progress=False)
        return {"seconds": time.process_time() - begin, "tokens": row["tokens"]}

    bench.serve(measure)


def measure(worker: Worker) -> Sample:
    """Return a measurement of a process."""
    answer = worker.request()
    return Sample(answer.pop("seconds"), answer.pop("tokens"), answer)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    options = side_by_side.parser(__doc__)
    options.add_argument("commits", nargs="*", help="two commits, the older one first")
    options.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # how the processes start
    if found := options.parse_args(arguments).serve:
        serve(*found)
        return None
    settings = side_by_side.parse(options, arguments)
    if len(settings.commits) != 2:
        options.error("name two commits, the older one first")
    size = "small" if settings.smoke else "whole"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {}
        for commit in settings.commits:
            package = stack.enter_context(checked_out(commit, folder / commit))
            command = [sys.executable, __file__, "--serve", str(package), size]
            workers[commit] = Worker(command, folder / f"{commit}.log")
            stack.callback(workers[commit].close)
            workers[commit].read()  # once it is ready
        before, after = settings.commits
        variants = {commit: partial(measure, worker) for commit, worker in workers.items()}
        title = f"one iteration of PPO, {ROWS} texts of {WORDS} + {NEW_TOKENS} tokens, seconds of processor time"
        comparison = Comparison(title, "tokens", variants, [Target(after, before, 0.98)], fixed_work=True)
        result = side_by_side.run(comparison, repeat=settings.repeat)
    side_by_side.show(result)
    return side_by_side.finish(settings, [result])


if __name__ == "__main__":
    main()
