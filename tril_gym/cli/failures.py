"""How a failing command ends: with one message and an exit code, and with a traceback only under --debug.

1: a part of the run failed. 2: a mistake of the user (`usage_errors`). 128 + n: signal n stopped it, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from tril_gym.cli.options import GroupedOption
from tril_gym.utils.console import RunConsole
from tril_gym.utils.interrupt import Interrupted, exit_code_of, stop_at_once
from tril_gym.utils.processes import is_first_process

MOST = 2000  # characters of an error that are shown
DEBUG_HELP = "Show the traceback of an error"
debug_flag = click.option("--debug", is_flag=True, help=DEBUG_HELP)  # of commands whose options have no headings


def debug_option() -> GroupedOption:
    """Return the option that shows tracebacks."""
    return GroupedOption(["--debug"], group="run", is_flag=True, help=DEBUG_HELP)


def unlock_option() -> GroupedOption:
    """Return the option that takes a run folder from another process."""
    return GroupedOption(
        ["--force-unlock"],
        group="run",
        is_flag=True,
        help="Take the folder from another process that seems to use it but has ended",
    )


@contextmanager
def reported_failures(*, debug: bool, console: RunConsole | None = None) -> Iterator[None]:
    """End the command with a message where the block fails or a signal stops it.

    Args:
        debug: show the traceback first.
        console: also gets an event "error" with the exit code and the message.
    """

    def end(code: int, lines: list[str], *hint: str) -> SystemExit:
        if console is not None:
            console.event("error", exit_code=code, message="\n".join(lines))
        _report("\n".join([*lines, *hint]))
        return SystemExit(code)

    try:
        with stop_at_once():
            yield
    except Interrupted as stop:
        raise end(exit_code_of(stop), [str(stop)]) from None
    except KeyboardInterrupt as stop:
        raise end(exit_code_of(stop), ["stopped at once", *_notes(stop)]) from None
    except click.ClickException as error:
        _show_traceback(error.__cause__ if debug else None)
        if console is not None:
            console.event("error", exit_code=error.exit_code, message=error.format_message())
        if not is_first_process():  # which says the same
            raise SystemExit(error.exit_code) from None
        raise
    except Exception as error:
        _show_traceback(error if debug else None)
        hint = [] if debug else ["--debug shows the traceback."]
        process = "" if is_first_process() else f" in process {os.environ['RANK']}"
        raise end(1, [f"Error{process}: {describe(error)}", *_notes(error)], *hint) from None


def describe(error: BaseException) -> str:
    """Return an error in words, with its kind where the message does not say enough."""
    text = str(error).strip()
    text = text if len(text) <= MOST else text[:MOST] + " …"
    is_own = type(error) in (RuntimeError, ValueError) or type(error).__module__.startswith("tril_gym.")
    return text if is_own and text else ": ".join(filter(None, [type(error).__name__, text]))


def _notes(error: BaseException) -> list[str]:
    return [note[0].upper() + note[1:] + "." for note in vars(error).get("__notes__", ()) if note]


def _show_traceback(error: BaseException | None) -> None:
    if error is not None:
        _report("".join(traceback.format_exception(error)))


def _report(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        click.echo(text, err=True)
