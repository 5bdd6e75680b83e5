"""A misspelled name of any kind is answered with the right one, exit code 2 and no files."""

import pytest
from click.testing import CliRunner

from tril_gym.cli import main

TRAIN = "train ppo --env tril/Toy-v0 --tiny-samples 0"
CASES = {
    "command": ("trian", "Did you mean 'train'?"),
    "algorithm": ("train ppo++", "'ppo++' (did you mean 'ppo-pp'?)"),
    "option": ("train ppo --learning-rat 1", "'--learning-rate'?"),
    "environment": ("train ppo --env tril/Commongen-v0", "'tril/Commongen-v0' (did you mean 'tril/CommonGen-v0'?)"),
    "short environment": ("train ppo --env imdb", "'imdb' (did you mean 'tril/IMDB-v0'?)"),
    "environment's argument": (f"{TRAIN} --env-arg max_token=3", "'max_token' (did you mean 'max_new_tokens'?)"),
    "preset": ("train ppo --preset smal", "'smal' (did you mean 'small'?)"),
    "reward": (f"{TRAIN} --reward rougeL", "'rougeL' (did you mean 'rouge_l'?)"),
    "reward's argument": (
        f"{TRAIN} --reward rouge_l --reward-arg rouge_l.reducton=max",
        "'reducton' (did you mean 'reduction'?)",
    ),
    "reward of an argument": (
        f"{TRAIN} --reward rouge_l --reward-arg rouge-l.reduction=max",
        "'rouge-l' (did you mean 'rouge_l'?)",
    ),
    "data set": ("train ppo --dataset embeded", "'embeded' (did you mean 'embedded'?)"),
    "data file": ("train ppo --dataset my_data.json", "'my_data.json' (did you mean 'my_data.jsonl'?)"),
    "policy": ("train ppo --policy tiny_seq2seq", "'tiny_seq2seq' (did you mean 'tiny-seq2seq'?)"),
    "run to evaluate": ("evaluate runs/ppo-seed", "'runs/ppo-seed' (did you mean 'runs/ppo-seed0'?)"),
    "runs to compare": ("compare runs/ppo-seed runs/x", "'runs/ppo-seed' (did you mean 'runs/ppo-seed0'?)"),
    "run to plot": ("plot runs/ppo-seed", "'runs/ppo-seed' (did you mean 'runs/ppo-seed0'?)"),
    "checkpoint": ("evaluate runs/ppo-seed0 --checkpoint lats", "'lats' (did you mean 'last'?)"),
    "tracker": (f"{TRAIN} --track wand", "'wand' (did you mean 'wandb'?)"),
    "list": ("list reward", "Did you mean 'rewards'?"),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_right_name_is_suggested(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ppo-seed0").mkdir(parents=True)
    (tmp_path / "my_data.jsonl").write_text("{}\n")
    arguments, words = CASES[kind]
    result = CliRunner().invoke(main, arguments.split())
    text = " ".join(result.output.split())
    assert (result.exit_code, words in text) == (2, True), text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["my_data.jsonl", "ppo-seed0", "runs"]


def test_no_similar_name_no_suggestion():
    result = CliRunner().invoke(main, ["train", "xyzzy"])
    assert result.exit_code == 2
    assert "did you mean" not in result.output
