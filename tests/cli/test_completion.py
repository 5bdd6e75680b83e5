"""Shell completion: the words for a few beginnings of commands, and the script of each shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from tril_gym.cli import main

VARIABLE = "_TRIL_GYM_COMPLETE"
PROGRAM = Path(sys.executable).parent / "tril-gym"


def words(line):
    """Return what completes the last word of a line, and its kind."""
    *before, last = line.split(" ")
    items = ShellComplete(main, {}, "tril-gym", VARIABLE).get_completions(before, last)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ev", ["evaluate"]),
        ("train ag", ["aggrevated"]),
        ("train ppo", ["ppo", "ppo-pp"]),
        ("train ppo --env tril/C", ["tril/CommonGen-v0"]),
        ("train ppo --preset s", ["small"]),
        ("train ppo --reward rouge_l", ["rouge_l", "rouge_lsum"]),
        ("train ppo --reward my_re", ["<file>"]),
        ("train ppo --reward-arg cider", ["cider_d."]),
        ("train ppo --policy tiny-", ["tiny-seq2seq"]),
        ("train ppo --policy ./", ["<file>"]),
        ("train ppo-pp --guide r", ["references"]),
        ("train ppo --lr-schedule li", ["linear"]),
        ("train ppo --learning-r", ["--learning-rate"]),
        ("train ppo --config ", ["<file>"]),
        ("train ppo --output-dir ru", ["<dir>"]),
        ("train ppo --track t", ["tensorboard", "trackio"]),
        ("evaluate ru", ["<dir>"]),
        ("evaluate x --metrics self_bleu,sacre", ["self_bleu,sacre_bleu"]),
        ("compare a b", ["<dir>"]),
        ("list e", ["envs"]),
    ],
)
def test_words(line, expected):
    assert words(line) == expected


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_scripts_name_the_program(shell, monkeypatch):
    monkeypatch.setattr(BashComplete, "_check_version", lambda self: None)
    script = shell(main, {}, "tril-gym", VARIABLE).source()
    assert f"{VARIABLE}={shell.name}_complete" in script
    assert "tril-gym" in script


@pytest.mark.skipif(
    not PROGRAM.is_file() or shutil.which("bash") is None, reason="needs bash and the installed program"
)
def test_bash_completes_with_the_documented_line():
    script = f"""
    eval "$({VARIABLE}=bash_source tril-gym)"
    complete -p tril-gym
    COMP_WORDS=(tril-gym train gai) COMP_CWORD=2
    _tril_gym_completion tril-gym
    echo "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert result.stdout.splitlines()[-1] == "gail", result
    assert "_tril_gym_completion" in result.stdout
