"""Bad input on the command line ends with exit code 2, one message that names it, and no file written.

Each command of `bad_commands.py` runs in a folder with its files, before any model is pretrained.
"""

import shlex

import pytest
import torch
from bad_commands import BAD_COMMANDS, write_files
from click.testing import CliRunner

from tril_gym.agents import tiny
from tril_gym.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    write_files(folder)
    return folder


def contents(folder):
    return {
        path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if "__pycache__" not in path.parts
    }


@pytest.fixture
def in_folder(folder, monkeypatch):
    def pretrain(*args, **settings):
        raise AssertionError("a model is pretrained before the mistake is found")

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(tiny, "_pretrained", pretrain)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="devices that are refused here")
@pytest.mark.filterwarnings("ignore:top_k=")
@pytest.mark.parametrize(("command", "words"), BAD_COMMANDS, ids=[command for command, _ in BAD_COMMANDS])
def test_bad_commands_end_with_a_message(command, words, in_folder):
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == 2, result.output
    message = result.output.partition("Error: ")[2].strip()
    assert words.replace("{folder}", str(in_folder)) in " ".join(message.split())
    assert "Traceback" not in result.output
    assert len(message) < 2000
    assert len(message.splitlines()) <= 3
