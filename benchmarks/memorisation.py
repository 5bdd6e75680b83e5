"""What a pretrained tiny policy has memorised of CommonGen: its reward on prompts of the train part and on others.

    python benchmarks/memorisation.py COMMONGEN [--examples 1000] [--share 0.7]

Prints the mean greedy reward of the policy of `--preset small` by the number of concepts, as prompts with more concepts
earn more and the test part has four or five only; then how much of each part occurs in the `--share` of the train part
that guide_question.py imitates: whole references, and pairs of concepts that a prompt has together.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from learning import envs_of_split

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import LMPolicy, tiny_policy
from tril_gym.data.example import Example
from tril_gym.experiment import configure, evaluate
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.resolution import tiny_settings
from tril_gym.registration import examples_of
from tril_gym.wrappers.vector import base_attribute

SPLITS = ("train", "validation", "test")


def rewards_by_concepts(policy: LMPolicy, config: RunConfig, split: str, count: int) -> dict[int, tuple[int, float]]:
    """Return the number of texts and their mean greedy reward for each number of concepts."""
    envs = envs_of_split(config, split, count)
    examples = base_attribute(envs, "examples")
    found = defaultdict(list)
    for row in evaluate(policy, envs, seed=0, count=count).texts:
        if row["written"] == "greedy":
            found[len(concepts_of(examples[row["example"]]))].append(row["reward"])
    return {number: (len(rewards), statistics.fmean(rewards)) for number, rewards in sorted(found.items())}


def concepts_of(example: Example) -> Sequence[str]:
    """Return the concepts that a prompt names."""
    concepts: Sequence[str] = example.extras["concepts"]
    return concepts


def pairs_of(examples: Iterable[Example]) -> list[tuple[str, str]]:
    """Return all pairs of concepts of all prompts, each in alphabetical order."""
    return [pair for example in examples for pair in itertools.combinations(sorted(concepts_of(example)), 2)]


def parts_of(data: str, share: float) -> tuple[list[Example], dict[str, list[Example]]]:
    """Return a share of the train part, and by name its rest and the other parts."""

    def part(split: str, shares: tuple[float, float] | None = None) -> list[Example]:
        return list(examples_of("tril/CommonGen-v0", dataset=data, split=split, part=shares))

    others = {"the rest of train": part("train", (share, 1.0))} | {split: part(split) for split in SPLITS[1:]}
    return part("train", (0.0, share)), others


def overlap(known: Sequence[Example], others: Sequence[Example]) -> tuple[float, float]:
    """Return the shares of the references and of the pairs of concepts of other examples that the known ones have."""
    references, pairs = {text for example in known for text in example.references}, set(pairs_of(known))
    theirs = [text for example in others for text in example.references]
    return (
        statistics.fmean(text in references for text in theirs),
        statistics.fmean(pair in pairs for pair in pairs_of(others)),
    )


def main() -> None:
    """Pretrain, or load from the cache, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of the data set")
    parser.add_argument("--examples", type=int, default=1000, help="of each part")
    parser.add_argument("--share", type=float, default=0.7)
    options = parser.parse_args()
    config = configure("ppo", env="tril/CommonGen-v0", policy="tiny", preset="small", dataset=options.data)
    train = envs_of_split(config, "train", config.num_envs)
    policy = tiny_policy(train, **tiny_settings(config))
    for split in SPLITS:
        for number, (count, reward) in rewards_by_concepts(policy, config, split, options.examples).items():
            print(f"{split}, {number} concepts: greedy reward {reward:.2f} ({count} prompts)")
    known, others = parts_of(options.data, options.share)
    for name, rows in others.items():
        shares = overlap(known, rows)
        print("{}: {:.0%} of references and {:.0%} of pairs of concepts occur there".format(name, *shares))


if __name__ == "__main__":
    main()
