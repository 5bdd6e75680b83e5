"""Write docs/algorithms.md, a section for each algorithm, from the code: idea, plan, formulas, options and defaults.

python scripts/algorithm_pages.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import Field, fields
from inspect import get_annotations
from pathlib import Path
from typing import Any

from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.utils.config_fields import flag_of

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"
HEAD = """# Every algorithm

Written by `scripts/algorithm_pages.py` from the docstrings and configs of `tril_gym/agents/algorithms`; to choose one,
see [which_algorithm.md](which_algorithm.md). An algorithm has the options of the config types that are named under it,
whose tables are at the end of the page, and its own defaults: those of Python and of the preset `pretrained`. Runs of
tiny policies have others, which `tril-gym train NAME --help` shows. **Metrics** are those of its runs beyond the ones
that all runs have, of texts, times and the policy's update; options add some. `bc`, `dagger` and `gkd` lack
`policy/entropy`, and those of the KL and of sampling errors. [command_line.md](command_line.md#metrics) defines each
one, and [when_it_does_not_learn.md](when_it_does_not_learn.md) says what to do about it; more on groups, pairs and
restarts is in [critic_free.md](critic_free.md), [pairs.md](pairs.md) and [restarts.md](restarts.md).
"""
PPO = ("losses.policy_loss", "losses.value_loss", "returns.gae")
CLIPPED = ("losses.policy_loss", "policy_losses.length_weights")
FORMULAS = {
    "bc": ("losses.nll_loss",),
    **dict.fromkeys(("ppo", "ppo-pp", "aggrevated", "lols", "d2lols", "dr-po"), PPO),
    "gail": ("losses.discriminator_loss", *PPO),
    "rloo": ("group_advantages.leave_one_out", *CLIPPED),
    "grpo": ("group_advantages.standardised", *CLIPPED),
    "dr-grpo": ("group_advantages.less_group_mean", *CLIPPED),
    "reinforce-pp": ("group_advantages.whitened_rewards_to_go", *CLIPPED),
    "remax": ("group_advantages.rewards_to_go", *CLIPPED),
    "dapo": ("group_advantages.standardised", "group_advantages.has_signal", *CLIPPED),
    "gspo": ("group_advantages.standardised", "policy_losses.gspo_loss"),
    "cispo": ("group_advantages.standardised", "policy_losses.cispo_loss"),
    "ppg": (*PPO, "divergences.divergence_loss"),
    "apa": ("policy_losses.apa_loss", "losses.value_loss", "returns.gae"),
    "vineppo": ("returns.segment_advantages", "losses.policy_loss"),
    "dpo": ("pair_losses.dpo_loss",),
    "ipo": ("pair_losses.ipo_loss",),
    "online-dpo": ("pair_losses.dpo_loss",),
    "rebel": ("pair_losses.rebel_loss",),
    "p3o": ("pair_losses.p3o_loss",),
    "rso": ("rejection.accept", "rejection.first_round_pairs", "pair_losses.hinge_loss"),
    "raft": ("rejection.best_of",),
    "a-lol": ("text_losses.positive_advantages", "text_losses.a_lol_loss"),
    "dagger": ("losses.nll_loss",),
    "gkd": ("divergences.divergence_loss",),
    "a-star-po": ("text_losses.optimal_value", "text_losses.a_star_loss"),
}

EVERY = {"iteration", "episodes", "tokens", "tokens_per_second", "reward/mean", "reward/std"}
EVERY |= {"text/length", "text/ended", "policy/loss", "grad_norm/policy"}  # of all runs
SCORED = {f"policy/{name}" for name in ("approx_kl", "entropy", "ratio_error", "sampling_error_max")}
SCORED |= {"policy/sampling_error_mean", "kl", "kl_per_token", "kl_coef"}  # of all but those that only imitate
IMITATION = ("bc", "dagger", "gkd")
OF_OPTIONS = {"policy/cut_mass", "target/loss"}  # of sampling and of `target_coef`, which presets set
CLIP, GROUP = ("policy/clip_fraction",), ("group/zero_variance",)
ROLLIN = ("rollin/prob", "rollin/share", "rollin/length", "guide/token_share")
CRITIC = (*CLIP, "critic/loss", "critic/explained_variance", "grad_norm/critic")
GUIDE_CRITIC = ("guide_critic/loss", "guide_critic/explained_variance")
FINISHED = ("rollin/ended", "reward/policy_alone", "reward/guide_alone", "reward/guide_finished")
PAIRS = (*GROUP, "pair/accuracy", "pair/margin", "pair/preferred_logratio", "pair/other_logratio")
PAIRS += ("pair/preferred_length", "pair/other_length")
REGRESSION = ("regression/target", "regression/r2")
DISCRIMINATOR = ("loss", "accuracy", "expert_score", "policy_score", "reward", "steps")
METRICS: dict[str, tuple[str, ...]] = {
    "bc": (),
    "ppo": CRITIC,
    **dict.fromkeys(("ppo-pp", "dr-po"), (*CRITIC, *ROLLIN)),
    "aggrevated": (*CLIP, *GUIDE_CRITIC, "grad_norm/critic", *ROLLIN, *FINISHED),
    **dict.fromkeys(("lols", "d2lols"), (*CRITIC, *GUIDE_CRITIC, *ROLLIN, *FINISHED)),
    "gail": (*CRITIC, *(f"discriminator/{name}" for name in DISCRIMINATOR), "grad_norm/discriminator"),
    **dict.fromkeys(("rloo", "dr-grpo", "dapo", "gspo", "cispo", "p3o"), (*CLIP, *GROUP)),
    "grpo": (*CLIP, *GROUP, "kl/loss"),
    **dict.fromkeys(("reinforce-pp", "vineppo"), CLIP),
    **dict.fromkeys(("remax", "a-lol"), (*CLIP, "reward/baseline")),
    "ppg": (*CRITIC, "auxiliary/loss", "auxiliary/critic_loss", "auxiliary/kl"),
    "apa": CRITIC[1:],
    **dict.fromkeys(("dpo", "ipo", "online-dpo", "rso"), PAIRS),
    "rebel": (*GROUP, *REGRESSION),
    "raft": GROUP,
    **dict.fromkeys(("dagger", "gkd"), ("rollin/prob", "guide/token_share")),
    "a-star-po": ("reward/baseline", *REGRESSION),
}


def own_metrics(name: str, reported: Iterable[str]) -> set[str]:
    """Return the metrics of a run that not all runs have."""
    shared = EVERY | OF_OPTIONS | (set() if name in IMITATION else SCORED)
    return {metric for metric in reported if metric not in shared and not metric.startswith(("time/", "score/"))}


def page() -> str:
    """Return the text of the page."""
    parents: dict[type, None] = {}
    sections = []
    for name in ALGORITHMS:
        kind = agent_type(name).config_type
        parents |= dict.fromkeys(parent for parent in reversed(kind.__mro__[1:]) if _own_fields(parent))
        sections.append(section(name))
    tables = [f"### `{parent.__name__}`\n\n{options(_own_fields(parent))}" for parent in parents]
    return "\n".join([HEAD, *sections, "## Shared options\n", "\n".join(tables)])


def section(name: str) -> str:
    """Return the section of an algorithm."""
    agent: Any = agent_type(name)
    kind = agent.config_type
    module = sys.modules[agent.__module__].__doc__ or ""
    parents = [parent.__name__ for parent in kind.__mro__[1:] if _own_fields(parent)]
    own = [entry for entry in _own_fields(kind) if not _is_in_parent(kind, entry)]
    changed = [entry for entry in fields(kind) if _is_in_parent(kind, entry) and entry.name in get_annotations(kind)]
    formulas = ", ".join(f"`tril_gym.functional.{formula}`" for formula in FORMULAS[name])
    lines = [f"## {name}\n", f"{as_markdown(module)}\n", f"**Plan**: {_sentence(agent.plan.__doc__)}\n"]
    metrics = ", ".join(f"`{metric}`" for metric in METRICS[name]) or "none of its own."
    lines += [f"**Formulas**: {formulas}\n", f"**Metrics**: {metrics}\n"]
    lines += [f"**Options**: those of {', '.join(f'`{parent}`' for parent in parents)}"]
    lines[-1] += f"; its own:\n\n{options(own)}" if own else ".\n"
    if changed:
        lines.append(f"**Defaults of its own**: {', '.join(f'`{e.name}` {e.default}' for e in changed)}\n")
    return "\n".join(lines)


def options(entries: list[Field[Any]]) -> str:
    """Return a table of fields."""
    rows = [f"| `{flag_of(e.name)}` | {e.default} | {e.metadata['help'].replace('|', '¦')} |" for e in entries]
    return "\n".join(["| option | default | meaning |", "| --- | --- | --- |", *rows, ""])


def as_markdown(docstring: str) -> str:
    """Return a docstring with its addresses as links."""
    return re.sub(r"(?<!\()(https?://[^\s,;)]+?)(\.?)(?=[\s,;)]|$)", r"<\1>\2", docstring.strip())


def _sentence(docstring: str | None) -> str:
    first = (docstring or "").strip().split("\n\n")[0]
    return re.sub(r"^Return (the|a) plan[^:]*: ", "", re.sub(r"\s+", " ", first)).removeprefix("Return ")


def _own_fields(kind: type) -> list[Field[Any]]:
    """Return the fields that a config type adds or gives another default."""
    known: dict[str, Field[Any]] = kind.__dict__.get("__dataclass_fields__", {})
    return [known[name] for name in get_annotations(kind) if name in known and _has_help(known[name])]


def _has_help(entry: Field[Any]) -> bool:
    return "help" in entry.metadata


def _is_in_parent(kind: type, entry: Field[Any]) -> bool:
    return any(entry.name in get_annotations(parent) for parent in kind.__mro__[1:])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
