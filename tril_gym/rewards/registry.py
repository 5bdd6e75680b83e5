"""Rewards and metrics by name. To add one: a class in a file of this package, and an entry in `REGISTRY`.

An entry names its factory as a string, which is imported when the reward is first loaded. The factory's keyword-only
parameters are the reward's settings. A factory that fits has two more: `train`, the examples to fit on, and `fitted`, a
folder that an earlier `save` wrote.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tril_gym.rewards.base import CorpusScore, Score
from tril_gym.rewards.fitting import Train
from tril_gym.rewards.functions import FunctionScore
from tril_gym.rewards.retries import Retried, RetriedScore
from tril_gym.utils.attempts import SETTINGS as RETRY_SETTINGS
from tril_gym.utils.config_fields import check_flag
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import check_not_file_alone, is_function_name, resolve_function

NO_SETTINGS = ("train", "fitted")  # parameters that `load` fills in


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One reward or metric of the registry."""

    factory: str  # "module of this package:callable"
    help: str  # what it measures, and its range
    needs: str  # what it reads besides the completion
    kind: Literal["text", "corpus"] = "text"  # a number for each text, or one for all texts


REGISTRY = {
    "bert_score": RewardSpec(
        "neural.bert_score:BertScore",
        "BERTScore, F1 of tokens matched by the similarity of their embeddings, -1 to 1",
        "references; a model's name or folder (model=), by default roberta-large",
    ),
    "bleu": RewardSpec(
        "text.sacrebleu:bleu",
        "BLEU of one text, agreement in n-grams of words, 0 to 100",
        "references",
    ),
    "bleurt": RewardSpec(
        "neural.regressor:bleurt",
        "BLEURT, learned similarity of completion and reference, about 0 to 1",
        "references; a checkpoint's name or folder (model=), by default Elron/bleurt-base-512",
    ),
    "choice": RewardSpec(
        "text.verifiable:ChoiceMatch",
        "1 for a completion that names the right choice, such as B, else 0",
        "references, or an extra with the right choice (against=)",
    ),
    "chrf": RewardSpec(
        "text.sacrebleu:chrf",
        "chrF of one text, agreement in n-grams of characters, 0 to 100",
        "references",
    ),
    "cider_d": RewardSpec(
        "text.cider:CiderD",
        "CIDEr-D, tf-idf weighted agreement of n-grams with the references, 0 to 10",
        "references; train examples for the document frequencies",
    ),
    "classifier": RewardSpec(
        "neural.classifier:Classification",
        "probability, 0 to 1, or logit of a label under a classifier",
        "a classifier's name or folder (model=)",
    ),
    "concept_coverage": RewardSpec(
        "text.concepts:ConceptCoverage",
        "share of the concepts that the completion uses, in any inflection, 0 to 1",
        'extras["concepts"]',
    ),
    "concept_order": RewardSpec(
        "text.concepts:ConceptOrder",
        "share of the concepts that the completion uses in the given order, 0 to 1",
        'extras["concepts"]',
    ),
    "concept_stems": RewardSpec(
        "text.concepts:ConceptStems",
        "share of the concepts whose stem the completion has, as TRIL counted, 0 to 1",
        'extras["concepts"]',
    ),
    "corpus_chrf": RewardSpec(
        "text.sacrebleu:corpus_chrf",
        "chrF of a corpus, 0 to 100",
        "references",
        kind="corpus",
    ),
    "corpus_ter": RewardSpec(
        "text.sacrebleu:corpus_ter",
        "TER of a corpus, edits per 100 words, lower is better",
        "references",
        kind="corpus",
    ),
    "distinct_1": RewardSpec(
        "text.diversity:distinct_1",
        "distinct words over all words, 0 to 1",
        "nothing",
        kind="corpus",
    ),
    "distinct_2": RewardSpec(
        "text.diversity:distinct_2",
        "distinct pairs of words over all pairs, 0 to 1",
        "nothing",
        kind="corpus",
    ),
    "distinct_3": RewardSpec(
        "text.diversity:distinct_3",
        "distinct triples of words over all triples, 0 to 1",
        "nothing",
        kind="corpus",
    ),
    "end_bonus": RewardSpec(
        "text.shaping:EndBonus",
        "1 for a text that ended with EOS or a stop string, else 0",
        'extras["finish_reason"], which environments provide',
    ),
    "entropy_1": RewardSpec(
        "text.diversity:entropy_1",
        "entropy of words, in bits",
        "nothing",
        kind="corpus",
    ),
    "entropy_2": RewardSpec(
        "text.diversity:entropy_2",
        "entropy of pairs of words, in bits",
        "nothing",
        kind="corpus",
    ),
    "exact_match": RewardSpec(
        "text.verifiable:ExactMatch",
        "1 for a completion that is the right answer, else 0",
        "references, or an extra with the right answer (against=)",
    ),
    "length_bonus": RewardSpec(
        "text.shaping:length_bonus",
        "number of words divided by a target, at most 1",
        "nothing",
    ),
    "length_penalty": RewardSpec(
        "text.shaping:length_penalty",
        "minus the number of words above a limit, divided by the limit, 0 or less",
        "nothing",
    ),
    "meteor": RewardSpec(
        "text.meteor:Meteor",
        "METEOR 1.5 by the official program: words matched exactly, by stem, synonym and paraphrase, 0 to 1",
        "references; Java, and the extra caption",
    ),
    "meteor_exact_stem": RewardSpec(
        "text.meteor:MeteorExactStem",
        "METEOR of 2007 with exact and stem matches only, 0 to 1",
        "references",
    ),
    "msttr": RewardSpec(
        "text.diversity:Msttr",
        "distinct words over words in segments of 100, 0 to 1",
        "nothing",
        kind="corpus",
    ),
    "number_match": RewardSpec(
        "text.verifiable:NumberMatch",
        "1 for a completion with the right number, else 0",
        "references, or an extra with the right number (against=)",
    ),
    "official_spice": RewardSpec(
        "text.official_spice:OfficialSpice",
        "SPICE by the official program, not tested with its original models, F1 of propositions, 0 to 1",
        "references; a JDK, the extra caption, and Stanford CoreNLP 3.6.0",
    ),
    "output_perplexity": RewardSpec(
        "neural.perplexity:OutputPerplexity",
        "perplexity of the completion under a language model, 1 or more, lower is likelier: use a negative weight",
        "a language model's name or folder (model=)",
    ),
    "perplexity": RewardSpec(
        "neural.perplexity:Perplexity",
        "perplexity of the references, given their prompts, under a language model, 1 or more, lower is better",
        "references; a language model's name or folder (model=)",
        kind="corpus",
    ),
    "preference": RewardSpec(
        "neural.preference:Preference",
        "output of a reward model for prompt and completion, on its own scale",
        "a reward model's or an adapter's name or folder (model=), or preference pairs to fit a small one",
    ),
    "regex": RewardSpec(
        "text.verifiable:RegexMatch",
        "1 for a completion that a regular expression matches, else 0",
        "a pattern (pattern=), or references or an extra with one (against=)",
    ),
    "regressor": RewardSpec(
        "neural.regressor:Regressor",
        "output of a model that reads reference and completion as a pair, on its own scale",
        "references; the name or folder of a model with one output (model=)",
    ),
    "repetition_penalty": RewardSpec(
        "text.shaping:repetition_penalty",
        "minus the share of n-grams that repeat earlier ones, -1 to 0",
        "nothing",
    ),
    "rouge_1": RewardSpec(
        "text.rouge:rouge_1",
        "ROUGE-1, F1 of stems with a reference, 0 to 1",
        "references",
    ),
    "rouge_2": RewardSpec(
        "text.rouge:rouge_2",
        "ROUGE-2, F1 of pairs of stems with a reference, 0 to 1",
        "references",
    ),
    "rouge_combined": RewardSpec(
        "text.rouge:rouge_combined",
        "mean of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1",
        "references",
    ),
    "rouge_l": RewardSpec(
        "text.rouge:rouge_l",
        "ROUGE-L, F1 of the longest common subsequence of stems with a reference, 0 to 1",
        "references",
    ),
    "rouge_lsum": RewardSpec(
        "text.rouge:rouge_lsum",
        "ROUGE-Lsum, ROUGE-L by sentences, one per line, 0 to 1",
        "references",
    ),
    "sacre_bleu": RewardSpec(
        "text.sacrebleu:sacre_bleu",
        "BLEU of a corpus, 0 to 100",
        "references",
        kind="corpus",
    ),
    "sari": RewardSpec(
        "text.sari:Sari",
        "SARI, n-grams that a text keeps, adds and deletes of its source, 0 to 100",
        "references; the source in the prompt, or in extras (source=)",
    ),
    "self_bleu": RewardSpec(
        "text.diversity:SelfBleu",
        "mean BLEU of each text against the others, 0 to 100, lower is more diverse",
        "nothing",
        kind="corpus",
    ),
    "sentiment": RewardSpec(
        "neural.sentiment:Sentiment",
        "probability of a positive text under a classifier, 0 to 1",
        "a classifier's name or folder (model=), or labelled train examples to fit a small one",
    ),
    "spice": RewardSpec(
        "text.spice:Spice",
        "SPICE, F1 of scene graphs: objects, attributes, relations, 0 to 1",
        "references; a spaCy pipeline: the extra spice, or pipeline=",
    ),
    "spider": RewardSpec(
        "text.spice:Spider",
        "SPICE + CIDEr-D, 0 to 11",
        "references; train examples for the document frequencies; a spaCy pipeline: the extra spice, or pipeline=",
    ),
    "ter": RewardSpec(
        "text.sacrebleu:ter",
        "edits per 100 words of a reference, 0 or more, lower is better: use a negative weight",
        "references",
    ),
    "vocabulary_size": RewardSpec(
        "text.diversity:VocabularySize",
        "number of distinct words",
        "nothing",
        kind="corpus",
    ),
}


def names(kind: Literal["text", "corpus"] | None = None) -> list[str]:
    """Return the names of all rewards and metrics, or of those of one kind, sorted."""
    return sorted(name for name, spec in REGISTRY.items() if kind in (None, spec.kind))


def describe(name: str) -> str:
    """Return one line: what a reward measures and what it needs."""
    spec = _spec(name)
    corpus_only = " Of a whole corpus: a metric, not a reward." if spec.kind == "corpus" else ""
    return f"{spec.help}.{corpus_only} Needs {spec.needs}."


def settings_of(name: str) -> dict[str, tuple[Any, str]]:
    """Return the settings of a reward by name: the default, and what its docstring says of it, "" for nothing."""
    factory = _factory(_spec(name))
    documented = "\n".join(inspect.getdoc(x) or "" for x in (factory, getattr(factory, "__init__", None)))
    like = re.search(r"settings as for `(\w+)`", documented, re.IGNORECASE)
    found, others = {}, settings_of(like[1]) if like else {}
    for key, parameter in inspect.signature(factory).parameters.items():
        if key not in NO_SETTINGS:
            about = re.search(rf"^    {key}: (.+(?:\n {{8}}.+)*)", documented, re.MULTILINE)
            text = " ".join(about[1].split()) if about else others.get(key, (None, ""))[1]
            found[key] = parameter.default, text
    return found


def load(
    name: str, *, train: Train | None = None, fitted: str | Path | None = None, **settings: Any
) -> Score | CorpusScore:
    """Return the reward or metric of that name.

    Loading is cheap: fitting, and loading a model, happen when the first text is scored.

    Args:
        name: one of `names()`, or module:function or module:Class of your own.
        train: examples to fit on, or a function that returns them; ignored by rewards that fit nothing.
        fitted: the folder that `save` of the same reward wrote; `train` is then not needed.
        settings: the reward's own settings.

    Raises:
        ValueError: an unknown name or setting, a value out of bounds, or a class of your own that is no score.
    """
    is_own = is_function_name(name)
    if is_own:
        factory = resolve_function(name, option=f"reward {name}")
        if not isinstance(factory, type):
            return _from_function(name, factory, settings)
        if not issubclass(factory, Score | CorpusScore):
            raise ValueError(f"{name} must be a subclass of tril_gym.rewards.Score or CorpusScore, or a function")
    else:
        factory = _factory(_spec(name))
    parameters = inspect.signature(factory).parameters
    known = [parameter for parameter in parameters if parameter not in NO_SETTINGS]
    attempts = _attempts_of(settings, known) if is_own else {}
    if unknown := sorted(set(settings) - set(known)):
        its_settings = f"its settings are {', '.join(known)}" if known else "it has no settings"
        raise ValueError(f"reward {name!r} has no setting {with_suggestion(unknown[0], known)}; {its_settings}")
    for key, value in settings.items():
        _check_flag(f"{key} of the reward {name}", parameters[key], value)
    if "train" in parameters:
        settings |= {"train": train, "fitted": None if fitted is None else Path(fitted)}
    score = factory(**settings)
    return RetriedScore(score, **attempts) if is_own and isinstance(score, Score) else score


def fitted_folder(root: Path, name: str, *, train: Train | None = None, **settings: Any) -> Path | None:
    """Return the sub-folder of `root` with what a reward was fitted to, None where it has none.

    It has the name of the score, which a class of one's own may choose.
    """
    if is_function_name(name):
        factory = resolve_function(name, option=f"reward {name}")
        name = getattr(factory, "name", None) or load(name, train=train, **settings).name
    return folder if (folder := root / name).is_dir() else None


def _check_flag(name: str, parameter: inspect.Parameter, value: Any) -> None:
    """Refuse texts such as "no", which Python takes for True, where a setting is True or False."""
    kinds = str(parameter.annotation).split(" | ")  # as it is written, or a type
    if ("bool" in kinds or parameter.annotation is bool) and not (value is None and "None" in kinds):
        check_flag(name, value)


def _attempts_of(settings: dict[str, Any], known: list[str]) -> dict[str, Any]:
    """Take the settings of retries out of those of a reward that has none of these names itself."""
    return {key: settings.pop(key) for key in RETRY_SETTINGS if key in settings and key not in known}


def as_score(x: str | Score | CorpusScore | Callable[..., Any], *, train: Train | None = None) -> Score:
    """Return the score for a name, a score, or a function of (prompts, completions, references, extras).

    Raises:
        ValueError: it is a corpus metric, which gives no reward to a single text.
        TypeError: it is none of these.
    """
    if isinstance(x, str):
        x = load(x, train=train)
    if isinstance(x, CorpusScore):
        raise ValueError(
            f"{x.name} is a corpus metric and gives no reward to a single text; measure it with"
            f" `tril-gym evaluate --metrics {x.name}`, or choose a reward among {', '.join(names('text'))}"
        )
    if isinstance(x, Score):
        return x
    if isinstance(x, type) or not callable(x):
        raise TypeError(f"a reward is a name, a score or a function of a batch of texts, got {x!r}")
    if hasattr(x, "name"):  # a score in all but its class, whose `slow` and `save` would be ignored in silence
        raise TypeError(f"{x.name!r} must be a subclass of tril_gym.rewards.Score, got a {type(x).__name__}")
    return FunctionScore(x)


def _from_function(name: str, function: Callable[..., Any], settings: dict[str, Any]) -> Score:
    if unknown := sorted(settings.keys() - set(RETRY_SETTINGS)):
        raise ValueError(
            f"reward {name} is a function and has no settings of its own, got {', '.join(unknown)}; it takes only"
            f" those of retries: {', '.join(RETRY_SETTINGS)}"
        )
    if isinstance(function, Score):  # made by `per_text`, `with_retries` or `on_main_process`
        return RetriedScore(function, **settings)
    return FunctionScore(Retried(function, **settings))


def _spec(name: str) -> RewardSpec:
    if name not in REGISTRY:
        check_not_file_alone(name, option=f"reward {name}")
        raise ValueError(
            f"unknown reward {with_suggestion(name, REGISTRY)}; the rewards are {', '.join(names())}, or your own"
            " module:function or FILE.py:function"
        )
    return REGISTRY[name]


def _factory(spec: RewardSpec) -> Callable[..., Score | CorpusScore]:
    factory: Callable[..., Score | CorpusScore] = pkgutil.resolve_name(f"tril_gym.rewards.{spec.factory}")
    return factory
