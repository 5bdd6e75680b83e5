"""Writing and learning on a GPU, with GPT-2's own shape: beside `generate`, the memory's speed, and a loop by hand.

    python benchmarks/gpu.py [--device cuda] [--dtype bfloat16] [--repeat N] [--output FILE.json]

12 layers, width 768, 50,257 tokens, 124 M random weights; 128 texts of 64 + 48 tokens, then of 500 + 50, all of equal
length.

- Rollout: the contestants of rollout.py, a compiled policy among them. A token cannot be had faster than the device
  reads what it needs of the weights, and of the keys and values before it. That floor is shown beside our speed: the
  bytes of a batch over the bytes per second of a copy on the same device.
- Iteration: our PPO (critic of its own, 4 epochs in minibatches of 16) beside the loop of hand_written.py, which writes
  with `generate`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import side_by_side
import torch
from benchmark_models import EOS, gpt2, prompts_of_words, text_envs, tokenizer_of_words, word_ids
from hand_written import HandWrittenPPO, Numbers
from rollout import COMPILED, GENERATE, OURS, Case
from side_by_side import Comparison, Target, timed

from tril_gym.agents import PPO, LMPolicy, PPOConfig

PPO_OURS, PPO_COMPILED, BY_HAND = "PPO", "PPO, compiled", "by hand, with generate"
GIB = 2**30


class Shape:
    """Sizes of a batch and of a model."""

    def __init__(self, settings: Any, prompt_length: int, new_tokens: int) -> None:
        self.prompt_length, self.new_tokens = prompt_length, new_tokens
        self.rows, self.minibatch = (4, 2) if settings.smoke else (settings.texts, 16)
        small = {"vocab_size": 50, "layers": 1, "width": 32, "heads": 2}
        self.sizes = small if settings.smoke else {"vocab_size": 50_257, "layers": 12, "width": 768, "heads": 12}
        self.device, self.dtype = settings.device, getattr(torch, settings.dtype)

    @property
    def title(self) -> str:
        """What is measured."""
        return f"{self.rows} texts of {self.prompt_length} + {self.new_tokens} tokens"

    def model(self) -> Any:
        """With random weights."""
        return gpt2(positions=self.prompt_length + self.new_tokens, **self.sizes).to(self.device, self.dtype)

    def prompts(self) -> list[str]:
        """As texts."""
        return prompts_of_words(self.rows, self.prompt_length, vocab_size=self.sizes["vocab_size"])

    def envs(self, **settings: Any) -> Any:
        """The environment on them."""
        return text_envs(
            self.prompts(),
            tokenizer_of_words(self.sizes["vocab_size"]),
            self.rows,
            prompt_length=self.prompt_length,
            new_tokens=self.new_tokens,
            min_new_tokens=self.new_tokens,
            **settings,
        )

    def bytes_of_a_batch(self, model: Any) -> float:
        """What must be read to write it: all weights a token, and the keys and values that stand before it."""
        number = torch.finfo(self.dtype).bits // 8
        columns = sum(self.prompt_length + token for token in range(self.new_tokens))
        cache = 2 * self.sizes["layers"] * self.sizes["width"] * columns * self.rows
        return number * (cache + self.new_tokens * sum(weight.numel() for weight in model.parameters()))


def bytes_per_second(device: str, size: int = GIB, repeat: int = 10) -> float:
    """Of a copy, which reads and writes: the fastest of some."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    fastest = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        target.copy_(source)
        int(target[-1])  # waits for the device
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * size / fastest


def iteration(shape: Shape, *, compiles: bool) -> Comparison:
    """PPO beside the loop by hand."""
    vocab_size = shape.sizes["vocab_size"]

    def reward(prompts: Any, completions: Sequence[str], references: Any, extras: Any) -> list[float]:
        return [text.count("0") / max(1, len(text.split())) for text in completions]

    def reward_by_hand(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        return (((tokens % 10 == 0) & is_token).sum(1) / is_token.sum(1)).to(shape.dtype)

    model, numbers = shape.model(), Numbers(new_tokens=shape.new_tokens, minibatch_size=shape.minibatch)
    settings = {"learning_rate": numbers.learning_rate, "minibatch_size": shape.minibatch, "epochs": numbers.epochs}

    def agent_of(compiles: bool) -> PPO:
        policy = LMPolicy(copy.deepcopy(model), None)
        return PPO(policy, shape.envs(reward=reward, vocab_size=vocab_size), PPOConfig(compile=compiles, **settings))

    agents = {PPO_OURS: agent_of(False)} | ({PPO_COMPILED: agent_of(True)} if compiles else {})
    by_hand = HandWrittenPPO(model, reward_by_hand, numbers, eos=EOS, stops=False, shared=False, generates=True)
    prompts = word_ids(shape.prompts()).to(shape.device)
    mask = torch.ones_like(prompts, dtype=torch.bool)

    def ours(agent: PPO) -> float:
        agent.learn(1)
        return float(shape.rows * shape.new_tokens)

    contestants = {name: timed(partial(ours, agent)) for name, agent in agents.items()}
    contestants[BY_HAND] = timed(lambda: float(by_hand.iterate(prompts, mask)))
    targets = [Target(name, BY_HAND, 2.0) for name in agents]
    return Comparison(f"one iteration, {shape.title}", "tokens", contestants, targets)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    options.add_argument("--device", default="cuda", help="of torch")
    options.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="of all weights")
    options.add_argument("--texts", type=int, default=128, help="side by side")
    settings = side_by_side.parsed(options, arguments)
    found, floors = [], {}
    bandwidth = bytes_per_second(settings.device, 2**20 if settings.smoke else GIB)
    for sizes in [(6, 4)] if settings.smoke else [(64, 48), (500, 50)]:
        shape = Shape(settings, *sizes)
        envs = shape.envs(vocab_size=shape.sizes["vocab_size"])
        case = Case(shape.model(), envs, stops=False, device=shape.device, compiles=not settings.smoke)
        race, targets = (
            case.race(f"rollout, {shape.title}"),
            [Target(OURS, GENERATE, 5.0), Target(COMPILED, GENERATE, 5.0)],
        )
        rollout = side_by_side.run(Comparison(race.title, race.unit, race.contestants, targets), repeat=settings.repeat)
        floor = shape.rows * shape.new_tokens / (shape.bytes_of_a_batch(case.model) / bandwidth)
        speed = max(
            rollout["contestants"][name]["speed"]["median"]
            for name in (OURS, COMPILED)
            if name in rollout["contestants"]
        )
        floors[shape.title] = {"GB/s": bandwidth / 1e9, "tokens/s at that": floor, "ours": speed / floor}
        found += [rollout, side_by_side.run(iteration(shape, compiles=not settings.smoke), repeat=settings.repeat)]
        for result in found[-2:]:
            side_by_side.show(result)
    side_by_side.show_table("what the memory allows", floors)
    return side_by_side.finish(settings, found, floors=floors)


if __name__ == "__main__":
    main()
