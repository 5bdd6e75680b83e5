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
from click.shell_completion import CompletionItem

from tril_gym.cli.failures import reported_failures
from tril_gym.cli.options import (
    GroupedCommand,
    column_option,
    config_options,
    env_arg_options,
    free_folder,
    reward_arg_option,
    take_env_args,
    usage_errors,
)
from tril_gym.cli.reward_model import REWARD_MODEL, REWARD_MODEL_HELP, reward_model_command
from tril_gym.cli.run_options import RunOptions, make_console, run_options
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type, algorithm_spec, short_name
from tril_gym.experiment.trust import check_trusted
from tril_gym.utils.processes import Processes
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import check_not_file_alone, is_function_name

if TYPE_CHECKING:
    from tril_gym.experiment.config import RunConfig
    from tril_gym.experiment.run import Run
    from tril_gym.utils.console import RunConsole


class TrainGroup(click.Group):
    """Sub-commands that are created on use, because importing an algorithm takes seconds."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all algorithms and of the reward model."""
        return [*ALGORITHMS, REWARD_MODEL]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command of one algorithm, or of the reward model."""
        if name == REWARD_MODEL:
            return reward_model_command()
        if name not in ALGORITHMS and not is_function_name(name):
            return None
        with usage_errors():
            return train_command(name)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        known = (*ALGORITHMS, REWARD_MODEL)
        if args and not args[0].startswith("-") and args[0] not in known and not is_function_name(args[0]):
            with usage_errors():
                check_not_file_alone(args[0], option=f"the algorithm {args[0]}", kind="class")
            context.fail(
                f"unknown algorithm {with_suggestion(args[0], known)}; the algorithms are {', '.join(ALGORITHMS)}, or"
                f" your own FILE.py:Class; {REWARD_MODEL} trains a reward model"
            )
        return super().resolve_command(context, args)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the algorithms that a shell offers, without importing them."""
        if incomplete.startswith("-"):
            return super().shell_complete(context, incomplete)
        about = {name: spec.help for name, spec in ALGORITHMS.items()} | {REWARD_MODEL: REWARD_MODEL_HELP}
        return [CompletionItem(name, help=text) for name, text in about.items() if name.startswith(incomplete)]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Take the algorithm from the file of `--config` where none is named first."""
        if args and args[0].partition("=")[0] == "--config":
            args = [algorithm_of(args), *args]
        return super().parse_args(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Algorithms"):
            formatter.write_dl([(name, spec.help) for name, spec in ALGORITHMS.items()])
        with formatter.section("Rewards"):
            formatter.write_dl([(REWARD_MODEL, REWARD_MODEL_HELP)])


def algorithm_of(args: list[str]) -> str:
    """Return the algorithm that the file of `--config`, the first argument, names."""
    from tril_gym.experiment.config_file import read_settings

    _, equals, path = args[0].partition("=")
    if not equals and len(args) < 2:
        raise click.UsageError("--config needs a file")
    with usage_errors():
        found = read_settings(path if equals else args[1]).get("algorithm")
        if not isinstance(found, str):
            raise ValueError(f"{path or args[1]} names no algorithm; add `algorithm: ppo`, or use `tril-gym train ppo`")
        check_trusted({"algorithm": found}, {}, where=path or args[1], trust_code="--trust-code" in args)
    return found


@click.group("train", cls=TrainGroup)
def train_group() -> None:
    """Train an agent: an algorithm of the list, or one of your own, FILE.py:Class.

    Without options, train a tiny model on embedded data, offline, in minutes. An option wins over the preset, the
    preset over the default of the algorithm.
    """


def train_command(algorithm: str) -> click.Command:
    """Return the command `tril-gym train ALGORITHM`."""
    from tril_gym.experiment.config import RunConfig
    from tril_gym.experiment.resolution import configure

    kind = agent_type(algorithm)
    usual = configure(algorithm)

    # An option that the algorithm refuses is hidden, and its message says why; so is one without effect.
    hidden = {"guide"} if not kind.takes_guide else set()
    if "target_kl" not in usual.hyperparameters:  # they measure no KL
        hidden.add("KL")
    options = config_options(RunConfig, asdict(usual), hidden=hidden)
    options += [column_option(), *env_arg_options(), reward_arg_option(), *run_options()]
    options += config_options(kind.config_type, usual.hyperparameters)
    return GroupedCommand(
        algorithm, callback=partial(train_agent, algorithm), params=[*options], help=algorithm_spec(algorithm).help
    )


def train_agent(algorithm: str, **options: Any) -> None:
    """Start or resume a run with the settings of the command line, None where an option was not used."""
    from tril_gym.utils.quiet import silence_libraries
    from tril_gym.utils.ranks import leave_ranks

    silence_libraries()
    chosen = RunOptions.taken_from(options)
    console = make_console(quiet=chosen.quiet, log_json=chosen.log_json)
    with reported_failures(debug=chosen.debug, console=console):
        with usage_errors():
            options["env_args"] = take_env_args(options)
        given = {name: value for name, value in options.items() if value is not None and value != {}}
        if chosen.show_config:
            click.echo(config_to_show(algorithm, chosen, given), nl=False)
            return
        with console.heartbeat():
            console.say(console.activity.name)
            run = prepare_run(algorithm, chosen, given, console)
            run.run(profile=chosen.profile)
        leave_ranks()  # they would abort where one ends before another


def prepare_run(algorithm: str, chosen: RunOptions, given: dict[str, Any], console: RunConsole) -> Run:
    """Return a new run, or with `resume` the one in the folder if it has begun."""
    from tril_gym.experiment import training

    outputs: dict[str, Any] = {"console": console, "force_unlock": chosen.force_unlock}
    outputs["processes"] = Processes(chosen.shard_models, chosen.sharded_writing, chosen.process_timeout)
    with usage_errors(given):
        outputs["track"] = chosen.tracker
        if _continues(chosen):
            assert chosen.output_dir is not None
            named = _named_settings(algorithm, chosen, given)
            trust = chosen.trust_code
            return training.resumed_run(chosen.output_dir, named, algorithm=algorithm, trust_code=trust, **outputs)
        if chosen.resume:
            console.say(f"{chosen.output_dir} has no run yet: it begins now")
        config = settings_of(algorithm, chosen, given)
        return training.new_run(config, chosen.output_dir or default_folder(config), **outputs)


def config_to_show(algorithm: str, chosen: RunOptions, given: dict[str, Any]) -> str:
    """Return all settings that a run with these options would have, as YAML."""
    from tril_gym.experiment.config_file import config_yaml
    from tril_gym.experiment.resuming import check_unchanged, saved_config, with_changes
    from tril_gym.experiment.run_folder import RunFolder

    with usage_errors(given):
        if not _continues(chosen):
            return config_yaml(settings_of(algorithm, chosen, given))
        assert chosen.output_dir is not None
        named = _named_settings(algorithm, chosen, given)
        config = saved_config(RunFolder(chosen.output_dir), named)
        check_unchanged(config, named, algorithm=algorithm, folder=chosen.output_dir)
        return config_yaml(with_changes(config, named))


def _continues(chosen: RunOptions) -> bool:
    """Return whether a run that has begun is continued."""
    from tril_gym.experiment.run_folder import RunFolder

    if chosen.resume and chosen.output_dir is None:
        raise ValueError("--resume needs --output-dir, the folder of the run to continue")
    return chosen.resume and chosen.output_dir is not None and RunFolder(chosen.output_dir).has_begun()


def settings_of(algorithm: str, chosen: RunOptions, given: dict[str, Any]) -> RunConfig:
    """Return the settings of a new run."""
    from tril_gym.experiment.config_file import configured
    from tril_gym.experiment.resolution import configure

    if chosen.config is None:
        return configure(algorithm, **given)
    return configured(algorithm, chosen.config, given, trust_code=chosen.trust_code)


def _named_settings(algorithm: str, chosen: RunOptions, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the user names for a run that is continued, in a file or by options."""
    from tril_gym.experiment.config import merged_env_args
    from tril_gym.experiment.config_file import settings_of_file

    if chosen.config is None:
        return given
    found = settings_of_file(algorithm, chosen.config, given, trust_code=chosen.trust_code)
    env_args = merged_env_args(found.get("env_args") or {}, given.get("env_args", {}))
    return {name: value for name, value in found.items() if value is not None} | given | {"env_args": env_args}


def default_folder(config: Any) -> Path:
    """Return `runs/ppo-pp-CommonGen-seed0`, or the next free name of this form."""
    task = re.sub(r"-v\d+$", "", config.env.split("/")[-1])
    return free_folder(Path("runs") / f"{short_name(config.algorithm)}-{task}-seed{config.seed}")
