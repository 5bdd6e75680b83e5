"""Is a guide worth its texts on real data? PPO against guided algorithms, from the same first policies.

    python benchmarks/guide_question.py COMMONGEN FOLDER [--arms NAME …] [--seeds N …] [--device cuda]
        [--iterations N] [--share 0.7] [--jobs N]

COMMONGEN is a folder with train, validation and test files of concepts and references. The policy is a decoder of 4.1
million parameters, pretrained from random weights on the references of 70 % of the prompts (`--share`); six such
policies, one for every sixth seed. All arms train on the other prompts (with `--share 1` on the same ones), on the same
number of texts with the same settings, chosen for PPO on validation examples. The good guide is the same network,
pretrained longer, on all prompts, and sampled at temperature 0.3; the useless guide has random weights. BC imitates
references of the training's prompts. Its updates cost a quarter of the others' at most, so it reads as many references
as they write texts four times, or four times as many once.

Shown are the change of the reward on 400 examples of the test split, its difference to PPO's, paired by seed, the KL of
sampled texts, and the number of tokens of the texts (of rollins that are written whole and cut, the part before the
switch). Means and 95 % intervals are over the first policies (Student's t), of which each counts once, by the mean of
its seeds. In brackets is the smallest difference, in either direction, that such a comparison detects with a power of
0.8, given the spread between them. Results are kept in FOLDER, one JSON file per run, so an interrupted measurement
continues. A GPU is shared well by several runs at a time (`--jobs`), each of which waits for Python most of its time.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import Guide, LMPolicy, tiny_policy
from tril_gym.experiment import evaluate
from tril_gym.experiment.algorithms import agent_type
from tril_gym.utils.atomic_files import replace_text

ENV, TOKENIZER, MAX_NEW_TOKENS = "tril/CommonGen-v0", "fit:12000", 24
TEXTS = 256  # per iteration
NETWORK = {"width": 192, "layers": 4}
PRETRAINING: dict[str, Any] = {
    "samples": 60_000,  # with all prompts
    "epochs": 3,
    "learning_rate": 2e-3,
    "lr_schedule": "linear",
    "lr_warmup": 100,
    "weight_decay": 0.1,
    "minibatch_size": 128,
}
FIRST_POLICIES = 6
GOOD = {"seed": 10, "samples": 66_000, "epochs": 5}
ACTOR_CRITIC = {
    "learning_rate": 2e-4,
    "lr_schedule": "linear",
    "critic_learning_rate": 2e-3,
    "critic_warmup": 1,
    "gae_lambda": 1.0,
    "epochs": 1,
    "minibatch_size": 32,
    "normalize_advantages": True,
    "temperature": 0.7,
    "kl_coef": 0.02,
}
SWITCH = {"gae_lambda": 0.95, "allow_full_rollins": True}
LATE = SWITCH | {"rollin_prob": 0.3, "aggrevated_rollin_prob": 0.8, "aggrevated_iterations": 8}
TIMES_AS_MANY = {"BC, four times as many texts": 4}
IMITATION = {"learning_rate": 1e-4, "minibatch_size": 32}
# Algorithm, guide, and settings beside the common ones.
ARMS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "PPO": ("ppo", None, {}),
    "PPO++, good guide, β 0.5": ("ppo-pp", "good", {"rollin_prob": 0.5}),
    "PPO++, references, β 0.5": ("ppo-pp", "references", {"rollin_prob": 0.5}),
    "PPO++, references, β 1": ("ppo-pp", "references", {"rollin_prob": 1.0}),
    "AggreVaTeD, good guide": ("aggrevated", "good", SWITCH),
    "D2LOLS, good guide": ("d2lols", "good", LATE),
    "PPO++, useless guide, β 0.5": ("ppo-pp", "useless", {"rollin_prob": 0.5}),
    "BC, four epochs": ("bc", None, IMITATION | {"epochs": 4}),
    "BC, four times as many texts": ("bc", None, IMITATION | {"epochs": 1}),
}
# Student's t: 97.5 % quantiles by degrees of freedom.
T_QUANTILES = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
T_QUANTILES |= {12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980}
# The same, 80 %.
T_POWER = {1: 1.376, 2: 1.061, 3: 0.978, 4: 0.941, 5: 0.920, 6: 0.906, 7: 0.896, 8: 0.889, 9: 0.883, 10: 0.879}
T_POWER |= {12: 0.873, 15: 0.866, 20: 0.860, 30: 0.854, 60: 0.848, 120: 0.845}


def make_envs(data: Path, num_envs: int, **settings: Any) -> VectorEnv:
    settings |= {"dataset": str(data), "tokenizer": TOKENIZER, "max_new_tokens": MAX_NEW_TOKENS}
    return gym.make_vec(ENV, num_envs=num_envs, autoreset_mode="Disabled", **settings)


def guide_named(name: str | None, options: argparse.Namespace) -> Guide | None:
    if name is None:
        return None
    if name == "references":
        return Guide.references()
    envs = make_envs(options.data, options.texts)
    if name == "useless":
        return Guide(tiny_policy(envs, samples=0, device=options.device))
    good = NETWORK | PRETRAINING | GOOD | options.pretraining
    return Guide(tiny_policy(envs, device=options.device, **good), temperature=0.3, top_p=0.92)


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one seed of an arm; return what its texts earn on the test split before and after."""
    algorithm, guide_name, settings = ARMS[arm]
    share = options.share
    parts = ((0.0, share), (share, 1.0) if share < 1 else None)
    imitated, envs = (make_envs(options.data, options.texts, part=part) for part in parts)
    test = make_envs(options.data, options.examples, split="test")
    sizes = NETWORK | PRETRAINING | {"samples": round(share * PRETRAINING["samples"])} | options.pretraining
    sizes |= {"seed": seed % FIRST_POLICIES}
    first, policy = (tiny_policy(imitated, device=options.device, **sizes) for _ in range(2))
    kind = agent_type(algorithm)
    common = {} if algorithm == "bc" else ACTOR_CRITIC | {"lr_iterations": options.iterations}
    common |= {"episodes_per_iteration": options.texts * TIMES_AS_MANY.get(arm, 1)}
    guide = guide_named(guide_name, options)
    given: dict[str, Any] = {} if guide is None else {"guide": guide}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that no text is the policy's own with β 1
        agent = kind(policy=policy, envs=envs, config=kind.config_type(**common | settings), seed=seed, **given)
    first = first.with_decoding(agent.policy.decoding)
    before = measured(agent.policy, test, first)
    begin = time.perf_counter()
    rows = agent.learn(options.iterations, progress=False)
    seconds = time.perf_counter() - begin
    after = measured(agent.policy, test, first)
    found = {"before": before, "after": after, "tokens": sum(row["tokens"] for row in rows)}
    worth = {name: rows[0][name] for name in ("reward/policy_alone", "reward/guide_alone") if name in rows[0]}
    about = {"arm": arm, "seed": seed, "first_policy": sizes["seed"], "seconds": seconds, "worth": worth}
    return about | found


def measure(what: tuple[str, int], options: argparse.Namespace) -> str | None:
    """Run one seed of an arm and write its result, unless it is there; return what it says."""
    arm, seed = what
    path = options.folder / f"{list(ARMS).index(arm)}_{seed}.json"
    if path.is_file():
        return None
    found = run(arm, seed, options) | {"options": asked_of(options)}
    replace_text(path, json.dumps(found, indent=1))
    return f"{arm}, seed {seed}: greedy {found['after']['greedy']['reward/mean']:.3f}"


def asked_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that results must have in common to be compared."""
    return {name: getattr(options, name) for name in ("share", "iterations", "texts", "examples", "pretraining")}


def check_folder(options: argparse.Namespace) -> None:
    """Exit where a result of the folder is of another arm than its name says, or of other options than asked."""
    asked = asked_of(options)
    for path in sorted(options.folder.glob("*.json")):
        known, arm = json.loads(path.read_text()), list(ARMS)[int(path.name.partition("_")[0])]
        if (known["arm"], known.get("options", asked)) != (arm, asked):
            raise SystemExit(f"{path} is of {known['arm']} with {known.get('options')}; use another folder for {asked}")


def measured(policy: LMPolicy, envs: VectorEnv, first: LMPolicy) -> dict[str, dict[str, float]]:
    """Return the metrics of greedy and of sampled texts."""
    return evaluate(policy, envs, seed=0, ref_policy=first, count=envs.num_envs).metrics


def by_first_policy(values: Mapping[tuple[int, int], float]) -> list[float]:
    """Return the mean over the seeds of each first policy: runs from one policy are no independent evidence.

    Keys are first policy and seed.
    """
    groups: dict[int, list[float]] = {}
    for (policy, _), value in values.items():
        groups.setdefault(policy, []).append(value)
    return [statistics.mean(groups[policy]) for policy in sorted(groups)]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval by Student's t; NaN for a single value.

    Between the numbers of the table it is a little too wide.
    """
    freedom = len(values) - 1
    if not freedom:
        return statistics.mean(values), math.nan
    return statistics.mean(values), _quantile(T_QUANTILES, freedom) * statistics.stdev(values) / math.sqrt(len(values))


def detectable(differences: Sequence[float]) -> float:
    """Return the true mean difference that a test at 5 % finds with probability 0.8; NaN for a single difference.

    (t_0.975 + t_0.8) stderr, the usual approximation of the noncentral t distribution.
    """
    freedom = len(differences) - 1
    if not freedom:
        return math.nan
    quantiles = sum(_quantile(table, freedom) for table in (T_QUANTILES, T_POWER))
    return quantiles * statistics.stdev(differences) / math.sqrt(len(differences))


def _quantile(table: Mapping[int, float], freedom: int) -> float:
    return table[max(known for known in table if known <= freedom)]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown, one row per arm, in the order of `ARMS`."""
    gains: dict[str, dict[str, dict[tuple[int, int], float]]] = {}
    for result in results:
        for way in ("greedy", "sampled"):
            change = result["after"][way]["reward/mean"] - result["before"][way]["reward/mean"]
            key = (result["first_policy"], result["seed"])
            gains.setdefault(result["arm"], {}).setdefault(way, {})[key] = change
    lines = ["| | seeds | greedy | difference to PPO | sampled | difference to PPO | KL | tokens of texts |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for arm in (arm for arm in ARMS if arm in gains):
        cells = []
        for way in ("greedy", "sampled"):
            own, theirs = gains[arm][way], gains.get("PPO", {}).get(way, {})
            paired = {key: gain - theirs[key] for key, gain in own.items() if key in theirs}
            cells.append(_cell(by_first_policy(own)))
            cells.append("" if arm == "PPO" or not paired else _cell(by_first_policy(paired), with_power=True))
        rows = [result for result in results if result["arm"] == arm]
        kl = statistics.mean(row["after"]["sampled"]["kl"] for row in rows)
        tokens = statistics.mean(row["tokens"] for row in rows)
        lines.append(f"| {arm} | {len(rows)} | {' | '.join(cells)} | {kl:.1f} | {tokens:,.0f} |")
    return "\n".join(lines)


def before(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the rewards before training, means over the first policies, at the temperature of all arms but BC."""
    own = [result for result in results if ARMS[result["arm"]][0] != "bc"]
    means = []
    for way in ("greedy", "sampled"):
        values = {(row["first_policy"], row["seed"]): row["before"][way]["reward/mean"] for row in own}
        means.append(f"{way} {statistics.mean(by_first_policy(values)):.3f}" if values else f"{way} not measured")
    return ", ".join(means)


def _cell(values: Sequence[float], *, with_power: bool = False) -> str:
    mean, width = mean_and_interval(values)
    if math.isnan(width):
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ± {width:.3f}" + (f" ({detectable(values):.3f})" if with_power else "")


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data set's folder")
    parser.add_argument("folder", type=Path, help="results, one JSON file per run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)), metavar="N")
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--texts", type=int, default=TEXTS, help="per iteration")
    parser.add_argument("--examples", type=int, default=400, help="of the test split")
    parser.add_argument("--share", type=float, default=0.7, help="of the prompts that the policy imitates first")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--pretraining", type=json.loads, default={}, help="other settings of pretraining, as JSON")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    check_folder(options)
    runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    with ExitStack() as stack:
        each: Any = map
        if options.jobs > 1:
            pool = ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"))
            each = stack.enter_context(pool).map
        for sentence in filter(None, each(partial(measure, options=options), runs)):
            print(sentence, flush=True)
    results = [json.loads(path.read_text()) for path in sorted(options.folder.glob("*.json"))]
    text = table(results)
    print(f"before training: {before(results)}\n{text}")
    return text


if __name__ == "__main__":
    main()
