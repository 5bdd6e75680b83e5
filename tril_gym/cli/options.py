"""Options of the command line: generated from the fields of a config dataclass, grouped in `--help`."""

from __future__ import annotations

import json
import os
import types
import typing
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tril_gym.cli.completion import words_for
from tril_gym.utils.chats import read_template
from tril_gym.utils.config_fields import MAX_COEFFICIENT, check_weight, describe_bounds, flag_of
from tril_gym.utils.user_code import is_function_name

COLUMN_HELP = "Name in the data of a column, such as prompt=question; may be repeated"
PYTHON_NAMES = {"True": True, "False": False, "None": None}
ENV_ARGS = "tril_gym.env_args"  # in the meta data of a command
# Order in --help.
GROUPS = ("run", "data", "policy", "model", "guide", "reward", "metric", "optimisation", "KL", "output")


@contextmanager
def usage_errors(options: Collection[str] = ()) -> Iterator[None]:
    """Turn errors of the user's settings into a message and exit code 2.

    Args:
        options: names of the settings that were given by a flag. Where a message says what such a setting must be, it
            names the flag.
    """
    from gymnasium.error import Error

    try:
        yield
    except (ValueError, OSError, ImportError, Error) as error:
        name, rule, rest = str(error).partition(" must be ")
        raise click.UsageError((flag_of(name) if name in options else name) + rule + rest) from error


class GroupedOption(click.Option):
    """An option with the heading that it has in `--help`."""

    def __init__(self, *declarations: Any, group: str, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        assert group in GROUPS, group
        self.group = group

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the words that a shell offers for the value."""
        found = words_for(self.name, incomplete)
        return super().shell_complete(context, incomplete) if found is None else found


class GroupedCommand(click.Command):
    """A command whose `--help` lists the options by group, and whose mistakes are events with `--log-json`."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **settings: Any) -> click.Context:
        """Parse the arguments."""
        is_for_programs = "--log-json" in args
        try:
            return super().make_context(info_name, args, *more, **settings)
        except click.UsageError as error:
            if is_for_programs:
                from tril_gym.utils.console_modes import JsonConsole

                JsonConsole().event("error", exit_code=error.exit_code, message=error.format_message())
            raise

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        sections: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Argument):
                continue
            group = parameter.group if isinstance(parameter, GroupedOption) else "run"
            if record := parameter.get_help_record(context):
                sections[group].append(record)
        for group in GROUPS:
            if sections[group]:
                with formatter.section(f"{group[0].upper()}{group[1:]} options"):
                    formatter.write_dl(sections[group])


def config_options(
    config_type: type, values: Mapping[str, Any], *, hidden: Collection[str] = ()
) -> list[GroupedOption]:
    """Return one option for each field of a config dataclass that has a help text.

    Args:
        config_type: the dataclass; its metadata are those of `config_field`.
        values: the values of fields that a command without options uses, to show in `--help`.
        hidden: groups or fields whose options are accepted but not shown.
    """
    hints = typing.get_type_hints(config_type)
    return [
        field_option(
            entry.name,
            hints[entry.name],
            entry.metadata,
            values.get(entry.name, entry.default),
            hidden=not {entry.name, entry.metadata["group"]}.isdisjoint(hidden),
        )
        for entry in fields(config_type)
        if "help" in entry.metadata
    ]


def field_option(name: str, hint: Any, metadata: Mapping[str, Any], value: Any, *, hidden: bool) -> GroupedOption:
    """Return the option of one field. It has no default, so that presets can fill what the user does not give."""
    settings = {"group": metadata["group"], "help": help_text(metadata, value), "hidden": hidden}
    if name in REPEATED:
        flags, form, parse = REPEATED[name]
        return GroupedOption(flags, multiple=True, metavar=form, callback=parse, **settings)
    flag = flag_of(name)
    optional = types.NoneType in typing.get_args(hint)
    kind = next(part for part in typing.get_args(hint) if part is not types.NoneType) if optional else hint
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    elif typing.get_origin(kind) is typing.Literal:
        settings["type"] = click.Choice(typing.get_args(kind))
    elif typing.get_origin(kind) is tuple:  # several values after one flag: --adam-betas 0.9 0.999
        settings["type"] = typing.get_args(kind)
    else:
        settings["type"] = kind
    return GroupedOption([flag, name], default=None, **settings)


def help_text(metadata: Mapping[str, Any], value: Any) -> str:
    """Return the help of a field with its bounds and its value; what a None stands for is in the help itself."""
    text, _, unset = metadata["help"].partition("; default: ")
    shown = unset if value in (None, MISSING) else as_typed(value)
    notes = [describe_bounds(metadata), f"default: {shown}" if shown else ""]
    first = text[0].upper() if text[0].isascii() else text[0]
    return first + text[1:] + (f"  [{'; '.join(filter(None, notes))}]" if any(notes) else "")


def as_typed(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}:{weight:g}" for name, weight in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse_value(text: str) -> Any:
    """Return the value of a JSON text (a number, true, a list, …) or of True, False or None, else the text itself."""
    if text in PYTHON_NAMES:
        return PYTHON_NAMES[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also of numbers with thousands of digits
        return text


def parse_pairs(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `K=V` options as a dictionary; those of `env_arg_options` are in it."""
    found = dict(context.meta.get(ENV_ARGS, {}))
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{pair!r} is not of the form name=value, such as max_new_tokens=30")
        name = name.replace("-", "_")
        if name in context.meta.get(ENV_ARGS, {}):
            raise click.BadParameter(f"{name} is given twice, as {flag_of(name)} and as --env-arg; leave one out")
        if name in found:
            raise click.BadParameter(f"{name} is given twice; leave one out")
        found[name] = parse_value(value)
    return found


def env_arg_options() -> list[GroupedOption]:
    """Return options for keyword arguments of an environment that have a flag of their own."""
    texts = {
        "--stop": "Text at which a completion ends, besides EOS; \\n is a line break; may be repeated",
        "--system-prompt": "System message before each prompt, which is rendered as a chat",
        "--chat-template": "File with a chat template in Jinja, in place of the tokenizer's",
    }
    settings: dict[str, Any] = {"group": "data", "expose_value": False, "is_eager": True, "callback": _set_env_arg}
    return [
        GroupedOption([flag], metavar=form, multiple=flag == "--stop", help=texts[flag], **settings)
        for flag, form in (("--stop", "TEXT"), ("--system-prompt", "TEXT"), ("--chat-template", "FILE"))
    ]


def _set_env_arg(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Keep the value of an option for `parse_pairs`, which is called after it."""
    if value in (None, ()):
        return
    found = context.meta.setdefault(ENV_ARGS, {})
    assert option.name is not None
    found[option.name] = stop_texts(value) if option.name == "stop" else value
    if option.name == "chat_template":
        try:
            found[option.name] = read_template(value)  # a run folder holds the template itself
        except ValueError as error:
            raise click.BadParameter(str(error)) from error


def stop_texts(given: Collection[str]) -> list[str]:
    """Return stop strings of the command line, on which a line break is written as backslash and n."""
    return [text.replace("\\n", "\n").replace("\\t", "\t") for text in given]


def parse_rewards(context: click.Context, option: click.Parameter, terms: tuple[str, ...]) -> dict[str, float] | None:
    """Return `NAME[:WEIGHT]` options as weights by name; None without any."""
    from tril_gym import rewards

    found: dict[str, float] = {}
    for term in terms:
        name, colon, weight = term.rpartition(":")
        if not colon or (is_function_name(term) and name not in rewards.names()):  # module:function without a weight
            name, weight = term, "1"
        if ("=" in name or "," in name) and not is_function_name(name):
            raise click.BadParameter(
                f"{term!r} is not of the form NAME:WEIGHT, such as rouge_l:0.5; give --reward once for each term"
            )
        if name in found:
            raise click.BadParameter(f"the reward {name!r} is given twice; give it once, with the sum of the weights")
        try:
            found[name] = check_weight(name, float(weight))
        except ValueError as error:
            raise click.BadParameter(
                f"the weight in {term!r} must be a number in [-{MAX_COEFFICIENT}, {MAX_COEFFICIENT}], got {weight!r};"
                " write NAME:WEIGHT, as rouge_l:0.5"
            ) from error
    return found or None


def parse_settings(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `NAME.KEY=VALUE` options as settings by name."""
    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        name, _, key = path.rpartition(".")
        if not (name and key and equals):
            raise click.BadParameter(f"{pair!r} is not of the form NAME.KEY=VALUE, such as rouge_l.reduction=mean")
        own, key = found.setdefault(name, {}), key.replace("-", "_")
        if key in own:
            raise click.BadParameter(f"{name}.{key} is given twice; leave one out")
        own[key] = parse_value(value)
    return found


def parse_columns(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Return `OURS=THEIRS` options as a dictionary."""
    found: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise click.BadParameter(f"{pair!r} is not of the form OURS=THEIRS, such as prompt=question")
        if ours in found:
            raise click.BadParameter(f"the column {ours!r} is given twice, as {found[ours]!r} and as {theirs!r}")
        found[ours] = theirs
    return found


def parse_names(context: click.Context, option: click.Parameter, lists: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of repeated, comma-separated lists."""
    return tuple(name.strip() for names in lists for name in names.split(",") if name.strip())


def take_env_args(options: dict[str, Any]) -> dict[str, Any]:
    """Take --env-arg, --reward-arg and --column out of options; return all as keyword arguments of the environment.

    Raises:
        ValueError: --env-arg gives something under the names of the others that they cannot be added to.
    """
    from tril_gym.experiment.config import merged_env_args

    env_args, settings, columns = (options.pop(name) for name in ("env_args", "reward_args", "column"))
    if settings:
        env_args = merged_env_args(env_args, {"reward_settings": settings})
    if columns and not isinstance(env_args.get("column", {}), dict):
        raise ValueError("column is given twice, as --column and as --env-arg; leave one out")
    return env_args | ({"column": env_args.get("column", {}) | columns} if columns else {})


def check_parent(flag: str, file: Path | None) -> None:
    """Raise `ValueError` if a file that an option names cannot be written, or is one of a run's own."""
    if file is None:
        return
    from tril_gym.experiment.run_folder import OWN_FILES, RunFolder

    if not file.parent.is_dir():
        raise ValueError(f"{flag} {file}: there is no folder {file.parent}")
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"{flag} {file}: {file.parent} is no folder that you may write to; name a file in another")
    if file.name in OWN_FILES and RunFolder(file.parent).is_run():
        raise ValueError(f"{flag} {file} would replace a file of the run {file.parent}; name another file")


def free_folder(base: Path) -> Path:
    """Return this folder, or the first of `base-2`, `base-3`, … that does not exist."""
    candidates = [base, *(base.with_name(f"{base.name}-{number}") for number in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


# Fields whose options may be repeated: flag, form of a value, parser.
REPEATED: dict[str, tuple[list[str], str, Any]] = {
    "env_args": (["--env-arg", "env_args"], "K=V", parse_pairs),
    "reward": (["--reward", "reward"], "NAME[:WEIGHT]", parse_rewards),
    "column": (["--column", "column"], "OURS=THEIRS", parse_columns),
}


def column_option() -> GroupedOption:
    """Return the option for names of columns."""
    flags, form, parse = REPEATED["column"]
    return GroupedOption(flags, group="data", multiple=True, metavar=form, callback=parse, help=COLUMN_HELP)


def reward_arg_option() -> GroupedOption:
    """Return the option for settings of reward terms."""
    return GroupedOption(
        ["--reward-arg", "reward_args"],
        group="reward",
        multiple=True,
        metavar="NAME.KEY=VALUE",
        callback=parse_settings,
        help="Setting of a reward term, such as preference.model=FOLDER; may be repeated",
    )
