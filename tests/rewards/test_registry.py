import re

import numpy as np
import pytest

from tril_gym import rewards
from tril_gym.rewards import registry

# Rewards that need something to load, with the error without it; they are tested in other files.
ELSEWHERE = {
    "bert_score": "model",
    "classifier": "model",
    "meteor": "pycocoevalcap|Java",
    "official_spice": "pycocoevalcap|Java|CoreNLP",
    "output_perplexity": "model",
    "perplexity": "model",
    "preference": "model",
    "regex": "pattern",
    "regressor": "model",
    "spice": "pipeline",
    "spider": "pipeline",
}


@pytest.mark.parametrize("name", rewards.names())
def test_every_reward_loads_by_its_name(name, captions):
    if name in ELSEWHERE:
        try:
            score = rewards.load(name, train=captions)
        except (ValueError, ImportError) as error:
            assert re.search(ELSEWHERE[name], str(error))  # noqa: PT017  no error where it is installed
            return
    else:
        score = rewards.load(name, train=captions)
    assert isinstance(score, rewards.Score if name in rewards.names("text") else rewards.CorpusScore)
    assert callable(score) == (name in rewards.names("text"))
    assert score.name == name


def test_names_are_sorted_and_of_two_kinds():
    assert rewards.names() == sorted(rewards.names())
    assert sorted(rewards.names("text") + rewards.names("corpus")) == rewards.names()
    assert {"rouge_l", "preference"} <= set(rewards.names("text"))
    assert {"sacre_bleu", "distinct_1"} <= set(rewards.names("corpus"))


def test_describe_names_measure_and_needs():
    for name in rewards.names():
        assert "Needs" in rewards.describe(name)
        assert "\n" not in rewards.describe(name)
    assert "references" in rewards.describe("rouge_l")


def test_settings_have_defaults_and_what_they_are():
    assert rewards.settings_of("length_bonus") == {"target": (20, "number of words above which the score stays 1.")}
    for name in rewards.names():
        for key, (_, text) in rewards.settings_of(name).items():
            assert text, f"{name}.{key}"
    assert rewards.settings_of("rouge_l") == rewards.settings_of("rouge_1")
    assert rewards.settings_of("cider_d") == {}


def test_unknown_name_lists_the_known_ones():
    for ask in (rewards.load, rewards.describe, rewards.as_score):
        with pytest.raises(
            ValueError, match=r"'rouge'.*cider_d, .*rouge_l, .*sentiment, .*or your own module:function"
        ):
            ask("rouge")


def test_unknown_setting_lists_the_known_ones(captions):
    with pytest.raises(ValueError, match=r"no setting 'ovr'; its settings are reduction, tokenizer$"):
        rewards.load("rouge_l", ovr="mean")
    with pytest.raises(ValueError, match=r"no setting 'sigma'; it has no settings"):
        rewards.load("cider_d", train=captions, sigma=3)
    with pytest.raises(ValueError, match=r"no setting 'path'; its settings are model, label, with_prompt"):
        rewards.load("sentiment", path="x")


def test_invalid_value_of_a_setting_is_refused():
    with pytest.raises(ValueError, match=r"reduction must be .*'best'"):
        rewards.load("rouge_l", reduction="best")
    for value in ("no", "false", 0, None):
        with pytest.raises(ValueError, match=r"ignore_case of the reward exact_match must be True or False, got"):
            rewards.load("exact_match", ignore_case=value)
    assert rewards.load("preference", train=(), chat=None, minus_reference=True).minus_reference


def test_rewards_without_fit_ignore_train_and_fitted(tmp_path, captions):
    rewards.load("rouge_l", train=captions, fitted=tmp_path)
    rewards.load("concept_coverage", train=captions, fitted=tmp_path)


def test_adding_a_reward(monkeypatch):
    row = registry.RewardSpec("text.rouge:rouge_l", "the same again", "references")
    monkeypatch.setitem(registry.REGISTRY, "twin", row)
    assert "twin" in rewards.names()
    assert rewards.describe("twin") == "the same again. Needs references."
    assert rewards.load("twin", reduction="mean").reduction == "mean"


def lengths(prompts, completions, references, extras):
    return [len(completion) for completion in completions]


def test_function_as_score():
    score = rewards.as_score(lengths)
    assert score.name == "lengths"
    values = score(["p", "p"], ["ab", ""], [[], []], [{}, {}])
    assert values.dtype == np.float64
    assert values.tolist() == [2.0, 0.0]


def test_callable_object_has_the_name_of_its_class():
    class Constant:
        def __call__(self, prompts, completions, references, extras):
            return np.ones(len(prompts))

    assert rewards.as_score(Constant()).name == "Constant"
    with pytest.raises(TypeError, match="Constant"):
        rewards.as_score(Constant)  # the class in place of an object


def test_scores_of_a_foreign_class_are_refused():
    class Named:
        name, slow = "named", True

        def __call__(self, prompts, completions, references, extras):
            return np.ones(len(prompts))

    with pytest.raises(TypeError, match=r"'named' must be a subclass of tril_gym.rewards.Score, got a Named"):
        rewards.as_score(Named())
    assert rewards.as_score(type("Derived", (Named, rewards.Score), {})()).slow


def test_score_has_defaults(tmp_path):
    score = rewards.as_score(lengths)
    assert score.slow is False
    score.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert rewards.load("meteor_exact_stem").slow is False
    assert [name for name in ("sentiment", "spider") if registry._factory(registry.REGISTRY[name]).slow is False] == []


def test_score_is_not_wrapped(captions):
    score = rewards.load("rouge_l")
    assert rewards.as_score(score) is score
    assert rewards.as_score("rouge_l").name == "rouge_l"
    assert rewards.as_score("cider_d", train=captions).name == "cider_d"


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="3"):
        rewards.as_score(3)


def test_function_must_return_one_number_per_text():
    mean = rewards.as_score(lambda prompts, completions, references, extras: [0.5])
    with pytest.raises(ValueError, match=r"'lambda'.*shape \(1,\) for 2 texts"):
        mean(["p", "p"], ["a", "b"], [[], []], [{}, {}])


def test_result_of_a_function_is_copied():
    kept = np.zeros(1)
    scores = rewards.as_score(lambda *batch: kept)(["p"], ["c"], [[]], [{}])
    scores += 1
    assert kept[0] == 0


def test_class_by_name_must_be_a_score(tmp_path, monkeypatch):
    (tmp_path / "foreign_scores.py").write_text("class Foreign:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"foreign_scores:Foreign must be a subclass of tril_gym.rewards.Score"):
        rewards.load("foreign_scores:Foreign")
