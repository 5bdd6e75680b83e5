"""Exported policies: plain transformers loads them, and they write what the policy writes; the card has the figures."""

import json
import re

import pytest
import torch
import yaml
from click.testing import CliRunner
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tril_gym.agents import LMPolicy
from tril_gym.cli import main
from tril_gym.experiment import RunConsole, configure, export_policy, train
from tril_gym.experiment.model_card import model_card
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.training import new_run

SMALL = {"num_envs": 8, "eval_examples": 4, "iterations": 1, "tiny_samples": 64, "epochs": 1, "temperature": 0.8}
SMALL |= {"env_args": {"max_new_tokens": 12, "min_new_tokens": 2}}
RUNS = {
    "causal": {},
    "seq2seq": {"policy": "tiny-seq2seq"},
    "lora": {"lora_rank": 2, "lora_targets": "all-linear", "learning_rate": 0.05, "lr_schedule": "constant"},
}
PROMPT = "concepts: dog park run. sentence:"


def silent():
    return RunConsole(Console(quiet=True))


@pytest.fixture(scope="module", params=RUNS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / kind
    train(configure("ppo", **SMALL | RUNS[kind]), folder, console=silent())
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_policy(run, tmp_path_factory.mktemp("exported") / "a" / "model")


def plain(folder, kind):
    loader = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    return loader.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def trained_policy(run, kind):
    checkpoint = RunFolder(run).last_checkpoint()
    return LMPolicy.from_pretrained(checkpoint / ("lora" if kind == "lora" else "policy"))


def test_logits_agree_with_the_policy(run, exported, kind):
    (model, tokenizer), policy = plain(exported, kind), trained_policy(run, kind)
    assert (policy.lora is not None) == (kind == "lora")
    assert not any("lora" in name for name, _ in model.named_parameters())
    inputs = dict(tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False))
    if kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.tensor([[model.generation_config.decoder_start_token_id, 5, 9]])
    with torch.no_grad():
        found, expected = model(**inputs).logits, policy.model(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_generate_writes_what_the_policy_writes(run, exported, kind):
    (model, tokenizer), policy = plain(exported, kind), trained_policy(run, kind)
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, do_sample=False)[0]
    new = ids[1:] if kind == "seq2seq" else ids[inputs["input_ids"].shape[1] :]
    text = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text == policy.generate(PROMPT, max_new_tokens=12, greedy=True)
    assert text


def test_the_generation_config_samples_as_the_run_did(exported):
    found = json.loads((exported / "generation_config.json").read_text())
    expected = {"do_sample": True, "temperature": 0.8, "top_k": 0, "max_new_tokens": 12, "min_new_tokens": 2}
    assert found.items() >= expected.items()
    assert found["eos_token_id"] == AutoTokenizer.from_pretrained(exported).eos_token_id


def test_the_card_has_settings_figures_and_the_verdict(run, exported):
    card = (exported / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["tril-gym", "ppo"]
    assert "base_model" not in yaml.safe_load(front)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert f"**{evaluation['verdict']['sentence']}**" in text
    row = next(line for line in text.splitlines() if line.startswith("| `reward/mean`"))
    shown = [cell.split()[0] for cell in row.split("|")[2:-1]]
    metrics = [
        evaluation[when]["metrics"][decoding] for decoding in ("greedy", "sampled") for when in ("before", "after")
    ]
    assert shown == [f"{found['reward/mean']:.3g}" for found in metrics]
    settings = yaml.safe_load(re.search(r"## Settings\n\n```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert settings == RunFolder(run).read_config()


def test_the_snippet_of_the_card_runs(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported.parent)
    exec(re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[1])
    assert capsys.readouterr().out


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    started = new_run(configure("bc", env="tril/Toy-v0", num_envs=4, iterations=2), folder, console=silent())
    own = {"repetition_penalty": 1.1, "num_beams": 4, "no_repeat_ngram_size": 3, "bos_token_id": 1}
    started.agent.policy.model.generation_config.update(**own)  # as instruct models and BART have
    started.folder.save_checkpoint(0, started.agent.save)
    started.folder.unlock()
    return folder


def made_up_card(policy="gpt2", **layout):
    """Return the card of a run whose greedy reward rose from 0.1 to 0.3, and that of sampled texts from 0.2 to 0.4."""

    def evaluation(greedy, sampled, low):
        metrics = {"greedy": {"examples": 4, "reward/mean": greedy}, "sampled": {"examples": 4, "reward/mean": sampled}}
        intervals = {"greedy": {"reward/mean": [low, 0.35]}, "sampled": {}}
        return {"metrics": metrics, "intervals": intervals, "samples": []}

    found = {"before": evaluation(0.1, 0.2, None), "after": evaluation(0.3, 0.4, 0.25), "verdict": {"sentence": "gain"}}
    settings = {"algorithm": "ppo", "env": "tril/Toy-v0", "iterations": 2, "policy": policy}
    return model_card("model", settings, iteration=2, evaluation=found, is_encoder_decoder=False, layout=layout)


def test_the_table_of_a_card_has_each_decoding_before_and_after():
    card = made_up_card()
    assert "| `reward/mean` | 0.1 | 0.3 [0.25, 0.35] | 0.2 | 0.4 |" in card
    assert "`examples`" not in card


def test_a_card_names_a_base_model_of_the_hub(tmp_path):
    assert "base_model: gpt2" in made_up_card()
    for policy in ("tiny", str(tmp_path)):
        assert "base_model:" not in made_up_card(policy)


def test_the_snippet_of_a_card_follows_the_environment():
    assert "generate(**inputs)" in made_up_card()
    assert "generate(**inputs, tokenizer=tokenizer)" in made_up_card(stop=["\n"])
    assert "apply_chat_template" in made_up_card(chat=True)


def test_only_the_run_decides_how_texts_are_sampled(unfinished, tmp_path):
    found = AutoModelForCausalLM.from_pretrained(export_policy(unfinished, tmp_path / "model")).generation_config
    kept = (found.do_sample, found.top_k, found.repetition_penalty, found.num_beams, found.no_repeat_ngram_size)
    assert kept == (True, 0, None, None, None)
    assert found.bos_token_id == 1


class TestRefusals:
    def test_a_folder_with_files_is_kept(self, unfinished, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        result = CliRunner().invoke(main, ["export", str(unfinished), str(tmp_path)])
        assert result.exit_code == 2
        assert "contains other files; name a folder that is empty" in " ".join(result.output.split())
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
        with pytest.raises(ValueError, match="is a file"):
            export_policy(unfinished, tmp_path / "thesis.txt")

    def test_a_failure_leaves_nothing(self, unfinished, tmp_path, monkeypatch):
        def fail(policy, folder):
            (folder / "half").write_text("half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(LMPolicy, "save", fail)
        with pytest.raises(OSError, match="No space"):
            export_policy(unfinished, tmp_path / "model")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_run_is_named(self, unfinished, tmp_path):
        with pytest.raises(ValueError, match="is no run folder"):
            export_policy(tmp_path, tmp_path / "model")
        assert list(tmp_path.iterdir()) == []

    def test_an_unfinished_run_has_no_figures(self, unfinished, tmp_path):
        result = CliRunner().invoke(main, ["export", str(unfinished), str(tmp_path / "model")])
        assert result.exit_code == 0, result.output
        card = (tmp_path / "model" / "README.md").read_text()
        assert "0 of 2 iterations" in card
        assert "Held-out" not in card


def test_an_adapter_on_a_quantised_base_is_merged_into_the_base_in_full(tmp_path):
    """As `save` leaves it for quantised models: an adapter, and how its base was loaded."""
    settings = SMALL | RUNS["lora"] | {"iterations": 1}
    bc = tmp_path / "bc"
    train(configure("bc", **{key: value for key, value in SMALL.items() if key != "temperature"}), bc, console=silent())
    run = tmp_path / "run"
    train(configure("ppo", **settings, policy=str(bc), preset="embedded"), run, console=silent())
    checkpoint = RunFolder(run).last_checkpoint()
    expected = AutoModelForCausalLM.from_pretrained(checkpoint / "policy").state_dict()
    about = json.loads((checkpoint / "lora" / "base.json").read_text())
    about["settings"] |= {"load_in_4bit": True, "device_map": {"": "cuda"}}

    def fill(folder):
        folder.mkdir()
        (checkpoint / "lora").rename(folder / "policy")
        (folder / "policy" / "base.json").write_text(json.dumps(about))
        (folder / "agent.json").write_text((checkpoint / "agent.json").read_text())

    RunFolder(run).save_checkpoint(2, fill)
    export_policy(run, tmp_path / "model")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_the_best_policy_and_that_of_an_iteration(tmp_path):
    from tril_gym.experiment.best import read_best

    run = tmp_path / "run"
    settings = {"env": "tril/Toy-v0", "num_envs": 8, "eval_examples": 4, "iterations": 3, "eval_every": 1, "keep": 9}
    train(configure("ppo", **settings, save_every=1, learning_rate=0.05), run, console=silent())

    def weights(folder):
        return AutoModelForCausalLM.from_pretrained(folder).state_dict()["transformer.wte.weight"]

    for checkpoint, place in (
        ("1", run / "checkpoints/iteration-000001/policy"),
        ("best", run / "best/policy"),
        ("last", run / "policy"),
    ):
        export_policy(run, tmp_path / checkpoint, checkpoint=checkpoint)
        assert torch.equal(weights(tmp_path / checkpoint), weights(place))
    of_best = read_best(run / "best")["iteration"]
    assert f"{of_best} of 3 iterations" in (tmp_path / "best" / "README.md").read_text()
    assert "not of this one" in (tmp_path / "1" / "README.md").read_text()
    assert "not of this one" not in (tmp_path / "last" / "README.md").read_text()
    with pytest.raises(ValueError, match="has no checkpoint 7; there are 0, 1, 2, 3"):
        export_policy(run, tmp_path / "other", checkpoint="7")
    for which in ("newest", "²"):
        with pytest.raises(ValueError, match=f"last, best, or the number of an iteration, got '{which}'"):
            export_policy(run, tmp_path / "other", checkpoint=which)
        result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "other"), "--checkpoint", which])
        assert result.exit_code == 2
        assert "use last, best, or the number of an iteration" in " ".join(result.output.split())


def test_a_damaged_checkpoint_is_not_exported_by_its_number(tmp_path):
    run = tmp_path / "run"
    settings = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 4, "iterations": 2, "eval_every": 0}
    train(configure("ppo", **settings, save_every=1, keep=9), run, console=silent())
    (run / "checkpoints/iteration-000001/policy/model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"iteration-000001 is damaged \(.*; use last"):
        export_policy(run, tmp_path / "exported", checkpoint="1")
    assert not (tmp_path / "exported").exists()
    export_policy(run, tmp_path / "exported", checkpoint="2")
