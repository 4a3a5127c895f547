"""Run folders as they lie on disk: found, read and checked, whoever wrote them."""

import glob
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from simulator.compare.flat import flat
from simulator.compare.metrics import LATENCIES, METRICS, Value, at
from simulator.errors import ConfigError
from simulator.labels import Labels, labels_of
from simulator.results import config_digest
from simulator.runs import JOB, SEARCHES, SUMMARY
from simulator.yaml_text import parse

CONFIG = "config.yaml"
REPLICATIONS = "replications"
"""The folder in a run's own that holds the same run with other seeds and latencies."""

MOST_BYTES = 16 << 20
"""Of a summary or a configuration: what is larger was written by something else."""

Sections = dict[str, dict[str, Value]]
"""Settings by dotted key of a part of a configuration's text, which holds a whole top-level one."""

MOST_SECTIONS = 10_000
"""That are remembered at a time."""

_SECTION = re.compile(r"^(?=\w+:)", re.MULTILINE)
_SHARED = re.compile(r"[&*]\w")
"""Anchors and aliases, by which parts of a text refer to each other."""

OnRead = Callable[[int, int], None]
"""Called with how many runs have been read and how many there are."""


class Window(NamedTuple):
    """From when to when (s) requests arrive that count."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Its seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """One finished run: its folder, summary, settings by dotted key, and how it was asked for.

    ``head`` are the lines above the settings: this program's version and the digests of input
    files. ``overrides`` are those of a sweep's job, ``None`` of any other run. ``window`` is what
    is left of a run that is cut.
    """

    folder: Path
    summary: Mapping[str, Any]
    settings: Mapping[str, Value]
    head: tuple[str, ...]
    overrides: tuple[str, ...] | None = None
    window: Window | None = None

    @property
    def seed(self) -> int:
        """The root of its random streams."""
        return int(self.summary.get("seed") or 0)

    @property
    def labels(self) -> Labels:
        """Its name and tags."""
        return labels_of(self.summary, self.folder / SUMMARY)

    @property
    def scale(self) -> float:
        """The factor on every step's time."""
        return float(self.settings.get("latency.scale", 1.0) or 1.0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Found:
    """The complete runs of some folders, and the folders that hold one that is not (yet)."""

    runs: tuple[Run, ...]
    incomplete: tuple[Path, ...] = ()


def find(patterns: Sequence[str], on_read: OnRead | None = None) -> Found:
    """Return the runs of folders and globs, those anywhere below a folder included, in order.

    Raises:
        ConfigError: a pattern matches nothing, a folder holds no finished run, or one of its
            files cannot be read as what this version writes.
    """
    complete: dict[Path, None] = {}
    incomplete: dict[Path, None] = {}
    for pattern in patterns:
        for folder in matching(pattern):
            done, begun = _below(folder)
            if not done:
                raise ConfigError(_nothing(folder, begun))
            complete.update(dict.fromkeys(done))
            incomplete.update(dict.fromkeys(begun))
    return Found(runs=read_runs(list(complete), on_read), incomplete=tuple(incomplete))


def read_runs(folders: Sequence[Path], on_read: OnRead | None = None) -> tuple[Run, ...]:
    """Return the finished simulations of ``folders``; explorations and searches are not.

    Raises:
        ConfigError: as :func:`read_run`, or all are explorations or searches.
    """
    runs: list[Run] = []
    known: Sections = {}
    for count, folder in enumerate(folders, 1):
        run = read_run(folder, known)
        if run.summary.get("task") not in SEARCHES:
            runs.append(run)
        if on_read is not None:
            on_read(count, len(folders))
    if folders and not runs:
        raise ConfigError(
            f"{folders[0]}: an exploration or a search for goodput has no requests that could be "
            "compared; simulate what it found"
        )
    return tuple(runs)


def read_run(folder: Path, known: Sections | None = None) -> Run:
    """Return the finished run in ``folder``.

    ``known`` are sections of settings read before, as a sweep's runs share nearly all of theirs.

    Raises:
        ConfigError: a file is missing, is not what its name says, or of another version.
    """
    summary = _summary(folder / SUMMARY)
    text = _text(folder / CONFIG)
    if summary.get("config_digest") != config_digest(text):
        raise ConfigError(
            f"{folder / CONFIG}: not the settings that {SUMMARY} is of "
            f"(digest {summary.get('config_digest')!r}); run it again"
        )
    head = [line for line in text.splitlines()[:64] if line.startswith("#")]
    run = Run(
        folder=folder,
        summary=summary,
        settings=_settings(folder / CONFIG, text, {} if known is None else known),
        head=tuple(head),
        overrides=_overrides(folder / JOB),
    )
    if summary.get("task") not in SEARCHES:
        _check(run)
    return run


def read_frame(run: Run, name: str, columns: Sequence[str]) -> pl.DataFrame:
    """Return some ``columns`` of a run's ``{name}.parquet``, all but names of pools as numbers.

    Of a run that is cut only those ``requests`` that are left.

    Raises:
        ConfigError: the file is missing, broken, or has not these columns.
    """
    wanted = list(columns)
    cut = run.window if name == "requests" else None
    names = [*wanted, *({"arrival_s"} - {*wanted} if cut else ())]
    kinds = [pl.col(each).cast(pl.String if each == "pool" else pl.Float64) for each in names]
    frame = _read(run, name, kinds)
    return (frame if cut is None else frame.filter(pl.col("arrival_s").is_between(*cut))).select(
        wanted
    )


def read_requests(run: Run, columns: Sequence[str]) -> pl.DataFrame:
    """Return some ``columns`` of all requests of a run as they are; raise as :func:`read_frame`."""
    return _read(run, "requests", [pl.col(each) for each in columns])


def request_columns(run: Run) -> frozenset[str]:
    """Return the names of the columns that a run's requests have; raise as :func:`read_frame`."""
    path = run.folder / "requests.parquet"
    try:
        return frozenset(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | pl.exceptions.PolarsError) -> ConfigError:
    told = error.strerror if isinstance(error, OSError) else None
    return ConfigError(f"{path}: {told or ' '.join(str(error).split())}")


def _read(run: Run, name: str, columns: list[pl.Expr]) -> pl.DataFrame:
    path = run.folder / f"{name}.parquet"
    try:
        return pl.scan_parquet(path).select(columns).collect()
    except pl.exceptions.ColumnNotFoundError as error:
        raise ConfigError(f"{path}: made by another version: {error}") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path, error) from error


def matching(pattern: str) -> list[Path]:
    """Return the folders a pattern means; a folder of that very name comes before any glob."""
    if Path(pattern).is_dir():
        return [Path(pattern)]
    named = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute ones
    found = sorted(path for path in map(Path, named) if path.is_dir())
    if not found:
        raise ConfigError(f"runs: {pattern}: there is no such folder")
    return found


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders from ``folder`` on down that hold a complete run, and those begun."""
    configs = sorted(folder.rglob(CONFIG), key=lambda path: path.parts)
    hidden = [path for path in configs if any(part == ".hydra" for part in path.parts)]
    begun = [path.parent for path in configs if path not in hidden]
    done = [each for each in begun if (each / SUMMARY).is_file()]
    return done, [each for each in begun if each not in set(done)]


def _nothing(folder: Path, begun: Sequence[Path]) -> str:
    if begun:
        return f"{begun[0]}: the run is not finished: it has no {SUMMARY}"
    return f"{folder}: holds no run: there is no {SUMMARY} beside a {CONFIG} in it or below"


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes are too many for a run's")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason}") from error


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object but got {type(content).__name__}")
    return content


def _settings(path: Path, text: str, known: Sections) -> dict[str, Value]:
    """Return the settings of a configuration's ``text`` by dotted key."""
    parts = [text] if _SHARED.search(text) else _SECTION.split(text)
    found: dict[str, Value] = {}
    try:
        for part in filter(str.strip, parts):
            if part not in known:
                if len(known) >= MOST_SECTIONS:
                    known.clear()
                known[part] = _section(part)
            found.update(known[part])
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return found


def _section(text: str) -> dict[str, Value]:
    content = parse(text)
    if content is None:  # comments alone
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"expected settings but got {type(content).__name__}")
    return flat(content)


def _overrides(path: Path) -> tuple[str, ...] | None:
    """Return the overrides of a sweep's job; a run by itself has no such file."""
    if not path.is_file():
        return None
    told = _summary(path).get("overrides")
    if not (isinstance(told, list) and all(isinstance(each, str) for each in told)):
        raise ConfigError(f"{path}: overrides must be a list of texts but got {told!r}")
    return tuple(told)


def _simulated(summary: Mapping[str, Any]) -> bool:
    """Tell whether a summary is of a simulation; those of other tasks say so."""
    return "task" not in summary


def _check(run: Run) -> None:
    """Refuse a summary without the numbers a comparison needs, or with something else there."""
    path = run.folder / SUMMARY
    for metric in METRICS:
        value = at(run.summary, metric.path)
        if not (value is None or _number(value)):
            raise ConfigError(f"{path}: {metric.path} must be a number or null but got {value!r}")
        if value is None and not metric.known(run.summary):
            version = run.head[0].lstrip("# ") if run.head else "an unknown version"
            raise ConfigError(f"{path}: {metric.path} is missing: written by {version}; run again")
    for name in LATENCIES:
        beyond = run.summary[name].get("at_least", {})
        if not (isinstance(beyond, dict) and all(v is None or _number(v) for v in beyond.values())):
            raise ConfigError(f"{path}: {name}.at_least must be numbers or null but got {beyond!r}")
    slo, seed = run.summary.get("slo"), run.summary.get("seed")
    if not (isinstance(slo, dict) and all(v is None or _number(v) for v in slo.values())):
        raise ConfigError(f"{path}: slo must be targets in seconds but got {slo!r}")
    if not (seed is None or (isinstance(seed, int) and not isinstance(seed, bool))):
        raise ConfigError(f"{path}: seed must be a whole number but got {seed!r}")
    _ = run.labels  # or what is wrong with them
    warnings = run.summary.get("warnings", [])
    if not (isinstance(warnings, list) and all(isinstance(each, str) for each in warnings)):
        raise ConfigError(f"{path}: warnings must be sentences but got {warnings!r}")
    scale = run.settings.get("latency.scale", 1.0)
    if not (_number(scale) and float(scale) > 0):  # type: ignore[arg-type]
        raise ConfigError(f"{run.folder / CONFIG}: latency.scale must be above 0 but got {scale!r}")


def _number(value: object) -> bool:
    """Tell whether ``value`` is a number that arithmetic takes."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)
