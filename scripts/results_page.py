"""Write the tables of docs/results_small.md from the runs in benchmarks/results, and its figures.

    python scripts/results_page.py [--figures]

The text between the tables is written by hand.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by name

import learning  # noqa: E402

PAGE, RESULTS = ROOT / "docs" / "results_small.md", ROOT / "benchmarks" / "results"
FIGURES = {"commongen": "common_gen", "imdb": "imdb", "tldr": "tldr", "hh": "hh"}  # names in docs/learning_….png
MOST_CHARACTERS = 120  # of a prompt in the table of texts
FIRST = ("tril/CommonGen-v0", "tril/IMDB-v0", "tril/TLDR-v0")  # environments of the first table

PREFIXES = {"learning": "learning", "published": "learning_published"}  # of figures, by the folder of the runs

Results = Sequence[Mapping[str, Any]]


def read(folder: str) -> list[dict[str, Any]]:
    """Return the results of a folder, in the order of their file names."""
    return [json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob("*.json"))]


def page(text: str) -> str:
    """Return the page with its tables computed anew."""
    runs, published = read("learning"), read("published")
    seq2seq = [run for run in runs if run["policy"] == "tiny-seq2seq"]
    seven = [run for run in runs if run["policy"] == "tiny" and run["algorithm"] in learning.SEVEN]
    hh = [run for run in seven if run["env"] == "tril/HH-v0"]
    others = [run for run in runs if run["policy"] == "tiny" and run["algorithm"] not in learning.SEVEN]
    tables = {
        ("# Results on small models", "| algorithm "): learning.table([r for r in seven if r["env"] in FIRST])[0],
        ("# Results on small models", "| environment "): imitation(runs),
        ("## Against more imitation", "| algorithm "): controls(runs),
        ("## The room", "| environment "): best(runs),
        ("## Texts", "| algorithm "): texts(runs),
        ("## Encoder-decoder", "| algorithm "): learning.table(seq2seq)[0],
        ("## The seven on", "| algorithm "): learning.table(hh)[0],
        ("## The other algorithms", "| algorithm "): learning.table(others)[0],
        ("## On published data", "| algorithm "): learning.table(published)[0],
    }
    for (heading, begin), table in tables.items():
        text = with_table(text, heading, begin, table)
    return text


def with_table(text: str, heading: str, begin: str, table: str) -> str:
    """Return a page with the first table that begins so below a heading replaced."""
    start = text.index(f"\n{begin}", text.index(f"\n{heading}") if heading.startswith("##") else 0) + 1
    end = text.index("\n\n", start)
    return text[:start] + table + text[end:]


def imitation(runs: Results) -> str:
    """Return what GAIL is judged by: the likelihood of held-out references, and a fresh discriminator's accuracy."""
    rows = [run for run in runs if run["algorithm"] == "gail"]
    rows.sort(key=lambda run: (run["policy"], learning.ENVS.index(run["env"]), run["seed"]))
    return rows_of(
        ("environment", "policy", "seed:", "nats a token before:", "after:", "accuracy before:", "after:"),
        [
            [run["env"], run["policy"], run["seed"]]
            + [f"{value:.3f}" for value in run["nll"]]
            + [f"{value:.2f}" for value in run["discriminator"]]
            for run in rows
        ],
    )


def controls(runs: Results) -> str:
    """Return the rewards of algorithms beside those of imitation for the same time."""
    rows = [run for run in runs if "control" in run]
    order = list(learning.SEVEN)
    rows.sort(key=lambda run: (learning.ENVS.index(run["env"]), order.index(run["algorithm"]), run["seed"]))
    found = []
    for run in rows:
        ends = [run[kind][way]["after"] for way in ("greedy", "sampled") for kind in ("verdict", "control")]
        before = [run["verdict"][way]["before"] for way in ("greedy", "sampled")]
        values = [f"{value:.3f}" for value in (before[0], *ends[:2], before[1], *ends[2:])]
        found.append([run["algorithm"], run["env"], run["seed"], *values])
    head = ("algorithm", "environment", "seed:")
    for way in ("greedy", "sampled"):
        head += (f"{way} before:", "after:", "with imitation:")
    return rows_of(head, found)


def best(runs: Results) -> str:
    """Return the highest mean reward of each decoding that any run reached, and by which algorithm."""
    found = []
    for env in learning.ENVS:
        cells = []
        for way in ("greedy", "sampled"):
            top = max((run for run in runs if run["env"] == env), key=lambda run: run["after"][way]["reward/mean"])
            kind = ", encoder-decoder" if top["policy"] == "tiny-seq2seq" else ""
            cells.append(f"{top['after'][way]['reward/mean']:.3f} ({top['algorithm']}{kind}, seed {top['seed']})")
        found.append([env, *cells])
    return rows_of(("environment", "best greedy", "best sampled"), found)


def texts(runs: Results) -> str:
    """Return sampled texts of the first test prompts before and after, of PPO++ and GAIL."""
    found = []
    for algorithm in ("ppo-pp", "gail"):
        for env in learning.ENVS:
            cell = (algorithm, env, "tiny", 0)
            run = next(r for r in runs if (r["algorithm"], r["env"], r["policy"], r["seed"]) == cell)
            prompts = map(end_of, run["texts"]["prompts"])
            triples = zip(prompts, run["texts"]["before"], run["texts"]["after"], strict=True)
            found += [[algorithm, *(cell_of(text) for text in triple)] for triple in triples]
    return rows_of(("algorithm", "prompt", "before", "after"), found)


def end_of(prompt: str) -> str:
    """Return a prompt, or if it is long, its last whole words."""
    return prompt if len(prompt) <= MOST_CHARACTERS else f"… {prompt[-MOST_CHARACTERS:].partition(' ')[2]}"


def cell_of(text: str) -> str:
    """Return a text as a cell of a table in Markdown."""
    return " ".join(text.replace("|", "\\|").split())


def rows_of(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown; columns whose name ends in a colon are right-aligned."""
    head = list(head)
    lines = [[name.removesuffix(":") for name in head], ["---:" if name.endswith(":") else "---" for name in head]]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [*lines, *rows])


def drawn_runs(kind: str) -> list[dict[str, Any]]:
    """Return the runs of "learning" or "published" that the figures show."""
    return [run for run in read(kind) if run["policy"] == "tiny" and run["algorithm"] in learning.SEVEN]


def write_figures() -> None:
    """Write a figure for each environment to docs, of the seven algorithms with decoders."""
    for kind, prefix in PREFIXES.items():
        with tempfile.TemporaryDirectory() as folder:
            learning.draw(drawn_runs(kind), Path(folder))
            for drawn in Path(folder).iterdir():
                ours = FIGURES[drawn.name.removesuffix("_tiny.png")]
                shutil.copyfile(drawn, PAGE.parent / f"{prefix}_{ours}.png")


def main() -> None:
    PAGE.write_text(page(PAGE.read_text()))
    if "--figures" in sys.argv[1:]:
        write_figures()


if __name__ == "__main__":
    main()
