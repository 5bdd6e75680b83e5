"""Every algorithm on every task with both kinds of model, from the command line: trained, and resumed exactly.

Tasks differ in data and rewards, of which an algorithm knows nothing, so `make test` runs each algorithm on one task
with one kind of model, in turn, without a stop (`tests/agents` stops each one). `make matrix` runs all cells. DPO and
IPO learn given pairs, which only HH has.
"""

import itertools
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from algorithm_pages import EVERY, IMITATION, METRICS, SCORED, own_metrics
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tril_gym.cli import main
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.rewards.neural import preference_fit, sentiment

TASKS = ("IMDB", "CommonGen", "TLDR", "HH")
MODELS = {"tiny": AutoModelForCausalLM, "tiny-seq2seq": AutoModelForSeq2SeqLM}
CELLS = [
    cell
    for cell in itertools.product(ALGORITHMS, TASKS, MODELS)
    if cell[1] == "HH" or not agent_type(cell[0]).needs_pairs
]
# Algorithm i is tested on one of its own tasks with one kind of model, so that all pairs of both occur.
USUAL = {
    [cell for cell in CELLS if cell[0] == name][(3 * i) % (2 if agent_type(name).needs_pairs else 8)]
    for i, name in enumerate(ALGORITHMS)
}
MARKED = [pytest.param(*cell, False, id="-".join(cell)) for cell in CELLS if cell in USUAL]
MARKED += [pytest.param(*cell, True, marks=pytest.mark.slow, id="-".join([*cell, "resumed"])) for cell in CELLS]
SMALL = ["--tiny-samples", "32", "--num-envs", "8", "--eval-examples", "4", "--eval-every", "0", "--iterations", "2"]
SMALL += ["--epochs", "1", "--save-every", "1", "--keep", "9"]
# Short texts: these runs check that all components fit together.
LENGTHS = {"IMDB": (24, 10), "CommonGen": (15, 10), "TLDR": (48, 10), "HH": (48, 10), "Toy": (3, 6)}
OWN = {
    "d2lols": ["--aggrevated-iterations", "1"],
    "lols": ["--ppo-pp-prob", "0.5"],
    "ppg": ["--auxiliary-every", "2", "--auxiliary-epochs", "1"],  # a phase ends after the run is stopped
}
OWN |= {name: ["--value-texts", "2"] for name in ("a-lol", "a-star-po")}
# What changes plans, or what an agent keeps from one iteration to the next: a cell each, and a metric that shows it.
OPTIONS = [
    ("ppo-pp", "CommonGen", "tiny-seq2seq", ["--best-of", "2"], "guide/token_share"),
    ("aggrevated", "IMDB", "tiny", ["--best-of", "2", "--best-of-by", "value"], "guide_critic/loss"),
    ("grpo", "TLDR", "tiny", ["--given-texts", "1", "--texts-per-prompt", "2"], "given/loss"),
    ("raft", "CommonGen", "tiny-seq2seq", ["--given-texts", "1"], "reward/given"),
    # Measured before the first iteration only, as the policy is found good enough.
    (
        "d2lols",
        "HH",
        "tiny",
        ["--hand-over", "quality", "--hand-over-every", "1", "--hand-over-texts", "8", "--hand-over-margin", "-9"],
        "hand_over/guide",
    ),
    # Two examples, so that the second iteration begins with texts of the first.
    ("ppo-pp", "Toy", "tiny", ["--guide", "successes", "--env-arg", "num_examples=2"], "guide/token_share"),
    (
        "gail",
        "TLDR",
        "tiny-seq2seq",
        ["--discriminator-level", "token", "--gradient-penalty", "0.1"],
        "discriminator/gradient_penalty",
    ),
    ("rebel", "TLDR", "tiny", ["--rollin-prob", "0.8"], "rollin/share"),
    ("dagger", "CommonGen", "tiny-seq2seq", ["--guide", "references"], "policy/loss"),
    ("a-lol", "IMDB", "tiny", ["--value-texts", "0"], "policy/loss"),
    ("rso", "CommonGen", "tiny", ["--reference-every", "1", "--pairing", "tournament"], "pair/accuracy"),
]
BY_CHANCE = {"reward/policy_alone", "reward/guide_alone"}  # in two small iterations
CRITICS = {"aggrevated": {"guide_critic"}, "d2lols": {"guide_critic", "critic"}}


def test_the_matrix_is_complete():
    assert len(CELLS) == 28 * 8 + 2 * 2
    assert {algorithm for algorithm, *_ in USUAL} == set(ALGORITHMS)
    assert len(USUAL) == len(ALGORITHMS)
    assert {(task, policy) for _, task, policy in USUAL} == set(itertools.product(TASKS, MODELS))


def run(folder, *arguments):
    result = CliRunner().invoke(main, ["train", *arguments, "--output-dir", str(folder)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(rows):
    return [
        {key: value for key, value in row.items() if not key.startswith("time/") and "second" not in key}
        for row in rows
    ]


def last_policy(folder):
    return folder / "checkpoints" / "iteration-000002" / "policy"


@pytest.mark.parametrize(("algorithm", "task", "policy", "resumes"), MARKED)
def test_a_cell_trains_from_the_command_line(algorithm, task, policy, resumes, tmp_path, monkeypatch):
    rows = run_cell(tmp_path / "run", algorithm, task, policy, OWN.get(algorithm, []), monkeypatch)
    check_metrics(algorithm, rows)

    # The trained policy loads with transformers and generates.
    model = MODELS[policy].from_pretrained(last_policy(tmp_path / "run"))
    written = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert written.shape[0] == 1
    assert written.shape[1] > 1

    if resumes:
        check_resumed(algorithm, rows, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "task", "policy", "options", "metric"), OPTIONS, ids=[f"{row[0]}-{row[3][0][2:]}" for row in OPTIONS]
)
def test_an_option_trains_and_resumes_exactly(algorithm, task, policy, options, metric, tmp_path, monkeypatch):
    rows = run_cell(tmp_path / "run", algorithm, task, policy, options, monkeypatch)
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())
    assert any(row.get(metric) for row in rows)
    check_resumed(algorithm, rows, tmp_path)


def run_cell(folder, algorithm, task, policy, options, monkeypatch):
    for reward in (preference_fit, sentiment):
        monkeypatch.setattr(reward, "FIT_CONFIG", replace(reward.FIT_CONFIG, steps=1, batch_size=600))
    prompt, new = LENGTHS[task]
    lengths = ["--env-arg", f"max_prompt_length={prompt}", "--env-arg", f"max_new_tokens={new}"]
    return run(folder, algorithm, "--env", f"tril/{task}-v0", "--policy", policy, *SMALL, *lengths, *options)


def check_resumed(algorithm, rows, tmp_path):
    # As it was after the first iteration, the run is continued to the same end.
    shutil.copytree(tmp_path / "run", tmp_path / "again", symlinks=True)
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "iteration-000002")
    assert without_times(run(tmp_path / "again", algorithm, "--resume")) == without_times(rows)
    ours, theirs = (load_file(last_policy(tmp_path / name) / "model.safetensors") for name in ("run", "again"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def check_metrics(algorithm, rows):
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())
    assert all(row.get("policy/ratio_error", 0.0) < 1e-4 for row in rows)
    critics = {name.split("/")[0] for row in rows for name in row if name.endswith("explained_variance")}
    if algorithm == "lols":
        assert critics <= {"guide_critic", "critic"}
    else:
        has_critic = agent_type(algorithm).config_type.has_critic
        assert critics == (CRITICS.get(algorithm, {"critic"}) if has_critic else set())
    assert ("discriminator/accuracy" in rows[0]) == (algorithm == "gail")
    check_own_metrics(algorithm, rows)


def check_own_metrics(algorithm, rows):
    """Check that a run has the metrics that docs/algorithms.md names, and no others."""
    reported = set().union(*rows)
    shared = EVERY if algorithm in IMITATION else EVERY | SCORED
    assert shared <= reported
    assert shared.isdisjoint(METRICS[algorithm])
    own, named = own_metrics(algorithm, reported), set(METRICS[algorithm])
    assert own <= named
    missing = named - own - BY_CHANCE
    if algorithm == "lols":  # whose two iterations may be of one kind
        missing = {name for name in missing if not name.startswith(("critic/", "guide_critic/", "reward/"))}
    assert not missing


def test_a_metric_too_many_or_too_few_is_found():
    row = dict.fromkeys(EVERY | SCORED | set(METRICS["ppo"]), 0.0)
    check_own_metrics("ppo", [row])
    for other in (row | {"auxiliary/kl": 0.0}, {name: 0.0 for name in row if name != "critic/loss"}):
        with pytest.raises(AssertionError):
            check_own_metrics("ppo", [other])
