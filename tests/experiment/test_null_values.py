"""Values that are not finite: null in files, and nothing at the end of a run fails on them."""

import io
import json
import math

import pytest
from rich.console import Console

from tril_gym.experiment.plots import draw_curve
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.verdict import verdict_of
from tril_gym.utils.atomic_files import finite_or_none, write_json
from tril_gym.utils.tables import (
    comparison_table,
    evaluation_table,
    metrics_line,
    profile_table,
    sample_line,
    samples_table,
)

DECODINGS = ("greedy", "sampled")


def evaluation(reward):
    """An evaluation of two examples as a file has it, with null where a number is not finite."""
    return {
        "metrics": {name: {"examples": 2, "reward/mean": reward, "score/x": None} for name in DECODINGS},
        "intervals": {name: {"reward/mean": [reward, None], "score/x": None} for name in DECODINGS},
        "samples": [{"example": 0, "prompt": None, "completion": None, "references": None, "reward": reward}],
        "rewards": {name: [reward, 0.5] for name in DECODINGS},
    }


def shown(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("reward", [None, 0.25])
def test_tables_and_picture_survive_null_values(reward, tmp_path):
    before, after = evaluation(None), evaluation(reward)
    assert shown(comparison_table(before, after))
    assert shown(evaluation_table("t", after["metrics"], after["intervals"]))
    assert "nan" in shown(samples_table(before["samples"], after["samples"]))
    row = {"iteration": 1, "reward/mean": None, "kl": None, "time/learn": None, "tokens_per_second": None}
    assert shown(profile_table([row, row | {"memory/learn": None, "time/learn": 1.0}]))
    ends = [{"iteration": number} | part for number, part in enumerate((before, after))]
    draw_curve(tmp_path / "curve.png", title="t", reward="r", rows=[row, row], held_out=ends)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    verdict = verdict_of(before, after, seconds=1.0)
    assert (verdict["outcome"], verdict["greedy"]["before"]) == ("no gain", None)


def test_lines_of_a_run_survive_them():
    assert "nan" in metrics_line({"iteration": 1, "reward/mean": math.nan, "kl": math.inf})
    assert "nan" in sample_line({"reward": None, "prompt": None, "completion": "a"})


def test_files_have_null_and_are_json(tmp_path):
    content = {"a": [math.nan, 1.0, (math.inf,)], "b": {"c": -math.inf, "d": "nan", "e": 3}}
    assert finite_or_none(content) == {"a": [None, 1.0, [None]], "b": {"c": None, "d": "nan", "e": 3}}
    write_json(tmp_path / "x.json", content)
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", {"iteration": 1, "kl": math.nan})

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    for name in ("x.json", "metrics.jsonl"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
    assert folder.rows("metrics.jsonl") == [{"iteration": 1, "kl": None}]


def test_a_number_that_is_large_for_its_column_is_short():
    line = metrics_line({"iteration": 1, "critic/explained_variance": -16454213632.0, "tokens_per_second": 123456.0})
    assert line.split() == ["1", "value", "-1.65e+10", "tokens/s", "123456"]


def test_the_results_fit_into_80_columns():
    interval, names = [1.0024, 1.0098], ("reward/mean", "score/concept_coverage")
    found = {
        "metrics": {decoding: dict.fromkeys(names, 1.0056) | {"examples": 2} for decoding in DECODINGS},
        "intervals": {decoding: dict.fromkeys(names, interval) for decoding in DECODINGS},
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(found, found))
    assert "score/concept_coverage  sampled" in console.file.getvalue()
    assert "…" not in console.file.getvalue()
