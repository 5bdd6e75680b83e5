"""Finished runs beside each other: paired by example, and only where they were evaluated on the same examples."""

import io
import json
import math
import shlex
import shutil
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from tril_gym.cli import main
from tril_gym.experiment import RunConsole, configure, train
from tril_gym.experiment.comparison import (
    Point,
    comparison,
    comparison_of_files,
    curves_figure,
    finished_run,
    named_groups,
)

SMALL = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 4, "iterations": 2, "eval_every": 1, "tiny_samples": 0}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(configure("ppo", **SMALL), folder, console=RunConsole(Console(file=io.StringIO())))
    return folder


@pytest.fixture
def copy(first, tmp_path):
    """Return a function that copies the run with other rewards or settings."""

    def make(name, *, rewards=None, **settings):
        folder = tmp_path / name
        shutil.copytree(first, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for key, value in settings.items():
            (config["hyperparameters"] if key in config["hyperparameters"] else config)[key] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if rewards is not None:
            found = json.loads((folder / "evaluation.json").read_text())
            found["after"]["rewards"] = {"greedy": rewards, "sampled": rewards}
            (folder / "evaluation.json").write_text(json.dumps(found))
        return folder

    return make


def command(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_differences_are_paired_by_example(copy):
    one, two = copy("one", rewards=[0.0, 1.0, 2.0, 3.0]), copy("two", rewards=[0.1, 1.3, 2.1, 3.3], seed=1)
    base, row = comparison([finished_run(one), finished_run(two)])
    # Differences 0.1, 0.3, 0.1, 0.3: mean 0.2, standard deviation 0.2 / sqrt(3), standard error 0.1 / sqrt(3).
    assert row["greedy"]["difference"] == pytest.approx(0.2)
    assert row["greedy"]["standard_errors"] == pytest.approx(0.2 / (0.1 / 3**0.5))
    low, high = row["greedy"]["interval"]
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 3**0.5)
    assert (base["greedy"]["difference"], base["name"], row["name"], row["seed"]) == (0.0, "one", "two", 1)


def test_each_run_has_the_figures_of_its_own_evaluation_after_training(copy):
    folders = [copy("one", rewards=[0.0, 0.0]), copy("two", rewards=[1.0, 2.0])]
    found = json.loads((folders[1] / "evaluation.json").read_text())
    found["after"]["metrics"]["sampled"]["kl"] = 7.5
    found["after"]["metrics"]["greedy"]["reward/mean"] = 1.5
    (folders[1] / "evaluation.json").write_text(json.dumps(found))
    one, two = comparison([finished_run(folder) for folder in folders])
    assert (one["greedy"]["mean"], two["greedy"]["mean"], two["sampled"]["difference"]) == (0.0, 1.5, 1.5)
    assert one["kl"] != two["kl"] == 7.5
    assert dict(finished_run(folders[1]).curve)[2]["greedy"].mean == 1.5


def test_the_curve_has_all_evaluations(first):
    assert [iteration for iteration, _ in finished_run(first).curve] == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eval_examples": 5}, "differ in --eval-examples: 4 and 5"),
        ({"env": "tril/IMDB-v0"}, "differ in --env: tril/Toy-v0 and tril/IMDB-v0"),
        ({"reward": {"rouge_l": 1.0}}, "differ in --reward"),
        ({"env_args": {"max_new_tokens": 5}}, "differ in --env-arg: "),
    ],
)
def test_runs_on_other_examples_are_refused(copy, settings, words):
    runs = [finished_run(copy("one")), finished_run(copy("two", **settings))]
    with pytest.raises(ValueError, match=words):
        comparison(runs)
    with pytest.raises(ValueError, match=words):
        curves_figure(runs)


def test_runs_of_one_group_differ_in_their_seed_only(copy):
    runs = [copy("a"), copy("b", seed=1), copy("c", learning_rate=0.5), copy("d", learning_rate=0.5, seed=3)]
    groups = named_groups([finished_run(run) for run in runs])
    assert {name: [run.path.name for run in members] for name, members in groups.items()} == {
        f"ppo, --learning-rate {finished_run(runs[0]).config.hyperparameters['learning_rate']}": ["a", "b"],
        "ppo, --learning-rate 0.5": ["c", "d"],
    }


def test_the_band_is_the_interval_of_one_run_and_the_range_of_seeds(copy):
    one, other = finished_run(copy("a")), finished_run(copy("b", seed=1))
    points = [Point(0.5, 0.25, 0.75), Point(0.875, 0.8125, 1.0)]
    for run, point in zip((one, other), points, strict=True):
        run.curve[:] = [(iteration, {"greedy": point, "sampled": point}) for iteration in (0, 2)]
    for runs, legend, bounds in (
        ([one], "ppo (seed 0, 95 % interval)", {0.25, 0.75}),
        ([one, other], "ppo (2 seeds, range)", {0.5, 0.875}),
    ):
        figure = curves_figure(runs)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [legend]
        (band,) = figure.axes[0].collections
        assert {height for _, height in band.get_paths()[0].vertices} == bounds


def test_compare_prints_a_table_and_writes_the_numbers(copy, tmp_path):
    one, two = copy("one", rewards=[0.0] * 4), copy("two", rewards=[0.25] * 4)
    done = command("compare", one, two, "--output", tmp_path / "it.json")
    assert done.exit_code == 0
    assert "+0.250 ± 0.000" in done.output
    assert [row["name"] for row in json.loads((tmp_path / "it.json").read_text())] == ["one", "two"]


class TestFiles:
    """Runs that learned from different rewards, by the evaluations that `evaluate --output` writes."""

    def write(self, path, greedy, **changes):
        about = {"on": "4 texts", "reward": {"rouge_l": 1.0}, "reward_settings": {}, "seed": 0, "source": str(path)}
        found = {"metrics": {"greedy": {}, "sampled": {}}, "rewards": {"greedy": greedy, "sampled": greedy}}
        path.write_text(json.dumps(about | found | changes))
        return path

    def test_evaluations_of_runs_are_compared(self, first, tmp_path):
        files = [tmp_path / "one.json", tmp_path / "two.json"]
        for file in files:
            done = command("evaluate", first, "--examples", 4, "--num-envs", 4, "--output", file)
            assert done.exit_code == 0, done.output
        done = command("compare", *files, "--output", tmp_path / "it.json")
        assert done.exit_code == 0, done.output
        assert "+0.000 ± 0.000" in done.output
        assert [row["source"] for row in json.loads((tmp_path / "it.json").read_text())] == [str(first)] * 2

    def test_evaluations_of_other_data_are_refused(self, first, tmp_path):
        files = [tmp_path / "one.json", tmp_path / "two.json"]
        for file, count in zip(files, (8, 9), strict=True):
            options = ["--examples", 4, "--num-envs", 4, "--env-arg", f"num_examples={count}", "--output", file]
            assert command("evaluate", first, *options).exit_code == 0
        with pytest.raises(ValueError, match="were evaluated on different examples"):
            comparison_of_files(files)

    def test_differences_are_paired(self, tmp_path):
        one, two = self.write(tmp_path / "a.json", [0.0, 1.0]), self.write(tmp_path / "b.json", [0.5, 1.5])
        assert comparison_of_files([one, two])[1]["greedy"]["difference"] == 0.5

    def test_a_sample_of_all_examples_is_in_the_order_of_all(self, first, tmp_path):
        files = [tmp_path / "all.jsonl", tmp_path / "sample.jsonl"]
        for file, examples in zip(files, ([], ["--examples", 1000]), strict=True):
            done = command("evaluate", first, *examples, "--env-arg", "num_examples=8", "--per-example", file)
            assert done.exit_code == 0, done.output
        assert files[0].read_text() == files[1].read_text(), "compare pairs them text by text"

    def test_a_reward_that_is_no_number_makes_the_difference_none(self, tmp_path):
        one, two = self.write(tmp_path / "a.json", [None, 1.0]), self.write(tmp_path / "b.json", [0.5, 1.5])
        assert math.isnan(comparison_of_files([one, two])[1]["greedy"]["difference"])
        assert command("compare", one, two, "--output", tmp_path / "it.json").exit_code == 0
        assert json.loads((tmp_path / "it.json").read_text())[1]["greedy"]["difference"] is None

    @pytest.mark.parametrize(
        ("greedy", "changes", "words"),
        [
            ([0.0, 1.0], {"on": "5 texts"}, "different examples: 4 texts and 5 texts"),
            ([0.0, 1.0], {"reward": {"bleu": 1.0}}, "different rewards"),
            ([0.0, 1.0], {"reward_settings": {"rouge_l": {"stem": True}}}, "different settings of a reward"),
            ([0.0, 1.0], {"seed": 1}, "different seeds: 0 and 1"),
            ([0.0, 1.0], {"examples": "b7"}, "were evaluated on different examples"),
            ([0.0], {}, "has 2 texts and .* has 1; give both evaluations the same --examples"),
        ],
    )
    def test_different_ones_are_refused(self, tmp_path, greedy, changes, words):
        one = self.write(tmp_path / "a.json", [0.0, 1.0], examples="a5")
        two = self.write(tmp_path / "b.json", greedy, **changes)
        with pytest.raises(ValueError, match=words):
            comparison_of_files([one, two])

    def test_a_folder_beside_a_file_and_another_file_are_refused(self, first, tmp_path):
        file = self.write(tmp_path / "a.json", [0.0])
        assert "got both" in " ".join(command("compare", first, file).output.split())
        (tmp_path / "b.json").write_text("{}")
        assert "is no evaluation" in " ".join(command("compare", file, tmp_path / "b.json").output.split())


@pytest.mark.parametrize("name", ["compare", "plot"])
def test_a_damaged_evaluation_ends_with_a_message(name, first, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damaged = copy("damaged")
    (damaged / "evaluation.json").write_text('{"before": 3, "after": 3}')
    done = command(name, first, damaged)
    assert done.exit_code == 1
    assert "Error: TypeError" in done.output
    assert "Traceback" in command(name, first, damaged, "--debug").output


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_writes_a_picture(first, tmp_path, ending):
    path = tmp_path / f"it.{ending}"
    assert command("plot", first, "--output", path).exit_code == 0
    if ending == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_mistakes_are_explained(first, copy, tmp_path):
    unfinished = copy("unfinished")
    found = json.loads((unfinished / "evaluation.json").read_text())
    (unfinished / "evaluation.json").write_text(json.dumps(found | {"after": None}))
    for arguments, words in (
        (["compare", first], "compare needs two run folders or more"),
        (["compare", first, tmp_path / "nothing"], "is no run folder"),
        (["compare", first, unfinished], "has no evaluation after training yet"),
        (["compare", first, first, "--output", tmp_path / "no" / "it.json"], "there is no folder"),
        (["plot", first, "--output", tmp_path / "it.jpg"], "must end in .png or .svg"),
    ):
        done = command(*arguments)
        assert done.exit_code == 2
        assert words in " ".join(done.output.split()), done.output


def test_the_command_that_finishes_a_run_can_be_copied(copy):
    folder = copy("a run")
    found = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(found | {"after": None}))
    done = command("plot", folder)
    assert done.exit_code == 2
    assert f"--output-dir {shlex.quote(str(folder))} --resume" in " ".join(done.output.split())
