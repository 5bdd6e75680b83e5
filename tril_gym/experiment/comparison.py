"""Compare finished runs, or evaluations, by the same held-out examples, and draw the curves of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.resuming import saved_config
from tril_gym.experiment.run_folder import EVALUATION, RunFolder, to_resume
from tril_gym.experiment.verdict import floats_of, paired_change
from tril_gym.utils.config_fields import flag_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("greedy", "sampled")
# Settings that decide which texts are scored, and by what: compared runs have them in common.
SAME = ("env", "env_args", "dataset", "eval_dataset", "eval_examples", "reward")
FLAGS = {"env_args": "--env-arg"}  # given once for each
# What compared evaluations have in common, and how a message calls it.
ABOUT_EVALUATIONS = {"on": "examples", "reward": "rewards", "reward_settings": "settings of a reward", "seed": "seeds"}
# Settings in which the runs of one curve may differ.
OF_ONE_RUN = ("seed", "device", "threads", "save_every", "eval_every")
SHOWN_SETTINGS = 3  # in the name of a curve
NORMAL = 1.96  # standard errors of a 95 % interval


class Point(NamedTuple):
    """A mean reward with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder says about its held-out texts."""

    path: Path
    config: RunConfig
    after: dict[str, Any]  # the evaluation after training
    curve: list[tuple[int, dict[str, Point]]]  # reward of each way of decoding after so many iterations


def finished_run(path: str | Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        ValueError: there is no run of an agent in it, or it has not reached its end.
    """
    folder = RunFolder(path)
    config = saved_config(folder)
    found = folder.read_json(EVALUATION)
    if not found.get("after"):
        raise ValueError(
            f"{path} has no evaluation after training yet; let the run reach its end: tril-gym train"
            f" {config.algorithm} {to_resume(path)}"
        )
    last = config.iterations
    parts = [(0, found["before"]), *((row["iteration"], row) for row in folder.rows("evaluations.jsonl"))]
    curve = {
        iteration: {way: _point(part, way) for way in WAYS} for iteration, part in [*parts, (last, found["after"])]
    }
    return FinishedRun(Path(path), config, found["after"], sorted(curve.items()))


def _point(part: Mapping[str, Any], way: str) -> Point:
    """Return the reward of an evaluation; a reward that is not finite has no interval."""
    mean, bounds = part["metrics"][way]["reward/mean"], part["intervals"][way].get("reward/mean")
    low, high = (mean, mean) if bounds is None or None in bounds else bounds
    return Point(*floats_of((mean, low, high)))


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Check that the runs were evaluated on the same examples, by the same reward.

    Raises:
        ValueError: they were not; it names the setting.
    """
    first, *others = runs
    for run in others:
        for name in SAME:
            one, other = getattr(first.config, name), getattr(run.config, name)
            if one != other:
                flag = FLAGS.get(name, flag_of(name))
                raise ValueError(
                    f"{first.path} and {run.path} differ in {flag}: {one} and {other}, so their rewards cannot be"
                    " compared; evaluate each by the same reward on the same examples, with tril-gym evaluate RUN"
                    " --reward NAME --output RUN.json, and give compare the files that it writes"
                )
        _check_examples((first.path, first.after), (run.path, run.after))


def _check_examples(first: tuple[Path, Mapping[str, Any]], other: tuple[Path, Mapping[str, Any]]) -> None:
    """Check that two evaluations are of the same examples; older ones do not say which."""
    (path, one), (other_path, two) = first, other
    if "examples" in one and "examples" in two and one["examples"] != two["examples"]:
        raise ValueError(
            f"{path} and {other_path} were evaluated on different examples, so their texts cannot be compared in pairs;"
            " evaluate both on the same data"
        )


def comparison(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """Compare runs with the first one, example by example.

    Returns:
        one row for each run, with "run" (its folder), "name" (the part that distinguishes it), "algorithm", "seed",
        "iterations", "kl", and for each way of decoding "mean", "difference" to the first run, its 95 % "interval",
        and the difference in "standard_errors".

    Raises:
        ValueError: the runs were not evaluated on the same examples.
    """
    check_comparable(runs)
    configs = [run.config for run in runs]
    about = [{"algorithm": it.algorithm, "seed": it.seed, "iterations": it.iterations} for it in configs]
    return _paired([run.path for run in runs], [run.after for run in runs], about)


def comparison_of_files(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Compare evaluations that `tril-gym evaluate --output FILE` wrote; rows as of `comparison`, with its "source".

    So runs that learned from different rewards are compared by one reward.

    Raises:
        ValueError: a file is no evaluation, or they are not of the same examples by the same reward.
    """
    found = [_evaluation(Path(path)) for path in paths]
    for path, other in zip(paths[1:], found[1:], strict=True):
        for name, words in ABOUT_EVALUATIONS.items():
            if found[0][name] != other[name]:
                raise ValueError(
                    f"{paths[0]} and {path} have different {words}: {found[0][name]} and {other[name]}; repeat one"
                    " evaluation with the settings of the other"
                )
        counts = [len(it["rewards"]["greedy"]) for it in (found[0], other)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"{paths[0]} has {counts[0]} texts and {path} has {counts[1]}; give both evaluations the same"
                " --examples"
            )
        _check_examples((Path(paths[0]), found[0]), (Path(path), other))
    return _paired([Path(path) for path in paths], found, [{"source": it["source"]} for it in found])


def _evaluation(path: Path) -> dict[str, Any]:
    """Read a file of `tril-gym evaluate --output`."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error
    if not (isinstance(found, dict) and {*ABOUT_EVALUATIONS, "source", "metrics", "rewards"} <= found.keys()):
        raise ValueError(f"{path} is no evaluation; tril-gym evaluate RUN --output {path} writes one")
    return found


def _paired(
    paths: Sequence[Path], evaluations: Sequence[dict[str, Any]], about: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compare evaluations with the first one, example by example."""
    rows = []
    names = [path.name for path in paths]
    for path, evaluation, own, name in zip(paths, evaluations, about, names, strict=True):
        name = name if names.count(name) == 1 else str(path)
        row: dict[str, Any] = {"run": str(path), "name": name, **own}
        row |= {"kl": evaluation["metrics"]["sampled"].get("kl")}
        for way in WAYS:
            change = paired_change(*(floats_of(it["rewards"][way]) for it in (evaluations[0], evaluation)))
            difference = change.after - change.before
            row[way] = {
                "mean": change.after,
                "difference": difference,
                "interval": [difference - NORMAL * change.stderr, difference + NORMAL * change.stderr],
                "standard_errors": change.standard_errors,
            }
        rows.append(row)
    return rows


def named_groups(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Return the runs that differ in their seed only, by a name of what distinguishes them from the others."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_settings(run.config), sort_keys=True, default=str), []).append(run)
    names = _names([_settings(members[0].config) for members in groups.values()])
    return dict(zip(names, groups.values(), strict=True))


def _settings(config: RunConfig) -> dict[str, Any]:
    plain = asdict(config)
    return {name: value for name, value in (plain | plain.pop("hyperparameters")).items() if name not in OF_ONE_RUN}


def _names(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the algorithm of each run, with the settings in which runs of the same algorithm differ."""
    names = []
    for number, own in enumerate(settings):
        rivals = [other for other in settings if other["algorithm"] == own["algorithm"]]
        differing = [name for name in own if any(other.get(name) != own[name] for other in rivals)]
        shown = [f"{flag_of(name)} {own[name]}" for name in differing if name != "preset"][:SHOWN_SETTINGS]
        name = ", ".join([own["algorithm"], *shown])
        names.append(name if name not in names else f"{name} ({number + 1})")
    return names


def curves_figure(runs: Sequence[FinishedRun]) -> Figure:
    """Draw the held-out reward of runs by iteration: the median of the seeds, and their range as a band.

    The band of a single seed is the 95 % interval of its mean.

    Raises:
        ValueError: the runs were not evaluated on the same examples.
    """
    from matplotlib.figure import Figure

    check_comparable(runs)
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, len(WAYS), sharey=True)
    for color, (name, members) in enumerate(named_groups(runs).items()):
        is_single = len(members) == 1
        band = f"seed {members[0].config.seed}, 95 % interval" if is_single else f"{len(members)} seeds, range"
        for panel, way in zip(panels, WAYS, strict=True):
            curves = [dict(member.curve) for member in members]
            common = sorted(set.intersection(*(set(curve) for curve in curves)))
            points = [[curve[iteration][way] for curve in curves] for iteration in common]
            label = f"{name} ({band})" if way == WAYS[0] else None
            middle = [median(point.mean for point in of_seeds) for of_seeds in points]
            panel.plot(common, middle, color=f"C{color}", marker="o", markersize=4, label=label)
            low = [min(point.low if is_single else point.mean for point in of_seeds) for of_seeds in points]
            high = [max(point.high if is_single else point.mean for point in of_seeds) for of_seeds in points]
            panel.fill_between(common, low, high, color=f"C{color}", alpha=0.15)
    for panel, way in zip(panels, WAYS, strict=True):
        panel.set(title=way, xlabel="iteration")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("held-out reward of a text")
    figure.suptitle(runs[0].config.env)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
