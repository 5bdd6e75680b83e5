"""Beam search by `transformers`: the text with the highest log-probability per token among those that it keeps.

B texts, N beams, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts, up_to_end
from tril_gym.agents.collection.actor import Actor, refuse_begun
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.architecture import decoder_start
from tril_gym.models.texts import Texts
from tril_gym.utils.quiet import only_errors_of_transformers

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy


class BeamSearch(Actor):
    """Writes whole texts by beam search, as `model.generate(num_beams=N)` does with the model's generation config.

    Args:
        policy: the policy, without its temperature, top-k and top-p.
        beams: N.

    Raises:
        ValueError: `beams` is below 2.
    """

    can_continue = False

    def __init__(self, policy: LMPolicy, beams: int) -> None:
        if beams < 2:
            raise ValueError(f"beams must be at least 2, got {beams}; one beam is greedy decoding, 5 is usual")
        self.policy, self.beams = policy, beams

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Begin B texts; see `Actor`.

        Raises:
            ValueError: a text is begun already.
        """
        refuse_begun(texts, "beam search")
        prompts = [texts.prompt_ids(row) for row in range(len(texts))]

        def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
            return WrittenTexts(best_texts(self.policy, [prompts[row] for row in rows], layout, beams=self.beams))

        return WholeTextWriter(write_texts, len(infos))


@torch.no_grad()
def best_texts(policy: LMPolicy, prompts: Sequence[list[int]], layout: TextLayout, *, beams: int) -> list[list[int]]:
    """Return the best of N beams after each of B prompts, EOS included: at most T tokens each."""
    model = policy.model
    is_causal = not model.config.is_encoder_decoder
    width, ends = max(map(len, prompts)), list(layout.eos_token_ids)
    begin = width if is_causal else len(decoder_start(model))
    forced = 0 if is_causal else begin - 1  # BART's forced BOS, which `generate` counts among the new tokens
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.int64), torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):  # a decoder reads on at the right, an encoder counts from the left
        cells = slice(width - len(prompt), width) if is_causal else slice(0, len(prompt))
        ids[row, cells], mask[row, cells] = torch.tensor(prompt), 1
    with only_errors_of_transformers():
        written = model.generate(
            input_ids=ids.to(policy.device),
            attention_mask=mask.to(policy.device),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=layout.max_new_tokens + forced,
            min_new_tokens=layout.min_new_tokens + forced,
            eos_token_id=ends,
            pad_token_id=ends[0],
            num_return_sequences=1,
            return_dict_in_generate=False,
        )
    return [up_to_end(row, ends) for row in written[:, begin:].tolist()]
