"""What a person sees on a terminal: a pseudo-terminal stands in for it."""

import io
import os
import select
import subprocess
import sys

import pytest
from rich.console import Console

from tril_gym.utils.tables import comparison_table, metrics_line

pty = pytest.importorskip("pty")

SILENCE = 60  # seconds without output after which a program hangs

BAR = """
from tril_gym.utils.console import RunConsole
console = RunConsole()
with console.progress("training", total=2) as show:
    for step in (1, 2):
        print("printed", step)
        console.say(f"said {step}")
        show(step)
"""


def on_terminal(code: str) -> str:
    """Return what a program prints on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    settings = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, env=settings) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := _read(ours):
                shown += part
            assert process.wait(5) == 0
        finally:
            process.kill()
            os.close(ours)
    return shown.decode()


def _read(terminal: int) -> bytes:
    """Return the next output; nothing once the program has closed the terminal, or hangs."""
    try:
        if not select.select([terminal], [], [], SILENCE)[0]:
            return b""
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_lines_beside_a_progress_bar():
    """Rich replaces standard output while a bar is shown, so lines must not be printed on the replacement."""
    lines = [line.strip() for line in on_terminal(BAR).splitlines()]
    assert [name for name in ("printed 1", "said 1", "printed 2", "said 2") if not any(name in x for x in lines)] == []


@pytest.mark.parametrize("bounds", [(0.00017, 0.0002), (0.0, 0.0078), (0.4, 0.6), (0.0, 0.0), (90.0, 100.0)])
def test_the_final_table_fits_80_columns(bounds):
    found = {
        "metrics": {"sampled": {"examples": 3, "score/concept_coverage": bounds[1]}},
        "intervals": {"sampled": {"score/concept_coverage": bounds}},
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(found, found))
    row = console.file.getvalue().splitlines()[-1]
    assert row.startswith("score/concept_coverage ")
    assert row.count("]") == 2, row


def test_zero_has_no_sign():
    assert metrics_line({"iteration": 1, "kl": -0.0004, "policy/loss": -0.0}) == "   1  kl 0.00  loss 0.000"
