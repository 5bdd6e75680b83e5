"""Deferred rewards: the contract between a reward that pays late and a collector that credits late payments.

A reward that runs a model is cheaper for a whole batch than for each text as it ends. So

1. the collector offers to wait with `reset(options={"defer": True})`, where rows that ended are idle until they are
   reset. It promises to step until every row has ended;
2. the reward accepts or pays at once. If it accepts, the step that ends the last row pays all deferred texts: in
   `rewards`, and in `infos["scores"]`, also in rows that ended earlier, whose flags are False in this step;
3. the collector credits what an idle row receives with a score to the last token of its text, and merges the row's
   info.

A collector of several processes also offers `options={"on_main": function}`: what the main process computes of the
texts of all of them, once for each batch. A reward that is computed there says so in
`metadata["text"]["main_process_reward"]`.

n rows of the environment, B texts in the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tril_gym.utils.batched_infos import rows_with

OPTION = "defer"  # of `reset`
ON_MAIN = "on_main"  # of `reset`
SCORES = "scores"  # key in the info of a text that is paid: its scores by name

Rows = npt.NDArray[np.int64]
OnMain = Callable[[Callable[[list[Any]], list[Any]], list[Any]], list[Any]]  # `Ranks.on_main`


def offer(*, can_wait: bool, on_main: OnMain | None = None) -> dict[str, Any]:
    """Return the options of `reset` by which a collector offers to wait, where ended rows are idle."""
    return ({OPTION: True} if can_wait else {}) | ({} if on_main is None else {ON_MAIN: on_main})


def is_offered(options: Mapping[str, Any]) -> bool:
    """Return whether the caller of `reset` offers to wait."""
    return bool(options.get(OPTION))


def rows_to_credit(active: npt.NDArray[np.bool_], infos: Mapping[str, Any], *, can_wait: bool) -> Rows:
    """Return the rows of B whose reward belongs to their text: still active, (B,), or paid late.

    What an idle row receives without a score is no pay: a wrapper may add a constant to the rewards of all rows. Where
    ended rows are not idle, what they receive belongs to their next text.
    """
    return _with_scored_rows(np.flatnonzero(active), infos, len(active), can_wait=can_wait)


def rows_with_final_info(ended: Rows, infos: Mapping[str, Any], texts: int, *, can_wait: bool) -> Rows:
    """Return the rows of B whose info must be merged: ended in this step, or received a deferred score."""
    return _with_scored_rows(ended, infos, texts, can_wait=can_wait)


def _with_scored_rows(rows: Rows, infos: Mapping[str, Any], texts: int, *, can_wait: bool) -> Rows:
    """Return rows of B and those whose score is in the infos of a step, sorted."""
    scored = np.array(rows_with(infos, SCORES) if can_wait else [], dtype=np.int64)
    if not scored.size:  # nearly every step
        return rows
    return np.union1d(rows, scored[scored < texts])


def merged(info: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return the info of a text with that of a later step; the scores of both are kept."""
    scores = {SCORES: info[SCORES] | later[SCORES]} if SCORES in info and SCORES in later else {}
    return {**info, **later, **scores}
