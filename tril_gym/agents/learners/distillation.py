"""Distillation: the policy learns what a guide would write next in every state of a text.

The loop is that of behaviour cloning, with a loss of the guide's next tokens instead of the text's own. A language
model says what it would write in any state; references say what follows in them on the text's last tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from tril_gym.agents.actors.guide import Guide
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import References, ReferenceTokens, refuse_missing
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.learner import Learner, Metrics
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.functional.divergences import divergence_loss
from tril_gym.functional.losses import nll_loss
from tril_gym.functional.sampling import logprobs_of
from tril_gym.models.texts import Texts
from tril_gym.utils.config_fields import config_field
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(OptimizerConfig):
    """Hyperparameters of distillation."""

    loss: Literal["label", "forward", "reverse", "jsd"] = config_field(
        "jsd",
        "What is learned in each state: label: the guide's most probable token; or the divergence from the guide's"
        " distribution: forward, reverse or jsd",
    )
    jsd_mix: float = config_field(0.5, "Weight of the guide's distribution in the middle of jsd", above=0, below=1)
    rollin_prob: float = config_field(
        0.0, "Probability that the guide begins a text", minimum=0, maximum=1, group="guide"
    )
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)


def check_teacher(guide: Any, layout: TextLayout, loss: str) -> Guide | References:
    """Return a guide that can say what comes next.

    Raises:
        ValueError: it is neither the references nor a language model with this vocabulary, or the loss asks for
            distributions of the references.
    """
    if isinstance(guide, References):
        if loss != "label":
            raise ValueError(f"references name tokens, not distributions, which loss {loss} reads; use dagger")
        return guide
    if not isinstance(guide, Guide) or guide.reads_text(layout):
        raise ValueError(
            "distillation asks the guide in every state, so it must be a language model with the environment's"
            f" tokenizer, or for dagger the references; got {guide!r}; for other guides use ppo-pp or aggrevated"
        )
    return guide


def reference_labels(trajectories: Trajectories, tokenize: ReferenceTokens) -> Tensor:
    """Return the next token that references name in each state of B texts: (B, T), -1 where they name none.

    Raises:
        ValueError: an example has no reference.
    """
    refuse_missing(trajectories.infos)
    labels = torch.full_like(trajectories.tokens, -1)
    for row, info in enumerate(trajectories.infos):
        found = next_tokens(trajectories.texts.completion_ids(row), [tokenize(text) for text in info["references"]])
        labels[row, : len(found)] = torch.tensor(found, dtype=labels.dtype)
    return labels


def next_tokens(written: Sequence[int], references: Sequence[Sequence[int]]) -> list[int]:
    """Return the token that references name before each token of a text, -1 where they name none.

    It is what follows in a reference on the last tokens before it: on as many as any reference has in a row, and of
    several such places at the nearest one. Before the first token it is the first reference's first one.
    """
    labels = [references[0][0], *([-1] * (len(written) - 1))][: len(written)]
    best = [(0, 0)] * len(written)  # tokens in a row, and minus the distance
    for reference in references:
        shared = [0] * len(reference)  # tokens in a row that end before each token of the reference
        for place in range(1, len(written)):
            is_last = [token == written[place - 1] for token in reference[:-1]]
            shared = [0, *((before + 1) * same for before, same in zip(shared, is_last, strict=False))]
            for at, count in enumerate(shared):
                if count and (count, -abs(place - at)) > best[place]:
                    best[place], labels[place] = (count, -abs(place - at)), reference[at]
    return labels


class Distillation(Learner):
    """Trains a policy to continue any state as a guide would; the guide is the plan's rollin actor."""

    needs_rewards = False

    def __init__(self, policy: LMPolicy, config: DistillationConfig, layout: TextLayout) -> None:
        self.policy, self.config, self.layout = policy, config, layout
        self.cloning = BehaviourCloning(policy, config, layout)

    def join(self, ranks: Ranks) -> None:
        """Learn from a share of the texts in each process."""
        self.cloning.join(ranks)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from the texts of one iteration."""
        teacher = check_teacher(plan.rollin, self.layout, self.config.loss)
        labels = None
        if isinstance(teacher, References):
            labels = reference_labels(trajectories, ReferenceTokens(self.layout))
            self.cloning.text_loss = self._loss_of_labels
        else:
            self.cloning.text_loss = partial(self._loss, teacher.policy)
        return self.cloning.learn(trajectories.texts, labels, generator=generator, timer=timer)

    def _loss_of_labels(self, texts: Texts, labels: Tensor | None, count: int | None) -> Tensor:
        """Return the negative log-likelihood per token of the labels, a scalar."""
        assert labels is not None, "references are the labels"
        labels = labels[:, : texts.tokens.shape[1]].to(self.policy.device)
        logprobs = logprobs_of(self.policy.language_model.token_logits(texts), labels.clamp(min=0))
        return nll_loss(logprobs, texts.is_token & (labels >= 0), count=count)

    def _loss(self, teacher: LMPolicy, texts: Texts, labels: Tensor | None, count: int | None) -> Tensor:
        """Return the loss per token of the teacher's next tokens, a scalar."""
        with torch.no_grad():
            theirs = teacher.language_model.token_logits(texts).to(self.policy.device) / teacher.decoding.temperature
        own, is_token = self.policy.language_model.token_logits(texts), texts.is_token
        if self.config.loss == "label":
            return nll_loss(logprobs_of(own, theirs.argmax(-1)), is_token, count=count)
        return divergence_loss(own, theirs, is_token, form=self.config.loss, mix=self.config.jsd_mix, count=count)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of behaviour cloning."""
        return self.cloning.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.cloning.load_state_dict(state)
