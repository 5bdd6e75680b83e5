"""Every algorithm on every task with both kinds of model, from the command line: runs of two iterations; of HH one.

Tasks differ in data and rewards, of which an algorithm knows nothing, so `make test` runs each algorithm with both
kinds of model, on tasks in turn, and each task with both kinds. `make matrix` runs the other cells.
"""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from seven import SEVEN
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tril_gym.cli import main
from tril_gym.rewards.neural import preference_fit

TASKS = ("IMDB", "CommonGen", "TLDR")
MODELS = {"tiny": AutoModelForCausalLM, "tiny-seq2seq": AutoModelForSeq2SeqLM}
HH = ("ppo-pp", "HH", "tiny-seq2seq")
CELLS = [*itertools.product(SEVEN, TASKS, MODELS), HH]
# Algorithm i with kind of model j is tested on task i + j, modulo 3.
USUAL = {
    (algorithm, TASKS[(i + j) % 3], policy) for i, algorithm in enumerate(SEVEN) for j, policy in enumerate(MODELS)
}
MARKED = [pytest.param(*cell, marks=[] if cell in USUAL | {HH} else pytest.mark.slow) for cell in CELLS]
SMALL = ["--tiny-samples", "32", "--num-envs", "4", "--eval-examples", "4", "--iterations", "2", "--epochs", "1"]
# Short texts: these runs check that all components fit together.
LENGTHS = {"IMDB": (24, 10), "CommonGen": (15, 10), "TLDR": (48, 10), "HH": (48, 10)}
OWN = {"d2lols": ["--aggrevated-iterations", "1"], "lols": ["--ppo-pp-prob", "0.5"]}


def test_the_matrix_is_complete():
    assert len(CELLS) == 43
    assert len(USUAL) == 14
    assert {(task, policy) for _, task, policy in USUAL} == set(itertools.product(TASKS, MODELS))
    assert {(algorithm, policy) for algorithm, _, policy in USUAL} == set(itertools.product(SEVEN, MODELS))


@pytest.mark.parametrize(("algorithm", "task", "policy"), MARKED)
def test_a_cell_trains_from_the_command_line(algorithm, task, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(preference_fit, "FIT_CONFIG", replace(preference_fit.FIT_CONFIG, steps=1, batch_size=600))
    prompt, new = LENGTHS[task]
    lengths = ["--env-arg", f"max_prompt_length={prompt}", "--env-arg", f"max_new_tokens={new}"]
    arguments = ["train", algorithm, "--env", f"tril/{task}-v0", "--policy", policy, *SMALL, *lengths]
    result = CliRunner().invoke(main, [*arguments, *OWN.get(algorithm, []), "--output-dir", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(value is not None and math.isfinite(value) for row in rows for value in row.values())
    if algorithm != "bc":  # which has no ratio
        assert all(row["policy/ratio_error"] < 1e-4 for row in rows)
    critics = {name.split("/")[0] for row in rows for name in row if name.endswith("explained_variance")}
    expected = {"bc": set(), "aggrevated": {"guide_critic"}, "d2lols": {"guide_critic", "critic"}}
    if algorithm == "lols":
        assert critics <= {"guide_critic", "critic"}
    else:
        assert critics == expected.get(algorithm, {"critic"})
    assert ("discriminator/accuracy" in rows[0]) == (algorithm == "gail")

    # The trained policy loads with transformers and generates.
    policy_folder = tmp_path / "run" / "checkpoints" / "iteration-000002" / "policy"
    model = MODELS[policy].from_pretrained(policy_folder)
    written = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert written.shape[0] == 1
    assert written.shape[1] > 1
