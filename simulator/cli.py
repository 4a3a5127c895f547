"""The command line ``disaggsim``: the only user of Hydra.

Hydra composes the settings and starts the jobs; below this module there are only plain mappings
and checked objects. Results go to stdout and into the run's folder, talk goes to stderr. Exit
codes: 0 for a finished run, 2 for input that cannot be used (one sentence), 130 when interrupted,
1 for a bug (its traceback).
"""

import argparse
import hashlib
import io
import logging
import os
import re
import shutil
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn, cast, get_type_hints

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, MissingMandatoryValue, OmegaConfBaseException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from simulator.advice_page import Told, write_advice
from simulator.aggregates import Aggregates
from simulator.bound import with_regret
from simulator.compare import Options, Source, compare, find, put_beside, read_source, write
from simulator.compare.listing import listed, table
from simulator.compare.objective import Objective
from simulator.compare.reading import REPLICATIONS
from simulator.compare.terminal import spread, told, unfinished
from simulator.compare.writing import PAGE
from simulator.configuration import RENAMED, build, unknown
from simulator.correction import correct
from simulator.counterpart import MOST_REQUESTS, compared, not_compared
from simulator.errors import BAD_INPUT, BUG, USER_ERRORS, ConfigError
from simulator.experiment import Experiment, absolute_files, config_text, simulate
from simulator.explore.confirm import confirm, confirmed_lines
from simulator.explore.exploration import Explored, explore
from simulator.explore.export import Surroundings, beyond, merged
from simulator.explore.sections import Section, map_section, start_section, tornado_section
from simulator.explore.sensitivity import lengths_map, tornado
from simulator.explore.start import evaluate_starts, starts_lines
from simulator.explore.study import OnStudy
from simulator.exports import write_exports
from simulator.files import write_parquet, write_text
from simulator.front import (
    UnheardError,
    complain,
    interrupts_kept_here,
    refuse_if_interrupted,
    say,
    start_tracker,
    tell,
)
from simulator.goodput.study import search, trials_of
from simulator.goodput.writing import text_of, write_begun
from simulator.goodput.writing import write as write_goodput
from simulator.labels import Labels
from simulator.nearest import dotted, suggest
from simulator.plugins import add_folders, fault
from simulator.repetition import Repeat, Repetition
from simulator.report import write_report
from simulator.report.terminal import summary_table
from simulator.results import Results, config_digest
from simulator.runs import (
    REPORT,
    SEARCHES,
    SUMMARY,
    Outcome,
    claimed,
    discard,
    is_done,
    labels,
    progress_bar,
    read_outcomes,
    sweep_table,
)
from simulator.services import Services, simulate_services
from simulator.settings import (
    LOOKING,
    build_any,
    build_counterpart,
    build_experiment,
    build_exploration,
    build_goodput,
    build_regret,
    build_report_options,
    build_task,
    build_trace_options,
    laid_over,
    resolve,
    spelled_out,
)
from simulator.tracing.study import study
from simulator.tracing.writing import lines_of
from simulator.tracing.writing import write as write_trace
from simulator.yaml_text import parse

INPUT_ERRORS: tuple[type[Exception], ...] = (
    *USER_ERRORS,
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    OSError,
)
"""What the user can mend: told in one sentence. Anything else is a bug and shows its traceback."""

COMPOSING_ERRORS: tuple[type[Exception], ...] = (*INPUT_ERRORS, ValueError)
"""The same outside a job, where a ``ValueError`` is Hydra's about an override."""

_EXPORTED = (
    "model",
    "hardware",
    "fabric",
    "latency",
    "slo",
    "router",
    "decode_router",
    "transfer",
)
"""Groups whose choices an exploration's exported experiment keeps."""

_NUMBER = re.compile(r"=[-+]?\d[\d_.]*(?:[eE][-+]?\d+)?$")
"""A number as an override's whole value."""

CONFIG = "config.yaml"
FOLDER_NAME_LIMIT = 120
PLAIN_WIDTH = 120  # columns of a table that goes to a file or a pipe


def main() -> int:
    """Run the command line in ``sys.argv`` and return its exit code.

    Raises:
        KeyboardInterrupt: the run was interrupted.
        UnheardError, BrokenPipeError: stdout cannot be written; what was run is complete.
    """
    OmegaConf.register_new_resolver("disaggsim.folder", folder_name, replace=True)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print and exit with 1
    job = Job(command=uuid.uuid4().hex)
    try:
        return _main(job)
    except KeyboardInterrupt:
        _compare_sweep(_outcomes(job))  # what a sweep had finished
        raise


def _main(job: "Job") -> int:
    try:
        _run_hydra(job)
        return _tell(job)
    except (UnheardError, BrokenPipeError):
        raise
    except COMPOSING_ERRORS as error:
        refuse_if_interrupted(error)
        _tell(job)
        complain(sentence(error))
        return BAD_INPUT
    except Exception as error:
        refuse_if_interrupted(error)
        _tell(job)  # what a sweep had finished when its launcher broke
        raise


def compose(overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment the command line would run with these overrides.

    Raises:
        ConfigError, SpecError, TraceError: an override or setting cannot be used.
    """
    return build_experiment(_composed(overrides))


def compose_any(overrides: Sequence[str] = ()) -> Experiment | Services:
    """Return the experiment, or the services, the command line would run with these overrides.

    Raises:
        ConfigError, SpecError, TraceError: an override or setting cannot be used.
    """
    return build_any(_composed(overrides))


def carry_out(overrides: Sequence[str] = ()) -> Results:
    """Return the results of what the command line would simulate; raise as :func:`compose_any`."""
    return _simulate(compose_any(overrides))


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of these overrides."""
    try:
        with hydra.initialize_config_module("conf", version_base="1.3"):
            settings = _plain(hydra.compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(sentence(error)) from error
    _check_model(settings, overrides)
    return settings


def folder_name(overrides: str) -> str:
    """Return a folder's name for a job's ``overrides``: readable, safe, and its own.

    Slashes and other signs become ``_``; a digest then keeps apart what would look the same.
    """
    safe = re.sub(r"[^\w.=,+-]", "_", overrides)[:FOLDER_NAME_LIMIT].lstrip(".") or "default"
    if safe in (overrides, "default"):
        return safe
    return f"{safe}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


@dataclass(slots=True)
class Job:
    """What Hydra calls with a composed configuration, here or in a launcher's worker process.

    ``command`` identifies the command line all jobs of a sweep belong to. ``outcomes`` are of the
    jobs this very process ran, ``results`` those of a single run, ``answer`` an exploration's,
    a comparison's or a list's, whose page is ``page``. ``writing`` is the folder of the repetition
    under way, ``objective`` what the job tells its sweeper. ``config_dir`` is the user's folder of
    settings, whose plug-ins can be imported.
    """

    command: str
    outcomes: list[Outcome] = field(default_factory=list)
    results: Results | None = None
    answer: str | None = None
    page: str | None = REPORT
    writing: Path | None = None
    sweeping: bool = False
    config_dir: str | None = None
    objective: Objective = field(default_factory=Objective)
    process: int = field(default_factory=os.getpid)

    def __call__(self, config: DictConfig) -> float | list[float] | None:
        """Carry out one job; how it ends is told by its outcome, so that a sweep's others go on.

        Return its objective for a sweeper that goes by it: one number, or several.

        Raises:
            ConfigError: in a sweep, another run holds the job's folder: nothing is written there.
        """
        add_folders(self.config_dir)
        settings = HydraConfig.get()
        sweeping = self.sweeping = settings.mode == RunMode.MULTIRUN
        folder = Path(settings.runtime.output_dir)
        about: dict[str, Any] = {
            "command": self.command,
            "number": settings.job.num if sweeping else 0,
            "overrides": _task_overrides(),
            "folder": os.path.relpath(folder),
        }
        try:
            with claimed(folder):
                looking = OmegaConf.to_container(config.compare) if "compare" in config else {}
                about["compare"] = looking
                outcome = Outcome(**about, **self._attempt(config, folder, sweeping))
                if sweeping:
                    outcome.write()
        except ConfigError as error:
            if sweeping:
                raise
            outcome = Outcome(**about, **_failed(error))
        self.outcomes.append(outcome)
        if sweeping:
            complain(f"job {outcome.number} {outcome.status}: {' '.join(outcome.overrides)}")
        told = self.objective.of({} if outcome.status == "failed" else outcome.summary)
        return list(told) if len(told) > 1 else next(iter(told), None)

    def _attempt(self, config: DictConfig, folder: Path, sweeping: bool) -> dict[str, Any]:
        """Return how the job ended; unless it is done, ``folder`` does not look complete."""
        self.writing, self.objective = None, Objective()
        try:
            return {"status": self._work(config, folder, sweeping)}
        except (Exception, SystemExit) as error:
            discard(self.writing or folder, keep=sweeping)
            refuse_if_interrupted(error)
            return _failed(error, OmegaConf.to_container(config))
        except KeyboardInterrupt:
            discard(self.writing or folder)
            raise

    def _work(self, config: DictConfig, folder: Path, sweeping: bool) -> str:
        settings = _plain(config)
        looking = {name: settings.pop(name) for name in LOOKING if name in settings}
        options: Options = build(looking.get("compare", {}), Options, "compare")
        labels: Labels = build(
            {name: looking[name] for name in ("name", "tags") if name in looking}, Labels, ""
        )
        task, runs = build_task(settings), _runs(looking.get("runs"), settings, sweeping=sweeping)
        if task == "list":
            self.answer, self.page = table(listed(runs, labels)), None
            discard(folder)
            return "done"
        if task == "compare":
            beside = _measured(settings, options)
            self.answer, self.page = _compare(runs, labels, (options, beside), folder), PAGE
            return "done"
        repeat = _repeat(looking, build_task(settings))
        self.objective = _objective(looking.get("objective"), task)
        _check_model(settings, _task_overrides())
        settings = resolve(settings, tell=True)
        text = config_text(settings)
        again = list(repeat.of(settings))  # what cannot be repeated is not even begun
        ran = not (sweeping and is_done(folder, text))
        if ran:
            self._run(settings, folder, text)
        labels.leave(folder / SUMMARY)
        if not again:
            return "done" if ran else "skipped"
        try:
            for one in again:
                ran |= self._again(one, folder / REPLICATIONS / one.name)
                labels.leave(folder / REPLICATIONS / one.name / SUMMARY)
        finally:
            if not sweeping:
                self.answer = _compare_own(folder, options)
        return "done" if ran else "skipped"

    def _run(self, settings: Mapping[str, Any], folder: Path, text: str) -> None:
        """Do what a job is for in ``folder``; repetitions of other settings there are void."""
        before = [] if is_done(folder, text) else (folder / REPLICATIONS).glob("*")
        for each in (folder, *before):
            discard(each, keep=True)
        task, first = build_task(settings), os.getpid() == self.process
        if task != "simulate":
            if task == "trace" and self.sweeping:
                raise ConfigError("task=trace looks at one trace: call it without -m")
            work = {
                "explore": _explore,
                "goodput": _goodput,
                "calibrate": _calibrate,
                "trace": _trace,
            }[task]
            self.answer = work(settings, folder, text, enabled=first)
            return
        asked = build_counterpart(settings)
        results = _simulate(
            build_any(settings),
            text,
            regret=build_regret(settings),
            counterpart=not self.sweeping if asked is None else asked,
            most=MOST_REQUESTS if asked is None else None,
            enabled=first,
        )
        _write(results, settings, folder)
        self.results = None if self.sweeping else results

    def _again(self, one: Repetition, folder: Path) -> bool:
        """Run one repetition, and tell whether it was not done before."""
        text = config_text(one.settings)
        if is_done(folder, text):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        self.writing = folder
        discard(folder, keep=True)
        results = _simulate(
            build_any(one.settings),
            text,
            regret=build_regret(one.settings),
            enabled=os.getpid() == self.process,
        )
        results.write(folder, report=None)
        return True


def _simulate(
    made: Experiment | Services,
    text: str = "",
    *,
    regret: bool = False,
    counterpart: bool = False,
    most: int | None = None,
    enabled: bool = False,
) -> Results:
    """Return the results, with its ``counterpart``'s for at most so many requests, its regret.

    Services have neither; ``enabled`` shows the progress.
    """
    with progress_bar(enabled=enabled) as progress:
        if isinstance(made, Services):
            return simulate_services(made, config=text, progress=progress)
        trace = made.trace()
        results = simulate(made, config=text, progress=progress, trace=trace)
    if regret:
        results = with_regret(made, results, trace)
    if not counterpart:
        return results
    if most is not None and len(trace) > most:
        reason = f"this run has more than {most:,} requests; counterpart=true does it all the same"
        return not_compared(results, reason)
    with progress_bar(enabled=enabled) as progress:
        return compared(made, results, trace, progress)


@contextmanager
def points_bar(
    what: str, counted: str = "points", *, enabled: bool = True
) -> Iterator[OnStudy | None]:
    """Show a bar on stderr while ``what`` are worked off; nothing where stderr is no terminal.

    ``counted`` names what it adds up beside.
    """
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.description}"),
        BarColumn(),
        TextColumn(f"{{task.fields[points]:,}} {counted}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1, points=0)

        def advance(done: int, total: int, points: int) -> None:
            bar.update(task, completed=done, total=total, points=points)

        yield advance


def _explore(settings: Mapping[str, Any], folder: Path, text: str, *, enabled: bool) -> str:
    """Explore into ``folder`` and return what to say about it; ``enabled`` shows its progress."""
    exploration = build_exploration(settings)
    with points_bar("layouts", enabled=enabled) as progress:
        done = explore(exploration, progress)
    write_text(folder / CONFIG, text)
    around = _surroundings(settings, replays=exploration.replays)
    with points_bar("simulations", "requests", enabled=enabled) as progress:
        done, confirmed = confirm(
            done, settings, around, lambda each: simulate(build_experiment(each)), progress
        )
    write_parquet(folder / "confirmed.parquet", confirmed)
    sections, lines = _sections(done, enabled=enabled)
    page = Told(done=done, confirmed=confirmed, sections=sections, config=text)
    about = {"config_digest": config_digest(text)}
    done.write(folder, about, around, sections, lambda draft: write_advice(page, draft))
    return "\n".join([done.text, *lines, *confirmed_lines(confirmed)])


def _write(results: Results, settings: Mapping[str, Any], folder: Path) -> None:
    """Write a run's folder, what was asked for beside its data included."""
    options = build_report_options(settings)
    write_exports(results, options.exports, folder)
    results.write(folder, report=write_report if options.html else None)


def _trace(settings: Mapping[str, Any], folder: Path, text: str, *, enabled: bool) -> str:
    """Look at the workload's requests, write what was asked for, and return what to say of them."""
    options = build_trace_options(settings)
    with points_bar("trace", enabled=enabled):
        done = study(build_experiment(settings), options)
    said = write_trace(done, options, text, config_digest(text), folder)
    if done.fitted is not None:
        said.append(f"workload: --config-dir {os.path.relpath(folder)} workload=fitted")
    return "\n".join([*lines_of(done), *said])


def _calibrate(settings: Mapping[str, Any], folder: Path, text: str, *, enabled: bool) -> str:
    """Fit to the measured traffic, run the better settings into ``folder`` and say what came out.

    The folder is that run's, with the fitted settings as an experiment if they help. ``text``
    stays the run's where they do not.
    """
    with points_bar("simulations", "of at most so many", enabled=enabled) as progress:
        told = None if progress is None else lambda done, most: progress(done, most, most)
        correction = correct(build_experiment(settings), told)
    if correction.helps:
        settings = merged(settings, correction.tree)
        text = config_text(settings)
    results = simulate(build_experiment(settings), config=text)
    if correction.helps:
        (folder / "experiment").mkdir(exist_ok=True)
        write_text(folder / "experiment" / "calibrated.yaml", correction.text)
    _write(results, settings, folder)
    used = f"\n\nsettings: --config-dir {os.path.relpath(folder)} experiment=calibrated"
    return correction.answer + (used if correction.helps else "")


def _goodput(settings: Mapping[str, Any], folder: Path, text: str, *, enabled: bool) -> str:
    """Look for the goodput into ``folder`` and return what to say; interrupted, keep the trials."""
    options = build_goodput(settings)
    with points_bar("simulations", "requests", enabled=enabled) as progress:
        trials = trials_of(build_experiment(settings), options, progress)
        try:
            found = search(trials, options)
        except KeyboardInterrupt:
            write_begun(trials, folder)
            raise
    write_goodput(found, text, config_digest(text), folder)
    return text_of(found)


def _surroundings(settings: Mapping[str, Any], *, replays: bool) -> Surroundings:
    """Return the groups an exported experiment chooses, and what was changed in them.

    With ``replays`` it has the workload's own requests.
    """
    choices = HydraConfig.get().runtime.choices
    groups = {group: str(choices[group]) for group in _EXPORTED}
    chosen = [f"{group}={choice}" for group, choice in groups.items()]
    plain = _plain(hydra.compose("config", overrides=chosen))
    return Surroundings(
        groups=groups,
        changes=absolute_files(
            beyond(plain, {name: settings[name] for name in (*groups, "first_token", "seed")})
        ),
        workload=absolute_files(settings["workload"]) if replays else None,
        workload_group=str(choices["workload"]),
        gpus={role: pool["gpu"] for role, pool in settings["pools"].items() if pool},
    )


def _repeat(looking: Mapping[str, Any], task: str) -> Repeat:
    """Return how often to run."""
    given = {name: looking[name] for name in ("seeds", "band") if name in looking}
    hints = get_type_hints(Repeat)
    repeat = Repeat(**{name: build(value, hints[name], name) for name, value in given.items()})
    if task != "simulate" and not repeat.once:
        raise ConfigError(f"seeds and band repeat simulations: task={task} takes neither")
    return repeat


def _objective(given: object, task: str) -> Objective:
    """Return which numbers of the job's summary its sweeper goes by."""
    paths: Sequence[str] | str = build(given or [], Sequence[str] | str, "objective")
    found = Objective(paths=(paths,) if isinstance(paths, str) else tuple(paths))
    if found.paths and task in SEARCHES:
        raise ConfigError(f"objective is a number of a simulation: task={task} has none")
    return found


def _compare_own(folder: Path, options: Options) -> str:
    """Compare a run with its repetitions in its own folder; return what to say about it."""
    done = compare(find([str(folder)]).runs, options)
    write(done, folder)
    return spread(done)


def _runs(patterns: object, settings: Mapping[str, Any], *, sweeping: bool) -> Sequence[str]:
    """Return the folders and globs to look at; raise ``ConfigError`` where the task takes none."""
    task = build_task(settings)
    named: Sequence[str] | str = build(patterns or [], Sequence[str] | str, "runs")
    if task not in ("compare", "list"):
        if named:
            raise ConfigError(
                "runs is for task=compare and list: a simulation or exploration takes none"
            )
        return []
    if sweeping:
        raise ConfigError(f"task={task} looks at runs that are done: call it without -m")
    if not named and task == "compare":
        raise ConfigError("task=compare needs runs: runs=[DIR,…], folders or globs")
    return [named] if isinstance(named, str) else named


def _measured(settings: Mapping[str, Any], options: Options) -> Source | None:
    """Return the measured run that runs are to be put beside, if there is one."""
    given = spelled_out(settings).get("measured") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"measured must name a file but got {given!r}")
    path = build(given, Aggregates, "measured").path
    return None if path is None else read_source(path, options.measured)


def _compare(
    patterns: Sequence[str], wanted: Labels, how: tuple[Options, Source | None], folder: Path
) -> str:
    """Compare the runs of ``wanted`` labels into ``folder`` and return what to say about it."""
    options, source = how
    with points_bar("runs") as progress:
        found = find(patterns, progress and (lambda done, total: progress(done, total, done)))
    runs = [run for run in found.runs if wanted.fit(run.labels, run.folder.name)]
    if not runs:
        raise ConfigError(f"none of the {len(found.runs):,} runs has this name and these tags")
    done = compare(runs, options, unfinished(found))
    beside = None if source is None else put_beside(done, source)
    write(done, folder, beside)
    for note in done.notes:
        complain(f"warning: {note}")
    return told(done, beside)


def _sections(done: Explored, *, enabled: bool) -> tuple[list[Section], list[str]]:
    """Return what an exploration's options add to its report, and lines to say about it."""
    exploration, options = done.exploration, done.exploration.options
    sections: list[Section] = []
    lines: list[str] = []
    if exploration.starts:
        starts = evaluate_starts(exploration.starts, exploration.platforms, exploration.lengths)
        best = done.advice.ranked.head(1)
        lines = starts_lines(starts, best["throughput"][0] if len(best) else None)
        sections.append(start_section(starts, lines))
    if options.tornado:
        with points_bar("hardware numbers", enabled=enabled) as progress:
            sections.append(tornado_section(tornado(exploration, progress=progress)))
    if options.map:
        with points_bar("lengths", enabled=enabled) as progress:
            sections.append(map_section(lengths_map(exploration, progress=progress)))
    return sections, lines


def _failed(error: BaseException, settings: object = None) -> dict[str, Any]:
    """Return a failed job's ending: one sentence, or the whole traceback of a bug.

    A plug-in among ``settings`` that raised the error is to blame for it.
    """
    told = sentence(error) if isinstance(error, INPUT_ERRORS) else fault(error, settings)
    if told is not None:
        return {"status": "failed", "exit_code": BAD_INPUT, "message": told}
    text = "".join(traceback.format_exception(error))
    return {"status": "failed", "exit_code": BUG, "message": text}


class Announce(Callback):
    """Tells the command which configuration a sweep runs under: Hydra returns nothing from it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Keep the sweep's configuration where :func:`main` finds it; get ready for workers."""
        HydraConfig.instance().set_config(config)
        if "joblib" in str(config.hydra.launcher.get("_target_")):
            start_tracker()


class ConsoleHandler(logging.Handler):
    """Writes log records to whatever stderr is at the moment, so a progress bar stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line."""
        tell(self.format(record))


def _run_hydra(job: Job) -> None:
    HydraConfig.instance().cfg = None  # a sweep before this one in the same process is over
    arguments = _parse(sys.argv[1:])
    _warn_of_shadows(arguments)
    job.config_dir = arguments.config_dir and str(Path(arguments.config_dir).absolute())
    sys.argv[1:] = _flags_last(sys.argv[1:], arguments.overrides)
    start = hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
    with (
        interrupts_kept_here() if arguments.multirun else nullcontext(),
        composed_once(mode_known=_mode_known(arguments)),
    ):
        start(job)()


def _mode_known(arguments: argparse.Namespace) -> bool:
    """Return whether the flags alone say if there are several jobs: the shipped files do not."""
    keys = {override.lstrip("+~").partition("=")[0] for override in arguments.overrides}
    own = arguments.config_dir is not None or arguments.config_name is not None
    return not own and keys.isdisjoint({"hydra", "hydra.mode", "hydra.searchpath"})


@contextmanager
def composed_once(*, mode_known: bool) -> Iterator[None]:
    """Spare Hydra composing all settings where it has done so before; each time is 0.1 s.

    It would do so to see whether they have a mode, which is in vain where it is known to be left
    to the flags; and to check each job of a sweep before the first begins, of which one is enough
    of those that differ in numbers alone.
    """
    asked, checked = Hydra.get_mode, Sweeper.validate_batch_is_legal

    def check(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        unlike = {tuple(_NUMBER.sub("=0", each) for each in job): job for job in reversed(batch)}
        checked(self, list(unlike.values()))

    Sweeper.validate_batch_is_legal = check  # type: ignore[method-assign]
    if mode_known:
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode, Sweeper.validate_batch_is_legal = asked, checked  # type: ignore[method-assign]


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = cast(
        dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    )
    raw = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    services = raw.pop("services", None)
    for name, own in services.items() if isinstance(services, Mapping) else ():
        if isinstance(own, Mapping):
            plain["services"][name] = _referring(raw, own, plain, plain["services"][name])
    return plain


def _referring(
    raw: Mapping[str, Any],
    raw_own: Mapping[str, Any],
    plain: Mapping[str, Any],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a service's ``own`` settings, in which what refers to others refers to its own.

    A planner's targets are ``slo``'s: those of the service where that has its own. ``raw`` are
    settings before references were followed, ``plain`` after.
    """
    laid = laid_over(raw, raw_own)
    followed = OmegaConf.to_container(OmegaConf.create(laid), resolve=True)
    before, found = laid_over(plain, own), dict(own)
    for path in _references(laid):
        value = _at(followed, path)
        if value != _at(before, path):
            for key in reversed(path):
                value = {key: value}
            found = laid_over(found, value)
    return found


def _references(node: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield where a setting refers to others."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from ((name, *path) for path in _references(value))
        elif isinstance(value, str) and "${" in value:
            yield (name,)


def _at(node: Any, path: tuple[str, ...]) -> Any:
    """Return what lies at a path of keys."""
    for key in path:
        node = node[key]
    return node


def _task_overrides() -> list[str]:
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return cast(list[str], overrides)


def _check_model(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse overrides of the shipped model's shape beside the file read in its place."""
    path = settings.get("model", {}).get("config_json")
    for override in overrides if path is not None else ():
        key = override.lstrip("+~").partition("=")[0]
        if key.startswith("model.") and key != "model.config_json":
            raise ConfigError(
                f"{key} has no effect beside model.config_json={path}: change the file"
            )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return Hydra's reading of the arguments, wherever the flags stand.

    Raises:
        ConfigError: a flag Hydra does not know, or one this program does without.
    """
    parser = get_args_parser()

    def fail(message: str) -> NoReturn:
        raise ConfigError(f"{message}; disaggsim --help tells how to call it")

    parser.error = fail  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(list(argv))
    if arguments.experimental_rerun is not None:
        raise ConfigError(
            "--experimental-rerun is not supported: it would load a pickle; repeat the overrides"
        )
    if arguments.multirun + (arguments.cfg is not None) + (arguments.info is not None) > 1:
        raise ConfigError("only one of --multirun, --cfg and --info can be given")
    for override in arguments.overrides:
        _check_choice(override)
    return arguments


def _check_choice(override: str) -> None:
    """Refuse what is no choice where a group's is wanted: Hydra names no key, or no way out."""
    whole = re.fullmatch(r"(\w+(?:/\w+)*)=(?!\{)[^=]+", override)
    inside = files("conf").joinpath(*whole[1].split("/")) if whole else None
    if whole and inside is not None and inside.is_dir():
        within = sorted(each.name for each in inside.iterdir() if each.name[0] not in "._")
        if within and not any(name.endswith(".yaml") for name in within):
            parts = [f"{whole[1]}.{name}" for name in within]
            raise ConfigError(
                f"{override}: {whole[1]} is no choice but settings; set {', '.join(parts)}"
            )
    given = re.fullmatch(r"(\w+(?:/\w+)*)=(null|true|false|[-+.\d{].*)", override, re.IGNORECASE)
    folder = files("conf").joinpath(*given[1].split("/")) if given else None
    if given and folder is not None and folder.is_dir():
        known = sorted(each.name.removesuffix(".yaml") for each in folder.iterdir())
        raise ConfigError(f"{override}: no such choice; {suggest(given[2], known)}")


def _flags_last(argv: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the arguments with the flags after the overrides, which Hydra wants side by side."""
    flags = list(argv)
    for override in overrides:
        flags.remove(override)
    return [*overrides, *flags]


def _warn_of_shadows(arguments: argparse.Namespace) -> None:
    """Warn of the user's files Hydra would ignore because shipped ones have the same name."""
    if arguments.config_dir is None:
        return
    folder = Path(arguments.config_dir)
    for path in sorted(folder.rglob("*.yaml")):
        shipped = path.relative_to(folder)
        ours = path.name == CONFIG and (path.parent / SUMMARY).is_file()  # a run folder's
        if not ours and files("conf").joinpath(*shipped.parts).is_file():
            complain(
                f"warning: {path} is ignored: disaggsim ships a {shipped} and takes its own; "
                "give yours another name"
            )


def _tell(job: Job) -> int:
    """Print what came of the command and return its exit code: a bug's before bad input's."""
    outcomes = _outcomes(job)
    wrong = 0
    if HydraConfig.initialized():
        if any(outcome.status != "failed" for outcome in outcomes):
            say(sweep_table(outcomes))
        wrong = _compare_sweep(outcomes)
    elif job.results is not None:
        _say_run(job.results, Path(outcomes[0].folder))
        if job.answer is not None:
            say(f"\n{job.answer}\n\ncomparison: {Path(outcomes[0].folder) / PAGE}")
    elif job.answer is not None and outcomes:
        page = f"\n\nreport: {Path(outcomes[0].folder) / job.page}" if job.page else ""
        say(f"{job.answer}{page}")
    _warn(outcomes)
    for name, outcome in zip(labels(outcomes), outcomes, strict=True):
        if outcome.status == "failed":
            complain(f"{name}: {outcome.message}" if len(outcomes) > 1 else outcome.message)
    return min((each.exit_code for each in outcomes if each.status == "failed"), default=wrong)


def _outcomes(job: Job) -> Sequence[Outcome]:
    """Return how the command's jobs ended, those of a sweep's other processes too."""
    if HydraConfig.initialized():
        return read_outcomes(Path(HydraConfig.get().sweep.dir), job.command)
    return job.outcomes


def _compare_sweep(outcomes: Sequence[Outcome]) -> int:
    """Compare what a sweep has finished in its folder; return 2 where that cannot be.

    Explorations and searches are not compared: they have no requests.
    """
    if not HydraConfig.initialized():
        return 0
    summaries = [(each, each.summary) for each in outcomes]
    simulated = [each for each, told in summaries if told and told.get("task") not in SEARCHES]
    if not simulated:
        return 0
    sweep = Path(HydraConfig.get().sweep.dir)
    try:
        options: Options = build(simulated[0].compare, Options, "compare")
        done = compare(find([each.folder for each in simulated]).runs, options)
        write(done, sweep)
    except INPUT_ERRORS as error:
        complain(sentence(error))
        return BAD_INPUT
    said = f"\n{spread(done)}\n" if done.repeated else ""
    say(f"{said}\ncomparison: {os.path.relpath(sweep / PAGE)}")
    return 0


def _warn(outcomes: Sequence[Outcome]) -> None:
    """Repeat the warnings of the jobs' summaries, each once, with the jobs it is of."""
    of: dict[str, list[str]] = {}
    for name, outcome in zip(labels(outcomes), outcomes, strict=True):
        if outcome.status != "failed":
            for text in outcome.summary.get("warnings", ()):
                of.setdefault(text, []).append(name)
    for text, names in of.items():
        where = f"{', '.join(names)}: " if len(names) < len(outcomes) else ""
        complain(f"warning: {where}{text}")


def _say_run(results: Results, folder: Path) -> None:
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else PLAIN_WIDTH
    drawn = io.StringIO()  # rich would end the program when a pipe breaks
    Console(file=drawn, force_terminal=terminal, width=width).print(summary_table(results))
    say(drawn.getvalue().rstrip())
    report, shown = folder / REPORT, os.path.relpath(folder)
    say(f"\nreport: {os.path.relpath(report)}" if report.is_file() else f"\nrun: {shown}")


def sentence(error: BaseException) -> str:
    """Return what is wrong, in one line, from an error of ours, Hydra's, YAML's or the system's."""
    if isinstance(error, USER_ERRORS):
        text = str(error)
    elif isinstance(error, MissingConfigException):
        text = _missing_config(error)
    elif isinstance(error, OverrideParseException):
        text = (
            f"cannot read the override {error.override!r}: expected key=value or group=choice; "
            "quote a value with special signs, key=\"'a=b, c'\""
        )
    elif isinstance(error, MissingMandatoryValue):
        text = f"{error.full_key} must be given: {error.full_key}=…"
    elif isinstance(error, OmegaConfBaseException):
        text = f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}"
    elif isinstance(error, HydraException):
        text = _hydra_sentence(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or _output()}: {error.strerror}"
    else:
        text = str(error)
    return " ".join(text.split())


def _output() -> str:
    """Return what was written to, where the system does not say: a sweep's folder, or stdout."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return "output"
    return str(HydraConfig.get().sweep.dir)


def _missing_config(error: MissingConfigException) -> str:
    if not error.options:
        return str(error).partition("Config search path")[0]
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    hint = ""
    if group == "hydra/launcher":
        hint = "; more come with the extras joblib, slurm and ray: pip install 'disaggsim[joblib]'"
    choice = f"{group}={name}"
    folder = files("conf").joinpath(*group.split("/"))
    inside = [each for each in folder.iterdir() if each.is_dir()] if folder.is_dir() else []
    below = sorted(f"{each.name}/…" for each in inside if each.name[0] not in "._")
    meant = RENAMED.get(choice) or suggest(name, [*error.options, *below])
    return f"{choice}: no such choice; {meant}{hint}"


def _hydra_sentence(error: HydraException) -> str:
    text = str(error)
    if text.startswith("Ambiguous value"):
        return f"{text.splitlines()[0]}: several values need -m (one run each), or [a,b] for a list"
    cause = error.__cause__
    if isinstance(cause, ConfigTypeError) and cause.full_key:
        wanted = "a list" if cause.object_type is list else "a group of settings"
        return f"{cause.full_key} must be {wanted} but got {text.partition('=')[2] or 'another'}"
    parent = getattr(cause, "parent_node", None)
    if isinstance(cause, OmegaConfBaseException) and isinstance(parent, DictConfig):
        known = {str(key) for key in parent if not str(key).startswith("_")}
        if cause.full_key == str(cause.key):  # at the top, groups are settings too
            known = known - {"hydra"} | {each.name for each in _groups()}
        key = str(cause.full_key)
        tree = list(dotted(_plain_tree(parent)))
        return _of_another_choice(key, tree) or unknown(key, sorted(known), tree)
    return text


def _plain_tree(node: DictConfig) -> dict[str, Any]:
    """Return all settings around ``node`` as they were written, Hydra's own left out."""
    tree = OmegaConf.to_container(node._get_root(), resolve=False, throw_on_missing=False)
    settings = cast(dict[str, Any], tree)
    return {name: value for name, value in settings.items() if name != "hydra"}


def _of_another_choice(key: str, tree: Sequence[str]) -> str:
    """Return that another choice of the key's group has this setting, if there is one."""
    group, _, rest = key.partition(".")
    folder = next((each for each in _groups() if each.name == group), None)
    if folder is None or not rest:
        return ""
    for path in sorted(folder.iterdir(), key=lambda each: each.name):
        if not path.name.endswith(".yaml"):
            continue
        keys = list(dotted(parse(path.read_text(encoding="utf-8")) or {}))
        inner = [each for each in keys if each.rpartition(".")[2] == rest]
        elsewhere = any(each.rpartition(".")[2] == rest for each in tree)
        if rest in keys or (inner and not elsewhere):
            name = f"{group}={path.name.removesuffix('.yaml')}"
            has = "has it" if rest in keys else f"has {group}.{inner[0]}"
            return f"{key}: no such setting; {name} {has}"
    return ""


def _groups() -> list[Traversable]:
    return [each for each in files("conf").iterdir() if each.is_dir() and each.name[0] not in "._"]
