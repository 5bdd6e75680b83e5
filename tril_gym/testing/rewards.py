"""The contract of a reward, as a check that its author runs.

B texts.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tril_gym import rewards
from tril_gym.testing.conformance import as_broken, no_global_randomness, require, require_same, unchanged

Text = tuple[str, str, Sequence[str], dict[str, Any]]  # prompt, completion, references, extras
REFERENCES = ["a dog runs in the park", "the dog chases a ball"]
EXTRAS = {"concepts": ["dog", "ball"], "label": 1, "finish_reason": "stop"}
COMPLETIONS = {
    "a sentence": "a dog runs after the ball.",
    "another sentence": "The cat sits on the mat",
    "an empty text": "",
    "white space": " \t\n  ",
    "emoji": "\N{DOG FACE}\N{DOG FACE} ball \N{GRINNING FACE}",
    "a long text": "the dog chases the ball . " * 100,
    "one long word": "x" * 10_000,
    "control characters": "dog\x00ball\x1f",
    "half a character": "dog \udce2 ball",
}


def check_reward(
    reward: Any,
    texts: Sequence[Text] | None = None,
    *,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    load: Callable[[Path], Any] | None = None,
    is_pickled: bool = True,
    tolerance: float = 0.0,
) -> None:
    """Check a reward against the contract of docs/your_own_reward.md.

    One finite number per text, the same in every call and whatever the other texts are; inputs, global random
    generators and earlier results are left alone; odd texts have a score; copies and saved rewards score alike.

    Args:
        reward: what `gym.make(…, reward=…)` takes as one term: a name, a function, or a `rewards.Score`.
        texts: tuples of prompt, completion, references and extras, beside which texts of every odd kind are scored;
            None: with a prompt, two references, concepts and a label of its own.
        bounds: lowest and highest score.
        load: returns the reward that `save` wrote into a folder; None: it is not loaded.
        is_pickled: whether it is scored in worker processes, which it reaches pickled.
        tolerance: largest difference of two scores of a text, 0 for rewards without a model, about 1e-5 with one.

    Raises:
        ConformanceError: a rule is broken. The message has the rule and the values.
    """
    score = rewards.as_score(rewards.load(reward) if isinstance(reward, str) else reward)
    own: list[Text] = [("a dog and a ball", text, REFERENCES, EXTRAS) for text in COMPLETIONS.values()]
    if texts is not None:
        own = [*texts, *((texts[0][0], text, *texts[0][2:]) for text in COMPLETIONS.values())]
    rule = "a reward has a name, and says whether it is slow"
    is_named = isinstance(score.name, str) and bool(score.name) and isinstance(score.slow, bool)
    require(is_named, rule, f"name {score.name!r}, slow {score.slow!r}")
    _scores(score, own[:1], bounds)
    with no_global_randomness(f"reward {score.name!r}"):  # not in the first call: libraries draw at their import
        check_scores(score, own, bounds=bounds, tolerance=tolerance)
    _check_copies(score, own, load, is_pickled, tolerance)


def columns(texts: Sequence[Text]) -> tuple[list[str], list[str], list[list[str]], list[dict[str, Any]]]:
    """Return texts as the four arguments of a score, in new lists."""
    prompts, completions = [text[0] for text in texts], [text[1] for text in texts]
    return prompts, completions, [list(text[2]) for text in texts], [copy.deepcopy(text[3]) for text in texts]


def check_scores(
    score: rewards.Score,
    texts: Sequence[Text],
    *,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    tolerance: float = 0.0,
) -> None:
    """Check the scores of these texts alone, together, in another order, and twice; see `check_reward`."""
    alone = np.array([_scores(score, [text], bounds)[0] for text in texts], np.float64)
    together = _scores(score, texts, bounds)
    rule = f"reward {score.name!r} gives a text the same score, whatever the other texts of the batch are"
    _same(together, alone, texts, rule, tolerance)
    repeated = [*texts[::-1], *texts[:2]]
    expected = np.concatenate([alone[::-1], alone[:2]])
    _same(_scores(score, repeated, bounds), expected, repeated, f"{rule}, in any order", tolerance)
    _same(_scores(score, texts, bounds), alone, texts, f"reward {score.name!r} gives the same scores again", tolerance)
    kept = together.copy()
    together += 1.0  # the caller may
    rule = f"reward {score.name!r} returns a new array, which the caller may change"
    _same(_scores(score, texts, bounds), kept, texts, rule, tolerance)
    _scores(score, [], bounds)


def _scores(score: rewards.Score, texts: Sequence[Text], bounds: tuple[float, float]) -> np.ndarray[Any, Any]:
    """Return the scores of a batch, (B,), after checking them and that the inputs are as they were."""
    batch = columns(texts)
    with (
        unchanged(f"reward {score.name!r} does not change its inputs", batch),
        as_broken(f"reward {score.name!r} scores every text, here {[text[1][:40] for text in texts]}"),
    ):
        values = score(*batch)
    rule = f"reward {score.name!r} returns one float64 per text, shape ({len(texts)},)"
    is_array = isinstance(values, np.ndarray) and values.shape == (len(texts),) and values.dtype == np.float64
    found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else repr(values)
    require(is_array, rule, found)
    low, high = bounds
    for text, value in zip(texts, values.tolist(), strict=True):
        name = f"the score {value} of the text {text[1][:80]!r}"
        require(bool(np.isfinite(value)), f"reward {score.name!r} gives finite numbers", name)
        require(low - 1e-9 <= value <= high + 1e-9, f"reward {score.name!r} is in {low} … {high}", name)
    return values


def _same(found: Any, expected: Any, texts: Sequence[Text], rule: str, tolerance: float) -> None:
    bad = np.flatnonzero(np.logical_not(np.isclose(found, expected, rtol=tolerance, atol=tolerance)))
    shown = [f"{expected[row]} and {found[row]} for the text {texts[row][1][:80]!r}" for row in bad[:1]]
    require(not bad.size, rule, "; ".join(shown))


def _check_copies(
    score: rewards.Score, texts: Sequence[Text], load: Callable[[Path], Any] | None, is_pickled: bool, tolerance: float
) -> None:
    expected = score(*columns(texts))
    if is_pickled:
        rule = (
            f"reward {score.name!r} can be pickled, since it is sent to worker processes; is_pickled=False leaves this"
            " out"
        )
        with as_broken(rule):
            again = pickle.loads(pickle.dumps(score))
        _same(again(*columns(texts)), expected, texts, f"{rule}, and scores alike then", tolerance)
    with tempfile.TemporaryDirectory() as folder:
        with as_broken(f"reward {score.name!r} is saved into a folder that exists"):
            score.save(Path(folder))
        if load is not None:
            rule = f"reward {score.name!r} scores alike when it is loaded from the folder that save() wrote"
            with as_broken(rule):
                loaded = rewards.as_score(load(Path(folder)))
            require_same(loaded.name, score.name, f"{rule}, and has the same name")
            _same(loaded(*columns(texts)), expected, texts, rule, tolerance)
