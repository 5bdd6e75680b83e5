"""Silence messages and progress bars of other libraries."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers inside the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def only_errors_of_transformers() -> Iterator[None]:
    """Hide progress bars, warnings and load reports of transformers inside the block."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Hide warnings of peft that need no action: its own deprecated names, what it corrects, what we refuse anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for message in ("fan_in_fan_out is set to", "Model has `tie_word_embeddings"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


@contextmanager
def warnings_without_source() -> Iterator[None]:
    """Print each warning of Python inside the block as one line, without the place in the code that gave it."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


def silence_libraries() -> None:
    """Hide progress bars and warnings of transformers and datasets for the rest of the process."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if datasets := sys.modules.get("datasets"):
        datasets.disable_progress_bars()
    else:  # few runs need it, and it is slow to import
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
