"""A small sentiment classifier that labelled reviews alone can teach, in seconds and with no download.

A one-layer BERT on lower-cased byte-level BPE. What makes it learn from a few thousand texts: wide initial weights
(0.1, where a large model takes 0.02), so that words matter from the first step on, and tokens dropped at random. It
reads pieces of the reviews of all lengths, since it will have to judge texts of all lengths.

The fitted classifier is an ordinary `transformers` folder with a `fit.json` beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.rewards.fitting import ExampleLike
from tril_gym.rewards.neural.pretrained import pad
from tril_gym.utils.cache import cached_folder
from tril_gym.utils.quiet import without_progress_bars
from tril_gym.utils.threads import cpu_threads

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

REPORT = "fit.json"
MIN_EXAMPLES = 20
LABELS = ("NEGATIVE", "POSITIVE")

Ids = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number that the fit reads. A changed number is another classifier in the cache."""

    vocab_size: int = 5000
    width: int = 64
    layers: int = 1
    positions: int = 512  # tokens
    initializer_range: float = 0.1
    piece: int = 128  # longest text in training, tokens
    shortest_piece: int = 10  # tokens
    whole_share: float = 0.4  # of the texts, that keep their last `piece` tokens
    drop_tokens: float = 0.3  # probability
    steps: int = 800  # about; whole epochs, one at least
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: int = 50  # steps
    held_out: float = 0.1  # share of the examples
    seed: int = 0


USUAL = Recipe()


def fit(examples: Sequence[ExampleLike], fingerprint: str, recipe: Recipe = USUAL) -> Path:
    """Return the folder of the classifier for these examples, fitting it where the cache has none."""
    content = json.dumps([fingerprint, asdict(recipe)], sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    folder = cached_folder("sentiment", key, lambda empty: _fit(examples, recipe, empty))
    report = json.loads((folder / REPORT).read_text())
    logger.info("sentiment classifier: accuracy %(held_out_accuracy).3f on %(held_out)d held-out texts", report)
    return folder


def labelled_texts(examples: Sequence[ExampleLike]) -> list[tuple[str, int]]:
    """Return text and label, 0 or 1, of the examples that have one; the text is prompt and first reference."""
    labelled = [
        (" ".join([example.prompt, *example.references[:1]]).strip(), example.label)
        for example in examples
        if example.label is not None
    ]
    counts = {label: sum(label == other for _, other in labelled) for label in {label for _, label in labelled}}
    if set(counts) != {0, 1} or len(labelled) < MIN_EXAMPLES:
        raise ValueError(
            f"sentiment fits a classifier on at least {MIN_EXAMPLES} train examples with label 0 (negative) or "
            f"1 (positive), both kinds; got {counts or 'none with a label'}. Give it more, or name one with model="
        )
    return labelled


def _fit(examples: Sequence[ExampleLike], recipe: Recipe, folder: Path) -> None:
    import torch

    labelled = labelled_texts(examples)
    rng = random.Random(recipe.seed)
    rng.shuffle(labelled)
    held_out = max(1, round(recipe.held_out * len(labelled)))
    kept, test = labelled[held_out:], labelled[:held_out]

    tokenizer = train_tokenizer([text for text, _ in kept], recipe)
    train_rows, test_rows = encode(tokenizer, kept), encode(tokenizer, test)
    # Dropout and initial weights draw from torch's global generator, which is put back afterwards.
    with torch.random.fork_rng(devices=[]), cpu_threads(1):
        torch.default_generator.manual_seed(recipe.seed)
        model = build_model(tokenizer, recipe)
        train_model(model, train_rows, recipe, rng)
    accuracy = accuracy_of(model, test_rows, recipe)

    tokenizer.save_pretrained(folder)
    with without_progress_bars():
        model.save_pretrained(folder)
    (folder / REPORT).write_text(json.dumps({"held_out_accuracy": accuracy, "held_out": held_out}))


def train_tokenizer(texts: list[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return a lower-casing byte-level BPE learned on the texts; it opens each text with [CLS]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
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
        model_max_length=recipe.positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def encode(tokenizer: PreTrainedTokenizerFast, labelled: list[tuple[str, int]]) -> list[tuple[Ids, int]]:
    """Return the uncut ids, [CLS] first, and the label of each text."""
    encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in labelled])
    return [(encoding.ids, label) for encoding, (_, label) in zip(encodings, labelled, strict=True)]


def build_model(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, labels: Sequence[str] = LABELS
) -> BertForSequenceClassification:
    """Return a classifier with its initial weights, one output a label."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=max(1, recipe.width // 32),
        intermediate_size=2 * recipe.width,
        max_position_embeddings=recipe.positions,
        attention_probs_dropout_prob=0.0,
        initializer_range=recipe.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={name: label for label, name in enumerate(labels)},
    )
    return BertForSequenceClassification(config)


def train_model(
    model: BertForSequenceClassification, rows: list[tuple[Ids, int]], recipe: Recipe, rng: random.Random
) -> None:
    """Minimise the cross-entropy over random pieces of the texts; the learning rate falls to 0."""
    import torch

    generator = torch.Generator().manual_seed(recipe.seed)
    epochs = max(1, round(recipe.steps * recipe.batch_size / len(rows)))
    steps = epochs * math.ceil(len(rows) / recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / recipe.warmup, 1 - s / steps))
    model.train()
    for batch in _shown(_batches(rows, epochs, recipe, rng), steps):
        inputs = pad([ids for ids, _ in batch], pad_id=0)
        # A dropped token is one that the model cannot see. The first, [CLS], stays.
        seen = torch.rand(inputs["input_ids"].shape, generator=generator) >= recipe.drop_tokens
        seen[:, 0] = True
        inputs["attention_mask"] = inputs["attention_mask"] * seen
        logits = model(**inputs).logits  # (B, 2)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in batch]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def accuracy_of(model: BertForSequenceClassification, rows: list[tuple[Ids, int]], recipe: Recipe) -> float:
    """Return the share of texts, cut on the left to the model's positions, whose label the model finds."""
    import torch

    right = 0
    by_length = sorted(rows, key=lambda row: len(row[0]))
    with torch.inference_mode():
        for start in range(0, len(rows), recipe.batch_size):
            batch = by_length[start : start + recipe.batch_size]
            logits = model(**pad([last(ids, recipe.positions) for ids, _ in batch], pad_id=0)).logits  # (B, 2)
            right += int((logits.argmax(-1) == torch.tensor([label for _, label in batch])).sum())
    return right / len(rows)


def last(ids: Ids, length: int) -> Ids:
    """Return [CLS] and the last tokens of a text, `length` in all."""
    return ids[:1] + ids[1:][-(length - 1) :]


def piece_of(ids: Ids, recipe: Recipe, rng: random.Random) -> Ids:
    """Return [CLS] and a random run of a text's tokens, its length uniform on a logarithmic scale."""
    words = ids[1:]
    if rng.random() < recipe.whole_share:
        return last(ids, recipe.piece)
    length = round(math.exp(rng.uniform(math.log(recipe.shortest_piece), math.log(recipe.piece - 1))))
    start = rng.randint(0, max(0, len(words) - length))
    return ids[:1] + words[start : start + length]


def _batches(
    rows: list[tuple[Ids, int]], epochs: int, recipe: Recipe, rng: random.Random
) -> Iterator[list[tuple[Ids, int]]]:
    """Yield batches of pieces of like length, every text once an epoch."""
    for _ in range(epochs):
        pieces = [(piece_of(ids, recipe, rng), label) for ids, label in rows]
        pieces.sort(key=lambda row: (len(row[0]), rng.random()))
        starts = list(range(0, len(pieces), recipe.batch_size))
        rng.shuffle(starts)
        for start in starts:
            yield pieces[start : start + recipe.batch_size]


def _shown(steps: Iterator[Any], total: int) -> Iterator[Any]:
    """Yield the steps under a progress bar on a terminal's stderr; elsewhere say nothing."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = "fitting the sentiment classifier (kept for next time)"
    return iter(track(steps, shown, total=total, console=console, disable=not console.is_terminal, transient=True))
