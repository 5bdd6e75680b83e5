"""Options of `tril-gym train` that are no settings of a run: where it writes and what it shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click

from tril_gym.cli.failures import debug_option, unlock_option
from tril_gym.cli.options import GroupedOption
from tril_gym.experiment.tracking import TrackerOptions
from tril_gym.utils.console import RunConsole
from tril_gym.utils.processes import PROCESS_TIMEOUT, is_first_process


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The values of the options below."""

    config: Path | None = None
    show_config: bool = False
    output_dir: Path | None = None
    resume: bool = False
    trust_code: bool = False
    force_unlock: bool = False
    process_timeout: float = PROCESS_TIMEOUT
    shard_models: bool = False
    sharded_writing: Literal["whole", "block"] = "whole"
    debug: bool = False
    quiet: bool = False
    log_json: bool = False
    profile: bool = False
    track: str | None = None
    project: str | None = None
    run_name: str | None = None
    tag: tuple[str, ...] = ()

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> RunOptions:
        """Take these options out of all options of a command; what is left are settings."""
        return cls(**{entry.name: options.pop(entry.name) for entry in fields(cls)})

    @property
    def tracker(self) -> TrackerOptions:
        """The options of the tracker.

        Raises:
            ValueError: there are some without a tracker.
        """
        given = {"--project": self.project, "--run-name": self.run_name, "--tag": self.tag}
        for flag in (flag for flag, value in given.items() if value and self.track is None):
            raise ValueError(f"{flag} is for a tracker; add --track wandb, tensorboard or trackio")
        return TrackerOptions(self.track, project=self.project, name=self.run_name, tags=self.tag)


def console_options(*, events: str) -> list[GroupedOption]:
    """Return the options of what a run prints; `events` names the objects of --log-json."""
    return [
        GroupedOption(["--quiet"], group="output", is_flag=True, help="Print warnings and errors only"),
        GroupedOption(
            ["--log-json"],
            group="output",
            is_flag=True,
            help=f"Print one JSON object a line, for programs: {events}",
        ),
    ]


def make_console(*, quiet: bool, log_json: bool) -> RunConsole:
    """Return what a run prints on.

    Raises:
        click.UsageError: both are chosen.
    """
    from tril_gym.utils.console_modes import JsonConsole, QuietConsole, SilentConsole

    if quiet and log_json:
        raise click.UsageError("--quiet prints nothing and --log-json prints objects; leave one out")
    if not is_first_process():
        logging.getLogger("tril_gym").setLevel(logging.ERROR)
        return SilentConsole()
    if not quiet and not log_json:
        return RunConsole()
    logging.getLogger("tril_gym").setLevel(logging.WARNING)
    return QuietConsole() if quiet else JsonConsole()


def config_option() -> GroupedOption:
    """Return the option for a file with settings."""
    return GroupedOption(
        ["--config"],
        group="run",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE.yaml",
        help="File with settings, such as config.yaml of a run; options win over it",
    )


def run_options() -> list[GroupedOption]:
    """Return the options of a run that are no settings."""
    path = click.Path(path_type=Path)
    return [
        config_option(),
        GroupedOption(
            ["--show-config"], group="run", is_flag=True, help="Print all settings as YAML, and do nothing else"
        ),
        GroupedOption(
            ["--output-dir"], group="output", type=path, help="Run folder  [default: runs/ALGORITHM-TASK-seedN]"
        ),
        GroupedOption(
            ["--resume"],
            group="run",
            is_flag=True,
            help="Continue the run in --output-dir, or begin it; of its settings, only --iterations, --keep,"
            " --skip-nonfinite, how a guide's server is asked, and retries, pause and timeout of rewards may change",
        ),
        GroupedOption(
            ["--trust-code"],
            group="run",
            is_flag=True,
            help="With --resume or --config: also run code that only the settings of a run folder name",
        ),
        GroupedOption(
            ["--shard-models"],
            group="run",
            is_flag=True,
            help="With torchrun: each process holds a part of the trained models (FSDP2), not a replica of them",
        ),
        GroupedOption(
            ["--sharded-writing"],
            group="run",
            type=click.Choice(["whole", "block"]),
            default="whole",
            show_default=True,
            help="With sharded models: what a process gathers at once of a model that writes; a block takes little"
            " memory and, at every token, as many messages as the model has blocks",
        ),
        GroupedOption(
            ["--process-timeout"],
            group="run",
            type=click.FloatRange(min=0, min_open=True),
            default=PROCESS_TIMEOUT,
            show_default=True,
            metavar="SECONDS",
            help="With torchrun or accelerate launch: how long a process waits for another, which may be pretraining",
        ),
        unlock_option(),
        debug_option(),
        *console_options(events="start, iterations, evaluations, warnings, end, errors"),
        GroupedOption(
            ["--profile"], group="output", is_flag=True, help="Print time and memory of an iteration at the end"
        ),
        *tracker_options(),
    ]


def tracker_options() -> list[GroupedOption]:
    """Return the options of a tracker."""
    return [
        GroupedOption(
            ["--track"],
            group="output",
            metavar="TRACKER",
            help="Also send settings, metrics and texts to wandb, tensorboard, trackio or another tracker",
        ),
        GroupedOption(
            ["--project"], group="output", metavar="NAME", help="Project of the tracker  [default: tril_gym]"
        ),
        GroupedOption(
            ["--run-name"], group="output", metavar="NAME", help="Name in the tracker  [default: that of the folder]"
        ),
        GroupedOption(
            ["--tag"], group="output", multiple=True, metavar="TAG", help="Tag in the tracker; may be repeated"
        ),
    ]
