"""Measure collection and learning on a GPU with GPT-2's size, against `generate`, memory bandwidth and plain PyTorch.

    python benchmarks/gpu.py [--device cuda] [--dtype bfloat16] [--no-compile] [--repeat N] [--output FILE.json]

12 layers, width 768, 50,257 tokens, 124 M random weights; 128 texts of 64 + 48 tokens, then of 500 + 50, all of equal
length.

- Rollout: the variants of rollout.py, a compiled policy among them. Each token requires reading the weights and the
  keys and values of the tokens before it, so memory bandwidth bounds the speed: the bytes read for a batch over the
  bytes per second of a copy on the same device. Our speed is shown as a share of that bound.
- Iteration: our PPO (separate critic, 4 epochs in minibatches of 16) against the loop of hand_written.py, which writes
  with `generate`.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import side_by_side
import torch
from benchmark_models import EOS, gpt2, prompts_of_words, text_envs, tokenizer_of_words, word_ids
from hand_written import HandWrittenPPO, Hyperparameters
from rollout import COMPILED, GENERATE, OURS, Case
from side_by_side import Comparison, Target, timed

from tril_gym.agents import PPO, LMPolicy, PPOConfig

PPO_OURS, PPO_COMPILED, PLAIN = "PPO", "PPO, compiled", "plain PyTorch, with generate"
GIB = 2**30


class Shape:
    """Sizes of a batch and of a model, and what is built from them."""

    def __init__(self, settings: Any, prompt_length: int, new_tokens: int) -> None:
        self.prompt_length, self.new_tokens = prompt_length, new_tokens
        self.rows, self.minibatch = (4, 2) if settings.smoke else (settings.texts, 16)
        small = {"vocab_size": 50, "layers": 1, "width": 32, "heads": 2}
        self.sizes = small if settings.smoke else {"vocab_size": 50_257, "layers": 12, "width": 768, "heads": 12}
        self.device, self.dtype = settings.device, getattr(torch, settings.dtype)

    @property
    def title(self) -> str:
        """Describe the sizes."""
        return f"{self.rows} texts of {self.prompt_length} + {self.new_tokens} tokens"

    def model(self) -> Any:
        """Build the model with random weights."""
        return gpt2(positions=self.prompt_length + self.new_tokens, **self.sizes).to(self.device, self.dtype)

    def prompts(self) -> list[str]:
        """Draw the prompts."""
        return prompts_of_words(self.rows, self.prompt_length, vocab_size=self.sizes["vocab_size"])

    def envs(self, **settings: Any) -> Any:
        """Make the environment on the prompts."""
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
        """Return the bytes read to write a batch: for each token, all weights and the keys and values before it."""
        bytes_per_number = torch.finfo(self.dtype).bits // 8
        columns = sum(self.prompt_length + token for token in range(self.new_tokens))
        cache = 2 * self.sizes["layers"] * self.sizes["width"] * columns * self.rows
        return bytes_per_number * (cache + self.new_tokens * sum(weight.numel() for weight in model.parameters()))


def bytes_per_second(device: str, size: int = GIB, repeat: int = 10) -> float:
    """Measure the bandwidth of a copy, which reads and writes; the fastest of `repeat` copies."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    fastest = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        target.copy_(source)
        int(target[-1])  # wait for the device
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * size / fastest


def iteration(shape: Shape, *, compiles: bool) -> Comparison:
    """Compare PPO with the loop in plain PyTorch."""
    vocab_size = shape.sizes["vocab_size"]

    def reward(prompts: Any, completions: Sequence[str], references: Any, extras: Any) -> list[float]:
        return [text.count("0") / max(1, len(text.split())) for text in completions]

    def reward_by_hand(tokens: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        return (((tokens % 10 == 0) & is_token).sum(1) / is_token.sum(1)).to(shape.dtype)

    model, common = shape.model(), Hyperparameters(new_tokens=shape.new_tokens, minibatch_size=shape.minibatch)
    settings = {"learning_rate": common.learning_rate, "minibatch_size": shape.minibatch, "epochs": common.epochs}

    def build(compiles: bool) -> PPO:
        policy, envs = LMPolicy(copy.deepcopy(model), None), shape.envs(reward=reward, vocab_size=vocab_size)
        with warnings.catch_warnings():  # speed alone is measured here
            warnings.filterwarnings("ignore", message="all weights of .* are trained in bfloat16")
            return PPO(policy, envs, PPOConfig(compile=compiles, **settings))

    agents = {PPO_OURS: build(False)} | ({PPO_COMPILED: build(True)} if compiles else {})
    by_hand = HandWrittenPPO(model, reward_by_hand, common, eos=EOS, stops=False, shared=False, generates=True)
    prompts = word_ids(shape.prompts()).to(shape.device)
    mask = torch.ones_like(prompts, dtype=torch.bool)

    def ours(agent: PPO) -> float:
        agent.learn(1, progress=False)
        return float(shape.rows * shape.new_tokens)

    variants = {name: timed(partial(ours, agent)) for name, agent in agents.items()}
    variants[PLAIN] = timed(lambda: float(by_hand.iterate(prompts, mask)))
    targets = [Target(name, PLAIN, 2.0) for name in agents]
    return Comparison(f"one iteration, {shape.title}", "tokens", variants, targets)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    options.add_argument("--device", default="cuda", help="torch device of the models")
    options.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="dtype of the weights")
    options.add_argument("--no-compile", action="store_true", help="leave out the variants with compile=True")
    options.add_argument("--texts", type=int, default=128, help="number of texts written in parallel")
    settings = side_by_side.parse(options, arguments)
    results, bounds = [], {}
    compiles = not (settings.smoke or settings.no_compile)
    bandwidth = bytes_per_second(settings.device, 2**20 if settings.smoke else GIB)
    for sizes in [(6, 4)] if settings.smoke else [(64, 48), (500, 50)]:
        shape = Shape(settings, *sizes)
        envs = shape.envs(vocab_size=shape.sizes["vocab_size"])
        case = Case(shape.model(), envs, stops=False, device=shape.device, compiles=compiles)
        comparison = case.comparison(f"rollout, {shape.title}")
        variants = [name for name in (OURS, COMPILED) if name in comparison.variants]
        comparison = replace(comparison, targets=[Target(name, GENERATE, 5.0) for name in variants])
        rollout = side_by_side.run(comparison, repeat=settings.repeat)
        bound = shape.rows * shape.new_tokens / (shape.bytes_of_a_batch(case.model) / bandwidth)
        speed = max(rollout["variants"][name]["speed"]["median"] for name in variants)
        bounds[shape.title] = {"GB/s": bandwidth / 1e9, "bound, tokens/s": bound, "ours / bound": speed / bound}
        side_by_side.show(rollout)
        results += [rollout, side_by_side.run(iteration(shape, compiles=compiles), repeat=settings.repeat)]
        side_by_side.show(results[-1])
    side_by_side.show_table("bound of the memory bandwidth", bounds)
    return side_by_side.finish(settings, results, bounds=bounds)


if __name__ == "__main__":
    main()
