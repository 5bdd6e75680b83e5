"""Compare the accuracy of the tiny reward model with that of a scorer that prefers the longer completion.

    python benchmarks/reward_model.py PAIRS [--template "{completion}"] [--seeds 0 1 2] [--parts 10]

The prompts of one file are split into parts by their hash, and each part is held out once. `tril-gym train
reward-model` holds out the first of ten.
"""

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from tril_gym.data.preferences import Pair, agreement, load_pairs
from tril_gym.reward_model.config import RewardModelConfig
from tril_gym.reward_model.report import format_share
from tril_gym.reward_model.training import prepare_reward_model
from tril_gym.rewards.neural.preference import TEMPLATE
from tril_gym.utils.console import RunConsole


def part_of(pair: Pair, parts: int) -> int:
    """Return the part that a prompt belongs to."""
    digest = hashlib.sha256(pair.prompt.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") * parts >> 64


def margins_of_part(pairs: list[Pair], is_held_out: np.ndarray, **settings) -> np.ndarray:
    """Return the margins of the held-out pairs by a model trained on the others."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, is_chosen in (("train", ~is_held_out), ("validation", is_held_out)):
            rows = (
                {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
                for pair in itertools.compress(pairs, is_chosen)
            )
            (Path(temporary) / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = RewardModelConfig(dataset=temporary, **settings)
        run = prepare_reward_model(config, Path(temporary) / "run", console=RunConsole(Console(quiet=True)))
        run.run()
        return run.margins()


def table_row(name: str, margins: np.ndarray, pairs: list[Pair]) -> str:
    """Return the accuracies on some held-out pairs as a row of a table."""
    found = agreement(margins, pairs)
    cells = [
        format_share(found[key]) for key in ("reward_model", "longer_is_better", "difference", "chosen_is_shorter")
    ]
    return f"| {name} | {len(pairs)} | " + " | ".join(cells) + " |"


def main(dataset: str, template: str, seeds: list[int], parts: int) -> None:
    data = load_pairs(dataset)
    pairs = [*data.train, *data.held_out]
    part = np.array([part_of(pair, parts) for pair in pairs])
    print("| held out | pairs | reward model | longer preferred | difference | where chosen is shorter |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for seed in seeds:
        start, margins = time.perf_counter(), np.empty(len(pairs))
        for number in range(parts):
            margins[part == number] = margins_of_part(pairs, part == number, template=template, seed=seed)
        for name, chosen in (("part 1", part == 0), ("first half", part < parts // 2), ("all", part >= 0)):
            row = table_row(f"seed {seed}, {name}", margins[chosen], list(itertools.compress(pairs, chosen)))
            print(row, flush=True)
        print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("--template", default=TEMPLATE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", type=int, default=10)
    given = parser.parse_args()
    main(given.pairs, given.template, given.seeds, given.parts)
