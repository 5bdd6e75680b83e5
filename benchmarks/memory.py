"""The memory that learning needs beside weights, gradients and optimizer states: a small and a large vocabulary.

    python benchmarks/memory.py [--output FILE.json]

One PPO update on a minibatch of 16 texts of 64 + 48 tokens: torch's profiler tells of every tensor that is made and let
go, so the figures are exact and the same in every run. Shown are the most bytes that stood at once, and by how much
they exceed the weights, the gradients and AdamW's moments, which stand in any case: activations, and what is computed
on the way. By hand, all logits of a minibatch stand at once; see hand_written.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import side_by_side
import torch
from benchmark_models import EOS, LAYERS, gpt2, prompts_of_words, text_envs, tokenizer_of_words, word_ids
from hand_written import HandWrittenPPO, Numbers
from torch import Tensor, nn

from tril_gym.agents import PPO, LMPolicy, PPOConfig
from tril_gym.agents.collection.collector import collect
from tril_gym.utils.profiler import Timer

VOCABULARIES = (2_000, 50_257)
CRITICS = ("separate", "shared")
MIB = 2**20
Work = tuple[Callable[[], object], Callable[[], list[nn.Parameter]], Callable[[], list[torch.optim.Optimizer]]]


def ours(model: Any, critic: str, prompt_length: int, new_tokens: int, minibatch: int) -> Work:
    """Our update on collected texts, and what it trains with."""
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
    texts = collect(envs, agent.plan(0), episodes=minibatch, generator=agent.generator)

    def update() -> None:
        agent.learner.update(texts, agent.plan(0), generator=agent.generator, timer=Timer())

    def parameters() -> list[nn.Parameter]:
        return [*agent.policy.parameters(), *agent.learner.critic("policy")[0].parameters()]

    return update, parameters, lambda: [agent.learner.optimizer, agent.learner.critic("policy")[1]]


def by_hand(model: Any, critic: str, prompt_length: int, new_tokens: int, minibatch: int) -> Work:
    """The update by hand, on texts that it writes once."""
    numbers = Numbers(new_tokens=new_tokens, epochs=1, minibatch_size=minibatch)
    trainer = HandWrittenPPO(
        model, lambda tokens, mask: mask.sum(1) / 1.0, numbers, eos=EOS, stops=False, shared=critic == "shared"
    )
    prompts = word_ids(prompts_of_words(minibatch, prompt_length))
    texts = trainer.write(prompts, torch.ones_like(prompts, dtype=torch.bool))
    known = {id(weight): weight for weight in [*model.parameters(), *trainer.critic]}
    return lambda: trainer.learn(*texts), lambda: list(known.values()), lambda: [trainer.optimizer]


WAYS = {"ours": ours, "by hand": by_hand}


def most_at_once(work: Callable[[], object]) -> int:
    """The most bytes that stood at once, above those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    standing = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        standing += event.nbytes()
        most = max(most, standing)
    return most


def size_of(tensors: Iterable[Tensor]) -> float:
    """MiB."""
    return sum(tensor.nbytes for tensor in tensors) / MIB


def measure(way: str, critic: str, vocab_size: int, sizes: Sequence[int], layers: int) -> dict[str, float]:
    """MiB by name, of an update after the first, which makes the optimizer's moments."""
    work, parameters, optimizers = WAYS[way](copy.deepcopy(gpt2(vocab_size=vocab_size, layers=layers)), critic, *sizes)
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
    most = most_at_once(work) / MIB
    standing = size_of(weights) + size_of(states)
    return {
        "weights": size_of(weights),
        "gradients": gradients,
        "moments": size_of(states),
        "most at once": standing + most,
        "besides these": most - gradients,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__)
    settings = side_by_side.parsed(options, arguments)
    vocabularies, sizes, layers = VOCABULARIES, (64, 48, 16), LAYERS
    if settings.smoke:
        vocabularies, sizes, layers = (2_000, 4_000), (4, 3, 4), 1
    found = {
        f"{way}, {critic}, {vocab_size:,} tokens": measure(way, critic, vocab_size, sizes, layers)
        for critic in CRITICS
        for way in WAYS
        for vocab_size in vocabularies
    }
    side_by_side.show_table(f"MiB, learning from {sizes[2]} texts of {sizes[0]} + {sizes[1]} tokens", found)
    return side_by_side.finish(settings, [], memory=found)


if __name__ == "__main__":
    main()
