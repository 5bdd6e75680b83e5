"""Any sequence classifier of the `transformers` library, made to give each text the same numbers in every batch.

B texts, L tokens of the longest, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tril_gym.quiet import without_progress_bars
from tril_gym.rewards.fitting import remember
from tril_gym.rewards.score import Scores, well_formed

if TYPE_CHECKING:
    import torch

USUAL_LENGTH = 512  # tokens: what the usual classifiers read


class Classifier:
    """A model and its tokenizer, both this object's own: it sets how they cut and pad."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        tokenizer.truncation_side = "left"
        if tokenizer.pad_token_id is None:  # a classifier made of a decoder
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id

    @property
    def labels(self) -> list[str]:
        """The names of the C labels, in the order of the model's outputs."""
        return [str(self.model.config.id2label[index]) for index in range(self.model.config.num_labels)]

    def column(self, label: int | str | None) -> int:
        """Return the index of a label; None is the one called positive, else index 1, or 0 where it is alone."""
        lowered = [name.lower() for name in self.labels]
        if label is None:
            positive = [index for index, name in enumerate(lowered) if name in ("positive", "pos")]
            return positive[0] if positive else min(1, len(lowered) - 1)
        if isinstance(label, int) and 0 <= label < len(lowered):
            return label
        if str(label).lower() not in lowered:
            raise ValueError(f"the classifier has no label {label!r}; its labels are {dict(enumerate(self.labels))}")
        return lowered.index(str(label).lower())

    def length(self, max_length: int | None) -> int:
        """Return how many tokens to read, special ones included; None is the most that the model can, up to 512."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or USUAL_LENGTH
        most = min(positions, self.tokenizer.model_max_length)
        least = self.tokenizer.num_special_tokens_to_add() + 1
        if max_length is None:
            return min(USUAL_LENGTH, most)
        if not least <= max_length <= most:
            raise ValueError(f"max_length must be in [{least}, {most}] for this classifier, got {max_length}")
        return max_length

    def probabilities(self, texts: Sequence[str], *, max_length: int, batch_size: int) -> Scores:
        """Return the probability of each label for each text, (B, C); long texts lose their beginning."""
        if not texts:
            return np.empty((0, len(self.labels)))
        encoded = self.tokenizer(list(map(well_formed, texts)), truncation=True, max_length=max_length)["input_ids"]
        pad_id = self.tokenizer.pad_token_id
        rows = [ids or [pad_id] for ids in encoded]  # a decoder's tokenizer finds nothing in an empty text
        order = np.argsort([len(ids) for ids in rows], kind="stable")  # texts of like length need little padding
        probabilities = np.empty((len(rows), len(self.labels)))
        for start in range(0, len(rows), batch_size):
            chosen = order[start : start + batch_size]
            probabilities[chosen] = self._forward(pad([rows[index] for index in chosen], pad_id))
        return probabilities

    def _forward(self, inputs: dict[str, torch.Tensor]) -> Scores:
        import torch

        config = self.model.config
        with torch.inference_mode():
            logits = self.model(**{name: x.to(self.model.device) for name, x in inputs.items()}).logits.double()
            independent = config.num_labels == 1 or config.problem_type == "multi_label_classification"
            return (logits.sigmoid() if independent else logits.softmax(-1)).cpu().numpy()  # type: ignore[no-any-return]


def load_classifier(source: str | Path, device: str | None) -> Classifier:
    """Return the classifier of that name or in that folder, one per process; None takes a GPU where there is one."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return remember((str(source), _stamp(Path(source)), device), lambda: _load(str(source), device))


def check_folder(folder: Path) -> None:
    """Raise ValueError where a folder cannot hold a model."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"no classifier in {str(folder)!r}: it has no config.json")


def pad(rows: Iterable[list[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Return ids and mask of B texts, padded on the right: (B, L) each."""
    import torch

    rows = list(rows)
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows]),
    }


def _load(source: str, device: str) -> Classifier:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    # Weights that a checkpoint lacks are drawn from the global generator, which is put back.
    with torch.random.fork_rng(devices=[]), without_progress_bars():
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    if loading["missing_keys"]:
        raise ValueError(
            f"{source!r} is no trained sequence classifier: it lacks {', '.join(sorted(loading['missing_keys']))}"
        )
    return Classifier(model.to(device), AutoTokenizer.from_pretrained(source))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when somebody writes other weights into a folder; nothing for a name."""
    if not folder.is_dir():
        return ()
    states = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
