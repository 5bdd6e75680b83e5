"""`--stop`, `--system-prompt` and `--chat-template`: keywords of the environment, for runs, evaluations and samples."""

import json

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from tril_gym.cli import main
from tril_gym.experiment.run_folder import RunFolder

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SMALL = ["--tiny-samples", "0", "--num-envs", "4", "--eval-examples", "2", "--iterations", "1"]
SIZES = ["--env-arg", "max_prompt_length=120", "--env-arg", "max_new_tokens=12"]
PROMPT = "concepts: dog park run. sentence:"


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "chat.jinja").write_text(TEMPLATE)
    options = ["--stop", "\\n", "--stop", "##", "--system-prompt", "write", "--chat-template", folder / "chat.jinja"]
    options += ["--lr-schedule", "constant"]  # so that the run can be made longer
    call("train", "bc", *SMALL, *SIZES, *options, "--output-dir", folder / "run")
    (folder / "chat.jinja").unlink()
    return folder / "run"


def test_a_run_holds_them(run):
    settings = RunFolder(run).read_config()["env_args"]
    assert settings["stop"] == ["\n", "##"]
    assert (settings["system_prompt"], settings["chat_template"]) == ("write", TEMPLATE)
    prompt = json.loads((run / "evaluation.json").read_text())["after"]["samples"][0]["prompt"]
    assert prompt.startswith("system: write\nuser: concepts:")
    assert prompt.endswith("\nassistant: ")


def test_a_run_is_resumed_with_them_and_without(run):
    call("train", "bc", "--resume", "--output-dir", run, "--iterations", "2")
    call("train", "bc", "--resume", "--output-dir", run, "--iterations", "2", "--stop", "\\n", "--stop", "##")
    assert "a resumed run keeps its settings" in call(
        "train", "bc", "--resume", "--output-dir", run, "--stop", "!", code=2
    )


def test_an_evaluation_may_have_others(run):
    call("evaluate", run, "--examples", "2", "--stop", "e")


def test_samples_are_as_in_the_run(run):
    from tril_gym.experiment.sampling import sampler

    chosen = sampler(str(run))
    assert (chosen.stop, chosen.chat.is_used, chosen.chat.template) == (("\n", "##"), True, TEMPLATE)
    assert chosen.chat.messages("hello", ())[0] == {"role": "system", "content": "write"}
    assert sampler(str(run), chat=False, stop=["x"]).stop == ("x",)
    assert not sampler(str(run), chat=False).chat.is_used
    written = call("sample", run, "dog park", "--samples", "40", "--max-new-tokens", "12", "--stop", "e")
    assert all("e" not in line.partition("|")[2] for line in written.split("dog park ")[1:])


def test_an_export_ends_texts_as_the_run_does(run, tmp_path):
    call("export", run, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.generation_config.stop_strings == ["\n", "##"]
    assert tokenizer.chat_template == TEMPLATE
    card = (tmp_path / "model" / "README.md").read_text()
    assert "model.generate(**inputs, tokenizer=tokenizer)" in card
    assert call("sample", tmp_path / "model", "dog", "--chat", "--max-new-tokens", "3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--stop", ""], "texts that are not empty"),
        (["--stop", "<eos>"], "'<eos>' is a special token"),
        (["--stop", "a", "--env-arg", "stop=b"], "stop is given twice, as --stop and as --env-arg"),
        (["--chat-template", "no-such-file"], "a template in Jinja or a file with one, got 'no-such-file'"),
        (["--system-prompt", "be brief"], "no chat template"),
        (["--stop", "a", "--env", "tril/Toy-v0"], "unexpected keyword argument 'stop'"),
    ],
)
def test_wrong_values_write_nothing(tmp_path, options, words):
    assert words in call("train", "bc", *SMALL, *options, "--output-dir", tmp_path / "run", code=2)
    assert list(tmp_path.iterdir()) == []
