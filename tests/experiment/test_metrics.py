"""Metrics: means, pooled scores, bootstrap intervals, and the output of `evaluate`."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym import rewards
from tril_gym.cli import main
from tril_gym.data import Example
from tril_gym.experiment import metrics
from tril_gym.experiment.run_folder import RunFolder

MODULE = '''
from tril_gym import rewards


def brevity(prompts, completions, references, extras):
    return [1.0 / (1 + len(completion.split())) for completion in completions]


also_brevity = brevity


class Uses(rewards.Score):
    """Whether a text has a word."""

    name = "uses"

    def __init__(self, *, word="dog"):
        self.word = word

    def __call__(self, prompts, completions, references, extras):
        return [float(self.word in completion.split()) for completion in completions]


class Words(rewards.PooledScore):
    """How many words all texts have together, over how many texts: a sum over a sum."""

    name = "words"

    def statistics(self, prompts, completions, references, extras):
        import numpy as np
        return np.array([[len(completion.split()), 1] for completion in completions], dtype=float)

    def from_sums(self, sums):
        return float(sums[0] / sums[1])


class Different(rewards.CorpusScore):
    """How many different texts: no sum."""

    name = "different"

    def corpus(self, prompts, completions, references, extras):
        return float(len(set(completions)))


number = 3


def wrong(prompts, completions, references, extras):
    raise KeyError("nothing here")
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name of a module of the user in the current folder."""
    name = f"own_metrics_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture(scope="module")
def envs():
    return gym.make_vec("tril/CommonGen-v0", num_envs=2, autoreset_mode="Disabled")


def infos(*completions):
    return [
        {"prompt": "p", "completion": text, "references": ["a dog runs"], "extras": {"concepts": ["dog"]}}
        for text in completions
    ]


def test_scores_are_averaged_or_pooled_corpus_scores_have_no_interval(own, envs):
    names = [f"{own}:Uses", f"{own}:Words", f"{own}:Different"]
    found = metrics.measure(metrics.metrics_by_name(names, {}, envs), infos("a dog", "a", "a", "the dog runs"), seed=0)
    # 2 of 4 texts have "dog"; 2 + 1 + 1 + 3 words in 4 texts; "a" stands twice
    assert found.values == {"uses": 0.5, "words": 7 / 4, "different": 3.0}
    assert set(found.intervals) == {"uses", "words"}
    assert found.per_text == {"uses": [1.0, 0.0, 0.0, 1.0]}
    assert metrics.measure(metrics.metrics_by_name(names, {}, envs), infos("a dog"), seed=0).intervals == {}


def test_mean_and_pooled_mean_have_the_same_interval(own, envs):
    words = metrics.metrics_by_name([f"{own}:Words"], {}, envs)
    lengths = np.arange(1.0, 41.0)
    found = metrics.measure(words, infos(*("w " * int(n) for n in lengths)), seed=3)
    assert found.intervals["words"] == pytest.approx(metrics.mean_interval(lengths, seed=3), abs=1e-12)
    assert found.intervals["words"] != pytest.approx(metrics.mean_interval(lengths, seed=0), abs=1e-3)


def test_intervals_approach_the_normal_approximation():
    scores = np.random.default_rng(0).exponential(size=4000)
    low, high = metrics.mean_interval(scores, seed=0)
    stderr = scores.std(ddof=1) / math.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - 1.96 * stderr, abs=0.2 * stderr)
    assert high == pytest.approx(scores.mean() + 1.96 * stderr, abs=0.2 * stderr)
    assert (high - low) < 0.5 * np.subtract(
        *metrics.mean_interval(scores[:400], seed=0)[::-1]
    )  # a quarter, about 1/3.2


def test_intervals_cover_the_true_mean():
    generator = np.random.default_rng(1)
    samples = generator.normal(size=(200, 60))  # 200 corpora of 60 texts; the true mean is 0
    bounds = [metrics.mean_interval(scores, seed=0) for scores in samples]
    share = np.mean([low <= 0 <= high for low, high in bounds])
    assert 0.89 <= share <= 0.99  # 0.95 ± 3 standard errors of 200 draws, a little less for 60 texts
    assert np.mean([low <= 0.5 <= high for low, high in bounds]) < 0.2  # what is not true is seldom held


def test_chunks_of_resamples_change_nothing(monkeypatch):
    scores = np.random.default_rng(0).random((300, 2))
    whole = metrics.interval(scores, lambda sums: float(sums[0] / sums[1]), seed=0)
    monkeypatch.setattr(metrics, "CHUNK", 7 * 300)
    assert metrics.interval(scores, lambda sums: float(sums[0] / sums[1]), seed=0) == pytest.approx(whole, abs=1e-12)


def test_a_metric_shares_the_fit_of_the_reward(envs):
    paid = metrics.metrics_by_name(["cider_d"], {}, envs)[0]
    assert paid.frequencies is metrics.terms(envs)[0].score.frequencies
    other = metrics.metrics_by_name(["rouge_l"], {"rouge_l": {"reduction": "mean"}}, envs)[0]
    assert other.reduction == "mean"


def test_a_metric_reads_what_was_fitted_in_training(tmp_path):
    saved = rewards.load("cider_d", train=[Example("p", (text,)) for text in ("a dog runs", "a cat", "the dog")])
    (tmp_path / "cider_d").mkdir()
    saved.save(tmp_path / "cider_d")
    other = gym.make_vec("tril/CommonGen-v0", num_envs=2, reward="rouge_l")
    texts = ["p"], ["a dog sits"], [["a dog runs"]], [{}]
    (fitted,), (new,) = (metrics.metrics_by_name(["cider_d"], {}, other, fitted=where) for where in (tmp_path, None))
    assert fitted(*texts) == saved(*texts) != new(*texts)


class OfReferences(rewards.PooledScore):
    name = "of_references"

    def statistics(self, prompts, completions, references, extras):
        return np.array([[sum(map(len, targets)), len(targets)] for targets in references], dtype=float)

    def from_sums(self, sums):
        if not sums[1]:
            raise ValueError("no figure without references")
        return 1.0 / sums[1]


def test_texts_without_references_have_no_part_in_a_pooled_metric():
    texts = [info | {"references": ["a"] * number} for number, info in enumerate(infos(*"abc"))]
    found = metrics.measure([OfReferences()], texts, seed=0)
    assert (found.values["of_references"], found.intervals["of_references"]) == (1 / 3, (1 / 4, 1 / 2))


class Links(rewards.PooledScore):
    name = "links"

    def statistics(self, prompts, completions, references, extras):
        return np.array([[completion.count("http")] for completion in completions], dtype=float)

    def from_sums(self, sums):
        return float(sums[0])


class PerWord(Links):
    name = "per_word"

    def statistics(self, prompts, completions, references, extras):
        return np.array([[text.count("http"), len(text.split())] for text in completions], dtype=float)

    def from_sums(self, sums):
        return float(sums[0] / sums[1])


def test_texts_that_add_0_are_resampled():
    texts = [info | {"references": []} for info in infos(*["http"] * 5, *["no"] * 95)]
    found = metrics.measure([Links()], texts, seed=0)
    # The sum over a resample is binomial, n = 100 and p = 0.05: P(X <= 0) = 0.006, P(X <= 1) = 0.037, P(X <= 9) = 0.972
    assert (found.values["links"], found.intervals["links"]) == (5.0, (1.0, 10.0))


def test_texts_without_a_figure_are_not_resampled():
    texts = [infos(text)[0] | {"references": ["a"] * bool(text)} for text in ("http", "", "", "http no", "")]
    whole, part = (metrics.measure([PerWord()], chosen, seed=0) for chosen in (texts, texts[::3]))
    assert whole.intervals == part.intervals == {"per_word": (0.5, 1.0)}
    bleu = rewards.load("sacre_bleu")
    whole, part = (metrics.measure([bleu], chosen, seed=0) for chosen in (texts, texts[::3]))
    assert (whole.values, whole.intervals) == (part.values, part.intervals)


def test_without_metrics_an_environment_needs_no_references():
    metrics.check_metrics([], gym.make_vec("CartPole-v1", num_envs=1))


def test_metrics_are_checked_on_examples_with_references():
    rows = [{"prompt": f"p{number}"} for number in range(15)] + [{"prompt": "q", "references": ["a"]}]
    sizes = {"max_prompt_length": 8, "max_new_tokens": 4, "reward": None}
    some, none = (gym.make_vec("tril/Text-v0", num_envs=64, dataset=part, **sizes) for part in (rows, rows[:15]))
    metrics.check_metrics([OfReferences()], some)
    with pytest.raises(ValueError, match="'of_references' fails: no figure without references"):
        metrics.check_metrics([OfReferences()], none)


def test_wrong_metrics_are_refused_before_writing(own, envs):
    with pytest.raises(ValueError, match=r"'bleu'.*none of the metrics rouge_l"):
        metrics.metrics_by_name(["rouge_l"], {"bleu": {}}, envs)
    with pytest.raises(ValueError, match="each metric may be named once"):
        metrics.metrics_by_name(["rouge_l", "rouge_l"], {}, envs)
    with pytest.raises(ValueError, match=rf"{own}:brevity and {own}:also_brevity are both called 'brevity'; rename"):
        metrics.metrics_by_name([f"{own}:brevity", f"{own}:also_brevity"], {}, envs)
    with pytest.raises(ValueError, match=r"unknown reward 'rouge'"):
        metrics.metrics_by_name(["rouge"], {}, envs)
    with pytest.raises(ValueError, match=r"metric 'wrong' fails: .*nothing here"):
        metrics.check_metrics(metrics.metrics_by_name([f"{own}:wrong"], {}, envs), envs)
    metrics.check_metrics(metrics.metrics_by_name(["rouge_l"], {}, envs), envs)


def test_user_functions_work_as_rewards(own):
    assert rewards.load(f"{own}:brevity").name == "brevity"
    assert rewards.load(f"{own}:Uses", word="cat")(["p"], ["a cat"], [[]], [{}]) == [1.0]
    reward = {f"{own}:brevity": 0.5, f"{own}:Uses": 1.0}
    env = gym.make("tril/CommonGen-v0", reward=reward, reward_settings={f"{own}:Uses": {"word": "cat"}})
    env.reset(seed=0)
    _, paid, _, _, info = env.step(env.metadata["text"]["eos_token_ids"][0])
    assert info["scores"] == {"brevity": 1.0, "uses": 0.0}
    assert paid == 0.5
    again = gym.make(type(env.spec).from_json(env.spec.to_json()))
    assert [term.name for term in metrics.terms(again)] == ["brevity", "uses"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("no_such_module:f", {}, "no such module"),
        ("{own}:missing", {}, "no function of the name missing"),
        ("{own}:number", {}, "is not a function"),
        ("{own}:brevity", {"word": "x"}, "is a function and has no settings of its own, got word"),
        ("{own}:Uses", {"words": "x"}, r"no setting 'words' \(did you mean 'word'\?\); its settings are word"),
    ],
)
def test_missing_user_functions_are_named(own, name, settings, message):
    with pytest.raises(ValueError, match=message):
        rewards.load(name.format(own=own), **settings)


def test_a_corpus_score_is_no_reward(own):
    with pytest.raises(ValueError, match=r"different is a corpus metric.*--metrics different"):
        gym.make("tril/CommonGen-v0", reward=f"{own}:Different")


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of one iteration."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    few = ("--iterations", 1, "--num-envs", 4, "--eval-examples", 4, "--tiny-samples", 0)
    assert run("train", "ppo", *few, "--episodes-per-iteration", 4, "--output-dir", folder).exit_code == 0
    return folder


def test_evaluate_measures_and_writes_every_text(run_folder, own, tmp_path):
    figures, texts = tmp_path / "figures.json", tmp_path / "texts.jsonl"
    names = ("--metrics", f"rouge_l, {own}:Uses", "--metrics", f"{own}:Different", "--metrics", "cider_d")
    settings = ("--metric-arg", f"{own}:Uses.word=a", "--metric-arg", "rouge_l.reduction=mean")
    files = ("--output", figures, "--per-example", texts)
    done = run("evaluate", run_folder, "--examples", 6, *names, *settings, *files)
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text())
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    assert [row["written"] for row in rows] == ["greedy"] * 6 + ["sampled"] * 6
    for how in ("greedy", "sampled"):
        own_rows = [row for row in rows if row["written"] == how]
        means, intervals = found["metrics"][how], found["intervals"][how]
        for name in ("rouge_l", "uses", "cider_d"):
            assert means[f"metric/{name}"] == pytest.approx(
                np.mean([row["metrics"][name] for row in own_rows]), abs=1e-12
            )
            low, high = intervals[f"metric/{name}"]
            assert low <= means[f"metric/{name}"] <= high
        assert means["reward/mean"] == pytest.approx(np.mean([row["reward"] for row in own_rows]), abs=1e-6)
        assert means["metric/different"] == len({row["completion"] for row in own_rows})
        assert "metric/different" not in intervals
        # the same text has the same score in the environment and as a metric
        assert [row["scores"]["cider_d"] for row in own_rows] == [row["metrics"]["cider_d"] for row in own_rows]
        columns = [[row[key] for row in own_rows] for key in ("prompt", "completion", "references")]
        alone = rewards.load("rouge_l", reduction="mean")(*columns, [{}] * 6)
        assert alone.tolist() == [row["metrics"]["rouge_l"] for row in own_rows]


def test_evaluate_refuses_before_it_writes(run_folder, own, tmp_path):
    for words, message in [
        (("--metrics", "rouge"), "unknown reward 'rouge'"),
        (("--metrics", "rouge_l", "--metric-arg", "rouge_l.ovr=mean"), "no setting 'ovr'"),
        (("--metrics", "rouge_l", "--metric-arg", "rouge_l=mean"), "NAME.KEY=VALUE"),
        (("--metrics", f"{own}:wrong"), "metric 'wrong' fails"),
        (("--per-example", tmp_path / "no" / "texts.jsonl"), "there is no folder"),
        (("--reward", "rouge_l:abc"), "must be a number in [-1000000, 1000000], got 'abc'"),
        (("--reward", "rouge_l:nan"), "must be a number in [-1000000, 1000000], got 'nan'"),
        (("--reward", "rouge_l:0.5:x"), "must be a number in [-1000000, 1000000], got 'x'"),
        (("--reward-arg", "bleu.x=1"), "no term of the reward"),
    ]:
        done = run("evaluate", run_folder, *words)
        assert done.exit_code == 2, done.output
        assert message in " ".join(done.output.replace("│", " ").split()), done.output
        assert "evaluating" not in done.output


def test_a_run_with_user_rewards_and_settings(own, tmp_path):
    terms = ("--reward", f"{own}:Uses:0.5", "--reward-arg", f"{own}:Uses.word=a", "--reward", f"{own}:brevity")
    few = ("--iterations", 1, "--num-envs", 4, "--eval-examples", 4, "--tiny-samples", 0)
    done = run("train", "ppo", *few, "--episodes-per-iteration", 4, *terms, "--output-dir", tmp_path / "run")
    assert done.exit_code == 0, done.output
    config = RunFolder(tmp_path / "run").read_config()
    assert config["reward"] == {f"{own}:Uses": 0.5, f"{own}:brevity": 1.0}
    assert config["env_args"]["reward_settings"] == {f"{own}:Uses": {"word": "a"}}
    done = run("evaluate", tmp_path / "run", "--examples", 4)
    assert done.exit_code == 2
    assert "--trust-code" in done.output
    done = run("evaluate", tmp_path / "run", "--examples", 4, "--trust-code")
    assert done.exit_code == 0, done.output
    assert "score/uses" in done.output
