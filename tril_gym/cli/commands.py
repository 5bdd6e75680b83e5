"""`tril-gym`: train an agent, evaluate a policy, list what there is.

Each algorithm is a sub-command of `train`. Its options are the fields of its config dataclass, so that `--help` shows
exactly what it reads; the options of the run are the same for all.
"""

from __future__ import annotations

import json
import logging
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from tril_gym import __version__
from tril_gym.experiment import presets
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.utils.config_fields import describe_bounds
from tril_gym.utils.user_code import is_function_name

AT_LEAST_ONE = click.IntRange(min=1)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what is wrong with the user's settings into a message and exit code 2."""
    from gymnasium.error import Error

    try:
        yield
    except (ValueError, OSError, ImportError, Error) as error:
        raise click.UsageError(str(error)) from error


def parse_value(text: str) -> Any:
    """A value of `--env-arg`: JSON where it is JSON (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_pairs(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """`k=v` options as a dictionary."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{pair!r} is not of the form name=value, such as max_new_tokens=30")
        found[name.replace("-", "_")] = parse_value(value)
    return found


def parse_rewards(context: click.Context, option: click.Parameter, terms: tuple[str, ...]) -> dict[str, float] | None:
    """`NAME[:WEIGHT]` options as weights by name; None where there are none."""
    from tril_gym import rewards

    found = {}
    for term in terms:
        if is_function_name(term):  # module:function without a weight
            module = term.partition(":")[0]
            if module in rewards.names():
                raise click.BadParameter(
                    f"{term!r} has no weight after the colon; write {module}:0.5, or {module} for 1"
                )
            found[term] = 1.0
            continue
        name, colon, weight = term.rpartition(":")
        try:
            found[name or term] = float(weight) if colon else 1.0
        except ValueError as error:
            raise click.BadParameter(
                f"{weight!r} in {term!r} is no weight; write NAME:WEIGHT, such as rouge_l:0.5"
            ) from error
    return found or None


def parse_settings(context: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """`NAME.KEY=VALUE` options as settings by name."""
    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        name, _, key = path.rpartition(".")
        if not (name and key and equals):
            raise click.BadParameter(f"{pair!r} is not of the form NAME.KEY=VALUE, such as rouge_l.over=mean")
        found.setdefault(name, {})[key.replace("-", "_")] = parse_value(value)
    return found


def parse_names(context: click.Context, option: click.Parameter, lists: tuple[str, ...]) -> tuple[str, ...]:
    """Names with commas between them, of an option that may be repeated."""
    return tuple(name.strip() for names in lists for name in names.split(",") if name.strip())


ENV_ARG = click.option(
    "--env-arg",
    "env_args",
    multiple=True,
    metavar="K=V",
    callback=parse_pairs,
    help="Keyword of the environment; may be repeated.",
)
REWARD = click.option(
    "--reward",
    multiple=True,
    metavar="NAME[:WEIGHT]",
    callback=parse_rewards,
    help="Reward term, by name or as your own module:function, instead of the task's or the run's; may be repeated.",
)
REWARD_ARG = click.option(
    "--reward-arg",
    "reward_args",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    callback=parse_settings,
    help="Setting of a reward term, such as preference.model=FOLDER; may be repeated.",
)
DATA_HELP = "embedded, hub, a folder, or a file."


def run_option(flag: str, help: str, *, default: str, **settings: Any) -> Callable[[Any], Any]:
    """An option that presets may fill, so it is None until then; what it defaults to is said in words."""
    return click.option(flag, help=f"{help}  [default: {default}]", default=None, **settings)


RUN_OPTIONS = (
    run_option("--env", "Environment id.", default="tril/CommonGen-v0"),
    run_option("--dataset", DATA_HELP, default="embedded", metavar="DATA"),
    run_option("--eval-dataset", "Held-out examples.", default="the validation part of --dataset", metavar="DATA"),
    ENV_ARG,
    REWARD,
    REWARD_ARG,
    run_option("--policy", "tiny, tiny-seq2seq, or a model's name or folder.", default="tiny"),
    run_option("--tokenizer", "The policy's, where it comes without one.", default="its own"),
    run_option(
        "--lora-rank",
        "Train LoRA adapters of this rank; 0: the whole model.",
        default="the preset's, else 0",
        type=click.IntRange(min=0),
    ),
    run_option("--lora-alpha", "Adapters are scaled by alpha / rank.", default="twice the rank", type=float),
    run_option(
        "--lora-targets", "Layers: all-linear, or such as q_proj,v_proj.", default="the usual ones of the model"
    ),
    run_option("--load-in-4bit/--no-load-in-4bit", "Quantise the policy's model; with LoRA.", default="no"),
    run_option("--load-in-8bit/--no-load-in-8bit", "The same in 8 bits.", default="no"),
    run_option(
        "--guide",
        "tiny, references, a model's name or folder, or your own module:function.",
        default="the tiny policy, trained longer",
    ),
    run_option(
        "--guide-top-p", "Nucleus of a model as guide.", default="0.92", type=click.FloatRange(0, 1, min_open=True)
    ),
    run_option("--guide-top-k", "Best tokens of a model as guide.", default="all", type=AT_LEAST_ONE),
    run_option("--preset", "Settings to start from.", default="embedded for tiny policies, else pretrained"),
    run_option("--iterations", "Rounds of collecting and learning, in all.", default="the preset's", type=AT_LEAST_ONE),
    run_option("--num-envs", "Texts written side by side.", default="the preset's", type=AT_LEAST_ONE),
    run_option("--eval-examples", "At most so many held-out examples.", default="the preset's", type=AT_LEAST_ONE),
    run_option("--save-every", "Iterations between checkpoints.", default="10", type=AT_LEAST_ONE),
    run_option("--seed", "All randomness comes from it.", default="0", type=click.IntRange(min=0)),
    run_option(
        "--tiny-samples",
        "References that tiny models warm up on.",
        default="the preset's",
        type=click.IntRange(min=0),
    ),
    run_option("--device", "Where the models are: cpu, cuda, …", default="cpu"),
    run_option("--threads", "CPU threads.", default="1 for tiny models, else torch's choice", type=AT_LEAST_ONE),
)
FOLDER_OPTIONS = (
    click.option("--output-dir", type=click.Path(path_type=Path), help="Run folder. [default: runs/ALGO-TASK-seed]"),
    click.option("--resume", is_flag=True, help="Go on with the run in --output-dir; only --iterations may change."),
    click.option("--profile", is_flag=True, help="Say at the end where the time and memory of an iteration went."),
    click.option("--track", metavar="TRACKER", help="Also send figures to wandb or another tracker of accelerate."),
)

REWARD_MODEL = "reward-model"  # trained, too, but no agent
REWARD_MODEL_HELP = "A reward model: learn from pairs of completions which one people prefer."
REWARD_MODEL_OPTIONS = (
    click.option(
        "--output-dir", type=click.Path(path_type=Path), help="Folder of the model. [default: runs/reward-model-seed]"
    ),
    click.option("--resume", is_flag=True, help="Resume the run in --output-dir."),
)


class Algorithms(click.Group):
    """The sub-commands of `train`, made when they are asked for: importing an algorithm takes seconds."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All algorithms, and the reward model."""
        return [*ALGORITHMS, REWARD_MODEL]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of one algorithm."""
        if name == REWARD_MODEL:
            return reward_model_command()
        return train_command(name) if name in ALGORITHMS else None

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """The command that the first argument names."""
        if args and not args[0].startswith("-") and args[0] not in (*ALGORITHMS, REWARD_MODEL):
            known = f"the algorithms are {', '.join(ALGORITHMS)}; {REWARD_MODEL} is trained, too"
            context.fail(f"unknown algorithm {args[0]!r}; {known}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing them."""
        with formatter.section("Algorithms"):
            formatter.write_dl([(name, row.help) for name, row in ALGORITHMS.items()])
        with formatter.section("Rewards"):
            formatter.write_dl([(REWARD_MODEL, REWARD_MODEL_HELP)])


def train_command(algorithm: str) -> click.Command:
    """`tril-gym train ALGO`."""
    config_type = agent_type(algorithm).config_type

    def run(output_dir: Path | None, resume: bool, profile: bool, track: str | None, **options: Any) -> None:
        options["env_args"] = with_reward_settings(options["env_args"], options.pop("reward_args"))
        given = {name: value for name, value in options.items() if value is not None and value != {}}
        hyperparameters = {
            name: given.pop(name) for name in [field.name for field in fields(config_type)] if name in given
        }
        train(algorithm, given, hyperparameters, output_dir, resume=resume, profile=profile, track=track)

    options = (*RUN_OPTIONS, *FOLDER_OPTIONS, *config_options(config_type))
    for decorate in reversed(options):
        run = decorate(run)
    return click.command(algorithm, help=ALGORITHMS[algorithm].help)(run)


def reward_model_command() -> click.Command:
    """`tril-gym train reward-model`."""
    from tril_gym.reward_model.config import RewardModelConfig

    def run(output_dir: Path | None, resume: bool, **options: Any) -> None:
        train_reward_model({name: value for name, value in options.items() if value is not None}, output_dir, resume)

    for decorate in reversed((*REWARD_MODEL_OPTIONS, *config_options(RewardModelConfig))):
        run = decorate(run)
    return click.command(REWARD_MODEL, help=REWARD_MODEL_HELP)(run)


def train_reward_model(given: dict[str, Any], output_dir: Path | None, resume: bool) -> None:
    """Start or resume the training of a reward model."""
    quiet_libraries()
    from tril_gym.experiment.report import RunConsole
    from tril_gym.reward_model.config import RewardModelConfig
    from tril_gym.reward_model.training import prepare_reward_model, resume_reward_model
    from tril_gym.utils.interrupt import Interrupted

    console = RunConsole()
    with usage_errors():
        if resume:
            if output_dir is None:
                raise ValueError("--resume needs --output-dir, the folder of the run to resume")
            run = resume_reward_model(output_dir, given, console=console)
        else:
            if "dataset" not in given:
                raise ValueError("--dataset is missing: a file or folder of pairs with prompt, chosen and rejected")
            config = RewardModelConfig(**given)
            folder = output_dir or free_folder(Path("runs") / f"{REWARD_MODEL}-seed{config.seed}")
            run = prepare_reward_model(config, folder, console=console)
    try:
        run.run()
    except FloatingPointError as error:
        raise click.UsageError(str(error)) from error
    except Interrupted as stop:
        console.say(str(stop))
        raise SystemExit(130) from None


def config_options(config_type: type) -> list[Callable[[Any], Any]]:
    """One option per field of a config dataclass. Unset options are None, so that presets can fill them."""
    hints = typing.get_type_hints(config_type)
    return [
        config_option(field.name, hints[field.name], field.default, field.metadata) for field in fields(config_type)
    ]


def config_option(name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return the option of one field, with its bounds in the help; the config refuses what is outside them."""
    flag = "--" + name.replace("_", "-")
    optional = types.NoneType in typing.get_args(hint)
    kind = next(part for part in typing.get_args(hint) if part is not types.NoneType) if optional else hint
    notes = [describe_bounds(metadata), "" if default in (None, MISSING) else f"default: {_as_typed(default)}"]
    text = metadata["help"] + (f"  [{'; '.join(filter(None, notes))}]" if any(notes) else "")
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if typing.get_origin(kind) is typing.Literal:
        return click.option(flag, name, type=click.Choice(typing.get_args(kind)), help=text)
    if typing.get_origin(kind) is tuple:  # several values after one flag: --adam-betas 0.9 0.999
        return click.option(flag, name, type=typing.get_args(kind), default=None, help=text)
    return click.option(flag, name, type=kind, help=text)


def _as_typed(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def main() -> None:
    """Train language models with reinforcement and imitation learning in Gymnasium text environments."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("tril_gym").setLevel(logging.INFO)  # what is fitted, and how well


@main.group("train", cls=Algorithms)
def train_group() -> None:
    """Train an agent.

    Without options it runs on embedded data with a tiny model, offline, in minutes. An option wins over the preset,
    the preset over the default.
    """


def train(
    algorithm: str,
    given: dict[str, Any],
    hyperparameters: dict[str, Any],
    output_dir: Path | None,
    *,
    resume: bool,
    profile: bool,
    track: str | None,
) -> None:
    """Start or resume a run."""
    quiet_libraries()
    from tril_gym.experiment import training as runs
    from tril_gym.experiment.config import configure, refuse_changes
    from tril_gym.experiment.report import RunConsole
    from tril_gym.experiment.run_folder import RunFolder

    screen = RunConsole()
    with usage_errors():
        if resume:
            if output_dir is None:
                raise ValueError("--resume needs --output-dir, the folder of the run to go on with")
            refuse_changes(RunFolder(output_dir), algorithm, given | hyperparameters)
            run = runs.prepare_resumed(output_dir, iterations=given.get("iterations"), track=track, screen=screen)
        else:
            preset = given.pop("preset", None)
            config = configure(algorithm, preset=preset, given=given, hyperparameters=hyperparameters)
            run = runs.prepare(config, output_dir or default_folder(config), track=track, screen=screen)
    try:
        run.go(profile=profile)
    except runs.Interrupted as stop:
        screen.say(str(stop))
        raise SystemExit(130) from None


def default_folder(config: Any) -> Path:
    """`runs/ppo-pp-CommonGen-0`, and the next free number where that is taken."""
    task = re.sub(r"-v\d+$", "", config.env.split("/")[-1])
    return free_folder(Path("runs") / f"{config.algorithm}-{task}-seed{config.seed}")


def free_folder(base: Path) -> Path:
    """This folder, and the next free number where it is taken."""
    candidates = [base, *(base.with_name(f"{base.name}-{number}") for number in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def quiet_libraries() -> None:
    """No word from libraries that is not about the user's run."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


@main.command("evaluate")
@click.argument("source", metavar="RUN|MODEL")
@click.option("--env", help="Environment id. [default: the run's; a model needs one]")
@click.option("--dataset", metavar="DATA", help=f"{DATA_HELP} [default: the run's]")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), help="[default: test; a file has none]")
@ENV_ARG
@REWARD
@REWARD_ARG
@click.option(
    "--metrics",
    multiple=True,
    metavar="NAME,…",
    callback=parse_names,
    help="Also measure by these rewards, figures of a corpus, or your own module:function; see list rewards.",
)
@click.option(
    "--metric-arg",
    "metric_args",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    callback=parse_settings,
    help="Setting of a metric; may be repeated.",
)
@click.option("--examples", type=AT_LEAST_ONE, help="At most so many. [default: all]")
@click.option("--num-envs", type=AT_LEAST_ONE, default=64, show_default=True, help="Texts written side by side.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sampled texts.")
@click.option("--device", default="cpu", show_default=True, help="Where the model is.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Also write the figures there.",
)
@click.option(
    "--per-example",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="Also write every text there, with all its scores, one a line.",
)
def evaluate_command(source: str, output: Path | None, per_example: Path | None, **options: Any) -> None:
    """Let a policy write every example of a split once, greedily and by sampling, and print all reward terms.

    SOURCE is a run folder, or the name or folder of a language model. Intervals are bootstrapped over the examples.
    """
    quiet_libraries()
    from tril_gym.experiment.build import evaluation_parts
    from tril_gym.experiment.evaluation import evaluate
    from tril_gym.experiment.metrics import metrics_by_name, try_out
    from tril_gym.experiment.report import RunConsole, evaluation_table
    from tril_gym.utils.atomic_files import replace_text, write_json

    screen = RunConsole()
    with usage_errors():
        for flag, file in (("--output", output), ("--per-example", per_example)):
            if file is not None and not file.parent.is_dir():
                raise ValueError(f"{flag} {file}: there is no folder {file.parent}")
        examples, seed = options.pop("examples"), options.pop("seed")
        names, settings = options.pop("metrics"), options.pop("metric_args")
        options["env_args"] = with_reward_settings(options["env_args"], options.pop("reward_args"))
        parts = evaluation_parts(source, **options)
        metrics = metrics_by_name(names, settings, parts.envs, fitted=parts.fitted)
        try_out(metrics, parts.envs)
        with screen.waiting(f"evaluating on {parts.what}"):
            found = evaluate(
                parts.policy, parts.envs, seed=seed, ref_policy=parts.ref_policy, count=examples, metrics=metrics
            )
    screen.console.print(evaluation_table(f"{source} on {parts.what}", found.figures, found.intervals))
    if output is not None:
        write_json(output, {"source": source, "on": parts.what, "seed": seed} | found.as_json())
    if per_example is not None:
        replace_text(per_example, "".join(json.dumps(text) + "\n" for text in found.texts))


def with_reward_settings(env_args: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Keywords of an environment with the settings of rewards among them."""
    return env_args | ({"reward_settings": env_args.get("reward_settings", {}) | settings} if settings else {})


@main.group("list", invoke_without_command=True)
@click.pass_context
def list_group(context: click.Context) -> None:
    """List environments, algorithms, rewards or presets; all of them without a name."""
    if context.invoked_subcommand is None:
        for command in (list_envs, list_algorithms, list_rewards, list_presets):
            click.secho(command.name, bold=True)
            context.invoke(command)


@list_group.command("envs")
def list_envs() -> None:
    """Environment ids and the rewards that they pay."""
    from tril_gym.registration import ENVIRONMENTS

    for name, row in ENVIRONMENTS.items():
        terms = row.default_reward
        _row(name, " + ".join(f"{weight:g} {term}" for term, weight in terms.items()) or "its own reward")


@list_group.command("algorithms")
def list_algorithms() -> None:
    """Algorithms of `train`."""
    for name, row in ALGORITHMS.items():
        _row(name, row.help)


@list_group.command("rewards")
def list_rewards() -> None:
    """Rewards, and what they need."""
    from tril_gym import rewards

    for name in rewards.names():
        _row(name, rewards.describe(name))


@list_group.command("presets")
def list_presets() -> None:
    """Presets of `train`."""
    for name in presets.names():
        _row(name, presets.load(name).help)


def _row(name: str, text: str) -> None:
    click.echo(f"  {name:20s}  {text}")
