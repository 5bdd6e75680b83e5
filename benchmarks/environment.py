"""How fast the environment alone is: tokens per second of processor time, building, memory.

    python benchmarks/environment.py [--repeat N] [--output FILE.json]

Stepping: random tokens, never EOS, so that no text ends; reset and the last step, which decodes texts, are not timed.

- ours: `gym.make_vec`, copy=True and copy=False.
- bound: what no such environment can do without. One array; write a column, count the tokens of each row, look for EOS;
  return copies of its arrays, or the arrays.
- SyncVectorEnv: Gymnasium's, over our single environment without any wrapper.
- TorchRL: `LLMEnv`, which appends tokens to a tensor that grows; it has no limit of length and tells nothing of a text.
  Left out where torchrl is not installed.

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
EXAMPLES = 1_000  # that the environments draw from while they are stepped
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
    """The least work: texts of equal length that nobody checks, draws, ends or tells of."""

    def __init__(self, rows: int, prompt_length: int, new_tokens: int, *, copy: bool) -> None:
        self.observations = np.full((rows, prompt_length + new_tokens), -1, np.int64)
        self.rewards, self.truncated = np.zeros(rows), np.zeros(rows, bool)
        self.lengths = np.zeros(rows, np.int64)
        self.prompt_length, self.copy, self.column, self.ended = prompt_length, copy, prompt_length, 0

    def reset(self) -> None:
        """Begin all texts, on the prompts that stand there."""
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


class Grower:
    """TorchRL's environment, stepped with numpy's tokens as tensors."""

    def __init__(self, rows: int, prompt_length: int) -> None:
        from tensordict import TensorDict
        from torchrl.envs.llm import LLMEnv

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.env = LLMEnv(from_text=False, batch_size=(rows,), eos_token_id=EOS)
        ids = torch.full((rows, prompt_length), FIRST_WORD)
        self.prompts = TensorDict(tokens=ids, attention_mask=torch.ones_like(ids), batch_size=(rows,))

    def reset(self) -> None:
        """Begin all texts."""
        self.state = self.env.reset(self.prompts.clone())

    def step(self, actions: np.ndarray) -> Any:
        """Append one token to every text."""
        self.state["tokens_response"] = torch.from_numpy(actions).unsqueeze(1)
        self.state = self.env.step(self.state)["next"]
        return self.state


def steps(env: Any, actions: np.ndarray, episodes: int) -> Callable[[], Sample]:
    """A turn: all tokens but the last of so many batches of texts, reset outside the clock."""

    def turn() -> Sample:
        seconds = 0.0
        for _ in range(episodes):
            env.reset()
            begin = time.process_time()
            for row in actions[:-1]:
                env.step(row)
            seconds += time.process_time() - begin
        return Sample(seconds, episodes * actions[:-1].size)

    return turn


def whole_texts(env: Any, actions: np.ndarray, episodes: int) -> Callable[[], Sample]:
    """A turn: so many batches of texts from reset to the last token's info."""

    def turn() -> Sample:
        begin = time.process_time()
        for _ in range(episodes):
            env.reset()
            for row in actions:
                env.step(row)
        return Sample(time.process_time() - begin, episodes * actions.size)

    return turn


def enough(turn_of: Callable[[int], Callable[[], Sample]], seconds: float) -> Callable[[], Sample]:
    """A turn that takes about so many seconds of the processor."""
    number, taken = 1, turn_of(1)().seconds
    while taken < seconds / 4:
        number *= 2
        taken = turn_of(number)().seconds
    return turn_of(max(1, round(number * seconds / max(taken, 1e-9))))


def environments(rows: int, prompt_length: int, new_tokens: int) -> dict[str, Any]:
    """Everything that can be stepped, by name."""
    prompts, tokenizer = prompts_of_words(EXAMPLES, prompt_length), tokenizer_of_words()
    sizes = {"prompt_length": prompt_length, "new_tokens": new_tokens}
    found: dict[str, Any] = {}
    for ours, bound, sync, copy in ((OURS, BOUND, SYNC, True), (OURS_VIEW, BOUND_VIEW, SYNC_VIEW, False)):
        found[ours] = text_envs(prompts, tokenizer, rows, copy=copy, **sizes)
        found[bound] = Bound(rows, prompt_length, new_tokens, copy=copy)
        problem = found[ours].unwrapped.config
        found[sync] = SyncVectorEnv(
            [lambda problem=problem: TextEnv(problem)] * rows, copy=copy, autoreset_mode=AutoresetMode.DISABLED
        )
    try:
        found[TORCHRL] = Grower(rows, prompt_length)
    except ImportError:
        Console().print(f"{TORCHRL} is left out: torchrl is not installed")
    return found


def races(rows: int, prompt_length: int, new_tokens: int, seconds: float) -> list[Comparison]:
    """Stepping, and whole texts."""
    envs = environments(rows, prompt_length, new_tokens)
    rng = np.random.default_rng(0)
    actions = rng.integers(FIRST_WORD, VOCABULARY, (new_tokens, rows))
    size = f"{rows} texts of {prompt_length} + {new_tokens} tokens"
    stepped = {name: enough(lambda n, env=env: steps(env, actions, n), seconds) for name, env in envs.items()}
    written = {
        name: enough(lambda n, name=name: whole_texts(envs[name], actions, n), seconds)
        for name in (OURS_VIEW, SYNC_VIEW)
    }
    return [
        Comparison(f"stepping, {size}, processor time", "tokens", stepped, TARGETS),
        Comparison(f"whole texts, {size}, processor time", "tokens", written, [Target(OURS_VIEW, SYNC_VIEW)]),
    ]


def building(number: int) -> Comparison:
    """From a list of examples to the first observations: ours, and one call of the tokenizer on all prompts.

    Prompts are new in every turn, as tokens are kept per process.
    """
    tokenizer, turn = tokenizer_of_words(), iter(range(10**6))

    def prompts() -> list[str]:
        return [f"w{2 + next(turn) % 97} {prompt}" for prompt in prompts_of_words(number, 15)]

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

    contestants = {"ours, built and reset": ours, "the tokenizer alone, one call": tokenise}
    return Comparison(f"building on {number:,} examples, wall time", "examples", contestants)


def memory(rows: Sequence[int], prompt_length: int, new_tokens: int) -> dict[str, dict[str, float]]:
    """MiB that environments of so many rows hold after a reset and a step, their examples apart, and bytes a row."""
    prompts, sizes = (
        prompts_of_words(EXAMPLES, prompt_length),
        {"prompt_length": prompt_length, "new_tokens": new_tokens},
    )
    problem = text_envs(prompts, tokenizer_of_words(), 1, **sizes).unwrapped.config
    problem.prompts.rows(np.arange(EXAMPLES))  # all prompts are tokens already
    kinds: dict[str, Callable[[int], Any]] = {
        "ours": lambda n: TextVectorEnv(problem, n, copy=False),
        "SyncVectorEnv": lambda n: SyncVectorEnv([lambda: TextEnv(problem)] * n, copy=False),
    }
    found = {}
    for name, build in kinds.items():
        for n in rows:
            held = held_by(lambda build=build, n=n: build(n), n)
            bare = n * (prompt_length + new_tokens) * 8
            found[f"{name}, {n} rows"] = {"MiB": held / MIB, "bytes a row": held / n, "times its array": held / bare}
    return found


def held_by(build: Callable[[], Any], rows: int) -> int:
    """Bytes that Python and numpy hold for what is built, once it was reset and stepped."""
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
    options.add_argument("--seconds", type=float, default=0.2, help="processor time of a turn")
    settings = side_by_side.parsed(options, arguments)
    sizes, batches, seconds, examples = SIZES, BATCHES, settings.seconds, 100_000
    memory_rows = (64, 1024)
    if settings.smoke:
        sizes, batches, seconds, examples, memory_rows = ((6, 4),), (2,), 0.001, 100, (2, 4)
    found = []
    for prompt_length, new_tokens in sizes:
        for rows in batches:
            for race in races(rows, prompt_length, new_tokens, seconds):
                found.append(side_by_side.run(race, repeat=settings.repeat))
                side_by_side.show(found[-1])
    found.append(side_by_side.run(building(examples), repeat=min(settings.repeat, 3)))
    side_by_side.show(found[-1])
    held = memory(memory_rows, *sizes[0])
    side_by_side.show_table("memory that an environment holds, its examples apart", held)
    return side_by_side.finish(settings, found, memory=held)


if __name__ == "__main__":
    main()
