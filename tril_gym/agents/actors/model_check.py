"""The check of a model before it writes or learns: all readings of the same tokens must agree.

A few short texts of like content, with prompts and beginnings of different lengths, are read in several ways:

- the plain model in evaluation mode, each text alone and without a cache, which is taken to be right;
- as they are written, token by token with the cache, where rows leave at different times;
- as they are scored, alone, in a padded batch, and several texts in one row.

Families of models differ in what they ignore (positions, masks, caches whose rows leave) or cannot do. The check tries
ways of reading from the fastest to the slowest and keeps the first that is right; where none is, the model is refused.

B texts, T new tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.lm_writer import LMWriter
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.functional.sampling import EXCLUDED, Decoding, at_least_float32
from tril_gym.models.architecture import attends_by_blocks, decoder_start, eos_ids_of, infers_masks
from tril_gym.models.backbone import backbone_of
from tril_gym.models.decoders import ReadingMode
from tril_gym.models.kernels import original_attention
from tril_gym.models.language_model import LanguageModel
from tril_gym.models.noise import evaluation_mode
from tril_gym.models.texts import Texts
from tril_gym.utils.seeding import seeded
from tril_gym.utils.tokenization import encode

log = logging.getLogger(__name__)

LIMIT = 1e-3  # nats between two readings of a token in float32, at most; rounding makes 1e-5
LOW_PRECISION_LIMIT, LOW_PRECISION_WARNING = 0.5, 0.1  # nats on average in half precision and quantised
# Tokens of each text of the check: of its prompt, of its beginning, and written after that. The last four fit into two
# rows as long as the first.
PROMPTS, BEGUN, WRITTEN = (9, 4, 3, 4, 3), (0, 2, 1, 0, 1), (5, 1, 3, 2, 2)
LONGEST = (max(PROMPTS), max(map(sum, zip(BEGUN, WRITTEN, strict=True))))  # prompt, completion; more changes no text
PAD_AT = 1  # column of the completion
SCORED_ALONE = (0, 1)  # which texts: the longest, and one that is padded
SENTENCE = (
    "The committee will publish the report of the year on Monday, and the report will say what the committee found"
)

CAUSAL_MODES = (
    ReadingMode(),
    ReadingMode(packs=False),
    ReadingMode(cache="batch", packs=False),
    ReadingMode(cache="none", packs=False),
    ReadingMode(cache="none", packs=False, from_first_column=True),
)
ENCODER_DECODER_MODES = (
    ReadingMode(),
    ReadingMode(from_first_column=True),
    ReadingMode(cache="batch", from_first_column=True),
    ReadingMode(cache="none", from_first_column=True),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """How far one way of reading is from the plain model."""

    name: str
    error: float  # nats: the largest in float32, the mean in low precision
    failure: str = ""  # the error that the model raised

    def __str__(self) -> str:
        return f"{self.name}: {self.failure or f'{self.error:.2g} nats'}"


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What the check found: the way to read the model, and how right it is."""

    mode: ReadingMode
    readings: tuple[Reading, ...]
    limit: float  # nats

    @property
    def is_right(self) -> bool:
        """Whether all readings agree."""
        return all(not reading.failure and reading.error <= self.limit for reading in self.readings)

    @property
    def wrong(self) -> str:
        """The readings that differ, and by how much."""
        return ", ".join(str(it) for it in self.readings if it.failure or not it.error <= self.limit)


def check_model(language_model: LanguageModel, layout: TextLayout, *, values: bool = False) -> ModelReport | None:
    """Find how a model must be read to be right, and let it be read so; once per model and lengths of its texts.

    Args:
        language_model: the model; only its mode of reading is changed.
        layout: of the environment.
        values: whether a critic will read the model's hidden states.

    Returns:
        what was found, or None if the model has been checked before, with texts of these lengths or longer ones. A
        sharded model was checked before it was sharded.

    Raises:
        ValueError: two readings of the same tokens differ, however the model is read.
    """
    lengths = zip((layout.max_prompt_length, layout.max_new_tokens), LONGEST, strict=True)
    key = (language_model.lora is not None, *(min(pair) for pair in lengths), values)
    if language_model.is_sharded or any(_includes(known, key) for known in language_model.checked):
        return None
    report = examine(language_model, layout, values=values)
    kind = language_model.model.config.model_type
    if not report.is_right:
        raise ValueError(
            f"{kind} models cannot be used: the same tokens have other log-probabilities in generation, in scoring or"
            f" in the plain model ({report.wrong}; at most {report.limit:g} nats are allowed); choose a model that"
            " docs/models.md lists as working, or skip the check with check_model=False or --no-check-model"
        )
    language_model.checked.add(key)
    _tell(kind, report)
    return report


def _includes(known: tuple[int, ...], key: tuple[int, ...]) -> bool:
    """Return whether one check, of a model with or without LoRA, has read all that another one would."""
    return known[0] == key[0] and all(one >= two for one, two in zip(known, key, strict=True))


def check_training_mode(language_model: LanguageModel, layout: TextLayout) -> None:
    """Check that a model scores alike in the mode in which gradient checkpointing trains it, and in evaluation mode.

    Raises:
        ValueError: it does not: it has a source of noise that is not switched off.
    """
    model, (texts, _) = language_model.model, probe_texts(language_model, layout)
    texts = texts.with_completions([texts.prompt_ids(row)[: texts.tokens.shape[1]] for row in range(len(texts))])
    with seeded(0, device=language_model.device), torch.no_grad():
        training = language_model.token_logprobs(texts).logprobs
        with evaluation_mode(model):
            error = (language_model.token_logprobs(texts).logprobs - training).abs().nan_to_num(nan=float("inf"))
    if float(error.max()) > _limit_of(language_model):
        raise ValueError(
            f"{model.config.model_type} models cannot be trained with gradient_checkpointing: it needs their training"
            f" mode, in which log-probabilities of the same tokens differ by {float(error.max()):.2g} nats; leave"
            " gradient_checkpointing out"
        )


def _limit_of(language_model: LanguageModel) -> float:
    """Return how many nats two readings may differ."""
    return LOW_PRECISION_LIMIT if language_model.is_low_precision else LIMIT


def _tell(kind: str, report: ModelReport) -> None:
    """Log what a user should know of a model that is read in another way than most, or imprecisely."""
    slow = {
        "batch": "without rows that leave the cache, so a batch takes as long as its longest text",
        "none": "without a cache, so each token reads its whole text again",
    }
    if report.mode.cache in slow:
        log.warning("%s models are written %s", kind, slow[report.mode.cache])
    worst = max(report.readings, key=lambda reading: reading.error)
    if report.limit == LOW_PRECISION_LIMIT and worst.error > LOW_PRECISION_WARNING:
        log.warning(
            "in its low precision, %s reads the same tokens differently: %s on average; float32 is exact", kind, worst
        )


def examine(language_model: LanguageModel, layout: TextLayout, *, values: bool = False) -> ModelReport:
    """Set the first mode in which all readings agree, or leave the mode as it is; return the report on it."""
    known, kind = language_model.backbone.mode, language_model.model.config.is_encoder_decoder
    usual: tuple[ReadingMode, ...] = ENCODER_DECODER_MODES if kind else CAUSAL_MODES
    if attends_by_blocks(language_model.model.config):
        known, usual = usual[-1], usual[-1:]  # the texts of the check may be shorter than a block
    modes = (known, *(mode for mode in usual if mode != known))
    limit, reports = _limit_of(language_model), []
    # No model should draw numbers here, but one with noise would.
    with seeded(0, device=language_model.device), torch.no_grad():
        for mode in modes:
            language_model.read_as(mode)
            reports.append(ModelReport(mode, Probe(language_model, layout).readings(values=values), limit))
            if reports[-1].is_right:
                return reports[-1]
    language_model.read_as(known)
    return reports[0]


@dataclass(frozen=True, slots=True)
class WithPadding:
    """A decoding that writes the padding id in one column of each text, where it is a token as any other."""

    pad: int
    scored: Decoding = Decoding()  # noqa: RUF009  frozen

    def apply(self, logits: Tensor, positions: Tensor, **settings: Any) -> Tensor:
        """Exclude all other tokens there: (B, V), (B,) -> (B, V)."""
        is_other = torch.arange(logits.shape[-1], device=logits.device) != self.pad
        is_here = (positions == PAD_AT) & logits[:, self.pad].isfinite()
        return logits.masked_fill(is_here.unsqueeze(-1) & is_other, EXCLUDED)


class Probe:
    """A few texts, written by a model and read in several ways.

    Args:
        language_model: writes and reads, in its present mode.
        layout: of the environment.
    """

    def __init__(self, language_model: LanguageModel, layout: TextLayout) -> None:
        self.language_model = language_model
        self.layout = replace(layout, min_new_tokens=0)
        self.begun, self.counts = probe_texts(language_model, layout)
        # Models that count positions by the padding id, or take it for padding, are read right only in some ways.
        model, size = language_model.model, language_model.vocab_size
        pad: Any = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)
        is_token = pad in range(size) and pad not in (*layout.eos_token_ids, *eos_ids_of(model))
        self.pad = pad if is_token else -1
        self.decoding: Any = WithPadding(self.pad) if is_token else Decoding()

    @torch.no_grad()
    def readings(self, *, values: bool) -> tuple[Reading, ...]:
        """Compare each way of reading with the plain model; stop where the model raises an error."""
        ways: dict[str, Callable[[], float]] = {
            "written token by token": self._written,
            "scored alone": self._alone,
            "scored in a batch": self._padded,
            "scored in shared rows": self._packed,
        }
        if self.language_model.model.config.is_encoder_decoder:  # which may write texts of equal lengths in another way
            ways["written from equal lengths"] = self._written_from_prompts
        if values:
            ways["read by a critic"] = self._states
        found = []
        for name, read in ways.items():
            try:
                found.append(Reading(name, read()))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a model that raises anything cannot be read in this way
                line = str(error).strip().partition("\n")[0]
                found.append(Reading(name, float("inf"), f"{type(error).__name__}: {line:.120}"))
                break
        return tuple(found)

    def _written(self) -> float:
        """Write the texts from their beginnings, and read them with the plain model."""
        self.texts, logprobs = self._write(self.begun)
        self.plain = self._plain_logprobs(self.texts)
        return self._reduced((logprobs - self.plain).abs()[self._compared(self.texts) & ~self.begun.is_token])

    def _written_from_prompts(self) -> float:
        """Write texts that all begin with the prompt."""
        texts, logprobs = self._write(self.begun.with_completions([[] for _ in range(len(self.begun))]))
        return self._reduced((logprobs - self._plain_logprobs(texts)).abs()[self._compared(texts)])

    def _write(self, texts: Texts) -> tuple[Texts, Tensor]:
        """Write on texts as the policy does; return them, and the log-probabilities (B, T) of what was written."""
        language_model, layout, counts = self.language_model, self.layout, self.counts
        begun = texts.lengths
        tokens, logprobs = texts.tokens.clone(), torch.zeros(texts.tokens.shape, dtype=torch.float64)
        writer = LMWriter(language_model, self.decoding, texts.to(language_model.device), layout)
        rows = torch.arange(len(counts))
        for step in range(int(counts.max())):
            stays = counts[rows] > step
            if not bool(stays.all()):
                writer.keep(stays.nonzero().squeeze(1))
                rows = rows[stays]
            draws = (0.5 + 0.618 * (step + rows.double())) % 1.0
            tokens[rows, begun[rows] + step], logprobs[rows, begun[rows] + step] = (
                part.cpu().to(like)
                for part, like in zip(writer.next(draws), (tokens.dtype, torch.float64), strict=True)
            )
        writer.close()
        columns = torch.arange(tokens.shape[1])
        is_token = columns < (begun + counts).unsqueeze(1)
        return replace(texts, tokens=torch.where(is_token, tokens, 0), is_token=is_token), logprobs

    def _plain_logprobs(self, texts: Texts) -> Tensor:
        """Return the log-probabilities (B, T) under the plain model in evaluation mode, each text alone."""
        with evaluation_mode(self.language_model.model), original_attention(self.language_model.model):
            return torch.stack([self._of_plain_model(texts, row) for row in range(len(texts))])

    def _of_plain_model(self, texts: Texts, row: int) -> Tensor:
        model, device = self.language_model.model, self.language_model.device
        prompt, completion = texts.prompt_ids(row), texts.completion_ids(row)
        if model.config.is_encoder_decoder:
            start = decoder_start(model)
            inputs = {"input_ids": prompt, "decoder_input_ids": [*start, *completion[:-1]]}
        else:
            inputs = {"input_ids": [*prompt, *completion[:-1]]}
        arguments = {name: torch.tensor([ids], device=device) for name, ids in inputs.items()}
        if infers_masks(model.config):
            masks = {"attention_mask": "input_ids", "decoder_attention_mask": "decoder_input_ids"}
            arguments |= {name: torch.ones_like(arguments[ids]) for name, ids in masks.items()}
        logits = model(**arguments, use_cache=False).logits[0, -len(completion) :]
        found = at_least_float32(logits).log_softmax(-1).cpu().double()
        logprobs = torch.zeros(texts.tokens.shape[1], dtype=torch.float64)
        logprobs[: len(completion)] = found.gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)
        return logprobs

    def _alone(self) -> float:
        errors = []
        for row in SCORED_ALONE:
            text = self.texts[torch.tensor([row])].trimmed()
            logprobs = self.language_model.token_logprobs(text).logprobs[0].cpu().double()
            error = (logprobs - self.plain[row, : len(logprobs)]).abs()
            errors.append(self._reduced(error[self._compared(text)[0]]))
        return max(errors)

    def _padded(self) -> float:
        backbone = self.language_model.backbone
        padded = backbone_of(backbone.model, replace(backbone.mode, packs=False))
        texts = self.texts.to(self.language_model.device)
        hidden = None if self.language_model.head is None else padded.hidden(texts)
        return self._error(self.language_model.token_logprobs(texts, hidden=hidden).logprobs)

    def _packed(self) -> float:
        if not self.language_model.can_pack:
            return 0.0
        return self._error(self.language_model.token_logprobs(self.texts).logprobs)

    def _states(self) -> float:
        """Compare states in a batch with those of texts alone, relative to their size."""
        batch, errors = self.language_model.hidden(self.texts).cpu().double(), []
        for row in SCORED_ALONE:
            text = self.texts[torch.tensor([row])].trimmed()
            states = self.language_model.hidden(text)[0].cpu().double()
            error = (batch[row, : len(states)] - states).abs() / states.square().mean().sqrt()
            errors.append(self._reduced(error))
        return max(errors)

    def _error(self, logprobs: Tensor) -> float:
        """Return the difference from the plain model on the tokens, in nats."""
        return self._reduced((logprobs.cpu().double() - self.plain).abs()[self._compared(self.texts)])

    def _compared(self, texts: Texts) -> Tensor:
        """Return (B, T) bool: a token, but not the padding id of `WithPadding`, which may be too improbable."""
        is_pad = (torch.arange(texts.tokens.shape[1]) == PAD_AT) & (texts.tokens == self.pad)
        return texts.is_token & ~is_pad

    def _reduced(self, errors: Tensor) -> float:
        """Return the mean of errors in low precision, else their maximum; inf where one is NaN."""
        errors = errors.nan_to_num(nan=float("inf"))
        return float(errors.mean() if self.language_model.is_low_precision else errors.max())


def probe_texts(language_model: LanguageModel, layout: TextLayout) -> tuple[Texts, Tensor]:
    """Return the beginnings of the texts of a check, on the CPU, and the tokens (B,) to write on each."""
    ids = ordinary_ids(language_model, sum(PROMPTS) + sum(BEGUN))
    prompts, begun, written = [], [], []
    for row, (prompt, beginning, count) in enumerate(zip(PROMPTS, BEGUN, WRITTEN, strict=True)):
        length = min(beginning, layout.max_new_tokens - 1)
        prompts.append([ids[(row + i) % len(ids)] for i in range(min(prompt, layout.max_prompt_length))])
        begun.append([ids[(row + 11 + i) % len(ids)] for i in range(length)])
        written.append(min(count, layout.max_new_tokens - length))
    width = max(length + count for length, count in zip(map(len, begun), written, strict=True))
    return Texts.from_ids(prompts, begun, max_new_tokens=width), torch.tensor(written)


def ordinary_ids(language_model: LanguageModel, count: int) -> list[int]:
    """Return ids of text as the model knows it if its tokenizer can tell, else ids all over its vocabulary.

    None has a special meaning in the model's configuration or its tokenizer.
    """
    tokenizer, size = language_model.tokenizer, language_model.vocab_size
    special = _special_ids(language_model.model.config)
    if tokenizer is not None:
        special |= set(tokenizer.all_special_ids)
        found = encode(tokenizer, SENTENCE)
        known = [token for token in found if token < size and token not in special]
        if len(set(known)) >= 8:
            return known
    spread = (number * 37 % size for number in range(1, 8 * count + 8 * len(special)))
    return [token for token in dict.fromkeys(spread) if token not in special][:count] or [0]


def _special_ids(config: Any) -> set[int]:
    """Return the ids that a configuration names."""
    ids: set[int] = set()
    for name, value in vars(config).items():
        if name.endswith(("token_id", "token_index")):
            ids.update(value if isinstance(value, list | tuple) else [value])
    return ids
