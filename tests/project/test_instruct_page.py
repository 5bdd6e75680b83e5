"""The page about instruct models works from its first block to its last: its Python and its commands, in order."""

import json
import shlex
import types

import paths
import pytest
from click.testing import CliRunner
from rich.console import Console  # noqa: F401  imported before the working folder changes
from test_docs import blocks
from transformers import AutoModelForCausalLM, AutoTokenizer

from tril_gym.cli import main

PAGE = paths.ROOT / "docs" / "instruct_models.md"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run the page in a folder of its own; return the folder and the output of each command."""
    folder, module, outputs = tmp_path_factory.mktemp("page"), types.ModuleType("page"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks(PAGE.read_text()):
            if block.mark:
                continue
            if block.language == "python":
                exec(compile(block.code, PAGE.name, "exec"), module.__dict__)
                continue
            for line in block.code.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line)
                assert program == "tril-gym"
                result = CliRunner().invoke(main, words)
                assert result.exit_code == 0, f"{line}\n{result.output}"
                outputs[" ".join(words[:3])] = result.output
    return folder, outputs


def test_every_command_ran(done):
    _, outputs = done
    assert {words.split()[0] for words in outputs} == {"train", "evaluate", "sample", "export"}
    assert {words.split()[1] for words in outputs if words.startswith("train")} == {"bc", "reward-model", "ppo"}


def test_the_policy_answers(done):
    folder, outputs = done
    verdict = json.loads((folder / "runs/ppo/evaluation.json").read_text())
    answers = [sample["completion"] for sample in verdict["after"]["samples"]]
    assert all("<|im" not in answer for answer in answers)
    assert verdict["after"]["metrics"]["greedy"]["text/ended"] > 0.9
    sampled = next(text for words, text in outputs.items() if words.startswith("sample"))
    assert sampled.count("|") == 3


def test_the_reward_model_read_what_the_policy_writes(done):
    folder, _ = done
    accuracy = json.loads((folder / "runs/reward/evaluation.json").read_text())["right"]["reward_model"]["mean"]
    assert accuracy > 0.7
    prompts = [row["prompt"] for row in map(json.loads, (folder / "runs/ppo/samples.jsonl").read_text().splitlines())]
    tokenizer = AutoTokenizer.from_pretrained(folder / "runs/reward")
    chat = json.loads((folder / "pairs.jsonl").read_text().splitlines()[0])["prompt"]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert all(prompt.endswith("<|im_end|>\n<|im_start|>assistant\n") for prompt in [*prompts, rendered])


def test_the_export_loads_in_plain_transformers(done):
    folder, _ = done
    model = AutoModelForCausalLM.from_pretrained(folder / "my-trained-model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "my-trained-model")
    assert sorted(model.generation_config.eos_token_id) == [0, 2]
    chat = [{"role": "user", "content": "7: What is the colour of the snow"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    written = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert len(written) <= model.generation_config.max_new_tokens
    assert "apply_chat_template" in (folder / "my-trained-model" / "README.md").read_text()
