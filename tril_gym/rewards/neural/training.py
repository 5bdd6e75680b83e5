"""Train small classifiers from scratch on the CPU, in seconds and with no download.

A one-layer BERT on lower-cased byte-level BPE. Three choices let it learn from a few thousand texts: wide initial
weights (0.1, where a large model takes 0.02), so that words matter from the first step on; tokens dropped at random;
and random pieces of the texts, of all lengths, because it will have to score texts of all lengths.

N texts, B texts of a batch, L ids of the longest, C labels.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tril_gym.rewards.neural.pretrained import Ids, batches_by_length, pad
from tril_gym.utils.cache import cached_folder
from tril_gym.utils.quiet import without_progress_bars

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

T = TypeVar("T")
LabelledIds = tuple[Ids, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Every number that training a small classifier reads."""

    vocab_size: int = 5000
    width: int = 64
    layers: int = 1
    positions: int = 512  # tokens
    initializer_range: float = 0.1
    piece: int = 128  # longest text in training, tokens
    shortest_piece: int = 10  # tokens
    whole_share: float = 0.4  # share of the texts that keep their last `piece` tokens
    drop_tokens: float = 0.3  # probability
    steps: int = 800  # approximately: rounded to whole epochs, at least one
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: int = 50  # steps
    held_out: float = 0.1  # share of the examples
    seed: int = 0


DEFAULT = FitConfig()


def train_tokenizer(texts: list[str], config: FitConfig = DEFAULT) -> PreTrainedTokenizerFast:
    """Return a lower-casing byte-level BPE trained on the texts; it puts [CLS] before each text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=["[PAD]", "[CLS]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        truncation_side="left",
        padding_side="right",
        model_max_length=config.positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def encode(tokenizer: PreTrainedTokenizerFast, labelled: Sequence[tuple[str, int]]) -> list[LabelledIds]:
    """Return the ids of each text, [CLS] first and not truncated, with its label."""
    encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in labelled])
    return [(encoding.ids, label) for encoding, (_, label) in zip(encodings, labelled, strict=True)]


def build_model(
    tokenizer: PreTrainedTokenizerFast, config: FitConfig, labels: Sequence[str]
) -> BertForSequenceClassification:
    """Return a classifier with initial weights from torch's global generator, one output per label."""
    from transformers import BertConfig, BertForSequenceClassification

    bert_config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=max(1, config.width // 32),
        intermediate_size=2 * config.width,
        max_position_embeddings=config.positions,
        attention_probs_dropout_prob=0.0,
        initializer_range=config.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={name: label for label, name in enumerate(labels)},
    )
    return BertForSequenceClassification(bert_config)


def train_model(
    model: BertForSequenceClassification,
    rows: Sequence[LabelledIds],
    config: FitConfig,
    rng: random.Random,
    *,
    description: str,
) -> None:
    """Minimise the cross-entropy over random pieces of N texts.

    Args:
        model: the classifier, trained in place; dropout draws from torch's global generator.
        rows: ids and label of each text.
        config: the numbers of the training.
        rng: draws the pieces and the order of the batches.
        description: text of the progress bar, shown only on a terminal.
    """
    import torch

    def loss(logits: Tensor, batch: Sequence[LabelledIds]) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in batch]))

    epochs = num_epochs(len(rows), config)
    steps = epochs * math.ceil(len(rows) / config.batch_size)
    batches = ((batch, [ids for ids, _ in batch]) for batch in _batches(rows, epochs, config, rng))
    minimise(model, loss, batches, config, steps=steps, description=description)


def num_epochs(number: int, config: FitConfig) -> int:
    """Return the passes over a number of rows that make about as many steps as configured, at least one."""
    return max(1, round(config.steps * config.batch_size / number))


def minimise(
    model: BertForSequenceClassification,
    loss: Callable[[Tensor, T], Tensor],
    batches: Iterator[tuple[T, Sequence[Ids]]],
    config: FitConfig,
    *,
    steps: int,
    description: str,
) -> None:
    """Minimise a loss of a classifier's logits; the learning rate falls linearly to 0.

    Args:
        model: the classifier, trained in place; dropout draws from torch's global generator.
        loss: of the logits of a batch's texts, (B, C), and of the batch.
        batches: each with the ids of its B texts.
        config: the numbers of the training.
        steps: number of batches.
        description: text of the progress bar, shown only on a terminal.
    """
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / config.warmup, 1 - s / steps))
    model.train()
    for batch, texts in _with_progress_bar(batches, steps, description):
        inputs = pad(texts, pad_id=0)  # (B, L) each
        # A dropped token is masked for attention. The first, [CLS], is never dropped.
        is_kept = torch.rand(inputs["input_ids"].shape, generator=generator) >= config.drop_tokens
        is_kept[:, 0] = True
        inputs["attention_mask"] = inputs["attention_mask"] * is_kept
        logits = model(**inputs).logits  # (B, C)
        optimizer.zero_grad()
        loss(logits, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def save_fitted(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    name: str,
    report: Mapping[str, Any],
) -> None:
    """Write a fitted classifier with its tokenizer into a folder, and a report on it into the file of that name."""
    tokenizer.save_pretrained(folder)
    with without_progress_bars():
        model.save_pretrained(folder)
    (folder / name).write_text(json.dumps(report))


def fitted_folder(
    kind: str, fingerprint: str, settings: Mapping[str, Any], fit: Callable[[Path], None], report: str
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a fitted classifier and the report in it; it is fitted if the cache has none.

    Args:
        kind: kind of classifier, a folder name of the cache.
        fingerprint: hash of the examples.
        settings: everything else that the weights depend on.
        fit: writes the classifier into an empty folder.
        report: name of the report's file.
    """
    content = json.dumps([fingerprint, dict(settings)], sort_keys=True)
    folder = cached_folder(kind, hashlib.sha256(content.encode()).hexdigest()[:32], fit)
    return folder, json.loads((folder / report).read_text())


def accuracy_of(model: BertForSequenceClassification, rows: Sequence[LabelledIds], config: FitConfig) -> float:
    """Return the share of texts, truncated on the left to the model's positions, that are classified correctly."""
    import torch

    num_correct = 0
    with torch.inference_mode():
        for indices in batches_by_length([len(ids) for ids, _ in rows], config.batch_size):
            batch = [rows[index] for index in indices]
            logits = model(**pad([truncate(ids, config.positions) for ids, _ in batch], pad_id=0)).logits  # (B, C)
            num_correct += int((logits.argmax(-1) == torch.tensor([label for _, label in batch])).sum())
    return num_correct / len(rows)


def truncate(ids: Ids, length: int) -> Ids:
    """Return [CLS] and the last tokens of a text, `length` in all."""
    return ids[:1] + ids[1:][-(length - 1) :]


def random_piece(ids: Ids, config: FitConfig, rng: random.Random) -> Ids:
    """Return [CLS] and a random run of a text's tokens, with a log-uniform length."""
    words = ids[1:]
    if rng.random() < config.whole_share:
        return truncate(ids, config.piece)
    length = round(math.exp(rng.uniform(math.log(config.shortest_piece), math.log(config.piece - 1))))
    start = rng.randint(0, max(0, len(words) - length))
    return ids[:1] + words[start : start + length]


def _batches(
    rows: Sequence[LabelledIds], epochs: int, config: FitConfig, rng: random.Random
) -> Iterator[list[LabelledIds]]:
    """Yield batches of pieces of similar length, every text once per epoch."""
    for _ in range(epochs):
        pieces = [(random_piece(ids, config, rng), label) for ids, label in rows]
        # A random number in [0, 1) breaks ties between pieces of one length.
        batches = list(batches_by_length([len(ids) + rng.random() for ids, _ in pieces], config.batch_size))
        rng.shuffle(batches)
        for indices in batches:
            yield [pieces[index] for index in indices]


def _with_progress_bar(steps: Iterator[Any], total: int, description: str) -> Iterator[Any]:
    """Yield the steps under a progress bar on a terminal's stderr; without a terminal show nothing."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    disable = not console.is_terminal
    return iter(track(steps, description, total=total, console=console, disable=disable, transient=True))
