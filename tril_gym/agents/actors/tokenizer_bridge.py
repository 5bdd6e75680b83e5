"""A language model whose tokenizer is another than the environment's: it meets the policy as text.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.models.architecture import eos_ids_of, positions_of
from tril_gym.models.backbone import longest_completion
from tril_gym.models.texts import Texts
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import special_tokens


class CrossTokenizerBridge:
    """Translates an environment's texts into the tokens of a language model, and back.

    The model may write 2 T of its own tokens, or as many as it has positions for.

    Args:
        policy: the language model, with its tokenizer.
        layout: the environment's sizes.

    Raises:
        ValueError: the model has no EOS, or too few positions.
    """

    def __init__(self, policy: LMPolicy, layout: TextLayout) -> None:
        self.tokenizer, self.codec = policy.tokenizer, TextCodec(policy.tokenizer)
        new_tokens = _max_new_tokens(policy, layout)
        self.layout = replace(
            layout,
            vocab_size=policy.vocab_size,
            eos_token_ids=_eos_token_ids(policy),
            max_new_tokens=new_tokens,
            tokenizer=policy.tokenizer,
        )
        config = policy.model.config
        positions = positions_of(config, "encoder" if config.is_encoder_decoder else "decoder")
        ends_in_eos = self.tokenizer.eos_token_id in special_tokens(self.tokenizer)[1]
        self._drops_eos = ends_in_eos and not config.is_encoder_decoder
        shared = 0 if config.is_encoder_decoder else new_tokens
        self.max_prompt_length = None if positions is None else positions - shared

    def continue_texts(self, guide: Actor, prompts: list[str], completions: list[str], draws: Tensor) -> list[str]:
        """Let a guide that writes this model's tokens continue B texts; return the rest of each."""
        begun_ids = [self.codec.ids(text)[: self.layout.max_new_tokens] for text in completions]
        begun = Texts.from_ids(self._prompt_ids(prompts), begun_ids, max_new_tokens=self.layout.max_new_tokens)
        uniforms = _uniforms(draws, self.layout.max_new_tokens)
        written = write_completions(guide, begun, [{} for _ in prompts], self.layout, uniforms).texts()
        return [self._text(written, row).removeprefix(self._text(begun, row)) for row in range(len(prompts))]

    def _prompt_ids(self, texts: list[str]) -> list[list[int]]:
        """Tokenise with the special tokens of the model's prompts; the tokenizer cuts those that are too long.

        A decoder-only model does not continue what ends in EOS, so there it is left out.
        """
        limit = self.max_prompt_length
        settings = {"truncation": limit is not None, "max_length": limit, "split_special_tokens": True}
        ids: list[list[int]] = self.tokenizer(texts, verbose=False, **settings)["input_ids"]
        return [self._without_eos(prompt) for prompt in ids] if self._drops_eos else ids

    def _without_eos(self, prompt: list[int]) -> list[int]:
        return prompt[:-1] if prompt[-1] == self.tokenizer.eos_token_id else prompt

    def _text(self, texts: Texts, row: int) -> str:
        ids = [token for token in texts.completion_ids(row) if token not in self.layout.eos_token_ids]
        return self.codec.text(ids)


def _max_new_tokens(policy: LMPolicy, layout: TextLayout) -> int:
    """Return 2 T, or as many tokens as the model has positions for after a prompt of P, but at least T."""
    backbone = policy.language_model.backbone
    backbone.check_positions(layout.max_prompt_length, layout.max_new_tokens)
    return longest_completion(backbone, layout.max_prompt_length, 2 * layout.max_new_tokens)


def _eos_token_ids(policy: LMPolicy) -> tuple[int, ...]:
    """Return the EOS ids of the model's generation config, else the tokenizer's."""
    ids = eos_ids_of(policy.model) or (policy.tokenizer.eos_token_id,)
    named = list(ids) if len(ids) > 1 else ids[0]
    if any(token is None or not 0 <= token < policy.vocab_size for token in ids):
        raise ValueError(
            f"its model names no EOS among its {policy.vocab_size} tokens, got {named}, so its texts could not end; set"
            " model.generation_config.eos_token_id"
        )
    return ids


def _uniforms(draws: Tensor, count: int) -> Tensor:
    """(B,) uniforms -> (B, count): a text's own numbers follow from its uniform alone, whatever batch it is in."""
    seeds = (draws.double() * 2**53).long().tolist()
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows)
