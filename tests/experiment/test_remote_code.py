"""A run of a model whose code is in its folder: trained, resumed and evaluated where that is allowed, else refused."""

import io
import sys
import textwrap

import pytest
from click.testing import CliRunner
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel

from tril_gym.cli import main
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.experiment import RunConsole, configure, resume, train

CODE = """
    from transformers import GPT2Config, GPT2LMHeadModel


    class OwnConfig(GPT2Config):
        model_type = "own_gpt2"


    class OwnModel(GPT2LMHeadModel):
        config_class = OwnConfig
"""
QUIET = {"console": RunConsole(Console(file=io.StringIO()))}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Save a tiny model with its code; modules of models are kept in a folder of the test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers puts the modules there
    folder = tmp_path / "model"
    config = GPT2Config(vocab_size=16, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    config.auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    GPT2LMHeadModel(config).save_pretrained(folder)
    toy_tokenizer(16).save_pretrained(folder)
    text = (folder / "config.json").read_text().replace('"model_type": "gpt2"', '"model_type": "own_gpt2"')
    (folder / "config.json").write_text(text)
    (folder / "own.py").write_text(textwrap.dedent(CODE))
    return folder


def test_it_is_trained_resumed_and_evaluated(model, tmp_path):
    settings = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 4, "iterations": 1, "lr_schedule": "constant"}
    config = configure("ppo", policy=str(model), trust_remote_code=True, **settings)
    run = tmp_path / "run"
    train(config, run, **QUIET)
    resume(run, iterations=2, trust_code=True, **QUIET)
    assert (run / "checkpoints/iteration-000002/policy/own.py").is_file()
    done = CliRunner().invoke(main, ["evaluate", str(run), "--examples", "4", "--trust-code"])
    assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(main, ["evaluate", str(run), "--examples", "4"])
    assert refused.exit_code == 2
    assert "--trust-code" in refused.output


def test_without_trust_it_is_refused(model, tmp_path):
    done = CliRunner().invoke(main, ["train", "ppo", "--policy", str(model), "--env", "tril/Toy-v0"])
    assert done.exit_code == 2
    assert "trust_remote_code" in done.output.replace("\n", "")
