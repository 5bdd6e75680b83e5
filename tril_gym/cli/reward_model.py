"""`tril-gym train reward-model`: its options are the fields of `RewardModelConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tril_gym.cli.failures import debug_option, reported_failures, unlock_option
from tril_gym.cli.options import GroupedCommand, GroupedOption, config_options, free_folder, usage_errors

REWARD_MODEL = "reward-model"
REWARD_MODEL_HELP = "A reward model: learn from pairs of completions which one people prefer."


def reward_model_command() -> click.Command:
    """Return the command `tril-gym train reward-model`."""
    from tril_gym.reward_model.config import RewardModelConfig

    def run(output_dir: Path | None, resume: bool, force_unlock: bool, debug: bool, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None and value != {}}
        with reported_failures(debug=debug):
            train_reward_model(given, output_dir, resume=resume, force_unlock=force_unlock)

    options = [
        *config_options(RewardModelConfig, {}),
        GroupedOption(
            ["--output-dir"],
            group="output",
            type=click.Path(path_type=Path),
            help="Folder of the model  [default: runs/reward-model-seedN]",
        ),
        GroupedOption(["--resume"], group="run", is_flag=True, help="Resume the run in --output-dir, or begin it"),
        unlock_option(),
        debug_option(),
    ]
    return GroupedCommand(REWARD_MODEL, callback=run, params=[*options], help=REWARD_MODEL_HELP)


def train_reward_model(
    given: dict[str, Any], output_dir: Path | None, *, resume: bool, force_unlock: bool = False
) -> None:
    """Start or resume the training of a reward model."""
    from tril_gym.experiment.run_folder import RunFolder
    from tril_gym.reward_model.config import RewardModelConfig
    from tril_gym.reward_model.training import prepare_reward_model, resume_reward_model
    from tril_gym.utils.console import RunConsole
    from tril_gym.utils.quiet import silence_libraries

    silence_libraries()
    console = RunConsole()
    with usage_errors(given):
        if resume and output_dir is None:
            raise ValueError("--resume needs --output-dir, the folder of the run to resume")
        if resume and output_dir is not None and RunFolder(output_dir).has_begun():
            run = resume_reward_model(output_dir, given, console=console, force_unlock=force_unlock)
        else:
            if "dataset" not in given:
                raise ValueError("--dataset is missing: a file or folder of pairs with prompt, chosen and rejected")
            config = RewardModelConfig(**given)
            folder = output_dir or free_folder(Path("runs") / f"{REWARD_MODEL}-seed{config.seed}")
            run = prepare_reward_model(config, folder, console=console, force_unlock=force_unlock)
    run.run()
