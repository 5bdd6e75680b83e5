"""Distillation: the policy learns what a guide would write next in every state of a text.

The loop is that of behaviour cloning, with a loss of the guide's next tokens instead of the text's own. A language
model says what it would write in any state; references say how a text with its beginning would come closest to one of
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
        "Target in each state: label: the guide's most probable token; forward, reverse or jsd: the guide's"
        " distribution, by this divergence",
    )
    jsd_mix: float = config_field(
        0.5, "Weight of the guide's distribution in the mixture of jsd", above=0, below=1, only_with=("loss", "jsd")
    )
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
            raise ValueError(f"references give tokens, and loss {loss} needs distributions; use dagger")
        return guide
    if not isinstance(guide, Guide) or guide.reads_text(layout):
        raise ValueError(
            "distillation needs the guide's predictions in every state, so the guide must be a language model with the"
            f" environment's tokenizer, or for dagger the references, got {guide!r}; for other guides use ppo-pp or"
            " aggrevated"
        )
    return guide


def reference_labels(trajectories: Trajectories, tokenize: ReferenceTokens) -> Tensor:
    """Return the next token that references name in each state of B texts: (B, T).

    Raises:
        ValueError: an example has no reference.
    """
    refuse_missing(trajectories.infos)
    labels = torch.zeros_like(trajectories.tokens)
    for row, info in enumerate(trajectories.infos):
        found = next_tokens(trajectories.texts.completion_ids(row), [tokenize(text) for text in info["references"]])
        labels[row, : len(found)] = torch.tensor(found, dtype=labels.dtype)
    return labels


def next_tokens(written: Sequence[int], references: Sequence[Sequence[int]]) -> list[int]:
    """Return the token that references name before each token of a text.

    It continues the beginning of a reference that takes the fewest edits of what is written before it, so that the
    text would end with as few in all; of several, the one of most similar length, and the first of these.
    Sabour et al. 2018, "Optimal Completion Distillation", section 3: https://arxiv.org/abs/1810.01398
    """
    best, labels = [(math.inf, 0)] * len(written), [0] * len(written)  # edits, difference of the lengths
    for reference in references:
        edits = list(range(len(reference)))  # to what is written, from each beginning that something follows on
        for place, token in enumerate(written):
            found, first = min(((n, abs(at - place)), at) for at, n in enumerate(edits))
            if found < best[place]:
                best[place], labels[place] = found, reference[first]
            edits = _edits_after(token, edits, reference)
    return labels


def _edits_after(token: int, edits: Sequence[int], reference: Sequence[int]) -> list[int]:
    """Return the edit distances when a further token is written."""
    after = [edits[0] + 1]
    for at in range(1, len(edits)):
        after.append(min(edits[at] + 1, after[-1] + 1, edits[at - 1] + (reference[at - 1] != token)))
    return after


class Distillation(Learner):
    """Trains a policy to continue any state as a guide would; the guide is the plan's rollin actor."""

    needs_rewards = False

    def __init__(self, policy: LMPolicy, config: DistillationConfig, layout: TextLayout) -> None:
        self.policy, self.config, self.layout = policy, config, layout
        self.cloning = BehaviourCloning(policy, config, layout)

    @cached_property
    def _reference_tokens(self) -> ReferenceTokens:
        return ReferenceTokens(self.layout)  # kept, as it tokenises each text once

    def join(self, ranks: Ranks) -> None:
        """Learn from a share of the texts in each process."""
        self.cloning.join(ranks)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, timer: Timer) -> Metrics:
        """Learn from the texts of one iteration."""
        teacher = check_teacher(plan.rollin, self.layout, self.config.loss)
        labels = None
        if isinstance(teacher, References):
            labels = reference_labels(trajectories, self._reference_tokens)
            self.cloning.text_loss = self._loss_of_labels
        else:
            self.cloning.text_loss = partial(self._loss, teacher.policy)
        return self.cloning.learn(trajectories.texts, labels, generator=generator, timer=timer)

    def _loss_of_labels(self, texts: Texts, labels: Tensor | None, count: int | None) -> Tensor:
        """Return the negative log-likelihood per token of the labels, a scalar."""
        assert labels is not None, "references are the labels"
        labels = labels[:, : texts.tokens.shape[1]].to(self.policy.device)
        logprobs = logprobs_of(self.policy.language_model.token_logits(texts), labels)
        return nll_loss(logprobs, texts.is_token, count=count)

    def _loss(self, teacher: LMPolicy, texts: Texts, labels: Tensor | None, count: int | None) -> Tensor:
        """Return the loss per token of the teacher's next tokens, a scalar."""
        with torch.no_grad():
            theirs = teacher.language_model.token_logits(texts).to(self.policy.device) / teacher.decoding.temperature
        if self.config.loss == "label":
            return self._loss_of_labels(texts, theirs.argmax(-1), count)
        own, mix = self.policy.language_model.token_logits(texts), self.config.jsd_mix
        return divergence_loss(own, theirs, texts.is_token, form=self.config.loss, mix=mix, count=count)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of behaviour cloning."""
        return self.cloning.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.cloning.load_state_dict(state)
