"""The results of training: a report of each iteration, and the history of their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from tril_gym.agents.collection.trajectories import Trajectories, plain_texts
from tril_gym.agents.learners.learner import Metrics
from tril_gym.utils.atomic_files import finite_or_none
from tril_gym.utils.tables import metrics_line


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The results of one iteration."""

    iteration: int  # 1 after the first
    trajectories: Trajectories
    metrics: Metrics

    def texts(self, count: int | None = None) -> list[dict[str, Any]]:
        """Return the texts (the first `count` of them) as plain data.

        Each has "example", "prompt", "completion", "references", "reward" and "rollin", the number of tokens of the
        rollin; None for what the environment's info lacks.
        """
        total = len(self.trajectories)
        return plain_texts(self.trajectories, range(total if count is None else min(count, total)))

    def to_dict(self) -> dict[str, Any]:
        """Return "iteration", "metrics" and "texts" as plain data for JSON: None for numbers that are not finite."""
        plain: dict[str, Any] = finite_or_none({"metrics": self.metrics, "texts": self.texts()})
        return {"iteration": self.iteration} | plain

    def __repr__(self) -> str:
        return f"Report(iteration {metrics_line({'iteration': self.iteration} | self.metrics).strip()})"


class History(Sequence[Metrics]):
    """The metrics of each iteration of a training: a sequence of dictionaries.

    `history["reward/mean"]` lists one metric by iteration, and `pandas.DataFrame(history)` has a row for each.

    Attributes:
        stopped: why the training ended before all its iterations; None where it did not.
    """

    def __init__(self, rows: Iterable[Metrics] = ()) -> None:
        self._rows = list(rows)
        self.stopped: str | None = None

    def append(self, row: Metrics) -> None:
        """Add the metrics of an iteration."""
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Metrics]:
        return iter(self._rows)

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: int) -> Metrics: ...
    @overload
    def __getitem__(self, key: slice) -> list[Metrics]: ...

    def __getitem__(self, key: str | int | slice) -> Any:
        """Return a row, some rows, or by name the values of a metric: None where an iteration has none.

        Raises:
            KeyError: no iteration has a metric of that name.
        """
        if not isinstance(key, str):
            return self._rows[key]
        if key not in self.names():
            raise KeyError(f"no metric {key!r}; there are {', '.join(self.names()) or 'none'}")
        return [row.get(key) for row in self._rows]

    def names(self) -> list[str]:
        """Return the names of all metrics, in their order."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the values of each metric by name, None where an iteration has none."""
        return {name: self[name] for name in self.names()}

    def __repr__(self) -> str:
        rows = [*self._rows[:1], *self._rows[1:][-1:]]
        dots = ["   …"] if len(self) > 2 else []
        lines = [metrics_line(row) for row in rows]
        end = [] if self.stopped is None else [f"stopped: {self.stopped}"]
        return "\n".join([f"History of {len(self)} iterations", *lines[:1], *dots, *lines[1:], *end])
