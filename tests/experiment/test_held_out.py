"""Evaluations during training: when they happen, what they leave alone; warnings about a large KL, equal rewards."""

import contextlib
import io
import json
import shutil

import gymnasium as gym
import pytest
from rich.console import Console

from tril_gym.experiment import RunConsole, configure, evaluate, held_out, resume, train
from tril_gym.experiment.build import build_run
from tril_gym.experiment.environments import warn_of_other_prompts
from tril_gym.experiment.held_out import kl_warning_of
from tril_gym.experiment.resuming import saved_config
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.training import resumed_run
from tril_gym.experiment.verdict import verdict_of

SMALL = {"env": "tril/Toy-v0", "num_envs": 8, "eval_examples": 6, "learning_rate": 1e-2, "lr_schedule": "constant"}


def toy_run(folder, **settings):
    """Train on the toy environment; return the output."""
    console = Console(file=io.StringIO(), width=200)
    train(configure("ppo", **SMALL | settings), folder, console=RunConsole(console))
    return console.file.getvalue()


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def metrics(folder):
    """Return the metrics of all iterations without those that depend on the time."""
    found = rows(folder, "metrics.jsonl")
    return [{name: row[name] for name in row if not name.startswith(("time/", "tokens_per"))} for row in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five iterations that is evaluated after the second and the fourth."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    output = toy_run(folder, iterations=5, eval_every=2)
    assert output.count("after iteration") == 2
    found = json.loads((folder / "evaluation.json").read_text())
    assert output.splitlines()[-1] == found["verdict"]["sentence"]
    means = [f"{found[when]['metrics']['greedy']['reward/mean']:.3f}" for when in ("before", "after")]
    (row,) = [line.split() for line in output.splitlines() if line.startswith("reward/mean") and "greedy" in line]
    assert [word for word in row if word in means] == means  # of the closing table
    return folder


def test_evaluations_do_not_change_the_training(run, tmp_path):
    toy_run(tmp_path / "without", iterations=5)
    assert metrics(tmp_path / "without") == metrics(run)
    assert not (tmp_path / "without" / "evaluations.jsonl").exists()
    ends = [json.loads((folder / "evaluation.json").read_text()) for folder in (run, tmp_path / "without")]
    assert ends[0]["after"] == ends[1]["after"]


def test_all_evaluations_are_on_the_same_examples(tmp_path):
    many = {"env": "tril/CommonGen-v0", "tiny_samples": 0, "env_args": {"max_new_tokens": 2}, "eval_examples": 150}
    toy_run(tmp_path / "run", iterations=2, eval_every=1, **many)
    ends = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (during,) = rows(tmp_path / "run", "evaluations.jsonl")
    for way in ("greedy", "sampled"):
        assert [each["metrics"][way]["examples"] for each in (ends["before"], during, ends["after"])] == [150] * 3
        assert during["verdict"][way]["before"] == pytest.approx(ends["before"]["metrics"][way]["reward/mean"])


def test_the_verdict_is_on_the_policy_after_training(run):
    found = json.loads((run / "evaluation.json").read_text())
    for way in ("greedy", "sampled"):
        means = {when: found[when]["metrics"][way]["reward/mean"] for when in ("before", "after")}
        assert {when: found["verdict"][way][when] for when in means} == pytest.approx(means)
        assert means["before"] != means["after"]
    assert (
        found["verdict"]["kl"]
        == found["after"]["metrics"]["sampled"]["kl"]
        != found["before"]["metrics"]["sampled"]["kl"]
    )


@pytest.mark.parametrize(("algorithm", "own"), [("rso", {"reference_every": 1}), ("raft", {})])
def test_a_kl_is_that_to_the_first_policy(tmp_path, algorithm, own):
    """The reference policy of an iterated RSO is a later policy, so that there is none."""
    config = configure(algorithm, **SMALL | {"iterations": 1} | own)
    result = train(config, tmp_path / "run", console=RunConsole(Console(quiet=True)))
    assert ("kl" in result.after["metrics"]["sampled"]) == (not own)
    assert (result.verdict["kl"] is None) == bool(own)


def test_rows_are_metrics_without_texts(run):
    found = rows(run, "evaluations.jsonl")
    assert [row["iteration"] for row in found] == [2, 4]
    for row in found:
        assert set(row) == {"iteration", "verdict", "metrics", "intervals"}
        assert row["metrics"]["greedy"]["examples"] == 6
        assert row["verdict"]["seconds"] is None
    before = json.loads((run / "evaluation.json").read_text())["before"]["metrics"]
    assert found[0]["verdict"]["sampled"]["before"] == before["sampled"]["reward/mean"]
    assert found[0]["metrics"] != found[1]["metrics"]


def test_a_last_iteration_has_no_row_of_its_own(tmp_path):
    toy_run(tmp_path / "run", iterations=2, eval_every=1)
    assert [row["iteration"] for row in rows(tmp_path / "run", "evaluations.jsonl")] == [1]


def test_an_extended_run_equals_an_uninterrupted_one(run, tmp_path):
    folder = tmp_path / "stopped"
    toy_run(folder, iterations=2, eval_every=2)
    assert not (folder / "evaluations.jsonl").exists()  # the evaluation after training took its place
    resume(folder, iterations=5, console=RunConsole(Console(quiet=True)))
    assert rows(folder, "evaluations.jsonl") == rows(run, "evaluations.jsonl")
    assert metrics(folder) == metrics(run)


def test_a_finished_run_keeps_its_figures_while_it_is_evaluated_again(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    known = (tmp_path / "run" / "evaluation.json").read_text()

    def stopped(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(held_out, "evaluate", stopped)
    with contextlib.suppress(KeyboardInterrupt):
        resume(tmp_path / "run", console=RunConsole(Console(quiet=True)))
    assert (tmp_path / "run" / "evaluation.json").read_text() == known


def test_other_held_out_examples_are_refused_on_resume(tmp_path):
    """The evaluations before and after would be of other examples, and their difference no gain."""
    data = tmp_path / "data.jsonl"
    written = [{"prompt": f"name a dog {n}", "completion": "rex"} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in written))
    own = {"env": "tril/Text-v0", "dataset": str(data), "reward": {"exact_match": 1.0}, "tiny_samples": 0}
    toy_run(tmp_path / "run", iterations=2, **own)
    known = (tmp_path / "run" / "evaluation.json").read_bytes()
    data.write_text("".join(json.dumps(row | {"completion": "tom"}) + "\n" for row in written))
    with pytest.raises(ValueError, match="are not those on which the policy was evaluated before training"):
        resume(tmp_path / "run", iterations=3, console=RunConsole(Console(quiet=True)))
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == known
    data.write_text("".join(json.dumps(row) + "\n" for row in written))
    resume(tmp_path / "run", iterations=3, console=RunConsole(Console(quiet=True)))


def test_texts_that_are_evaluated_as_the_chats_of_the_training_are_not_warn(caplog):
    for chat in (True, False):
        envs = gym.make_vec("tril/Toy-v0", num_envs=1)
        envs.metadata = {"text": envs.metadata["text"] | {"chat": chat}}
        for learned_from_chats in (True, False):
            caplog.clear()
            warn_of_other_prompts(envs, "all of x.jsonl", learned_from_chats=learned_from_chats)
            assert ("the prompts of all of x.jsonl are" in caplog.text) == (chat != learned_from_chats)


def test_a_lost_evaluation_before_training_is_repeated_on_the_initial_policy(tmp_path):
    toy_run(tmp_path / "run", iterations=2, seed=3, tiny_samples=0)
    before = json.loads((tmp_path / "run" / "evaluation.json").read_text())["before"]
    (tmp_path / "run" / "evaluation.json").write_text("{")
    resume(tmp_path / "run", iterations=3, console=RunConsole(Console(quiet=True)))
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["before"] == before


def test_texts_are_drawn_by_the_seed_of_the_run(tmp_path):
    toy_run(tmp_path / "run", iterations=1, seed=3, tiny_samples=0)
    parts = build_run(saved_config(RunFolder(tmp_path / "run")))
    envs = parts.eval_envs(tmp_path / "run" / "reward")
    found = evaluate(parts.agent.policy, envs, seed=3, count=6).rewards
    assert found == json.loads((tmp_path / "run" / "evaluation.json").read_text())["before"]["rewards"]
    assert found["sampled"] != evaluate(parts.agent.policy, envs, seed=0, count=6).rewards["sampled"]


def test_rows_after_the_checkpoint_are_removed(tmp_path):
    toy_run(tmp_path / "run", iterations=3, eval_every=1)
    with (tmp_path / "run" / "evaluations.jsonl").open("a") as file:
        file.write('{"iteration": 4}\n{"iter')
    resumed_run(tmp_path / "run", {"iterations": 5}, console=RunConsole(Console(quiet=True)))
    assert [row["iteration"] for row in rows(tmp_path / "run", "evaluations.jsonl")] == [1, 2]


@pytest.mark.parametrize(
    ("kl", "outcome", "warns"),
    [
        (20.1, None, True),
        (20.1, "no gain", True),
        (20.1, "worse", True),
        (20.1, "gain", False),
        (20.1, "mixed", False),
        (20.0, "no gain", False),
        (float("nan"), None, False),
    ],
)
def test_a_large_kl_without_a_gain_warns(kl, outcome, warns):
    assert (kl_warning_of(7, kl, bound=20.0, outcome=outcome) is not None) == warns


def test_the_warning_names_value_bound_and_remedies():
    text = kl_warning_of(7, 23.44, bound=20.0, outcome="no gain")
    for words in ("23.4 nats", "iteration 7", "kl_warning 20", "learning_rate", "kl_coef", "kl_target", "not above"):
        assert words in text
    assert "eval_every" in kl_warning_of(7, 23.44, bound=20.0, outcome=None)
    unscored = kl_warning_of(7, 23.44, bound=20.0, outcome="no reward")
    assert "no reward scores the held-out texts;" in unscored
    assert "standard errors" not in unscored


def test_a_run_warns_once(tmp_path):
    assert toy_run(tmp_path / "run", iterations=4, kl_warning=1e-9).count("warning: KL") == 1
    assert "warning" not in toy_run(tmp_path / "quiet", iterations=4, kl_warning=1e9)


class TestTextsWithTheSameReward:
    """A run whose texts all earn the same learns nothing, and says so once."""

    @pytest.mark.parametrize(("iterations", "after"), [(2, 2), (11, 10)])
    def test_a_run_without_any_difference_warns(self, tmp_path, iterations, after):
        settings = {"iterations": iterations, "reward": {"length_penalty": 1.0}}
        output = toy_run(tmp_path / "run", **settings)
        assert output.count(f"all texts of the first {after} iterations have the same reward, 0, and nothing") == 1

    def test_a_run_with_differences_does_not(self, tmp_path):
        assert "warning" not in toy_run(tmp_path / "run", iterations=2)

    def test_algorithms_that_do_not_learn_from_rewards_do_not(self, tmp_path):
        console = Console(file=io.StringIO(), width=200)
        config = configure("gail", **SMALL, iterations=1, reward={"length_penalty": 1.0})
        train(config, tmp_path / "run", console=RunConsole(console))
        assert "same reward" not in console.file.getvalue()


@pytest.mark.parametrize("eval_every", [0, 1])
def test_a_run_without_a_reward_is_warned_of_the_kl_alone(tmp_path, monkeypatch, eval_every):
    init = held_out.HeldOut.__init__

    def unscored(self, *parts):
        init(self, *parts)
        self.is_scored = False

    monkeypatch.setattr(held_out.HeldOut, "__init__", unscored)
    output = toy_run(tmp_path / "run", iterations=3, eval_every=eval_every, kl_warning=1e-9)
    assert output.count("no reward scores the held-out texts; to keep") == 1
    assert output.count("warning: KL") == 1


def test_the_warning_follows_the_last_evaluation(tmp_path, monkeypatch):
    """A gain after the first iteration, none after the second, whose own evaluation counts."""
    outcomes = iter(["gain", "no gain", "gain"])

    def staged(*evaluations, **settings):
        found = verdict_of(*evaluations, **settings)
        return found if "seconds" in settings else found | {"outcome": next(outcomes)}

    monkeypatch.setattr(held_out, "verdict_of", staged)
    output = toy_run(tmp_path / "run", iterations=4, eval_every=1, kl_warning=1e-9)
    assert output.count("warning: KL") == output.count("nats a text in iteration 2 is above kl_warning") == 1


@pytest.mark.parametrize("data", [True, False])
def test_unknown_words_are_those_of_no_training_example(tmp_path, monkeypatch, data):
    monkeypatch.setattr(RunFolder, "read_words", lambda folder: frozenset() if data else None)
    toy_run(tmp_path / "run", iterations=1)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    for when in ("before", "after"):
        assert found[when]["metrics"]["sampled"].get("text/unknown_words") == (1.0 if data else None)


@pytest.mark.parametrize("algorithm", ["ppo", "online-dpo", "a-lol", "raft"])
def test_the_kl_warning_names_what_the_algorithm_has(algorithm):
    settings = configure(algorithm).hyperparameters
    text = kl_warning_of(7, 23.44, bound=20.0, outcome="no gain", settings=settings)
    for name in ("kl_coef", "kl_target", "beta"):
        assert (name in text) == (name in settings)


def test_a_run_is_warned_with_its_own_settings(tmp_path):
    console = Console(file=io.StringIO(), width=400)
    config = configure(
        "online-dpo", env="tril/Toy-v0", tiny_samples=0, num_envs=4, eval_examples=4, iterations=2, kl_warning=1e-9,
        learning_rate=0.05,
    )  # fmt: skip
    train(config, tmp_path / "run", console=RunConsole(console))
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("warning: KL")]
    assert line.endswith("lower learning_rate, or raise beta")


class TestRunsOfWarmUpAlone:
    """A run that ends in its warm-up trains no policy, and says so."""

    @staticmethod
    def output_of(algorithm, folder, **settings):
        settings = {"env": "tril/Toy-v0", "num_envs": 8, "eval_examples": 2, "tiny_samples": 0} | settings
        console = Console(file=io.StringIO(), width=200)
        train(configure(algorithm, **settings, lr_schedule="constant"), folder, console=RunConsole(console))
        return console.file.getvalue()

    def test_one_iteration_of_a_preset_warns(self, tmp_path):
        output = self.output_of("ppo", tmp_path / "run", iterations=1)
        assert "warning: the policy takes no step, as --iterations 1 is all warm-up with --critic-warmup 1," in output
        assert "raise --iterations, or use --critic-warmup 0\n" in output
        assert "no step" not in self.output_of("ppo", tmp_path / "without", iterations=1, critic_warmup=0)
        console = Console(file=io.StringIO(), width=200)
        resume(tmp_path / "run", iterations=2, console=RunConsole(console))
        assert "no step" not in console.file.getvalue()

    def test_the_warmup_of_a_discriminator_counts(self, tmp_path):
        output = self.output_of("gail", tmp_path / "run", iterations=2)
        assert "--iterations 2 is all warm-up with --critic-warmup 1, --discriminator-warmup 2" in output

    @pytest.mark.parametrize(("hand_over", "warns"), [(1, True), (2, False)])
    def test_each_critic_has_a_warmup_of_its_own(self, tmp_path, hand_over, warns):
        numbers = {"aggrevated_iterations": hand_over, "critic_warmup": 1, "iterations": 2}
        assert ("no step" in self.output_of("d2lols", tmp_path / "run", **numbers)) == warns
