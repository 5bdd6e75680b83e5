"""The buffer of completions: which rows have ended."""

import numpy as np
import torch

from tril_gym.agents import TextLayout, Texts
from tril_gym.agents.collection.generation import CompletionBuffer


def test_empty_row_has_not_ended_where_eos_has_id_0():
    layout = TextLayout(max_prompt_length=2, max_new_tokens=3, vocab_size=9, eos_token_ids=(0,))
    observations = torch.tensor([[5, 6, -1, -1, -1], [5, 6, 7, 0, -1], [5, 6, 7, 7, 7], [5, 6, 7, -1, -1]])
    buffer = CompletionBuffer(Texts.from_observations(observations, 2), layout)
    assert buffer.has_ended(np.arange(4)).tolist() == [False, True, True, False]
