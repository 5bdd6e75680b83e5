"""Trackers such as wandb, tensorboard and trackio, through accelerate: settings, metrics and sample texts of a run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.agents.collection.layout import codec_of
from tril_gym.experiment.config import RunConfig
from tril_gym.utils.suggestions import with_suggestion

if TYPE_CHECKING:
    from tril_gym.agents.collection.layout import TextLayout
    from tril_gym.agents.collection.trajectories import Trajectories

log = logging.getLogger(__name__)

PROJECT = "tril_gym"
SAMPLES_EVERY = 10  # iterations between sample texts
SAMPLES = 3  # texts
TEXTS = "texts"  # name of the table of sample texts
COLUMNS = ("iteration", "prompt", "rollin", "rollout", "reward")
PREFIX_OF_GROUP = {"data": "env", "policy": "policy", "guide": "guide"}  # of the names of settings; others have "run"
# Settings with another name than their group and their own.
NAMES = {
    "algorithm": "algorithm.name", "env": "env.id", "num_envs": "env.num_envs", "env_args": "env",
    "policy": "policy.name", "guide": "guide.name", "reward": "reward", "hyperparameters": "algorithm",
}  # fmt: skip


@dataclass(frozen=True)
class TrackerOptions:
    """The options of a run's tracker, before its folder is known."""

    tracker: str | None = None
    project: str | None = None
    name: str | None = None
    tags: Sequence[str] = ()


class Tracker:
    """Send settings, metrics and texts to a tracker; do nothing without one, or once it has failed.

        tracker = Tracker("wandb", project="stories", name="first", config={"seed": 0})
        tracker.log({"reward/mean": 0.5}, step=1)
        tracker.close()

    Args:
        tracker: a tracker of accelerate: "wandb", "tensorboard", "trackio", "mlflow", …; None for none.
        project: the project that the run belongs to.
        name: of the run; None leaves it to the tracker. tensorboard has the last part of the folder's name.
        tags: words to find the run by. Where the tracker has none, they are one of the settings.
        config: settings to record beside the metrics; nested ones get names such as "env.num_envs".
        folder: for the files of trackers that write some, by default "runs/PROJECT" for tensorboard, and else where the
            tracker puts them.

    Raises:
        ValueError: the tracker is unknown or not installed.
    """

    def __init__(
        self,
        tracker: str | None,
        *,
        project: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.tracker, self.project, self.name, self.tags = tracker, project or PROJECT, name, tuple(tags)
        self.folder, self.settings = folder, flattened(config or {})
        self._accelerator: Any = None  # created by the first metrics
        self._has_failed = False
        if tracker is not None:
            from accelerate.tracking import get_available_trackers

            available = sorted(str(other) for other in get_available_trackers())
            if tracker not in available:
                way_out = f"; pip install {tracker}" if tracker in TABLES else ""
                raise ValueError(
                    f"tracker {with_suggestion(tracker, {*available, *TABLES})} is not installed; installed are"
                    f" {', '.join(available) or 'none'}{way_out}"
                )

    def begin(self) -> None:
        """Open the tracker's run; the first metrics do it, too."""
        if self.tracker is None or self._accelerator is not None or self._has_failed:
            return
        from accelerate import Accelerator

        with self._without_failure():
            project, folder, keywords = self._where()
            accelerator = Accelerator(log_with=self.tracker, project_dir=folder)
            takes_settings = "config" in keywords
            accelerator.init_trackers(
                project, config=None if takes_settings else self._all_settings(), init_kwargs={self.tracker: keywords}
            )
            self._accelerator = accelerator

    def _where(self) -> tuple[str, str | None, dict[str, Any]]:
        """Return the project, the folder and the keywords by which accelerate opens the tracker."""
        folder = None if self.folder is None else str(self.folder)
        if self.tracker == "wandb":
            own = {"name": self.name, "tags": list(self.tags), "config": self.settings}
            return self.project, folder, own | ({"dir": folder} if folder else {})
        if self.tracker == "trackio":  # its window into a notebook would be drawn in scripts, too
            return self.project, folder, {"name": self.name, "config": self._all_settings(), "embed": False}
        if self.tracker == "tensorboard":  # a run is a folder
            return self.name or "run", folder or str(Path("runs") / self.project), {}
        return self.project, folder or ".", {}

    def _all_settings(self) -> dict[str, Any]:
        return self.settings | ({"tags": ", ".join(self.tags)} if self.tags else {})

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics.

        Args:
            metrics: numbers by name.
            step: the number of iterations before them.
        """
        self.begin()
        if self._accelerator is not None:
            with self._without_failure():
                self._accelerator.log(dict(metrics), step=step)

    def log_texts(self, texts: Sequence[Mapping[str, Any]], step: int) -> None:
        """Send sample texts as a table, to trackers that have tables or texts.

        Args:
            texts: each with "prompt", "rollin", "rollout" and "reward"; see `texts_apart`.
            step: the number of iterations before them.
        """
        self.begin()
        if self._accelerator is not None and self.tracker in TABLES:
            rows = [[step, *(text.get(column) for column in COLUMNS[1:])] for text in texts]
            with self._without_failure():
                TABLES[self.tracker](self._accelerator.get_tracker(self.tracker), rows, step)

    def close(self) -> None:
        """Send what is still pending and end the tracker's run; a second call does nothing."""
        accelerator, self._accelerator = self._accelerator, None
        if accelerator is not None:
            with self._without_failure():
                if self.tracker == "trackio":  # accelerate ends the run, which trackio then ends once more at exit
                    import trackio

                    trackio.finish()
                else:
                    _end_trackers(accelerator)

    @contextmanager
    def _without_failure(self) -> Iterator[None]:
        """Warn where the tracker fails, and send nothing more to it; what it prints goes to standard error."""
        try:
            with redirect_stdout(sys.stderr):  # of `--log-json` and of pipes, in which trackers would write
                yield
        except Exception as error:
            self._accelerator, self._has_failed = None, True
            log.warning(
                "the tracker %s failed (%s: %s); the run continues without it, and metrics.jsonl has all metrics",
                self.tracker,
                type(error).__name__,
                error,
            )


def _end_trackers(accelerator: Any) -> None:
    """End the runs of an accelerator's trackers; of several processes the connection stays, which accelerate ends."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        accelerator.end_training()
        return
    for tracker in accelerator.trackers:
        tracker.finish()


def _wandb_table(tracker: Any, rows: list[list[Any]], step: int) -> None:
    tracker.log_table(TEXTS, columns=list(COLUMNS), data=rows, step=step)


def _trackio_table(tracker: Any, rows: list[list[Any]], step: int) -> None:
    import pandas
    import trackio

    tracker.log({TEXTS: trackio.Table(dataframe=pandas.DataFrame(rows, columns=list(COLUMNS)))}, step=step)


def _tensorboard_table(tracker: Any, rows: list[list[Any]], step: int) -> None:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    text = "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)
    tracker.writer.add_text(TEXTS, text, global_step=step)
    tracker.writer.flush()


def _markdown_cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return " ".join(text.replace("|", "\\|").split())


TABLES = {"wandb": _wandb_table, "trackio": _trackio_table, "tensorboard": _tensorboard_table}


def is_sampled(iteration: int) -> bool:
    """Return whether sample texts of an iteration are kept: of the first, and of every tenth."""
    return iteration == 1 or iteration % SAMPLES_EVERY == 0


def texts_apart(trajectories: Trajectories, layout: TextLayout, count: int) -> list[dict[str, Any]]:
    """Return the first `count` texts with "prompt", "rollin", "rollout" and "reward", None for what is unknown.

    Rollin and rollout together are the completion; where the environment shows no tokenizer, all of it is "rollout".
    """
    rows = []
    for row in range(min(count, len(trajectories))):
        info, switch = trajectories.infos[row], int(trajectories.switch[row])
        completion = info.get("completion")
        rollin = ""
        if layout.tokenizer is not None and completion is not None:
            codec, ids = codec_of(layout), trajectories.tokens[row][trajectories.is_token[row]].tolist()
            rollin = codec.text(ids[: codec.character_start(ids, switch)])
        rollout = None if completion is None else completion.removeprefix(rollin)
        reward = float(trajectories.rewards[row].sum())
        rows.append({"prompt": info.get("prompt"), "rollin": rollin, "rollout": rollout, "reward": reward})
    return rows


def named_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a run by names such as "algorithm.learning_rate" and "env.num_envs".

    Args:
        config: the fields of a `RunConfig`, secrets masked.
    """
    groups = {entry.name: entry.metadata.get("group", "run") for entry in fields(RunConfig)}
    found: dict[str, Any] = {}
    for name, value in config.items():
        group = PREFIX_OF_GROUP.get(groups.get(name, "run"), "run")
        found |= flattened({NAMES.get(name, f"{group}.{name.removeprefix(f'{group}_')}"): value})
    return found


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with names such as "env.num_envs", and values that every tracker takes."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        found |= flattened(value, name) if isinstance(value, Mapping) else {name: plain(value)}
    return found


def plain(value: Any) -> Any:
    """Return a setting as a number, a truth value or a text, as all trackers take them; None is "null"."""
    return value if isinstance(value, int | float | str) else json.dumps(value, default=str)
