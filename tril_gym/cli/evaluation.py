"""`tril-gym evaluate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tril_gym.cli.completion import folders
from tril_gym.cli.failures import debug_option, reported_failures
from tril_gym.cli.options import (
    GroupedCommand,
    GroupedOption,
    check_parent,
    column_option,
    env_arg_options,
    parse_names,
    parse_pairs,
    parse_rewards,
    parse_settings,
    reward_arg_option,
    take_env_args,
    usage_errors,
)
from tril_gym.utils.suggestions import with_suggestion

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

option = partial(click.option, cls=GroupedOption)
AT_LEAST_ONE = click.IntRange(min=1)
FILE = click.Path(dir_okay=False, path_type=Path)


def parse_checkpoint(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return the name of a checkpoint."""
    from tril_gym.experiment.checkpoints import is_checkpoint_name

    if value is None or is_checkpoint_name(value):
        return value
    named = with_suggestion(value, ("last", "best"))
    raise click.BadParameter(f"use last, best, or the number of an iteration, got {named}", context, parameter)


@click.command("evaluate", cls=GroupedCommand)
@click.argument("source", metavar="RUN|MODEL", shell_complete=folders)
@option("--env", group="data", help="Environment id  [default: that of the run; a model needs one]")
@option(
    "--dataset",
    group="data",
    metavar="DATA",
    help="Data set: embedded, hub, a folder, or a file  [default: that of the run]",
)
@option(
    "--split",
    group="data",
    type=click.Choice(["train", "validation", "test"]),
    help="Split of the data set; a file has none  [default: test]",
)
@option(
    "--env-arg",
    "env_args",
    group="data",
    multiple=True,
    metavar="K=V",
    callback=parse_pairs,
    help="Keyword argument of the environment; may be repeated",
)
@option(
    "--reward",
    group="reward",
    multiple=True,
    metavar="NAME[:WEIGHT]",
    callback=parse_rewards,
    help="Reward term by name, or FILE.py:function of your own; may be repeated  [default: those of the run, or of the"
    " environment]",
)
@option(
    "--metrics",
    group="metric",
    multiple=True,
    metavar="NAME,…",
    callback=parse_names,
    help="Further rewards or scores of a corpus to measure, by name (see tril-gym list rewards) or as FILE.py:function",
)
@option(
    "--metric-arg",
    "metric_args",
    group="metric",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    callback=parse_settings,
    help="Setting of a metric; may be repeated",
)
@option(
    "--checkpoint",
    group="run",
    metavar="last|best|N",
    callback=parse_checkpoint,
    help="Policy of a run: the newest, the best of --eval-every, or that of iteration N  [default: last]",
)
@option(
    "--beams",
    group="run",
    type=click.IntRange(min=2),
    metavar="N",
    help="Also write each example by beam search with N beams; papers report CommonGen with 5",
)
@option("--examples", group="data", type=AT_LEAST_ONE, help="Number of examples, a random sample  [default: all]")
@option(
    "--num-envs",
    group="run",
    type=AT_LEAST_ONE,
    default=64,
    show_default=True,
    help="Texts that are written in parallel",
)
@option(
    "--seed",
    group="run",
    type=click.IntRange(min=0, max=2**32 - 1),
    default=0,
    show_default=True,
    help="Random seed for sampling",
)
@option(
    "--device", group="run", default="cpu", show_default=True, help="Torch device of the model, such as cpu or cuda"
)
@option(
    "--dtype",
    group="model",
    type=click.Choice(["float32", "bfloat16", "float16", "float64"]),
    help="Precision of a model's weights  [default: as they were saved]",
)
@option("--revision", group="model", help="Branch, tag or commit of a model's repository  [default: the newest]")
@option("--attn-implementation", group="model", help="Attention of a model, such as sdpa, eager or flash_attention_2")
@option("--device-map", group="model", help="Placement of a model's layers, such as auto  [default: all on --device]")
@option("--trust-remote-code", group="model", is_flag=True, help="Run code from a model's repository")
@option(
    "--check-model/--no-check-model",
    default=True,
    group="model",
    help="Check that generation and scoring agree  [default: check]",
)
@option("--output", group="output", type=FILE, metavar="FILE.json", help="File to write the metrics to")
@option(
    "--per-example", group="output", type=FILE, metavar="FILE.jsonl", help="File to write each text and its scores to"
)
@option("--trust-code", group="run", is_flag=True, help="Also run code that only the settings of the run folder name")
def evaluate_command(source: str, debug: bool, **options: Any) -> None:
    """Write each example of a split once greedily and once by sampling, and print all reward terms and metrics.

    The source is a run folder, or the name or folder of a language model. Intervals are bootstrapped over the examples.
    """
    with reported_failures(debug=debug):
        evaluate_source(source, **options)


evaluate_command.params += [column_option(), *env_arg_options(), reward_arg_option(), debug_option()]


def evaluate_source(source: str, output: Path | None, per_example: Path | None, **options: Any) -> None:
    """Evaluate a run or a model with the settings of the command line."""
    from tril_gym.experiment.build import build_evaluation
    from tril_gym.experiment.config import LOADING_OPTIONS
    from tril_gym.experiment.evaluation import evaluate
    from tril_gym.experiment.metrics import check_metrics, metrics_by_name
    from tril_gym.utils.atomic_files import write_json, write_json_lines
    from tril_gym.utils.console import RunConsole
    from tril_gym.utils.quiet import silence_libraries
    from tril_gym.utils.tables import evaluation_table
    from tril_gym.utils.threads import cpu_threads

    silence_libraries()
    console = RunConsole()
    with usage_errors([name for name, value in options.items() if value not in (None, (), {})]):
        for flag, file in (("--output", output), ("--per-example", per_example)):
            check_parent(flag, file)
        if output is not None and per_example is not None and output.resolve() == per_example.resolve():
            raise ValueError(f"--output and --per-example both name {output}; name two files")
        examples, seed, beams = (options.pop(name) for name in ("examples", "seed", "beams"))
        names, settings = options.pop("metrics"), options.pop("metric_args")
        options["env_args"] = take_env_args(options)
        loading = {name: options.pop(name) for name in LOADING_OPTIONS}
        parts = build_evaluation(source, loading=loading, **options)
        with cpu_threads(parts.threads):
            metrics = metrics_by_name(names, settings, parts.envs, fitted=parts.fitted)
            check_metrics(metrics, parts.envs)
            with console.waiting(f"evaluating on {parts.description}"):
                found = evaluate(
                    parts.policy,
                    parts.envs,
                    seed=seed,
                    ref_policy=parts.ref_policy,
                    count=_sample_size(examples, parts.envs),
                    metrics=metrics,
                    known_words=parts.known_words,
                    beams=beams,
                    check_model=parts.check_model,
                )
    checkpoint = options["checkpoint"]
    policy = source if checkpoint is None else f"{source}, checkpoint {checkpoint},"
    console.show(evaluation_table(f"{policy} on {parts.description}", found.metrics, found.intervals))
    if output is not None:
        about = {"source": source, "checkpoint": checkpoint, "on": parts.description, "seed": seed, "beams": beams}
        about |= {"reward": parts.reward, "reward_settings": parts.reward_settings}
        write_json(output, about | found.as_json())
    if per_example is not None:
        write_json_lines(per_example, found.texts)


def _sample_size(examples: int | None, envs: VectorEnv) -> int | None:
    """Return the size of a sample; None where it has all examples, which are then in order, as without a sample.

    So all evaluations of a split can be compared text by text.
    """
    total = envs.metadata["text"].get("num_examples")
    return None if examples is None or (total is not None and examples >= total) else examples
