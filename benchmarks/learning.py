"""Measure whether algorithms make their policies better on their own defaults, by held-out texts.

    python benchmarks/learning.py FOLDER [--algorithms NAME …] [--envs ID …] [--policies tiny tiny-seq2seq] [--seeds N]
        [--jobs N] [--split test] [--control] [--data ROOT] [--device cpu]

By default the algorithms are the seven that the library began with; `--algorithms all` takes every one. DPO and
IPO learn given pairs, so their environment is tril/HH-v0 alone. `--data` takes published data in place of the embedded
ones, with `--preset small`: ROOT has the folders commongen, imdb and tldr, each with train, validation and test files.

A cell is an algorithm, an environment and a policy; each of its seeds is a run of `tril-gym train` without any further
option. The policies before and after training write the examples of a split that was not used to choose settings.
Results are kept in FOLDER, one small JSON file per run, so an interrupted sweep continues where it stopped; the table
over all results is printed at the end and written to FOLDER/table.md, with a figure for each environment (`--seeds 0`
does only that). The exit code is 1 if a run or a cell fails.

A cell passes if held-out reward rises by two standard errors (of the paired difference) in the median seed, greedy and
sampled, no seed falls by more than one, the KL is at most 8 nats a text (bc: not counted, its first policy is random),
the share of sampled texts with words unknown to the train part is at most 3 % above that of held-out references, and
the share of repeated trigrams rises by at most 0.01 in sampled texts and 0.03 in greedy ones, in the median seed (bc:
in sampled ones above that of references, as random texts repeat nothing, and greedy ones of any model more than
people's).
A change that all texts share has no standard error: the table says that all rise or fall, and it counts as infinitely
many. Numbers that are not finite break the rule.

Two algorithms never see the reward; theirs may not fall by more than two standard errors, of bc in the median seed, of
GAIL in any:

- BC maximises the likelihood of references, and an imitator that is perfect earns what references earn: half of IMDB's
  praise a film, so there its reward ends near 0.5 wherever it began. It passes if the likelihood of held-out references
  rises by two standard errors in the median seed and falls by more than one in no seed.
- GAIL passes if the likelihood of held-out references does not fall, and a fresh discriminator tells the texts from
  references no more often than before (0.5 is chance).

`--control` also continues imitation from the same first policy for the same time, on the references that the guide saw.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from side_by_side import machine

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import LMPolicy, Plan, TextLayout, collect, tiny_policy
from tril_gym.agents.actors.references import References, ReferenceTokens, reference_texts
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.trajectories import Trajectories, minibatches
from tril_gym.agents.learners.behaviour_cloning import BehaviourCloning
from tril_gym.agents.learners.discriminator import ClassifierDiscriminator
from tril_gym.agents.learners.optimizer import OptimizerConfig
from tril_gym.agents.tiny import TinySettings, gather_references
from tril_gym.experiment import evaluate, training_words
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.environments import make_envs, pretraining_envs
from tril_gym.experiment.evaluation import chosen_examples
from tril_gym.experiment.resolution import tiny_settings
from tril_gym.experiment.resuming import saved_config
from tril_gym.experiment.run_data import evaluation_data
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.text_quality import has_unknown_word, repetition
from tril_gym.experiment.verdict import THRESHOLD, paired_change, standard_errors_of, verdict_of
from tril_gym.functional.losses import discriminator_loss
from tril_gym.models.noise import dropout_of
from tril_gym.models.texts import Texts
from tril_gym.utils.atomic_files import replace_text
from tril_gym.utils.seeding import seeded
from tril_gym.utils.threads import cpu_threads
from tril_gym.wrappers.vector import base_attribute

SEVEN = ("bc", "ppo", "ppo-pp", "aggrevated", "lols", "d2lols", "gail")
ENVS = ("tril/CommonGen-v0", "tril/IMDB-v0", "tril/TLDR-v0", "tril/HH-v0")
PUBLISHED = {"tril/CommonGen-v0": "commongen", "tril/IMDB-v0": "imdb", "tril/TLDR-v0": "tldr"}  # folders of --data
POLICIES = {"tiny": "causal", "tiny-seq2seq": "seq2seq"}
EXAMPLES = 200  # held-out examples
PUBLISHED_EXAMPLES = 1000  # at most; texts of people differ more, and changes are small
MOST_KL, MOST_UNKNOWN = 8.0, 0.03
# Greedy texts of 200 examples have a standard error of 0.01 to 0.02, sampled ones of less than half of that.
MOST_REPETITION = {"greedy": 0.03, "sampled": 0.01}
# What counts as unchanged: nats per token, and two standard errors of an accuracy of 0.6 on 400 texts.
GAIL_NOISE = {"nll": 0.02, "discriminator": 0.05}


@dataclass(frozen=True)
class Cell:
    """An algorithm on an environment, with a policy."""

    algorithm: str
    env: str
    policy: str

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.algorithm}_{self.env.split('/')[1]}_{self.policy}"


@dataclass(frozen=True)
class Conditions:
    """What all runs of a sweep have in common."""

    folder: Path
    split: str = "test"
    control: bool = False
    data: Path | None = None
    device: str = "cpu"

    @property
    def examples(self) -> int:
        """Return the number of held-out examples."""
        return EXAMPLES if self.data is None else PUBLISHED_EXAMPLES

    @property
    def kind_of_data(self) -> str:
        """Return what results say of the data."""
        return "embedded" if self.data is None else "published"

    def options(self) -> list[str]:
        """Return them as options of this script."""
        data = [] if self.data is None else ["--data", str(self.data)]
        return ["--split", self.split, "--device", self.device, *data, *(["--control"] if self.control else [])]

    def of_training(self, cell: Cell) -> list[str]:
        """Return the options of `tril-gym train`."""
        data = [] if self.data is None else ["--preset", "small", "--dataset", str(self.data / PUBLISHED[cell.env])]
        return ["--env", cell.env, "--policy", cell.policy, "--device", self.device, *data]


def run(cell: Cell, seed: int, conditions: Conditions) -> bool:
    """Train and measure one seed of a cell, unless its result exists, and return whether there is one."""
    folder = conditions.folder
    result = folder / f"{cell.name}_{seed}.json"
    if result.is_file():
        if conditions.control and cell.algorithm != "bc" and "control" not in json.loads(result.read_text()):
            raise SystemExit(f"{result} was measured without --control; remove it to repeat it, or use another folder")
    else:
        measure = [sys.executable, __file__, str(folder), "--run", cell.algorithm, cell.env, cell.policy, str(seed)]
        log = folder / f"{cell.name}_{seed}.log"
        with log.open("w") as file:
            failed = subprocess.run([*measure, *conditions.options()], stdout=file, stderr=subprocess.STDOUT).returncode
        found = "failed, see " + str(log) if failed else json.loads(result.read_text())["verdict"]["sentence"]
        print(f"{cell.name}, seed {seed}: {found}", flush=True)
    return result.is_file()


def results_of(folder: Path, *, asked: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    """Return all results of a folder; exit where they are not all of one split and kind of data, and of the asked ones.

    The medians of a row would mix them.
    """
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    kinds = {(result.get("split", "test"), result.get("data", "embedded")) for result in results}
    if len(kinds | {asked} - {None}) > 1:
        found = "; ".join(f"the split {split} of {data} data" for split, data in sorted(kinds))
        raise SystemExit(f"{folder} has results of {found}; use another folder for each split and kind of data")
    return results


def measure_run(cell: Cell, seed: int, conditions: Conditions) -> dict[str, Any]:
    """Train one seed of a cell and return what its held-out texts say."""
    run_folder, split = conditions.folder / f"{cell.name}_{seed}", conditions.split
    command = [sys.executable, "-m", "tril_gym", "train", cell.algorithm, *conditions.of_training(cell)]
    options = ["--seed", str(seed), "--output-dir", str(run_folder)]
    begin, is_new = time.perf_counter(), not run_folder.is_dir()
    subprocess.run([*command, *options, *([] if is_new else ["--resume"])], check=True)
    # Of a resumed run the beginning is unknown.
    wall = {"with pretraining and evaluation": time.perf_counter() - begin} if is_new else {}
    seconds = RunFolder(run_folder).read_json("evaluation.json")["verdict"]["seconds"]
    config = saved_config(RunFolder(run_folder))
    kind = agent_type(cell.algorithm)
    envs, train = (
        envs_of_split(config, name, count, fitted=run_folder / "reward")
        for count, name in ((conditions.examples, split), (64, "train"))
    )
    words = training_words(train)
    agent = kind.load(RunFolder(run_folder).last_checkpoint(), envs=envs, device=config.device)
    first = first_policy(config, train, agent.policy)
    before, after = (
        evaluate(policy, envs, seed=seed, ref_policy=first, count=envs.num_envs, known_words=words)
        for policy in (first, agent.policy)
    )
    found = {
        "algorithm": cell.algorithm,
        "env": cell.env,
        "policy": cell.policy,
        "seed": seed,
        "split": split,
        "data": conditions.kind_of_data,
        "machine": machine(),
        "seconds": {"training": seconds} | wall,
        "before": before.metrics,
        "after": after.metrics,
        "reference_unknown_words": reference_unknown_words(envs, words),
        "verdict": verdict_of(before.as_json(), after.as_json(), seconds=seconds),
        "curve": curve_of(run_folder),
        "texts": {"prompts": [row["prompt"] for row in after.samples]}
        | {name: [row["completion"] for row in part.samples] for name, part in (("before", before), ("after", after))},
    }
    likelihoods = [reference_likelihoods(policy, envs) for policy in (first, agent.policy)]
    found["likelihood"] = asdict(paired_change(*likelihoods))
    if cell.algorithm == "bc":
        found["reference_repetition"] = reference_repetition(envs)
    if cell.algorithm == "gail":
        found["nll"] = [reference_nll(policy, envs) for policy in (first, agent.policy)]
        found["discriminator"] = [discriminator_accuracy(policy, train, envs) for policy in (first, agent.policy)]
    if conditions.control and cell.algorithm != "bc":
        with cpu_threads(config.cpu_threads):  # those of the training
            imitator = continued_imitation(config, train, agent.policy, seconds)
        imitated = evaluate(imitator, envs, seed=seed, count=envs.num_envs, known_words=words)
        found["control"] = verdict_of(before.as_json(), imitated.as_json(), seconds=seconds)
    return found


def envs_of_split(config: RunConfig, split: str, count: int, *, fitted: Path | None = None) -> VectorEnv:
    """Return so many rows of a run's environment on a split, with rewards as they were fitted in a folder."""
    return make_envs(replace(config, num_envs=count), evaluation_data(config, split)[0], None, fitted=fitted)


def curve_of(run_folder: Path) -> list[tuple[int, float, float]]:
    """Return iteration, greedy and sampled reward of a run's own evaluations, on validation examples."""
    folder = RunFolder(run_folder)
    ends, last = folder.read_json("evaluation.json"), folder.rows("metrics.jsonl")[-1]["iteration"]
    rows = folder.rows("evaluations.jsonl")
    points = [(0, ends["before"]), *((row["iteration"], row) for row in rows), (last, ends["after"])]
    return [
        (number, *(part["metrics"][way]["reward/mean"] for way in ("greedy", "sampled"))) for number, part in points
    ]


def first_policy(config: RunConfig, train: VectorEnv, trained: LMPolicy) -> LMPolicy:
    """Return the policy that training began with, sampling as the trained one does."""
    envs = pretraining_envs(config, evaluation_data(config, "train")[0], train)
    settings = tiny_settings(config) | {"device": config.device}
    return tiny_policy(envs, kind=POLICIES[config.policy], progress=False, **settings).with_decoding(trained.decoding)


def continued_imitation(config: RunConfig, train: VectorEnv, trained: LMPolicy, seconds: float) -> LMPolicy:
    """Return the first policy after that many seconds of further imitation, with the dropout of its pretraining.

    It imitates the references that the run's tiny guide imitated; without one, those of its own pretraining.
    """
    policy, generator = first_policy(config, train, trained), torch.Generator().manual_seed(config.seed)
    settings = TinySettings(**tiny_settings(config, of_guide=config.guide in POLICIES))
    texts = gather_references(
        train, TextLayout.of(train), settings.samples, settings.seed, positive_only=settings.positive_only
    )
    learner, begin = BehaviourCloning(policy, OptimizerConfig(learning_rate=2e-4)), time.perf_counter()
    with seeded(config.seed, device=policy.device), dropout_of(policy.model, settings.dropout):
        while True:
            for rows in minibatches(len(texts), epochs=1, size=settings.minibatch_size, generator=generator):
                if time.perf_counter() - begin > seconds:
                    return policy
                learner.step(texts[rows])


def reference_repetition(envs: VectorEnv) -> float:
    """Return the mean share of repeated trigrams of all references."""
    references = [text for example in base_attribute(envs, "examples") for text in example.references]
    return statistics.fmean(map(repetition, references))


def reference_unknown_words(envs: VectorEnv, words: Collection[str]) -> float:
    """Return the share of references, cut to the environment's length, with a word that is not among `words`."""
    layout = TextLayout.of(envs)
    assert layout.tokenizer is not None
    texts = held_out_references(envs)
    ids = [tokens[is_token].tolist() for tokens, is_token in zip(texts.tokens, texts.is_token, strict=True)]
    return statistics.fmean(
        has_unknown_word(text, words) for text in layout.tokenizer.batch_decode(ids, skip_special_tokens=True)
    )


def texts_of_examples(actor: Actor, envs: VectorEnv, count: int) -> Trajectories:
    """Return what an actor writes for the first `count` examples that `evaluate` chooses, each of them once.

    Examples that an environment draws repeat, so that their number says too much of what they show.
    """
    examples = chosen_examples(TextLayout.of(envs).num_examples, count)
    generator = torch.Generator().manual_seed(0)
    return collect(envs, Plan(rollout=actor), episodes=len(examples), examples=examples, generator=generator)


def held_out_references(envs: VectorEnv) -> Texts:
    """Return one reference of each example that `evaluate` takes of an environment."""
    return texts_of_examples(References(), envs, envs.num_envs).texts


@torch.no_grad()
def reference_likelihoods(policy: LMPolicy, envs: VectorEnv) -> list[float]:
    """Return the log-likelihood of a reference of each example, in nats per token."""
    texts = held_out_references(envs)
    logprobs = policy.plain_logprobs(texts).cpu().double().where(texts.is_token, 0.0)  # (B, T)
    found: list[float] = (logprobs.sum(1) / texts.is_token.sum(1)).tolist()
    return found


@torch.no_grad()
def reference_nll(policy: LMPolicy, envs: VectorEnv) -> float:
    """Return the negative log-likelihood of references in nats per token, the mean over all tokens."""
    texts = held_out_references(envs)
    return float(-policy.plain_logprobs(texts).cpu()[texts.is_token].mean())


def discriminator_accuracy(policy: LMPolicy, train: VectorEnv, held_out: VectorEnv) -> float:
    """Return how often a fresh discriminator tells held-out references from the policy's texts; chance is 0.5.

    It is trained on the train part, on as many references as texts of the policy for the same prompts.
    """
    layout, generator = TextLayout.of(train), torch.Generator().manual_seed(0)
    drawn = collect(train, Plan(rollout=policy), episodes=2048, generator=generator)
    discriminator = ClassifierDiscriminator.tiny(layout)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-3)
    experts, written = _with_references(drawn, layout)
    for rows in minibatches(len(experts), epochs=4, size=32, generator=torch.Generator().manual_seed(0)):
        optimizer.zero_grad()
        discriminator_loss(discriminator.logits(experts[rows]), discriminator.logits(written[rows])).backward()
        optimizer.step()
    with torch.no_grad():
        experts, written = _with_references(texts_of_examples(policy, held_out, 200), layout)
        right = torch.cat([discriminator.logits(experts) > 0, discriminator.logits(written) <= 0])
    return float(right.double().mean())


def _with_references(written: Trajectories, layout: TextLayout) -> tuple[Texts, Texts]:
    """Return references for the prompts of texts, and the texts."""
    generator = torch.Generator().manual_seed(1)
    return reference_texts(written, ReferenceTokens(layout), generator), written.texts


# --- The table --------------------------------------------------------------------------------------------------------


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the medians over the seeds of a cell, and the rules that it breaks."""
    changes = {way: [standard_errors_of(result["verdict"][way]) for result in results] for way in ("greedy", "sampled")}
    sampled = [result["after"]["sampled"] for result in results]
    found = {
        "seeds": len(results),
        "before": {way: _median(result["before"][way]["reward/mean"] for result in results) for way in changes},
        "after": {way: _median(result["after"][way]["reward/mean"] for result in results) for way in changes},
        "median": {way: _median(values) for way, values in changes.items()},
        "least": {way: _least(values) for way, values in changes.items()},
        "kl": _most(after["kl"] for after in sampled),
        "unknown": _median(after["text/unknown_words"] for after in sampled),
        "references_unknown": _median(result.get("reference_unknown_words", 0.0) for result in results),
        "length": [
            _median(result[when]["sampled"]["text/length"] for result in results) for when in ("before", "after")
        ],
        "repetition": {
            way: _median(
                result["after"][way]["text/repetition"]
                - result.get("reference_repetition", result["before"][way]["text/repetition"])
                for result in results
            )
            for way in changes
        },
        "seconds": _median(result["seconds"]["training"] for result in results),
    }
    return found | {"broken": broken_rules(results, found)}


def broken_rules(results: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    """Return the rules of the module's docstring that a cell breaks; NaN breaks every one."""
    algorithm = results[0]["algorithm"]
    limits = {"KL": not found["kl"] <= MOST_KL and algorithm != "bc"}
    limits["unknown words"] = not found["unknown"] - found["references_unknown"] <= MOST_UNKNOWN
    limits["repetition"] = not all(
        found["repetition"][way] <= most
        for way, most in MOST_REPETITION.items()
        if way == "sampled" or algorithm != "bc"
    )
    if algorithm in ("bc", "gail"):
        limits["reward"] = not _least(found["median" if algorithm == "bc" else "least"].values()) >= -THRESHOLD
    if algorithm == "bc":
        rises = [result["likelihood"]["standard_errors"] for result in results]
        limits["likelihood"] = not (_median(rises) >= THRESHOLD and _least(rises) >= -1)
    elif algorithm == "gail":
        changes = {name: _median(end - start for start, end in (r[name] for r in results)) for name in GAIL_NOISE}
        limits["likelihood"] = not changes["nll"] <= GAIL_NOISE["nll"]
        limits["discriminator"] = not changes["discriminator"] <= GAIL_NOISE["discriminator"]
    else:
        limits["median"] = not _least(found["median"].values()) >= THRESHOLD
        limits["a seed fell"] = _least(found["least"].values()) < -1  # with NaN the median is NaN
    return [name for name, is_broken in limits.items() if is_broken]


def table(results: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """Return the table in Markdown, one row per cell, and whether all cells pass."""
    cells = defaultdict(list)
    for result in results:
        cells[result["algorithm"], result["env"], result["policy"]].append(result)
    lines = [
        "| algorithm | environment | policy | seeds | greedy | sampled | KL | tokens | repetition | unknown words"
        " | seconds | passes |",
        "| --- | --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    order = list(ALGORITHMS)
    in_order = sorted(cells, key=lambda cell: (ENVS.index(cell[1]), cell[2], order.index(cell[0])))
    found = {cell: summary(cells[cell]) for cell in in_order}
    for (algorithm, env, policy), row in found.items():
        rewards = [
            f"{row['before'][way]:.3f} → {row['after'][way]:.3f} ({_errors(row['median'][way])};"
            f" {_errors(row['least'][way])})"
            for way in ("greedy", "sampled")
        ]
        verdict = "yes" if not row["broken"] else "no: " + ", ".join(row["broken"])
        repetition = ", ".join(f"{100 * row['repetition'][way]:+.1f}" for way in ("greedy", "sampled"))
        shown = [algorithm, env, policy, row["seeds"], *rewards, f"{row['kl']:.1f}"]
        shown += ["{:.0f} → {:.0f}".format(*row["length"]), repetition, f"{row['unknown']:.1%}"]
        lines.append("| " + " | ".join(map(str, [*shown, f"{row['seconds']:.0f}", verdict])) + " |")
    return "\n".join(lines), not any(row["broken"] for row in found.values())


def draw(results: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write a figure for each environment and policy: rewards by the share of a run, with the range over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for env, policy in sorted({(result["env"], result["policy"]) for result in results}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for column, (axes, way) in enumerate(zip(panels, ("greedy", "sampled"), strict=True), start=1):
            axes.set(title=f"{env}, {policy}: {way}", xlabel="share of the iterations", ylabel="held-out reward")
            for number, algorithm in enumerate(ALGORITHMS):
                cell = (algorithm, env, policy)
                curves = [r["curve"] for r in results if (r["algorithm"], r["env"], r["policy"]) == cell]
                if curves:
                    _draw_curves(axes, curves, column, algorithm, f"C{number}")
            axes.grid(alpha=0.3)
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
        shown = [result for result in results if (result["env"], result["policy"]) == (env, policy)]
        path = folder / f"{env.split('/')[1].split('-')[0].lower()}_{policy}.png"
        FigureCanvasAgg(figure).print_png(path, metadata={"Source": hash_of_curves(shown)})


def hash_of_curves(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of what a figure shows, which the figure holds as its source."""
    curves = sorted(json.dumps([result["algorithm"], result["seed"], result["curve"]]) for result in results)
    return hashlib.sha256("\n".join(curves).encode()).hexdigest()


def _draw_curves(axes: Any, curves: Sequence[Sequence[Any]], column: int, algorithm: str, color: str) -> None:
    """Draw the median and the range of the seeds; of bc, which starts from random weights, the end only.

    Points are the iterations at which any seed was evaluated; between its evaluations a seed is taken to change evenly.
    """
    evaluated = sorted({point[0] for curve in curves for point in curve})
    shares = [number / evaluated[-1] for number in evaluated]
    of_seeds = [np.interp(evaluated, *([point[place] for point in curve] for place in (0, column))) for curve in curves]
    values = np.transpose(of_seeds).tolist()
    if algorithm == "bc":
        axes.axhline(statistics.median(values[-1]), color=color, linestyle="--", label="bc, at its end")
        axes.axhspan(min(values[-1]), max(values[-1]), color=color, alpha=0.15, linewidth=0)
        return
    axes.plot(shares, [statistics.median(at_once) for at_once in values], color=color, label=algorithm)
    axes.fill_between(shares, *zip(*[(min(v), max(v)) for v in values], strict=True), color=color, alpha=0.15)


def _of_numbers(statistic: Callable[[Sequence[float]], float], values: Iterable[float]) -> float:
    """Return a statistic of values, NaN if any value is."""
    values = list(values)
    return math.nan if any(map(math.isnan, values)) else float(statistic(values))


_median, _least, _most = (partial(_of_numbers, statistic) for statistic in (statistics.median, min, max))


def _errors(change: float) -> str:
    """Return a change in standard errors as the table shows it."""
    if math.isnan(change):
        return "no standard error"
    if math.isinf(change):
        return "all rise" if change > 0 else "all fall"
    return f"{change:+.1f}"


def cells_of(algorithms: Sequence[str], envs: Sequence[str], policies: Sequence[str]) -> list[Cell]:
    """Return all cells but those of algorithms of given pairs on environments without them."""
    cells = [Cell(*parts) for parts in product(algorithms, envs, policies)]
    return [cell for cell in cells if cell.env == "tril/HH-v0" or not agent_type(cell.algorithm).needs_pairs]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results, logs and run folders")
    parser.add_argument("--algorithms", nargs="+", default=list(SEVEN), choices=["all", *ALGORITHMS])
    parser.add_argument("--envs", nargs="+", default=list(ENVS), choices=ENVS)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each cell: 0 to N-1")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--control", action="store_true", help="also imitate for the same time")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="published data, in place of the embedded ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--run", nargs=4, metavar=("ALGORITHM", "ENV", "POLICY", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    if "all" in options.algorithms:
        options.algorithms = list(ALGORITHMS)
    conditions = Conditions(options.folder, options.split, options.control, options.data, options.device)
    if options.run:
        cell, seed = Cell(*options.run[:3]), int(options.run[3])
        measured = json.dumps(measure_run(cell, seed, conditions), indent=1)
        replace_text(options.folder / f"{cell.name}_{seed}.json", measured)
        return
    envs = options.envs if options.data is None else [env for env in options.envs if env in PUBLISHED]
    cells = cells_of(options.algorithms, envs, options.policies)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results_of(options.folder, asked=(conditions.split, conditions.kind_of_data) if seeds else None)
    with ThreadPoolExecutor(options.jobs) as pool:  # the work is done in processes of their own
        futures = [pool.submit(run, cell, seed, conditions) for seed in seeds for cell in cells]
        all_measured = all([future.result() for future in futures])
    results = results_of(options.folder)
    if results:
        text, passes = table(results)
        (options.folder / "table.md").write_text(text + "\n")
        print(text)
        draw(results, options.folder)
        all_measured &= passes
    raise SystemExit(not all_measured)


if __name__ == "__main__":
    main()
