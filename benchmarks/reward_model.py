"""Does the tiny reward model know more than length? Its accuracy beside a scorer that prefers the longer completion.

    python benchmarks/reward_model.py PAIRS [--template "{completion}"] [--seeds 0 1 2] [--parts 10]

The prompts of one file are cut into parts by their hash, and each part is held out once. The first of ten is what
`tril-gym train reward-model` holds out.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from tril_gym.data.preferences import Pair, agreement, load_pairs
from tril_gym.experiment.report import RunConsole
from tril_gym.reward_model.build import settings_of
from tril_gym.reward_model.training import in_words, prepare
from tril_gym.rewards.neural.preference import TEMPLATE


def part_of(pair: Pair, parts: int) -> int:
    """Which part a prompt falls into."""
    digest = hashlib.sha256(pair.prompt.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") * parts >> 64


def judged(pairs: list[Pair], held: np.ndarray, settings: dict) -> np.ndarray:
    """Margins of the held pairs, by a model that learned from the others."""
    with tempfile.TemporaryDirectory() as place:
        for name, part in (("train", ~held), ("validation", held)):
            rows = (
                {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
                for pair, chosen in zip(pairs, part, strict=True)
                if chosen
            )
            (Path(place) / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = prepare(
            settings_of(settings | {"dataset": place}), Path(place) / "run", screen=RunConsole(Console(quiet=True))
        )
        run.go()
        return run.judge()


def line(name: str, margins: np.ndarray, pairs: list[Pair]) -> str:
    """The figures of some held-out pairs, as a row of a table."""
    found = agreement(margins, pairs)
    cells = [in_words(found[key]) for key in ("reward_model", "longer_is_better", "difference", "chosen_is_shorter")]
    return f"| {name} | {len(pairs)} | " + " | ".join(cells) + " |"


def main(dataset: str, template: str, seeds: list[int], parts: int) -> None:
    data = load_pairs(dataset)
    pairs = [*data.train, *data.held_out]
    part = np.array([part_of(pair, parts) for pair in pairs])
    print("| held out | pairs | reward model | longer preferred | difference | where chosen is shorter |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for seed in seeds:
        begin, margins = time.perf_counter(), np.empty(len(pairs))
        for number in range(parts):
            margins[part == number] = judged(pairs, part == number, {"template": template, "seed": seed})
        for name, chosen in (("part 1", part == 0), ("first half", part < parts // 2), ("all", part >= 0)):
            some = [pair for pair, is_chosen in zip(pairs, chosen, strict=True) if is_chosen]
            print(line(f"seed {seed}, {name}", margins[chosen], some), flush=True)
        print(f"<!-- {time.perf_counter() - begin:.0f} s -->", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("--template", default=TEMPLATE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", type=int, default=10)
    given = parser.parse_args()
    main(given.pairs, given.template, given.seeds, given.parts)
