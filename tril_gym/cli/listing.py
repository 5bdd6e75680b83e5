"""`tril-gym list`."""

from __future__ import annotations

import click

from tril_gym.cli.options import usage_errors
from tril_gym.experiment import presets
from tril_gym.experiment.algorithms import ALGORITHMS


@click.group("list", invoke_without_command=True)
@click.pass_context
def list_group(context: click.Context) -> None:
    """List environments, algorithms, rewards or presets; all of them without a name."""
    if context.invoked_subcommand is None:
        for command in (list_envs, list_algorithms, list_rewards, list_presets):
            click.secho(command.name, bold=True)
            context.invoke(command)


@list_group.command("envs")
def list_envs() -> None:
    """List environment ids and their default rewards."""
    from tril_gym.registration import ENVIRONMENTS, accepts_dataset

    for name, row in ENVIRONMENTS.items():
        terms = " + ".join(term if weight == 1 else f"{weight:g} {term}" for term, weight in row.default_reward.items())
        print_row(name, terms or ("none: name one with --reward" if accepts_dataset(name) else "its own reward"))


@list_group.command("algorithms")
def list_algorithms() -> None:
    """List the algorithms of `train`."""
    for name, spec in ALGORITHMS.items():
        print_row(name, spec.help)


@list_group.command("rewards")
@click.argument("name", required=False)
def list_rewards(name: str | None = None) -> None:
    """List rewards and metrics, and what they need; with the name of one, its settings."""
    from tril_gym import rewards

    if name is None:
        for each in rewards.names():
            print_row(each, rewards.describe(each))
        return
    with usage_errors():
        about, settings = rewards.describe(name), rewards.settings_of(name)
    formatter = click.HelpFormatter()
    formatter.write_text(about)
    if settings:
        formatter.write_paragraph()
        formatter.write_text(f"Settings, --reward-arg {name}.NAME=VALUE, or --metric-arg:")
        rows = [(key, f"{text}  [default: {default}]".lstrip()) for key, (default, text) in settings.items()]
        with formatter.indentation():
            formatter.write_dl(rows)
    click.echo(formatter.getvalue(), nl=False)


@list_group.command("presets")
def list_presets() -> None:
    """List the presets of `train`."""
    for name in presets.names():
        print_row(name, presets.load(name).help)


def print_row(name: str, text: str) -> None:
    """Print a name and what it is."""
    click.echo(f"  {name:20s}  {text}")
