"""A critic: a language model's body with one number on top, the value of a text as it stands.

B texts, T new tokens, D hidden.
"""

from __future__ import annotations

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
from tril_gym.models.texts import Texts

CriticKind = Literal["separate", "adapter", "shared"]


class Critic:
    """V(s_t): what a text, cut just before token t, is still going to be paid.

    Its last layer starts at zero, so that the first advantages are the returns themselves.

    Args:
        body: a model of the critic's own, trained in place: all of it, or its adapter. Or the policy's.
        is_shared: the body is the policy's, which its optimizer trains: only the last layer is the critic's own.
    """

    def __init__(self, body: LanguageModel, *, is_shared: bool = False) -> None:
        self.body, self.is_shared = body, is_shared
        embedding = body.model.get_input_embeddings().weight
        width = getattr(body.model.config, "hidden_size", embedding.shape[1])
        # Adapters are at least float32, whatever their base is, and so is what is trained beside them.
        dtype = embedding.dtype if body.lora is None else body.parameters()[0].dtype
        # Without its usual initialisation, which would draw from the global generator.
        self.head = nn.utils.skip_init(nn.Linear, width, 1, device=embedding.device, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def model(self) -> Any:
        """The language model without its head."""
        return self.body.model

    def parameters(self) -> list[nn.Parameter]:
        """What training moves."""
        return [*([] if self.is_shared else self.body.parameters()), *self.head.parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that may differ from those it was made from."""
        parts = {"model": {} if self.is_shared else self.body.state_dict(), "head": self.head.state_dict()}
        return {f"{part}.{name}": weight for part, weights in parts.items() for name, weight in weights.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of `state_dict`."""
        parts = ((self.body, "model."), (self.head, "head."))
        for part, name in parts[1:] if self.is_shared else parts:
            part.load_state_dict({key.removeprefix(name): state[key] for key in state if key.startswith(name)})

    def __call__(self, texts: Texts, hidden: Tensor | None = None) -> Tensor:
        """(B, T + 1) values: before each token, and after the last column.

        Args:
            texts: prompts and tokens.
            hidden: (B, T + 1, D) what the body's `hidden` says of the texts, where it is known.
        """
        return self.of_hidden(self.body.hidden(texts) if hidden is None else hidden)

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """(…) values of the body's last hidden states (…, D)."""
        return at_least_float32(self.head(hidden.to(self.head.weight.dtype)).squeeze(-1))


class ValueRecordingActor(Actor):
    """An actor that writes as a policy does, and keeps what a critic on the same network says of its texts meanwhile.

    Args:
        policy: who writes; its `head` is known.
        critic: shared with it.
    """

    def __init__(self, policy: LMPolicy, critic: Critic) -> None:
        self.policy, self.critic = policy, critic

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> LMWriter:
        """Continue texts where they stop; see `Actor`."""
        return self.policy.start(texts, infos, layout, value=self.critic.of_hidden)


def make_critic(policy: LMPolicy, kind: CriticKind | None = None) -> Critic:
    """A critic that starts from a policy's weights.

    Args:
        policy: it is left as it is, unless the critic is "shared".
        kind: "separate", a model of its own that trains as a whole; "adapter", one more adapter on the policy's base
            model; "shared", one more last layer on this very policy. By default as the policy trains.

    Raises:
        ValueError: see `check_critic`.
    """
    check_critic(policy, kind)
    if kind == "shared":
        return Critic(policy.language_model, is_shared=True)
    is_adapter = policy.lora is not None if kind is None else kind == "adapter"
    body = policy.language_model
    return Critic(body.adapter_copy() if is_adapter else body.full_copy())


def check_critic(policy: LMPolicy, kind: CriticKind | None) -> None:
    """Refuse a kind of critic that a policy cannot have.

    Raises:
        ValueError: an adapter beside a policy without one, or a separate model from quantised weights.
    """
    if kind == "adapter" and policy.lora is None:
        raise ValueError('critic="adapter" needs a LoRA policy; use LMPolicy.with_lora or --lora-rank')
    if kind == "separate" and policy.language_model.is_quantised:
        raise ValueError('critic="separate" cannot train quantised weights; use critic="adapter", or load them in full')


def value_after(values: Tensor, lengths: Tensor) -> Tensor:
    """(B,) of (B, T + 1): the value after the last real token of each text."""
    return torch.gather(values, 1, lengths.unsqueeze(1)).squeeze(1)
