"""`tril-gym export`: the policy of a run as a folder that plain `transformers` loads."""

from __future__ import annotations

from pathlib import Path

import click

from tril_gym.cli.completion import folders
from tril_gym.cli.evaluation import parse_checkpoint
from tril_gym.cli.failures import debug_flag, reported_failures
from tril_gym.cli.options import usage_errors


@click.command("export")
@click.argument("run", metavar="RUN", shell_complete=folders)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    metavar="last|best|N",
    default="last",
    show_default=True,
    callback=parse_checkpoint,
    help="Policy: the newest, the best of --eval-every, or that of iteration N",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code from the model's repository")
@debug_flag
def export_command(run: str, folder: Path, checkpoint: str, trust_remote_code: bool, debug: bool) -> None:
    """Write the policy of a run into a new folder DIR that plain transformers loads.

    LoRA adapters are merged. The generation config samples as in training, and README.md, a model card, has the run's
    settings and held-out metrics.
    """
    from tril_gym.experiment.exports import export_policy
    from tril_gym.utils.quiet import silence_libraries

    silence_libraries()
    with reported_failures(debug=debug), usage_errors():
        export_policy(run, folder, checkpoint=checkpoint, trust_remote_code=trust_remote_code)
    click.echo(f"wrote {folder}: model, tokenizer, generation config, and README.md with settings and metrics")
