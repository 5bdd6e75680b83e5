"""`tril-gym train reward-model`: its options are the fields of `RewardModelConfig`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from tril_gym.cli.failures import debug_option, reported_failures, unlock_option
from tril_gym.cli.options import GroupedCommand, GroupedOption, config_options, free_folder, usage_errors
from tril_gym.cli.run_options import config_option, console_options, make_console
from tril_gym.utils.console import RunConsole

REWARD_MODEL = "reward-model"
REWARD_MODEL_HELP = "A reward model: learn from pairs of completions which one people prefer."


def reward_model_command() -> click.Command:
    """Return the command `tril-gym train reward-model`."""
    from tril_gym.reward_model.config import RewardModelConfig

    def run(*, debug: bool, quiet: bool, log_json: bool, config: Path | None, **options: Any) -> None:
        outputs = {name: options.pop(name) for name in ("output_dir", "resume", "force_unlock")}
        given = {name: value for name, value in options.items() if value is not None and value != {}}
        console = make_console(quiet=quiet, log_json=log_json)
        with reported_failures(debug=debug, console=console), console.heartbeat():
            train_reward_model(with_file(given, config), console=console, **outputs)

    options = [
        *config_options(RewardModelConfig, {}),
        GroupedOption(
            ["--output-dir"],
            group="output",
            type=click.Path(path_type=Path),
            help="Folder of the model  [default: runs/reward-model-seedN]",
        ),
        GroupedOption(["--resume"], group="run", is_flag=True, help="Resume the run in --output-dir, or begin it"),
        config_option(),
        unlock_option(),
        debug_option(),
        *console_options(events="epochs, warnings, end, errors"),
    ]
    return GroupedCommand(REWARD_MODEL, callback=run, params=[*options], help=REWARD_MODEL_HELP)


def with_file(given: dict[str, Any], file: Path | None) -> dict[str, Any]:
    """Return the settings of the file of `--config`, over which those that are given win."""
    from tril_gym.experiment.config_file import check_names, read_settings
    from tril_gym.reward_model.config import RewardModelConfig

    if file is None:
        return given
    with usage_errors(given):
        found = read_settings(file)
        check_names(found, [entry.name for entry in fields(RewardModelConfig)], file, command=REWARD_MODEL)
    return {name: value for name, value in found.items() if value is not None} | given


def train_reward_model(
    given: dict[str, Any], output_dir: Path | None, *, resume: bool, console: RunConsole, force_unlock: bool = False
) -> None:
    """Start or resume the training of a reward model."""
    from tril_gym.experiment.run_folder import RunFolder
    from tril_gym.reward_model.config import RewardModelConfig
    from tril_gym.reward_model.training import prepare_reward_model, resume_reward_model
    from tril_gym.utils.quiet import silence_libraries
    from tril_gym.utils.ranks import leave_ranks

    silence_libraries()
    with usage_errors(given):
        if resume and output_dir is None:
            raise ValueError("--resume needs --output-dir, the folder of the run to resume")
        if resume and output_dir is not None and RunFolder(output_dir).has_begun():
            run = resume_reward_model(output_dir, given, console=console, force_unlock=force_unlock)
        else:
            config = RewardModelConfig(**given)
            folder = output_dir or free_folder(Path("runs") / f"{REWARD_MODEL}-seed{config.seed}")
            run = prepare_reward_model(config, folder, console=console, force_unlock=force_unlock)
    run.run()
    leave_ranks()
