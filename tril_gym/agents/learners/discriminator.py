"""Discriminators: one logit per text, positive for references and negative for the policy's texts.

Prompt and completion are read as one sequence. References and the policy's texts are preprocessed alike: ids of the
environment, truncated to the same length, with EOS if it fits.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.learners.critic import Critic, make_critic, value_after
from tril_gym.functional.sampling import at_least_float32
from tril_gym.models.backbone import left_aligned
from tril_gym.models.noise import disable_dropout
from tril_gym.models.pretrained import align_storage
from tril_gym.models.texts import Texts
from tril_gym.utils.quiet import without_progress_bars
from tril_gym.utils.seeding import seeded
from tril_gym.utils.tokenization import load_tokenizer

MAX_LENGTH = 512  # tokens; some classifiers report a few positions more, which are not for tokens


class Discriminator(Protocol):
    """Classifies texts, and is trained in place."""

    def logits(self, texts: Texts) -> Tensor:
        """Return logits (B,), positive where a text is more likely a reference; differentiable."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the trained weights."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the weights of `state_dict`."""


class TrainedWhole:
    """A discriminator with a model of its own, all of which is trained."""

    model: Any

    def logits(self, texts: Texts) -> Tensor:
        """Return logits of texts, (B,), or of their tokens, (B, T); differentiable."""
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def logits_and_gradients(self, texts: Texts, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits, and the gradients of their sums with respect to the L token embeddings, (B, L, D).

        Args:
            texts: B texts.
            weights: (B, T) of the logits of tokens in the sum of a text; None: 1.
        """
        embeddings: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            embeddings.append(output if output.requires_grad else output.requires_grad_())
            return embeddings[-1]

        hook = self.model.get_input_embeddings().register_forward_hook(keep)
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the faster kernels have no second derivative
                logits = self.logits(texts)
        finally:
            hook.remove()
        total = logits if weights is None else logits * weights.to(logits.device)
        (gradients,) = torch.autograd.grad(total.sum(), embeddings, create_graph=True)
        return logits, gradients

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters of the model."""
        return list(self.model.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of the model."""
        return self.model.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the weights of `state_dict`."""
        self.model.load_state_dict(state)


def whole_ids(texts: Texts) -> dict[str, Tensor]:
    """Return prompts and completions as inputs of a model: ids and attention mask, (B, L) int64."""
    ids = torch.cat([texts.prompts, texts.tokens], dim=1)
    ids, mask = left_aligned(ids, torch.cat([texts.is_prompt, texts.is_token], dim=1))
    return {"input_ids": ids, "attention_mask": mask.long()}


class ClassifierDiscriminator(TrainedWhole):
    """A sequence classifier of `transformers`.

    Args:
        model: a sequence classifier with one label.
        tokenizer: of the model, if it reads text; None if it reads the ids of the environment.
        layout: sizes of the environment.
    """

    def __init__(self, model: Any, tokenizer: Any, layout: TextLayout) -> None:
        labels = model.config.num_labels
        if labels != 1:
            raise ValueError(f"a discriminator has one logit, the classifier has {labels}; load it with num_labels=1")
        if tokenizer is not None and layout.tokenizer is None:
            raise ValueError("a discriminator that reads text needs an environment with a tokenizer attribute")
        self.model, self.tokenizer, self.layout = disable_dropout(model), tokenizer, layout

    @staticmethod
    def tiny(layout: TextLayout, *, width: int = 64, seed: int = 0) -> ClassifierDiscriminator:
        """Return an untrained one-layer BERT that reads the environment's ids."""
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=layout.vocab_size,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=2 * width,
            max_position_embeddings=layout.max_prompt_length + layout.max_new_tokens,
            initializer_range=0.1,  # larger than BERT's, so that tokens affect the logit from the first step on
            num_labels=1,  # type: ignore[call-arg]
        )
        with seeded(seed):
            return ClassifierDiscriminator(BertForSequenceClassification(config), None, layout)

    @staticmethod
    def from_pretrained(name: str, layout: TextLayout, *, seed: int = 0) -> ClassifierDiscriminator:
        """Load a sequence classifier of `transformers`, with a head of one logit; it reads text.

        Raises:
            ValueError: no model of this name can be loaded.
        """
        from transformers import AutoModelForSequenceClassification

        try:
            with without_progress_bars(), seeded(seed):
                model = align_storage(
                    AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, ignore_mismatched_sizes=True)
                )
                tokenizer = load_tokenizer(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no sequence classifier could be loaded as {name!r}; give the folder or hub name of one, tiny, or"
                f" adapter ({str(error).partition(chr(10))[0]})"
            ) from error
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        tokenizer.truncation_side = "left"  # keep the completion
        return ClassifierDiscriminator(model, tokenizer, layout)

    def logits(self, texts: Texts) -> Tensor:
        """Return logits (B,); see `Discriminator`."""
        device = next(self.model.parameters()).device
        inputs = whole_ids(texts) if self.tokenizer is None else self._text(texts)
        return at_least_float32(self.model(**{name: ids.to(device) for name, ids in inputs.items()}).logits[:, 0])

    def _text(self, texts: Texts) -> dict[str, Tensor]:
        rows = zip(texts.prompts, texts.is_prompt, texts.tokens, texts.is_token, strict=True)
        ids = [torch.cat([prompt[real], tokens[written]]).tolist() for prompt, real, tokens, written in rows]
        read = self.layout.tokenizer.batch_decode(ids, skip_special_tokens=True)
        positions = getattr(self.model.config, "max_position_embeddings", MAX_LENGTH)
        length = min(self.tokenizer.model_max_length, positions, MAX_LENGTH)
        encoded = self.tokenizer(read, truncation=True, max_length=length, padding=True, return_tensors="pt")
        return dict(encoded)


class AdapterDiscriminator:
    """An adapter on the policy's base model and a linear head on the last hidden state of a text."""

    def __init__(self, policy: LMPolicy) -> None:
        self.reader: Critic = make_critic(policy, "adapter")

    def logits(self, texts: Texts) -> Tensor:
        """Return logits (B,); see `Discriminator`."""
        values = self.reader(texts)  # (B, T + 1): the last real one depends on the whole text
        return value_after(values, texts.lengths.to(values.device))

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of adapter and head."""
        return list(self.reader.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights of adapter and head."""
        return self.reader.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the weights of `state_dict`."""
        self.reader.load_state_dict(state)


def make_discriminator(name: str, policy: LMPolicy, layout: TextLayout) -> Discriminator:
    """Return a new discriminator: "tiny", "adapter", or a sequence classifier by name or folder."""
    if name == "adapter":
        return AdapterDiscriminator(policy)
    discriminator = (
        ClassifierDiscriminator.tiny(layout)
        if name == "tiny"
        else ClassifierDiscriminator.from_pretrained(name, layout)
    )
    discriminator.model.to(policy.device)
    return discriminator
