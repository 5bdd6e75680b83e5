"""What a pretrained tiny policy has memorised of CommonGen: its reward on prompts of the train part and on others.

    python benchmarks/memorisation.py COMMONGEN [--examples 1000] [--share 0.7]

Prints the mean greedy reward of the policy of `--preset small` by the number of concepts, as prompts with more concepts
earn more and the test part has four or five only; then how much of each part occurs in the first `--share` of the train
part: whole references, and pairs of concepts that a prompt has together.
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
    parts = {split: base_attribute(envs_of_split(config, split, 1), "examples") for split in SPLITS}
    examples = [parts["train"][number] for number in range(len(parts["train"]))]
    cut = round(options.share * len(examples))
    others = {"the rest of train": examples[cut:]} | {split: list(parts[split]) for split in SPLITS[1:]}
    for name, rows in others.items():
        shares = overlap(examples[:cut], rows)
        print("{}: {:.0%} of references and {:.0%} of pairs of concepts occur there".format(name, *shares))


if __name__ == "__main__":
    main()
