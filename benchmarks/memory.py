"""Measure the memory of learning besides weights, gradients and optimizer states, for a small and a large vocabulary.

    python benchmarks/memory.py [--output FILE.json]

One PPO update on a minibatch of 16 texts of 64 + 48 tokens. torch's profiler records every allocation, so the numbers
are exact and reproducible. Shown are the peak and its excess over weights, gradients and AdamW's moments, which are
needed in any case: activations and intermediate results. In plain PyTorch (hand_written.py) all logits of a minibatch
are in memory at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import side_by_side
import torch
from benchmark_models import EOS, LAYERS, gpt2, prompts_of_words, text_envs, tokenizer_of_words, word_ids
from hand_written import HandWrittenPPO, Hyperparameters
from torch import Tensor, nn

from tril_gym.agents import PPO, LMPolicy, PPOConfig, collect
from tril_gym.utils.profiler import Timer

VOCABULARIES = (2_000, 50_257)
CRITICS = ("separate", "shared")
MIB = 2**20
Work = tuple[Callable[[], object], Callable[[], list[nn.Parameter]], Callable[[], list[torch.optim.Optimizer]]]


def ours(model: Any, critic: str, prompt_length: int, new_tokens: int, minibatch: int) -> Work:
    """Return our update on collected texts, its parameters and its optimizers."""
    envs = text_envs(
        prompts_of_words(minibatch, prompt_length),
        tokenizer_of_words(),
        minibatch,
        prompt_length=prompt_length,
        new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        vocab_size=model.config.vocab_size,
    )
    agent = PPO(LMPolicy(model, None), envs, PPOConfig(epochs=1, minibatch_size=minibatch, critic=critic))
    trajectories = collect(envs, agent.plan(0), episodes=minibatch, generator=agent.generator)

    def update() -> None:
        agent.learner.update(trajectories, agent.plan(0), generator=agent.generator, timer=Timer())

    def parameters() -> list[nn.Parameter]:
        return [*agent.policy.parameters(), *agent.learner.critic("policy")[0].parameters()]

    return update, parameters, lambda: [agent.learner.optimizer, agent.learner.critic("policy")[1]]


def plain_pytorch(model: Any, critic: str, prompt_length: int, new_tokens: int, minibatch: int) -> Work:
    """Return the update in plain PyTorch, its parameters and its optimizers."""
    hyperparameters = Hyperparameters(new_tokens=new_tokens, epochs=1, minibatch_size=minibatch)
    trainer = HandWrittenPPO(
        model, lambda tokens, mask: mask.sum(1) / 1.0, hyperparameters, eos=EOS, stops=False, shared=critic == "shared"
    )
    prompts = word_ids(prompts_of_words(minibatch, prompt_length))
    texts = trainer.write(prompts, torch.ones_like(prompts, dtype=torch.bool))
    parameters = {id(weight): weight for weight in [*model.parameters(), *trainer.critic]}
    return lambda: trainer.learn(*texts), lambda: list(parameters.values()), lambda: [trainer.optimizer]


VARIANTS = {"ours": ours, "plain PyTorch": plain_pytorch}


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the peak of the bytes allocated while `work` runs, above those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def size_of(tensors: Iterable[Tensor]) -> float:
    """Return the size of tensors in MiB."""
    return sum(tensor.nbytes for tensor in tensors) / MIB


def measure(variant: str, critic: str, vocab_size: int, sizes: Sequence[int], layers: int) -> dict[str, float]:
    """Measure the second update, in MiB by name; the first one creates the optimizer's moments."""
    work, parameters, optimizers = VARIANTS[variant](
        copy.deepcopy(gpt2(vocab_size=vocab_size, layers=layers)), critic, *sizes
    )
    work()
    weights = parameters()
    states = [
        value
        for optimizer in optimizers()
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    ]
    gradients = size_of(weight.grad for weight in weights if weight.grad is not None)
    for weight in weights:
        weight.grad = None
    peak = peak_bytes(work) / MIB
    return {
        "weights": size_of(weights),
        "gradients": gradients,
        "moments": size_of(states),
        "peak": size_of(weights) + size_of(states) + peak,
        "excess": peak - gradients,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    settings = side_by_side.parse(options, arguments)
    vocabularies, sizes, layers = VOCABULARIES, (64, 48, 16), LAYERS
    if settings.smoke:
        vocabularies, sizes, layers = (2_000, 4_000), (4, 3, 4), 1
    memory = {
        f"{variant}, {critic}, {vocab_size:,} tokens": measure(variant, critic, vocab_size, sizes, layers)
        for critic in CRITICS
        for variant in VARIANTS
        for vocab_size in vocabularies
    }
    side_by_side.show_table(f"MiB, learning from {sizes[2]} texts of {sizes[0]} + {sizes[1]} tokens", memory)
    return side_by_side.finish(settings, memory=memory)


if __name__ == "__main__":
    main()
