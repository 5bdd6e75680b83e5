"""A small reward model, fitted on the CPU to the preference pairs among an environment's train examples.

Bradley-Terry, as `tril_gym.reward_model` trains it (Stiennon et al. 2020, https://arxiv.org/abs/2009.01325), with the
network of the small classifiers. It is an ordinary reward model's folder of `transformers`, kept in the user's cache
folder, for runs without a download: people's preferences need a larger model and more pairs.

N pairs, B pairs of a batch.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tril_gym.rewards.fitting import ExampleLike, fields_of
from tril_gym.rewards.neural import training
from tril_gym.rewards.neural.pretrained import Ids, batches_by_length
from tril_gym.rewards.neural.sequence_classifier import Classifier
from tril_gym.utils.cache import cache_root
from tril_gym.utils.chats import PROMPT_MESSAGES
from tril_gym.utils.threads import cpu_threads
from tril_gym.utils.tokenization import joiner_between

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

MIN_PAIRS = 20
MAX_PAIRS = 20_000  # a model of this size learns no more from further ones
CENTER_COEF = 0.01  # keeps the rewards of every prompt around 0, as the pairs alone do not
FIT_CONFIG = training.FitConfig(vocab_size=2000, batch_size=16, steps=300, learning_rate=2e-3)

REJECTED = "rejected"  # the extra with the completion that people did not prefer
PairTexts = tuple[str, str]  # prompt with the chosen completion, and with the rejected one


class PairLike(ExampleLike, Protocol):
    """The fields of an example of which a preference may be known."""

    @property
    def extras(self) -> Mapping[str, Any]:
        """With the rejected completion as "rejected", where the example is a pair."""


def pair_fields(example: PairLike) -> list[Any]:
    """Return what the reward model is fitted to."""
    return [*fields_of(example), example.extras.get(REJECTED), *(["chat"] if _is_chat(example) else [])]


def _is_chat(example: PairLike) -> bool:
    """Return whether a prompt is a rendered chat."""
    return bool(getattr(example, "messages", ())) or PROMPT_MESSAGES in example.extras


def fit(examples: Sequence[PairLike], fingerprint: str, *, template: str, report_file: str) -> Path:
    """Return the folder of the reward model for these examples, fitting it if the cache has none.

    Args:
        examples: those with an extra "rejected" are pairs; their first reference is the chosen completion.
        fingerprint: hash of the examples.
        template: layout of prompt and completion.
        report_file: name of the file with the template, the length, and the accuracy on held-out pairs.

    Raises:
        ValueError: fewer than 20 examples are pairs.
    """
    config, texts = FIT_CONFIG, pair_texts(examples, template)
    folder, report = training.fitted_folder(
        "preference",
        fingerprint,
        asdict(config) | {"template": template, "center_coef": CENTER_COEF},
        lambda empty: _fit(texts, config, empty, {"template": template}, report_file),
        report_file,
    )
    logger.info(
        "preference model: accuracy %(held_out_accuracy).3f on %(held_out)d held-out pairs; the longer completion is"
        " preferred in %(longer_is_better).3f",
        report,
    )
    return folder


def pair_texts(examples: Sequence[PairLike], template: str) -> list[PairTexts]:
    """Return the texts of the examples that are pairs: at most 20,000, evenly spaced."""
    pairs = [example for example in examples if REJECTED in example.extras and example.references]
    if len(pairs) < MIN_PAIRS:
        raise ValueError(
            f"preference has no model; pass model=NAME or FOLDER of a reward model. A small one is fitted to at least"
            f" {MIN_PAIRS} train examples with a rejected completion, as tril/HH-v0 has them; got {len(pairs)}"
        )
    return [_texts(template, pair) for pair in pairs[:: math.ceil(len(pairs) / MAX_PAIRS)]]


def _texts(template: str, pair: PairLike) -> PairTexts:
    chosen, rejected = pair.references[0], pair.extras[REJECTED]
    # Where a chat template has a space before an answer, the environment has put it there.
    joiner = "" if _is_chat(pair) else joiner_between(pair.prompt, chosen, rejected)
    first, second = (template.format(prompt=pair.prompt, completion=joiner + text) for text in (chosen, rejected))
    return first, second


def _fit(
    texts: list[PairTexts], config: training.FitConfig, folder: Path, report: dict[str, Any], report_file: str
) -> None:
    """Write a reward model and its tokenizer, fitted to the pairs, and its accuracy on those held out."""
    from tril_gym.utils.seeding import seeded

    texts, rng = list(texts), random.Random(config.seed)
    rng.shuffle(texts)
    num_held_out = max(1, round(config.held_out * len(texts)))
    held_out, kept = texts[:num_held_out], texts[num_held_out:]

    logger.warning(
        "fitting the preference model to %d pairs, which takes about a minute; it is kept in %s",
        len(kept),
        cache_root(),
    )
    tokenizer = training.train_tokenizer([text for pair in kept for text in pair], config)
    with seeded(config.seed), cpu_threads(1):
        model = training.build_model(tokenizer, config, ("REWARD",))
        _train(model, _encode(tokenizer, kept, config), config, rng)
    flat = [text for pair in held_out for text in pair]
    rewards = Classifier(model, tokenizer).logits(flat, max_length=config.positions, batch_size=64)[:, 0]  # (2N,)
    right = rewards[0::2] > rewards[1::2]
    report |= {
        "max_length": config.positions,
        "held_out_accuracy": float(right.mean()),
        "longer_is_better": sum(len(chosen) > len(rejected) for chosen, rejected in held_out) / num_held_out,
        "held_out": num_held_out,
    }
    training.save_fitted(model, tokenizer, folder, report_file, report)


def _encode(tokenizer: Any, texts: Sequence[PairTexts], config: training.FitConfig) -> list[tuple[Ids, Ids]]:
    """Return the ids of both texts of each pair, truncated on the left to the model's positions."""
    rows = training.encode(tokenizer, [(text, 0) for pair in texts for text in pair])
    ids = [training.truncate(row, config.positions) for row, _ in rows]
    return list(zip(ids[0::2], ids[1::2], strict=True))


def _train(model: Any, pairs: Sequence[tuple[Ids, Ids]], config: training.FitConfig, rng: random.Random) -> None:
    from tril_gym.functional.preferences import preference_loss

    def loss(logits: Tensor, number: int) -> Tensor:
        rewards = logits.squeeze(-1)  # (2B,)
        return preference_loss(rewards[:number], rewards[number:], center_coef=CENTER_COEF)

    epochs = training.num_epochs(len(pairs), config)
    steps = epochs * math.ceil(len(pairs) / config.batch_size)
    description = "fitting the preference model (cached for the next run)"
    training.minimise(model, loss, _batches(pairs, epochs, config, rng), config, steps=steps, description=description)


def _batches(
    pairs: Sequence[tuple[Ids, Ids]], epochs: int, config: training.FitConfig, rng: random.Random
) -> Iterator[tuple[int, list[Ids]]]:
    """Yield batches of pairs of similar length, as B and the ids of the chosen and then of the rejected texts."""
    for _ in range(epochs):
        # A random number in [0, 1) breaks ties between pairs of one length.
        lengths = [max(map(len, pair)) + rng.random() for pair in pairs]
        batches = list(batches_by_length(lengths, config.batch_size))
        rng.shuffle(batches)
        for indices in batches:
            yield len(indices), [pairs[index][side] for side in (0, 1) for index in indices]
