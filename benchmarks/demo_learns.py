"""Train the demo, PPO++ on the embedded data, with several seeds; exit with 1 if one of them does not learn.

    python benchmarks/demo_learns.py [SEED …]

A seed learns if the mean reward of the last tenth of its iterations exceeds that of the first tenth by 15 % and by two
standard errors of the difference over episodes.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GAIN = 1.15
STANDARD_ERRORS = 2.0


def learning_gain(rows: list[dict]) -> dict[str, float]:
    """Return the mean rewards of the first and last tenth of a run, and their difference in standard errors."""
    tenth = max(1, len(rows) // 10)
    first, last = rows[:tenth], rows[-tenth:]

    def mean(part: list[dict]) -> float:
        return sum(row["reward/mean"] * row["episodes"] for row in part) / sum(row["episodes"] for row in part)

    def squared_error(part: list[dict]) -> float:
        # variance within iterations and between them, over all episodes of the part
        centre, episodes = mean(part), sum(row["episodes"] for row in part)
        variance = sum(row["episodes"] * (row["reward/std"] ** 2 + (row["reward/mean"] - centre) ** 2) for row in part)
        return variance / episodes / (episodes - 1)

    before, after = mean(first), mean(last)
    errors = (after - before) / math.sqrt(squared_error(first) + squared_error(last))
    return {"first": before, "last": after, "gain": after / before, "standard_errors": errors}


def learns(seed: int, folder: Path) -> bool:
    """Train with a seed, print the result, and return whether it learned."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "tril_gym", "train", "ppo-pp", "--seed", str(seed), "--output-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = learning_gain(rows)
    learned = found["gain"] >= GAIN and found["standard_errors"] >= STANDARD_ERRORS
    print(
        f"seed {seed}: {len(rows)} iterations, {time.perf_counter() - begin:.0f} s,"
        f" reward {found['first']:.3f} → {found['last']:.3f} (× {found['gain']:.2f},"
        f" {found['standard_errors']:.1f} standard errors): {'learns' if learned else 'DOES NOT LEARN'}",
        flush=True,
    )
    return learned


def main(seeds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        learned = [learns(seed, Path(folder) / str(seed)) for seed in seeds]
    raise SystemExit(not all(learned))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
