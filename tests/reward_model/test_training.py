"""Runs of reward models: the folder, resuming, interrupts, non-finite steps, and the command."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from preference_pairs import polite_pairs, write_pairs
from reward_models import (
    SILENT,
    bart,
    gpt2,
    mixture_of_experts,
    new_run,
    preference_margins,
    reloaded_margins,
    same_weights,
)

from tril_gym import rewards
from tril_gym.cli import main
from tril_gym.data.preferences import Pair, PairData
from tril_gym.reward_model import trainer as trainer_module
from tril_gym.reward_model.config import RewardModelConfig
from tril_gym.reward_model.network import pair_rewards, pair_texts
from tril_gym.reward_model.report import start_line
from tril_gym.reward_model.training import RewardModelRun, resume_reward_model
from tril_gym.rewards.neural.preference import TEMPLATE
from tril_gym.utils.interrupt import Interrupted
from tril_gym.utils.ranks import Ranks


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", polite_pairs(80))


@pytest.fixture(scope="module")
def whole(pairs_file, tmp_path_factory):
    """A run that was not interrupted, what it found, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = new_run(pairs_file, folder)
    return run, run.run(), folder


def resumed(folder, **given):
    return resume_reward_model(folder, given, console=SILENT)


def during_step(number, action, monkeypatch):
    """Act while the step of this number, counted from here, computes its loss."""
    steps = iter(range(1, 10_000))

    def acting(*args):
        if next(steps) == number:
            action()
        return pair_rewards(*args)

    monkeypatch.setattr(trainer_module, "pair_rewards", acting)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def interrupt(run, step, monkeypatch):
    """Press Ctrl-C while a run takes a step."""
    with monkeypatch.context() as patch:
        during_step(step, press_ctrl_c, patch)
        with pytest.raises(Interrupted, match=rf"stopped after step {step} of {run.total_steps}"):
            run.run()


def same_files(one, other, names=("metrics.jsonl", "reward_model.json", "evaluation.json")):
    return all((one / name).read_text() == (other / name).read_text() for name in names)


class TestFolder:
    def test_it_is_a_classifier_with_metrics_of_each_epoch(self, pairs_file, tmp_path):
        run = new_run(pairs_file, tmp_path / "run")
        found = run.run()
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {
            *("config.yaml", "metrics.jsonl", "evaluation.json", "reward_model.json"),
            *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        }
        held_out = run.pairs.held_out
        assert reloaded_margins(tmp_path / "run", held_out) == pytest.approx(run.margins(), abs=1e-5)
        assert preference_margins(tmp_path / "run", held_out) == pytest.approx(run.margins(), abs=1e-5)
        about = json.loads((tmp_path / "run/reward_model.json").read_text())
        assert (about["template"], about["max_length"], about["seed"], about["finished"]) == (TEMPLATE, 32, 0, True)
        assert about["held_out_accuracy"] == found["right"]["reward_model"]["mean"]
        rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        assert [(row["epoch"], row["step"]) for row in rows] == [(1, 9), (2, 18)]
        assert rows[-1]["held_out/accuracy"] == about["held_out_accuracy"]
        assert rows[-1]["held_out/loss"] == found["loss"]

    def test_refuses_a_folder_that_is_not_empty(self, pairs_file, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/mine.txt").touch()
        with pytest.raises(ValueError, match="is not empty"):
            new_run(pairs_file, tmp_path / "run")

    @pytest.mark.parametrize(
        ("shards", "words"),
        [(False, "--batch-size 9 .* use 10"), (True, "each process trains a replica; start it with")],
    )
    def test_processes_that_cannot_share_the_work_are_refused(self, pairs_file, tmp_path, monkeypatch, shards, words):
        class OneOfTwo(Ranks):
            size = 2

        ranks = OneOfTwo()
        ranks.shards = shards
        monkeypatch.setattr("tril_gym.reward_model.training.join_ranks", lambda device: ranks)
        with pytest.raises(ValueError, match=words):
            new_run(pairs_file, tmp_path / "run", batch_size=9)
        assert not (tmp_path / "run").exists()

    def test_bad_data_write_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="there is no file or folder"):
            new_run("nothing.jsonl", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_rows_may_have_other_columns_and_be_malformed(self, tmp_path):
        rows = [{"question": pair.prompt, "good": pair.chosen, "bad": pair.rejected} for pair in polite_pairs(40)]
        lines = [*map(json.dumps, rows), json.dumps(rows[0] | {"bad": rows[0]["good"]})]
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
        columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
        settings = {"dataset": str(tmp_path / "pairs.jsonl"), "folder": tmp_path / "run", "column": columns}
        with pytest.raises(ValueError, match="chosen and rejected must differ"):
            new_run(**settings)
        run = new_run(**settings, on_bad_row="skip")
        assert len(run.pairs.train) + len(run.pairs.held_out) == 40

    def test_chats_are_rendered_by_the_template_in_a_file(self, tmp_path):
        rows = [{"prompt": [{"role": "user", "content": f"{n}?"}], "chosen": "a", "rejected": "b"} for n in range(40)]
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "chat.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
        data = str(tmp_path / "pairs.jsonl")
        with pytest.raises(ValueError, match="no chat template"):
            new_run(data, tmp_path / "run", model=gpt2(tmp_path / "base")).run()
        template = str(tmp_path / "chat.jinja")
        run = new_run(data, tmp_path / "other", model=str(tmp_path / "base"), chat_template=template)
        text, *_ = pair_texts(run.pairs.held_out, TEMPLATE, run.tokenizer)
        assert text == f"[{run.pairs.held_out[0].messages[0]['content']}]a"

    def test_a_finished_run_is_not_written_again(self, pairs_file, tmp_path):
        found = new_run(pairs_file, tmp_path / "run", epochs=1).run()
        before = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
        assert resumed(tmp_path / "run").run() == found
        assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(("prompts", "words"), [("ab", "; 1 of their prompts are also trained on"), ("cd", "")])
def test_prompts_in_both_parts_are_counted(prompts, words):
    train, held_out = ([Pair(prompt, "yes", "no") for prompt in part] for part in ("aae", prompts))
    config = RewardModelConfig(dataset="pairs.jsonl", batch_size=2)
    line = start_line(config, PairData(tuple(train), tuple(held_out), "2 pairs"), steps=3)
    assert line == f"reward model tiny on 3 pairs of pairs.jsonl, seed 0, 3 steps of 2 pairs; held out: 2 pairs{words}"


class TestResume:
    @pytest.mark.parametrize(
        "step", [3, pytest.param(9, marks=pytest.mark.slow)]
    )  # within an epoch, and at the end of one
    def test_an_interrupted_run_ends_as_if_never_stopped(self, whole, pairs_file, tmp_path, monkeypatch, step):
        whole_run, found, folder = whole
        run = new_run(pairs_file, tmp_path / "run")
        interrupt(run, step, monkeypatch)
        assert reloaded_margins(tmp_path / "run", run.pairs.held_out) == pytest.approx(run.margins(), abs=1e-5)
        assert not json.loads((tmp_path / "run/reward_model.json").read_text())["finished"]
        torch.manual_seed(step)  # global generators have no part in it
        again = resumed(tmp_path / "run")
        assert again.step == step
        assert again.run() == found
        assert same_weights(again.model, whole_run.model)
        assert same_files(tmp_path / "run", folder)

    @pytest.mark.slow
    def test_it_can_be_interrupted_again_and_again(self, whole, pairs_file, tmp_path, monkeypatch):
        whole_run, _, folder = whole
        interrupt(new_run(pairs_file, tmp_path / "run"), 2, monkeypatch)
        with monkeypatch.context() as patch:
            during_step(3, press_ctrl_c, patch)
            with pytest.raises(Interrupted, match="stopped after step 5 of 18"):
                resumed(tmp_path / "run").run()
        again = resumed(tmp_path / "run")
        again.run()
        assert same_weights(again.model, whole_run.model)
        assert same_files(tmp_path / "run", folder)

    # With and without an adapter, whose weights alone are saved then.
    @pytest.mark.parametrize(
        ("make", "lora_rank"),
        [
            (bart, 2),
            *(pytest.param(*case, marks=pytest.mark.slow) for case in ((gpt2, 0), (gpt2, 2), (mixture_of_experts, 0))),
        ],
    )
    def test_pretrained_models_with_dropout_resume_exactly(self, pairs_file, tmp_path, monkeypatch, make, lora_rank):
        settings = {"model": make(tmp_path / "base"), "lora_rank": lora_rank, "epochs": 1, "drop_tokens": 0.2}
        settings |= {"lora_targets": "q_proj,v_proj"} if lora_rank and make is not gpt2 else {}
        whole = new_run(pairs_file, tmp_path / "whole", **settings)
        whole.run()
        interrupt(new_run(pairs_file, tmp_path / "run", **settings), 4, monkeypatch)
        again = resumed(tmp_path / "run")
        again.run()
        assert same_weights(again.model, whole.model)

    def test_a_killed_run_resumes_at_its_last_epoch(self, whole, pairs_file, tmp_path, monkeypatch):
        whole_run, _, _ = whole

        def killed(run):
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(RewardModelRun, "_finish", killed)
            with pytest.raises(MemoryError):
                new_run(pairs_file, tmp_path / "run").run()
        again = resumed(tmp_path / "run")
        assert again.step == 9
        again.run()
        assert same_weights(again.model, whole_run.model)
        assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2

    def test_settings_and_pairs_may_not_change(self, tmp_path, monkeypatch):
        pairs = polite_pairs(80)
        pairs_file = write_pairs(tmp_path / "pairs.jsonl", pairs)
        run = new_run(pairs_file, tmp_path / "run")
        interrupt(run, 2, monkeypatch)
        resumed(tmp_path / "run", epochs=2, model="tiny")
        for name, value in (("epochs", 3), ("model", "gpt2"), ("seed", 1)):
            with pytest.raises(ValueError, match=rf"keeps its settings: --{name} is"):
                resumed(tmp_path / "run", **{name: value})
        for changed in (run.pairs.train[0].prompt, run.pairs.held_out[0].prompt):
            others = [replace(pair, rejected=" no") if pair.prompt == changed else pair for pair in pairs]
            write_pairs(Path(pairs_file), others)
            with pytest.raises(ValueError, match="have changed since the run"):
                resumed(tmp_path / "run")

    def test_checkpoints_are_named_by_their_step_and_two_are_kept(self, pairs_file, tmp_path, monkeypatch):
        interrupt(new_run(pairs_file, tmp_path / "run", epochs=4), 30, monkeypatch)
        names = [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
        assert names == ["step-000027", "step-000030"]

    def test_refuses_a_run_of_version_0_1_0(self, tmp_path):
        (tmp_path / "settings.json").write_text("{}")
        with pytest.raises(ValueError, match=r"tril-gym 0\.1\.0 wrote"):
            resumed(tmp_path)

    def test_refuses_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(ValueError, match="is no run folder"):
            resumed(tmp_path)


class TestStops:
    def test_a_second_ctrl_c_stops_at_once(self, whole, pairs_file, tmp_path, monkeypatch):
        whole_run, _, _ = whole
        run = new_run(pairs_file, tmp_path / "run")
        with monkeypatch.context() as patch:
            during_step(11, lambda: (press_ctrl_c(), press_ctrl_c()), patch)
            with pytest.raises(KeyboardInterrupt):
                run.run()
        again = resumed(tmp_path / "run")
        assert again.step == 9
        again.run()
        assert same_weights(again.model, whole_run.model)

    def test_a_step_that_is_not_finite_keeps_the_last_checkpoint(self, whole, pairs_file, tmp_path, monkeypatch):
        whole_run, _, folder = whole
        steps = iter(range(1, 100))

        def broken(model, inputs):
            chosen, rejected = pair_rewards(model, inputs)
            return (chosen * math.nan if next(steps) == 12 else chosen), rejected

        with monkeypatch.context() as patch:
            patch.setattr(trainer_module, "pair_rewards", broken)
            with pytest.raises(FloatingPointError, match="step 12 of 18 has the loss nan"):
                new_run(pairs_file, tmp_path / "run").run()
        assert not list((tmp_path / "run").glob(".*"))  # no checkpoint that was being written
        again = resumed(tmp_path / "run")
        assert again.step == 9
        again.run()
        assert same_weights(again.model, whole_run.model)
        assert same_files(tmp_path / "run", folder)


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(main, ["train", "reward-model", *arguments])

    def test_trains_and_prints_held_out_metrics(self, pairs_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = self.invoke("--dataset", pairs_file, "--epochs", "1", "--max-length", "32")
        assert result.exit_code == 0, result.output
        for part in ("epoch 1 of 1", "longer completion preferred", "runs/reward-model-seed0", "chosen by a hash"):
            assert part in result.output
        assert (tmp_path / "runs/reward-model-seed0/config.json").is_file()
        again = self.invoke("--output-dir", "runs/reward-model-seed0", "--resume")
        assert again.exit_code == 0
        assert "is finished" in again.output

    def test_ctrl_c_ends_with_130_and_how_to_resume(self, pairs_file, tmp_path, monkeypatch):
        arguments = ("--epochs", "1", "--max-length", "32", "--output-dir", str(tmp_path / "run"))
        with monkeypatch.context() as patch:
            during_step(2, press_ctrl_c, patch)
            result = self.invoke("--dataset", pairs_file, *arguments)
        assert result.exit_code == 130
        assert f"--output-dir {tmp_path / 'run'} --resume" in result.output
        again = self.invoke("--output-dir", str(tmp_path / "run"), "--resume")
        assert again.exit_code == 0, again.output

    def test_a_step_that_is_not_finite_ends_with_1(self, pairs_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(trainer_module, "pair_rewards", lambda *args: [r * math.nan for r in pair_rewards(*args)])
        result = self.invoke("--dataset", pairs_file)
        assert result.exit_code == 1
        text = " ".join(result.output.split())
        assert "start again with a --learning-rate below" in text
        assert "The newest checkpoint is of step" in text or "No checkpoint was written yet" in text

    def test_help_lists_every_setting(self):
        assert "reward-model" in CliRunner().invoke(main, ["train", "--help"]).output
        text = self.invoke("--help").output
        for flag in ("--dataset", "--center-coef", "--lora-rank", "--drop-tokens", "--output-dir", "--resume"):
            assert flag in text

    def test_an_environment_reads_its_rows(self, tmp_path):
        """Whole dialogues without a prompt, as the public data set has them."""
        dialogues = [f"\n\nHuman: What of {number}?\n\nAssistant:" for number in range(40)]
        rows = [{"chosen": f"{text} It is {text[16:18]}.", "rejected": f"{text} No."} for text in dialogues]
        (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = ["--env", "tril/HH-v0", "--dataset", str(tmp_path / "raw.jsonl")]
        result = self.invoke(*data, "--epochs", "1", "--output-dir", str(tmp_path / "run"))
        assert result.exit_code == 0, result.output
        assert rewards.load("preference", model=tmp_path / "run").max_length == 512

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--dataset is missing"),
            (["--resume"], "--resume needs --output-dir"),
            (["--dataset", "nothing.jsonl"], "there is no file or folder nothing.jsonl"),
            (["--dataset", "x", "--learning-rate", "0"], "--learning-rate must be in (0, 1]"),
            (["--dataset", "x", "--learning-rate", "1e30"], "--learning-rate must be in (0, 1], got 1e+30"),
        ],
    )
    def test_mistakes_of_the_user_end_with_2(self, arguments, message, pairs_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        loss = trainer_module.preference_loss
        monkeypatch.setattr(trainer_module, "preference_loss", lambda *args, **given: math.nan * loss(*args, **given))
        result = self.invoke(*[pairs_file if word == "PAIRS" else word for word in arguments])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
