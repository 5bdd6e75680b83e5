"""Start and resume runs: `train` and `resume`, and the steps before the first iteration that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tril_gym.experiment.build import RunComponents, build_run, restore_run
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.resuming import check_total, check_unchanged, saved_config, with_changes
from tril_gym.experiment.run import Result, Run
from tril_gym.experiment.run_folder import CONFIG, REWARD, RunFolder
from tril_gym.experiment.text_quality import training_words
from tril_gym.experiment.tracking import Tracker, TrackerOptions, named_settings
from tril_gym.experiment.trust import check_trusted, masked
from tril_gym.utils.console import RunConsole
from tril_gym.utils.console_modes import SilentConsole
from tril_gym.utils.processes import Processes
from tril_gym.utils.ranks import Ranks, join_ranks
from tril_gym.utils.threads import cpu_threads
from tril_gym.wrappers.reward_term import terms

USUAL_PROCESSES = Processes()


def train(
    config: RunConfig,
    output_dir: str | Path,
    *,
    track: str | TrackerOptions | None = None,
    console: RunConsole | None = None,
    profile: bool = False,
) -> Result:
    """Train an agent in a new run folder.

    Args:
        config: all settings; see `configure`.
        output_dir: an empty or new folder.
        track: a tracker of accelerate to also send settings, metrics and texts to, such as "wandb"; or `TrackerOptions`
            with its project, name and tags.
        console: prints the progress; by default on standard output.
        profile: also measure the peak memory of each part of an iteration.

    Raises:
        ValueError: a setting is wrong; nothing has been written.
        Interrupted: a signal such as Ctrl-C asked for a stop; the iteration in progress is complete and saved.
        Exception: a part of the run failed; the notes of the exception say what is saved and how to continue.
    """
    return new_run(config, output_dir, track=track, console=console).run(profile=profile)


def resume(
    output_dir: str | Path,
    *,
    track: str | TrackerOptions | None = None,
    console: RunConsole | None = None,
    profile: bool = False,
    trust_code: bool = False,
    force_unlock: bool = False,
    **settings: Any,
) -> Result:
    """Continue the run in a folder from its last checkpoint, as if it had never stopped; without one start it over.

    Args:
        output_dir: the run folder.
        track: as in `train`, as the following ones.
        console: prints the progress.
        profile: measure memory.
        trust_code: also run code that only the settings of the folder name: functions, modules and servers.
        force_unlock: take the folder from another process that seems to use it.
        settings: those of `MAY_CHANGE`, such as the total number of `iterations`; and what a folder does not hold, such
            as a key in `env_args`.

    Raises:
        ValueError: there is no run to resume, its settings name code and are not trusted, or `iterations` exceeds its
            learning-rate schedule or is less than the run has.
        Interrupted: as in `train`, as other exceptions.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    run = resumed_run(output_dir, given, track=track, console=console, trust_code=trust_code, force_unlock=force_unlock)
    return run.run(profile=profile)


def new_run(
    config: RunConfig,
    output_dir: str | Path,
    *,
    track: str | TrackerOptions | None = None,
    console: RunConsole | None = None,
    force_unlock: bool = False,
    processes: Processes = USUAL_PROCESSES,
) -> Run:
    """Return a run that is ready to start in a new folder. Nothing is written before all settings are checked.

    Where torchrun or `accelerate launch` started several processes, all call it, and the main one writes the folder.
    """
    folder = RunFolder(output_dir)
    folder.require_empty()
    ranks = join_ranks(config.device, **processes.as_settings())
    tracker = _tracker(track if ranks.is_main else None, config, folder.path)  # before anything that takes long
    with cpu_threads(config.cpu_threads):
        components = build_run(config, ranks)
        if not ranks.is_main:
            return _run(folder, components, tracker, console)
        folder.create(force_unlock=force_unlock)
        try:
            write_beginning(folder, components)
            tracker.settings = named_settings(masked(asdict(components.config)))
            return _run(folder, components, tracker, console)
        except BaseException:  # including Ctrl-C while a reward is fitted
            folder.remove()
            raise


def resumed_run(
    output_dir: str | Path,
    given: Mapping[str, Any],
    *,
    algorithm: str | None = None,
    track: str | TrackerOptions | None = None,
    console: RunConsole | None = None,
    trust_code: bool = False,
    force_unlock: bool = False,
    processes: Processes = USUAL_PROCESSES,
) -> Run:
    """Return the run of a folder as its last checkpoint left it, or at its beginning where it has none.

    Args:
        output_dir: the run folder.
        given: settings that the user names; they may differ from the run's only for `MAY_CHANGE`.
        algorithm: the algorithm that the user names.
        track: as of `resume`, as the following ones.
        console: as of `resume`.
        trust_code: as of `resume`.
        force_unlock: as of `resume`.
        processes: how several processes train together.
    """
    folder = RunFolder(output_dir)
    config = saved_config(folder, given)
    check_unchanged(config, given, algorithm=algorithm, folder=folder.path)
    named, where = {**given, "algorithm": algorithm}, folder.path / CONFIG
    check_trusted({"algorithm": config.algorithm}, named, where=where, trust_code=trust_code)
    config = with_changes(config, given)
    check_trusted(asdict(config), named, where=where, trust_code=trust_code)
    ranks = join_ranks(config.device, **processes.as_settings())
    console = console or _console_of(ranks)
    tracker = _tracker(track if ranks.is_main else None, config, folder.path)
    if ranks.is_main:
        folder.lock(force=force_unlock)
    try:
        with cpu_threads(config.cpu_threads):
            checkpoint = folder.newest_checkpoint()
            if checkpoint is None:
                console.say(f"{folder.path} has no checkpoint yet: its run starts over")
                components = build_run(config, ranks)
            else:
                components = restore_run(config, checkpoint, folder.path / REWARD, ranks)
                check_total(config, components.agent.iteration, folder=folder.path)
            ranks.barrier()  # until all have read
            if ranks.is_main:
                _go_back(folder, components, checkpoint)
            return _run(folder, components, tracker, console)
    except BaseException:
        folder.unlock()
        raise


def _go_back(folder: RunFolder, components: RunComponents, checkpoint: Path | None) -> None:
    """Take back what a run has written since a checkpoint; without one, since its beginning."""
    if checkpoint is None:
        folder.clear_results()
        write_beginning(folder, components)
        return
    config, done = components.config, components.agent.iteration
    folder.write_config(asdict(config))
    folder.truncate_after(done)
    folder.show_policy(checkpoint)
    folder.prune_checkpoints(done, keep=config.keep)


def _run(folder: RunFolder, components: RunComponents, tracker: Tracker, console: RunConsole | None) -> Run:
    """Return a run, on other processes than the main one in a temporary copy of its folder."""
    ranks = components.agent.ranks
    ranks.barrier()  # until the main process has written the folder
    own = folder if ranks.is_main else folder.copy_of_rank()
    return Run(own, components, tracker, console or _console_of(ranks))


def _console_of(ranks: Ranks) -> RunConsole:
    """Return what a process prints on where nothing is chosen: the main one on standard output, others nowhere."""
    return RunConsole() if ranks.is_main else SilentConsole()


def _tracker(track: str | TrackerOptions | None, config: RunConfig, folder: Path) -> Tracker:
    """Return the tracker of a run. It opens where the run begins.

    Raises:
        ValueError: it is unknown or not installed.
    """
    options = track if isinstance(track, TrackerOptions) else TrackerOptions(track)
    own = folder / options.tracker if options.tracker == "tensorboard" else folder
    return Tracker(
        options.tracker,
        project=options.project,
        name=options.name or folder.absolute().name,
        tags=options.tags,
        config=named_settings(masked(asdict(config))),
        folder=own,
    )


def write_beginning(folder: RunFolder, components: RunComponents) -> None:
    """Write what a run folder has before the first iteration; the settings first, so that it can be resumed."""
    folder.write_config(asdict(components.config))
    save_rewards(components, folder.path / REWARD)
    if (words := training_words(components.envs)) is not None:
        folder.write_words(words)


def save_rewards(components: RunComponents, folder: Path) -> None:
    """Save what the reward terms were fitted to, so that a text has the same score wherever it is scored."""
    for term in terms(components.envs):
        term_folder = folder / term.name
        term_folder.mkdir(parents=True, exist_ok=True)
        term.score.save(term_folder)
        if not any(term_folder.iterdir()):  # nothing was fitted
            term_folder.rmdir()
