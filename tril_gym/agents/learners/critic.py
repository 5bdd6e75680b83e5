"""Critics: the body of a language model with a linear head that estimates the value of an unfinished text.

B texts, T new tokens, D hidden.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tril_gym.agents.actors.lm_writer import LMWriter
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.functional.sampling import at_least_float32
from tril_gym.models.language_model import LanguageModel
from tril_gym.models.sharding import load_whole_state, shard_module, whole_state
from tril_gym.models.texts import Texts

CriticKind = Literal["separate", "adapter", "shared"]


class Critic:
    """V(s_t): the expected sum of rewards from token t on.

    The head starts at zero, so that the first advantages are the returns.

    Args:
        body: the model under the head. Trained in place, as a whole or by its adapter, unless it is shared.
        is_shared: whether the body is the policy's, which the policy's optimizer trains.
    """

    def __init__(self, body: LanguageModel, *, is_shared: bool = False) -> None:
        self.body, self.is_shared = body, is_shared
        embedding = body.model.get_input_embeddings().weight
        # Adapters are at least float32, whatever their base is, and so is the head.
        dtype = embedding.dtype if body.lora is None else body.parameters()[0].dtype
        # Skip the usual initialisation, which would draw from the global generator.
        self.head = nn.utils.skip_init(nn.Linear, body.width, 1, device=embedding.device, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def model(self) -> Any:
        """The language model without its head."""
        return self.body.model

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the critic's own optimizer."""
        return [*([] if self.is_shared else self.body.parameters()), *self.head.parameters()]

    def shard(self) -> None:
        """Let each process hold a part of the weights; those of a shared body or an adapter's base are the policy's."""
        if not self.is_shared and self.body.lora is None:
            self.body.shard()
            shard_module(self.head)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that training may have changed."""
        head = whole_state(self.head.state_dict())
        parts = {"model": {} if self.is_shared else self.body.state_dict(), "head": head}
        return {f"{part}.{name}": weight for part, weights in parts.items() for name, weight in weights.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the weights of `state_dict`."""
        parts = ((self.body.load_state_dict, "model."), (partial(load_whole_state, self.head), "head."))
        for load, name in parts[1:] if self.is_shared else parts:
            load({key.removeprefix(name): state[key] for key in state if key.startswith(name)})

    def __call__(self, texts: Texts, hidden: Tensor | None = None) -> Tensor:
        """Return the values before each token and after the last column: (B, T + 1).

        Args:
            texts: prompts and tokens.
            hidden: (B, T + 1, D) last hidden states of the body, if they are known.
        """
        return self.of_hidden(self.body.hidden(texts) if hidden is None else hidden)

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """Return the values of last hidden states of the body: (…, D) -> (…)."""
        return at_least_float32(self.head(hidden.to(self.head.weight.dtype)).squeeze(-1))


class ValueRecordingActor(Actor):
    """An actor that writes as a policy does and records the values of the critic that shares the policy's network.

    Args:
        policy: writes the texts; its `head` is known.
        critic: a shared critic on the policy.
    """

    def __init__(self, policy: LMPolicy, critic: Critic) -> None:
        self.policy, self.critic = policy, critic

    def gathered(self) -> AbstractContextManager[None]:
        """Hold all weights of the policy while texts are written; see `Actor`."""
        return self.policy.gathered()

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> LMWriter:
        """Continue texts where they stop; see `Actor`."""
        return self.policy.start(texts, infos, layout, value=self.critic.of_hidden)


def make_critic(policy: LMPolicy, kind: CriticKind | None = None) -> Critic:
    """Return a new critic that starts from a policy's weights.

    Args:
        policy: not changed, unless the critic is "shared".
        kind: "separate": a model of its own; "adapter": one more adapter on the policy's base model; "shared": a head
            on the policy itself. Default: see `default_critic`.

    Raises:
        ValueError: see `check_critic`.
    """
    check_critic(policy, kind)
    if kind == "shared":
        return Critic(policy.language_model, is_shared=True)
    body = policy.language_model
    return Critic(body.adapter_copy() if (kind or default_critic(policy)) == "adapter" else body.full_copy())


def default_critic(policy: LMPolicy) -> CriticKind:
    """Return the kind of critic of a policy where none is chosen: "adapter" with LoRA, else "separate"."""
    return "separate" if policy.lora is None else "adapter"


def check_critic(policy: LMPolicy, kind: CriticKind | None) -> None:
    """Raise if a policy cannot have this kind of critic.

    Raises:
        ValueError: an adapter beside a policy without one, or a separate model from quantised weights.
    """
    if kind == "adapter" and policy.lora is None:
        raise ValueError("a critic or discriminator adapter needs a LoRA policy; use LMPolicy.with_lora or --lora-rank")
    if kind == "separate" and policy.language_model.is_quantised:
        raise ValueError('critic="separate" cannot train quantised weights; use critic="adapter", or load them in full')


def value_after(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the value after the last real token of each text: (B, T + 1), (B,) -> (B,)."""
    return torch.gather(values, 1, lengths.unsqueeze(1)).squeeze(1)
