"""The `tril-gym` command line: train, evaluate, try out and export policies, compare and draw runs, list names."""

import logging
from typing import Any

import click

from tril_gym import __version__
from tril_gym.cli.comparison import compare_command, plot_command
from tril_gym.cli.evaluation import evaluate_command
from tril_gym.cli.exports import export_command
from tril_gym.cli.listing import list_group
from tril_gym.cli.sampling import sample_command
from tril_gym.cli.training import train_group
from tril_gym.utils.interrupt import exit_code_of
from tril_gym.utils.quiet import warnings_without_source

__all__ = ["main"]


class MainGroup(click.Group):
    """A group that ends as its commands do where Ctrl-C stops it before they have begun: while they are imported."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as stop:
            click.echo("stopped at once", err=True)
            raise SystemExit(exit_code_of(stop)) from None


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """Train language models with reinforcement and imitation learning in Gymnasium text environments."""
    context.with_resource(warnings_without_source())
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("tril_gym").setLevel(logging.INFO)  # messages about fitted rewards


main.add_command(train_group)
main.add_command(evaluate_command)
main.add_command(sample_command)
main.add_command(export_command)
main.add_command(compare_command)
main.add_command(plot_command)
main.add_command(list_group)
