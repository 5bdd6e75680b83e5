"""Measure the environment alone: tokens per second of processor time, construction, memory.

    python benchmarks/environment.py [--repeat N] [--output FILE.json]

Stepping: random tokens, never EOS, so that no text ends; reset and the last step, which decodes texts, are not timed.

- ours: `gym.make_vec`, copy=True and copy=False.
- bound: the least work of such an environment. One array; write a column, count the tokens of each row, compare with
  EOS; return copies of its arrays, or the arrays.
- SyncVectorEnv: Gymnasium's, over our single environment without any wrapper.
- TorchRL: `LLMEnv`, which appends tokens to a growing tensor; it has no length limit and returns no info about texts.
  Left out if torchrl is not installed.

Whole texts: the same with reset, and with the last step, whose infos have the decoded text.
"""

from __future__ import annotations

import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import side_by_side
import torch
from benchmark_models import EOS, FIRST_WORD, VOCABULARY, prompts_of_words, text_envs, tokenizer_of_words
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rich.console import Console
from side_by_side import Comparison, Sample, Target

from tril_gym.envs.text_env import TextEnv
from tril_gym.envs.text_vector_env import TextVectorEnv

SIZES = ((64, 48), (500, 50))  # prompt tokens, new tokens
BATCHES = (64, 256)
EXAMPLES = 1_000  # number of examples from which the stepped environments draw
MIB = 2**20

OURS, OURS_VIEW = "ours, copy=True", "ours, copy=False"
BOUND, BOUND_VIEW = "bound, copy", "bound, view"
SYNC, SYNC_VIEW = "SyncVectorEnv, copy=True", "SyncVectorEnv, copy=False"
TORCHRL = "TorchRL LLMEnv"
TARGETS = (
    Target(OURS_VIEW, BOUND_VIEW, 1 / 1.5),
    Target(OURS, BOUND, 1 / 1.5),
    Target(OURS_VIEW, SYNC_VIEW, 20),
    Target(OURS, SYNC, 12),
    Target(OURS, TORCHRL),
)

Step = Callable[[np.ndarray], Any]


class Bound:
    """The least work of an environment: texts of equal length, without checks, drawn examples, ends or infos."""

    def __init__(self, rows: int, prompt_length: int, new_tokens: int, *, copy: bool) -> None:
        self.observations = np.full((rows, prompt_length + new_tokens), -1, np.int64)
        self.rewards, self.truncated = np.zeros(rows), np.zeros(rows, bool)
        self.lengths = np.zeros(rows, np.int64)
        self.prompt_length, self.copy, self.column, self.ended = prompt_length, copy, prompt_length, 0

    def reset(self) -> None:
        """Empty all completions; keep the prompts."""
        self.observations[:, self.prompt_length :] = -1
        self.lengths[:], self.column = 0, self.prompt_length

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Append one token to every text."""
        self.observations[:, self.column] = actions
        self.column += 1
        self.lengths += 1
        has_ended = actions == EOS
        self.ended += np.count_nonzero(has_ended)
        if not self.copy:
            return self.observations, self.rewards, has_ended, self.truncated, {}
        return self.observations.copy(), self.rewards.copy(), has_ended, self.truncated.copy(), {}


class TorchRLEnv:
    """TorchRL's environment, stepped with numpy arrays."""

    def __init__(self, rows: int, prompt_length: int) -> None:
        from tensordict import TensorDict
        from torchrl.envs.llm import LLMEnv

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.env = LLMEnv(from_text=False, batch_size=(rows,), eos_token_id=EOS)
        ids = torch.full((rows, prompt_length), FIRST_WORD)
        self.prompts = TensorDict(tokens=ids, attention_mask=torch.ones_like(ids), batch_size=(rows,))

    def reset(self) -> None:
        """Begin new texts in all rows."""
        self.state = self.env.reset(self.prompts.clone())

    def step(self, actions: np.ndarray) -> Any:
        """Append one token to every text."""
        self.state["tokens_response"] = torch.from_numpy(actions).unsqueeze(1)
        self.state = self.env.step(self.state)["next"]
        return self.state


def step_texts(env: Any, actions: np.ndarray, episodes: int) -> Callable[[], Sample]:
    """Return a variant that steps all tokens but the last of some batches of texts; resets are not timed."""

    def measure() -> Sample:
        seconds = 0.0
        for _ in range(episodes):
            env.reset()
            begin = time.process_time()
            for row in actions[:-1]:
                env.step(row)
            seconds += time.process_time() - begin
        return Sample(seconds, episodes * actions[:-1].size)

    return measure


def write_texts(env: Any, actions: np.ndarray, episodes: int) -> Callable[[], Sample]:
    """Return a variant that writes some batches of texts, from reset to the infos of the last token."""

    def measure() -> Sample:
        begin = time.process_time()
        for _ in range(episodes):
            env.reset()
            for row in actions:
                env.step(row)
        return Sample(time.process_time() - begin, episodes * actions.size)

    return measure


def of_duration(variant: Callable[[int], Callable[[], Sample]], seconds: float) -> Callable[[], Sample]:
    """Choose the number of batches such that a measurement takes about `seconds` of processor time."""
    number, taken = 1, variant(1)().seconds
    while taken < seconds / 4:
        number *= 2
        taken = variant(number)().seconds
    return variant(max(1, round(number * seconds / max(taken, 1e-9))))


def environments(rows: int, prompt_length: int, new_tokens: int) -> dict[str, Any]:
    """Make the environments to compare, by name."""
    prompts, tokenizer = prompts_of_words(EXAMPLES, prompt_length), tokenizer_of_words()
    sizes = {"prompt_length": prompt_length, "new_tokens": new_tokens}
    envs: dict[str, Any] = {}
    for ours, bound, sync, copy in ((OURS, BOUND, SYNC, True), (OURS_VIEW, BOUND_VIEW, SYNC_VIEW, False)):
        envs[ours] = text_envs(prompts, tokenizer, rows, copy=copy, **sizes)
        envs[bound] = Bound(rows, prompt_length, new_tokens, copy=copy)
        config = envs[ours].unwrapped.config
        envs[sync] = SyncVectorEnv(
            [lambda config=config: TextEnv(config)] * rows, copy=copy, autoreset_mode=AutoresetMode.DISABLED
        )
    try:
        envs[TORCHRL] = TorchRLEnv(rows, prompt_length)
    except ImportError:
        Console().print(f"{TORCHRL} is left out: torchrl is not installed")
    return envs


def speed(rows: int, prompt_length: int, new_tokens: int, seconds: float) -> list[Comparison]:
    """Compare the environments in stepping, and in writing whole texts."""
    envs = environments(rows, prompt_length, new_tokens)
    rng = np.random.default_rng(0)
    actions = rng.integers(FIRST_WORD, VOCABULARY, (new_tokens, rows))
    size = f"{rows} texts of {prompt_length} + {new_tokens} tokens"
    stepped = {name: of_duration(lambda n, env=env: step_texts(env, actions, n), seconds) for name, env in envs.items()}
    written = {
        name: of_duration(lambda n, name=name: write_texts(envs[name], actions, n), seconds)
        for name in (OURS_VIEW, SYNC_VIEW)
    }
    return [
        Comparison(f"stepping, {size}, processor time", "tokens", stepped, TARGETS),
        Comparison(f"whole texts, {size}, processor time", "tokens", written, [Target(OURS_VIEW, SYNC_VIEW)]),
    ]


def construction(number: int) -> Comparison:
    """Compare construction and reset on a list of examples with one call of the tokenizer on all prompts.

    Prompts are new in every sample, as the tokens of known ones are cached in the process.
    """
    tokenizer, sample = tokenizer_of_words(), iter(range(10**6))

    def prompts() -> list[str]:
        return [f"w{2 + next(sample) % 97} {prompt}" for prompt in prompts_of_words(number, 15)]

    def ours() -> Sample:
        texts = prompts()
        begin = time.perf_counter()
        envs = text_envs(texts, tokenizer, 64, prompt_length=16, new_tokens=16)
        envs.reset(seed=0)
        return Sample(time.perf_counter() - begin, number)

    def tokenise() -> Sample:
        texts = prompts()
        begin = time.perf_counter()
        tokenizer(texts)
        return Sample(time.perf_counter() - begin, number)

    variants = {"ours, constructed and reset": ours, "the tokenizer alone, one call": tokenise}
    return Comparison(f"construction on {number:,} examples, wall time", "examples", variants)


def memory(rows: Sequence[int], prompt_length: int, new_tokens: int) -> dict[str, dict[str, float]]:
    """Measure the memory that environments hold after a reset and a step, without their examples."""
    prompts, tokenizer = prompts_of_words(EXAMPLES, prompt_length), tokenizer_of_words()
    envs = text_envs(prompts, tokenizer, 1, prompt_length=prompt_length, new_tokens=new_tokens)
    config = envs.unwrapped.config
    config.prompts.rows(np.arange(EXAMPLES))  # so that all prompts are tokenised already
    kinds: dict[str, Callable[[int], Any]] = {
        "ours": lambda n: TextVectorEnv(config, n, copy=False),
        "SyncVectorEnv": lambda n: SyncVectorEnv([lambda: TextEnv(config)] * n, copy=False),
    }
    held = {}
    for name, build in kinds.items():
        for n in rows:
            size = traced_bytes(lambda build=build, n=n: build(n), n)
            bare = n * (prompt_length + new_tokens) * 8
            held[f"{name}, {n} rows"] = {"MiB": size / MIB, "bytes a row": size / n, "times its array": size / bare}
    return held


def traced_bytes(build: Callable[[], Any], rows: int) -> int:
    """Measure the bytes that Python and numpy hold for an environment after a reset and a step."""
    build()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    env = build()
    env.reset(seed=0)
    env.step(np.full(rows, FIRST_WORD))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    options.add_argument("--seconds", type=float, default=0.2, help="processor time of a measurement")
    settings = side_by_side.parse(options, arguments)
    sizes, batches, seconds, examples = SIZES, BATCHES, settings.seconds, 100_000
    memory_rows = (64, 1024)
    if settings.smoke:
        sizes, batches, seconds, examples, memory_rows = ((6, 4),), (2,), 0.001, 100, (2, 4)
    results = []
    for prompt_length, new_tokens in sizes:
        for rows in batches:
            for comparison in speed(rows, prompt_length, new_tokens, seconds):
                results.append(side_by_side.run(comparison, repeat=settings.repeat))
                side_by_side.show(results[-1])
    results.append(side_by_side.run(construction(examples), repeat=min(settings.repeat, 3)))
    side_by_side.show(results[-1])
    held = memory(memory_rows, *sizes[0])
    side_by_side.show_table("memory of an environment without its examples", held)
    return side_by_side.finish(settings, results, memory=held)


if __name__ == "__main__":
    main()
