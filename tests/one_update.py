"""A real update of a real agent, taken apart: its texts, and weights and gradients at each of its two steps.

In the world are 8 words, prompts of 1 to 3 words, and texts of at most 5 tokens, which end early often. Losses can be
written by hand for it: a text is lists of numbers, without padding, scored alone by a plain call of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from doubles import generator, language_model
from torch import Tensor

from tril_gym.agents import Guide, LMPolicy, Pairs
from tril_gym.agents.algorithms.batches import Batch
from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.envs.config import TextEnvConfig
from tril_gym.envs.text_vector_env import TextVectorEnv
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.experiment.algorithms import agent_type
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer

V, EOS, T, P = 8, 1, 5, 3
EPISODES = 24
PAYS = {3: 1.0, 5: -0.5}  # for a word, when it is written
PROMPT_PAYS = 0.25  # at the end of a text, times the last word of the prompt
WORDS = ("w3 w4", "w2", "w5 w5 w3", "w7 w3 w3 w6", "w6 w2")
PROMPTS = ("w2", "w3 w4", "w7 w2 w5", "w6", "w4 w4", "w2 w7", "w5 w6", "w3", "w4 w7 w6", "w5", "w3 w3", "w6 w5 w2")
# The two texts of a pair of each example: few, so that prompts share them; the better one is often paid less.
PAIRS = [(WORDS[i % 5], WORDS[(i + 1 + i % 2) % 5]) for i in range(len(PROMPTS))]
WHOLE_BATCH = {"minibatch_size": 64, "epochs": 2, "max_grad_norm": 1e9, "learning_rate": 1e-3, "check_model": False}
TEMPERATURE = 2.0
REF_NOISE = 0.03  # of the reference policy's weights


def paid(prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Return the reward of each token of a finished text."""
    rewards = [PAYS.get(token, 0.0) for token in tokens]
    rewards[-1] += PROMPT_PAYS * prompt[-1]
    return rewards


def reward_fn(prompts: np.ndarray, completions: np.ndarray, lengths: np.ndarray, has_ended: np.ndarray) -> np.ndarray:
    last = completions[np.arange(len(lengths)), lengths - 1]
    return np.array([PAYS.get(int(word), 0.0) for word in last]) + np.where(has_ended, PROMPT_PAYS * prompts[:, -1], 0)


def small_envs(num_envs: int = EPISODES) -> TextVectorEnv:
    """Return the world's environment; each example has two references."""
    examples = [Example(prompt, (WORDS[i % 5], WORDS[(i + 2) % 5])) for i, prompt in enumerate(PROMPTS)]
    sizes = {"max_prompt_length": P, "max_new_tokens": T}
    config = TextEnvConfig(
        Examples(examples, source="here"), toy_tokenizer(V), reward_fn=reward_fn, dense_reward=True, **sizes
    )
    return TextVectorEnv(config, num_envs, autoreset_mode="Disabled")


def small_policy(seed: int = 0) -> LMPolicy:
    return LMPolicy(
        language_model("gpt2", vocab_size=V, positions=12, dtype=torch.float64, seed=seed), toy_tokenizer(V)
    )


def small_agent(name: str, **numbers: Any) -> Any:
    """Return an agent of an algorithm whose reference policy differs from its policy; its minibatches are whole."""
    kind, envs = agent_type(name), small_envs()
    has_temperature = hasattr(kind.config_type, "temperature")
    numbers = WHOLE_BATCH | ({"temperature": TEMPERATURE} if has_temperature else {}) | numbers
    parts: dict[str, Any] = {"pairs": Pairs(PAIRS)} if kind.needs_pairs else {}
    if kind.takes_guide:
        parts["guide"] = Guide.references() if name == "dr-po" else Guide(small_policy(1), temperature=0.7)
    agent = kind(policy=small_policy(), envs=envs, config=kind.config_type(**numbers), **parts)
    if agent.learner.ref_policy is not None:
        move(agent.learner.ref_policy.model.parameters(), REF_NOISE, seed=5)
    return agent


@torch.no_grad()
def move(parameters: Any, scale: float, *, seed: int) -> None:
    """Add noise to weights."""
    noise = generator(seed)
    for parameter in parameters:
        parameter.add_(scale * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype))


@contextmanager
def certain(policy: LMPolicy) -> Iterator[None]:
    """Let a policy always write its most probable text."""
    weight = policy.model.get_output_embeddings().weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1e6)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


def logits_of(model: Any, prompt: list[int], tokens: list[int]) -> Tensor:
    """(L, V): row t predicts token t."""
    return model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]


def greedy(model: Any, prompt: list[int], begun: Sequence[int] = ()) -> list[int]:
    """Return the most probable text after a prompt and the tokens that it begins with."""
    tokens = list(begun)
    while len(tokens) < T and EOS not in tokens:
        tokens.append(int(logits_of(model, prompt, [*tokens, 0])[-1].argmax()))
    return tokens


@dataclass
class Text:
    """A text as lists of numbers; log-probabilities are of its tokens."""

    prompt: list[int]
    tokens: list[int]
    given: bool = False  # others wrote it
    start: int = 0  # tokens that others wrote before the policy
    new: Tensor = field(default_factory=lambda: torch.zeros(0))  # with gradient
    old: Tensor = field(default_factory=lambda: torch.zeros(0))
    ref: Tensor = field(default_factory=lambda: torch.zeros(0))
    model: Any = None  # of the policy at this step

    @property
    def paid(self) -> list[float]:
        """The rewards of the tokens."""
        return paid(self.prompt, self.tokens)

    @property
    def reward(self) -> float:
        """What the environment paid in all."""
        return sum(self.paid)

    def less_kl(self, coef: float, form: str = "k1") -> list[float]:
        """Return the rewards of the tokens, less an estimate of the KL where the policy wrote."""
        wrote = [not self.given and t >= self.start for t in range(len(self.tokens))]
        nats = self.old - self.ref
        terms = {"k1": nats, "k2": nats**2 / 2, "k3": (-nats).exp() - 1 + nats}[form].tolist()
        return [pay - coef * kl * is_own for pay, kl, is_own in zip(self.paid, terms, wrote, strict=True)]


Groups = list[list[Text]]


@dataclass
class Update:
    """What is known of an update."""

    agent: Any
    batch: Batch
    metrics: dict[str, float]
    old: Any  # the policy's model that wrote
    steps: list[tuple[Any, Tensor]]  # the policy's model before each step, and its gradient

    @property
    def texts(self) -> Groups:
        """The groups of all texts that were collected."""
        found = self.batch.trajectories
        given = [False] * len(found) if found.given is None else found.given.tolist()
        rows = zip(texts_of(found.texts), given, found.switch.tolist(), strict=True)
        return in_groups([Text(*ids, is_given, start) for ids, is_given, start in rows], found.group_size)

    @property
    def selected(self) -> Groups:
        """The groups of the texts that the learner chose."""
        found = self.agent.learner.experience
        return in_groups([Text(*ids) for ids in texts_of(found.texts)], found.group_size)

    def scored(self, groups: Groups, step: int) -> Groups:
        """Return groups with the log-probabilities under the policy at a step, π_old and π_ref."""
        model, ref = self.steps[step][0], self.agent.learner.ref_policy
        for text in (text for group in groups for text in group):
            text.model, text.new = model, self._logprobs(model, text)
            text.old = self._logprobs(self.old, text).detach()
            text.ref = text.old if ref is None else self._logprobs(ref.model, text).detach()
        return groups

    def _logprobs(self, model: Any, text: Text) -> Tensor:
        logits = logits_of(model, text.prompt, text.tokens) / getattr(self.agent.config, "temperature", 1.0)
        return logits.log_softmax(-1)[range(len(text.tokens)), text.tokens]

    def check(self, loss: Callable[[Groups], Tensor], groups: Groups | None = None) -> None:
        """Compare losses and gradients of both steps with those of a loss by hand."""
        losses = []
        for step, (model, found) in enumerate(self.steps):
            value = loss(self.scored(self.texts if groups is None else groups, step))
            right = flat(torch.autograd.grad(value, list(model.parameters())))
            assert float(right.norm()) > 1e-3
            assert float((found - right).norm() / right.norm()) < 1e-9
            losses.append(float(value.detach()))
        assert losses[0] != losses[1]
        assert self.metrics["policy/loss"] == pytest.approx(sum(losses) / 2, abs=1e-9)


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def texts_of(texts: Texts) -> list[tuple[list[int], list[int]]]:
    return [(texts.prompt_ids(row), texts.completion_ids(row)) for row in range(len(texts))]


def in_groups(texts: list[Text], size: int) -> Groups:
    return [texts[first : first + size] for first in range(0, len(texts), size)]


def collected(agent: Any) -> Batch:
    """Return the batch of an agent's next iteration, by its own plan."""
    return agent.batches.next(agent, agent.plan(agent.iteration), Timer())


def updated(agent: Any, batch: Batch | None = None, *, noise: float = 0.04) -> Update:
    """Let an agent learn from a batch in two steps, between which noise moves its weights."""
    old, steps = copy.deepcopy(agent.policy.model), []
    batch = collected(agent) if batch is None else batch

    def record(optimizer: Any, *arguments: Any) -> None:
        steps.append((copy.deepcopy(agent.policy.model), flat(p.grad.clone() for p in agent.policy.parameters())))
        move(agent.policy.parameters(), noise, seed=6)

    optimizer = getattr(agent.learner, "cloning", agent.learner).optimizer
    optimizer.register_step_pre_hook(record)
    metrics = agent.learner.update(batch.learned, agent.plan(0), generator=agent.generator, timer=Timer())
    assert len(steps) == 2
    return Update(agent, batch, metrics, old, steps)
