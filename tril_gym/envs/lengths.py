"""Whether the references of a data set fit into T tokens: one that does not loses its end, and its EOS.

A policy that imitates cut references, or a guide that writes them, does not learn to end a text.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import numpy as np

from tril_gym.data.example import Examples
from tril_gym.data.tokenizers import FIT
from tril_gym.envs.arrays import Ids
from tril_gym.utils.no_copy import NoCopy
from tril_gym.utils.tokenization import encode

logger = logging.getLogger(__name__)

MAX_SHARE = 0.05  # of references that are cut, above which a log message says so
COUNTED = 500  # references, evenly spaced


def reference_lengths(examples: Examples, tokenizer: Any, joiner: str) -> Ids:
    """Return the tokens of at most 500 references, EOS counted: (n,)."""
    references = [reference for example in examples for reference in example.references]
    step = max(1, math.ceil(len(references) / COUNTED))
    lengths = [len(encode(tokenizer, joiner + reference)) + 1 for reference in references[::step]]
    return np.array(lengths, dtype=np.int64)


def warn_of_cut_references(examples: Examples, tokenizer: Any, *, max_new_tokens: int, joiner: str) -> None:
    """Log the share of references that are longer than T where it is above 5 %, once for each data set.

    Args:
        examples: the examples to learn from.
        tokenizer: the tokenizer of the environment.
        max_new_tokens: T.
        joiner: between prompt and completion.
    """
    _warn_once(examples.source, NoCopy(examples), NoCopy(tokenizer), max_new_tokens, joiner)


@functools.lru_cache(maxsize=16)
def _warn_once(source: str, examples: NoCopy, tokenizer: NoCopy, max_new_tokens: int, joiner: str) -> None:
    data: Examples = examples.value  # type: ignore[assignment]
    lengths = reference_lengths(data, tokenizer.value, joiner)
    share = float((lengths > max_new_tokens).mean()) if len(lengths) else 0.0
    if share > MAX_SHARE:
        fitting = int(np.quantile(lengths, 1 - MAX_SHARE, method="higher"))
        logger.warning(
            "%.0f %% of the references of %s are longer than max_new_tokens=%d and lose their end and EOS; set"
            " max_new_tokens=%d, which holds 95 %% of them, or a tokenizer that needs fewer tokens, such as %s:8000",
            100 * share,
            source,
            max_new_tokens,
            fitting,
            FIT,
        )
