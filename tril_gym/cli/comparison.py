"""`tril-gym compare` and `tril-gym plot`: finished runs beside each other."""

from __future__ import annotations

from pathlib import Path

import click

from tril_gym.cli.completion import folders
from tril_gym.cli.failures import debug_flag, reported_failures
from tril_gym.cli.options import check_parent, usage_errors

FORMATS = (".png", ".svg")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("compare")
@click.argument("runs", metavar="RUN|FILE.json RUN|FILE.json...", nargs=-1, required=True, shell_complete=folders)
@click.option("--output", type=FILE, metavar="FILE.json", help="File to write the numbers to")
@debug_flag
def compare_command(runs: tuple[str, ...], output: Path | None, debug: bool) -> None:
    """Compare the held-out texts of finished runs with those of the first one.

    Differences are paired by example, so the runs must have been evaluated on the same ones, by the same reward.
    Runs that learned from different rewards are compared by the files that `tril-gym evaluate RUN --reward NAME
    --output FILE.json` writes. After ±: half the 95 % interval.
    """
    from tril_gym.experiment.comparison import comparison, comparison_of_files, finished_run
    from tril_gym.utils.atomic_files import write_json
    from tril_gym.utils.console import RunConsole
    from tril_gym.utils.tables import runs_table

    with reported_failures(debug=debug), usage_errors():
        if len(runs) < 2:
            raise ValueError(f"compare needs two run folders or more, got {runs[0]}")
        check_parent("--output", output)
        files = [run for run in runs if run.endswith(".json")]
        if files and len(files) < len(runs):
            folder = next(run for run in runs if run not in files)
            raise ValueError(f"compare takes run folders or files of evaluate, got both: {folder} and {files[0]}")
        rows = comparison_of_files(files) if files else comparison([finished_run(run) for run in runs])
        if output is not None:
            write_json(output, rows)
    RunConsole().show(runs_table(rows))


@click.command("plot")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=folders)
@click.option(
    "--output",
    type=FILE,
    metavar="FILE.png|FILE.svg",
    default=Path("curves.png"),
    show_default=True,
    help="File to write the picture to",
)
@debug_flag
def plot_command(runs: tuple[str, ...], output: Path, debug: bool) -> None:
    """Draw the held-out reward of finished runs by iteration.

    Runs that differ in their seed only become one curve, the median with the range as a band; a single run has the 95 %
    interval of its mean. `train --eval-every N` gives a curve more points than its ends.
    """
    from tril_gym.experiment.comparison import curves_figure, finished_run
    from tril_gym.experiment.plots import save_figure

    with reported_failures(debug=debug), usage_errors():
        if output.suffix not in FORMATS:
            raise ValueError(f"--output {output} must end in {' or '.join(FORMATS)}")
        check_parent("--output", output)
        save_figure(curves_figure([finished_run(run) for run in runs]), output)
    click.echo(f"wrote {output}")
