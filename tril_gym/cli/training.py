"""`tril-gym train`: one sub-command for each algorithm, and one for the reward model.

The options of an algorithm are the fields of `RunConfig` and of its own config dataclass, so that `--help` lists what
it reads and shows the values that a run without options uses.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tril_gym.cli.failures import debug_option, reported_failures, unlock_option
from tril_gym.cli.options import (
    GroupedCommand,
    GroupedOption,
    column_option,
    config_options,
    env_arg_options,
    free_folder,
    reward_arg_option,
    usage_errors,
    with_columns,
    with_reward_settings,
)
from tril_gym.cli.reward_model import REWARD_MODEL, REWARD_MODEL_HELP, reward_model_command
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.utils.suggestions import with_suggestion

if TYPE_CHECKING:
    from tril_gym.experiment.run import Run


class TrainGroup(click.Group):
    """Sub-commands that are created on use, because importing an algorithm takes seconds."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all algorithms and of the reward model."""
        return [*ALGORITHMS, REWARD_MODEL]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command of one algorithm, or of the reward model."""
        if name == REWARD_MODEL:
            return reward_model_command()
        return train_command(name) if name in ALGORITHMS else None

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        if args and not args[0].startswith("-") and args[0] not in (*ALGORITHMS, REWARD_MODEL):
            name = with_suggestion(args[0], (*ALGORITHMS, REWARD_MODEL))
            context.fail(
                f"unknown algorithm {name}; the algorithms are {', '.join(ALGORITHMS)}; {REWARD_MODEL} trains a"
                " reward model"
            )
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Algorithms"):
            formatter.write_dl([(name, spec.help) for name, spec in ALGORITHMS.items()])
        with formatter.section("Rewards"):
            formatter.write_dl([(REWARD_MODEL, REWARD_MODEL_HELP)])


@click.group("train", cls=TrainGroup)
def train_group() -> None:
    """Train an agent.

    Without options, train a tiny model on embedded data, offline, in minutes. An option wins over the preset, the
    preset over the default of the algorithm.
    """


def output_options() -> list[GroupedOption]:
    """Return the options of a run that are no settings: a resumed run may change them."""
    path = click.Path(path_type=Path)
    return [
        GroupedOption(
            ["--output-dir"], group="output", type=path, help="Run folder  [default: runs/ALGORITHM-TASK-seedN]"
        ),
        GroupedOption(
            ["--resume"],
            group="run",
            is_flag=True,
            help="Continue the run in --output-dir, or begin it; of its settings, only --iterations, --keep and"
            " --skip-nonfinite may change",
        ),
        GroupedOption(
            ["--trust-code"],
            group="run",
            is_flag=True,
            help="With --resume: also run code that only the settings of the folder name",
        ),
        unlock_option(),
        debug_option(),
        GroupedOption(
            ["--profile"], group="output", is_flag=True, help="Print time and memory of an iteration at the end"
        ),
        GroupedOption(
            ["--track"],
            group="output",
            metavar="TRACKER",
            help="Also send metrics to wandb or another tracker of accelerate",
        ),
    ]


def train_command(algorithm: str) -> click.Command:
    """Return the command `tril-gym train ALGORITHM`."""
    from tril_gym.experiment.config import RunConfig
    from tril_gym.experiment.resolution import configure

    kind = agent_type(algorithm)
    usual = configure(algorithm)

    # An option that the algorithm refuses is hidden, and its message says why; so is one without effect.
    hidden = {"guide"} if not kind.takes_guide else set()
    if "kl_coef" not in usual.hyperparameters:
        hidden.add("KL")
    options = config_options(RunConfig, asdict(usual), hidden=hidden)
    options += [column_option(), *env_arg_options(), reward_arg_option(), *output_options()]
    options += config_options(kind.config_type, usual.hyperparameters)
    return GroupedCommand(
        algorithm, callback=partial(train_agent, algorithm), params=[*options], help=ALGORITHMS[algorithm].help
    )


def train_agent(
    algorithm: str, *, profile: bool, debug: bool, output_dir: Path | None, resume: bool, **options: Any
) -> None:
    """Start or resume a run with the settings of the command line, None where an option was not used."""
    from tril_gym.utils.quiet import silence_libraries

    silence_libraries()
    with reported_failures(debug=debug):
        run = prepare_run(algorithm, output_dir, resume=resume, **options)
        run.run(profile=profile)


def prepare_run(
    algorithm: str,
    output_dir: Path | None,
    *,
    resume: bool,
    track: str | None,
    trust_code: bool,
    force_unlock: bool,
    **settings: Any,
) -> Run:
    """Return a new run, or with `resume` the one in the folder if it has begun."""
    from tril_gym.experiment import training
    from tril_gym.experiment.resolution import configure
    from tril_gym.experiment.run_folder import RunFolder
    from tril_gym.utils.console import RunConsole

    console = RunConsole()
    settings["env_args"] = with_reward_settings(settings["env_args"], settings.pop("reward_args"))
    settings["env_args"] = with_columns(settings["env_args"], settings.pop("column"))
    given = {name: value for name, value in settings.items() if value is not None and value != {}}
    outputs: dict[str, Any] = {"track": track, "console": console, "force_unlock": force_unlock}
    with usage_errors(given):
        if resume:
            if output_dir is None:
                raise ValueError("--resume needs --output-dir, the folder of the run to continue")
            if RunFolder(output_dir).has_begun():
                return training.resumed_run(output_dir, given, algorithm=algorithm, trust_code=trust_code, **outputs)
            console.say(f"{output_dir} has no run yet: it begins now")
        config = configure(algorithm, **given)
        return training.new_run(config, output_dir or default_folder(config), **outputs)


def default_folder(config: Any) -> Path:
    """Return `runs/ppo-pp-CommonGen-seed0`, or the next free name of this form."""
    task = re.sub(r"-v\d+$", "", config.env.split("/")[-1])
    return free_folder(Path("runs") / f"{config.algorithm}-{task}-seed{config.seed}")
