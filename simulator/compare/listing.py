"""The runs in some folders at a glance: how far they are, what differs, their main numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from simulator.compare.comparison import short, words
from simulator.compare.flat import differing, telling
from simulator.compare.reading import CONFIG, REPLICATIONS, Run, matching, read_run
from simulator.errors import ConfigError
from simulator.labels import Labels, labels_of
from simulator.runs import JOB, SEARCHES, SUMMARY, headline, read_account

PLACES = ("outputs", "multirun")
"""Folders that are looked through where none is named: where runs go by themselves."""
MOST_SETTINGS = 6
"""Of a run that are told."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listed:
    """A folder of a run: its ``status``, and why it is no ``run`` that can be read.

    ``done``, ``failed``, ``unfinished`` (its settings are there, results are not: it is under way
    or was ended), or ``unreadable``. ``made`` is when the file that says so was written, in
    seconds since 1970, ``repetitions`` how many of it are done.
    """

    folder: Path
    status: str
    made: float
    why: str = ""
    run: Run | None = None
    labels: Labels = field(default_factory=Labels)
    repetitions: int = 0

    @property
    def task(self) -> str:
        """What it was for."""
        return str(self.run.summary.get("task", "simulate")) if self.run else ""


def listed(patterns: Sequence[str], wanted: Labels) -> list[Listed]:
    """Return the runs of folders and globs, and of all folders below, that fit ``wanted`` labels.

    Repetitions count with the run they repeat. Without patterns :data:`PLACES` are looked through.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    tops = [Path(place) for place in PLACES if Path(place).is_dir()]
    if patterns:
        tops = [folder for pattern in patterns for folder in matching(pattern)]
    folders: dict[Path, None] = {}
    for top in tops:
        found = {path.parent for name in (CONFIG, JOB) for path in top.rglob(name)}
        folders.update(dict.fromkeys(sorted(found)))
    own = [each for each in folders if REPLICATIONS not in each.parts]
    again = Counter(_repeated(each) for each in folders if (each / SUMMARY).is_file())
    every = (_listed(each, again[each]) for each in own)
    return [each for each in every if wanted.fit(each.labels, each.folder.name)]


def _repeated(folder: Path) -> Path | None:
    """Return the run that the one in ``folder`` repeats."""
    return folder.parent.parent if folder.parent.name == REPLICATIONS else None


def _listed(folder: Path, repetitions: int) -> Listed:
    summary = folder / SUMMARY
    about: dict[str, Any] = {"folder": folder, "repetitions": repetitions}
    if not summary.is_file():
        account = read_account(folder)
        newest = max(
            path.stat().st_mtime for path in (folder / CONFIG, folder / JOB) if path.is_file()
        )
        if account.get("status") == "failed":
            why = str(account.get("message", "")).strip().splitlines() or [""]
            return Listed(status="failed", made=newest, why=why[-1], **about)
        return Listed(status="unfinished", made=newest, **about)
    made = summary.stat().st_mtime
    try:
        run = read_run(folder)
        labels = labels_of(run.summary, summary)
    except ConfigError as error:
        return Listed(status="unreadable", made=made, why=str(error), **about)
    return Listed(status="done", made=made, run=run, labels=labels, **about)


def table(runs: Sequence[Listed]) -> str:
    """Return a line for each of ``runs``, and one for each that cannot be read, saying why."""
    if not runs:
        return "no run found: name folders with runs=[DIR,…], or ask for other tags or names"
    told = _told(runs)
    rows = [_row(each, settings) for each, settings in zip(runs, told, strict=True)]
    heads = [("status", "made", *headline(None), "labels and what differs", "folder"), *rows]
    kept = [index for index, cells in enumerate(zip(*heads, strict=True)) if any(cells[1:])]
    widths = [max(len(row[index]) for row in heads) for index in kept]
    lines = [
        "  ".join(
            row[index].ljust(width) for index, width in zip(kept, widths, strict=True)
        ).rstrip()
        for row in heads
    ]
    reasons = [f"{each.folder}: {_printable(each.why)}" for each in runs if each.why]
    counts = Counter(each.status for each in runs)
    count = ", ".join(f"{number:,} {status}" for status, number in counts.items())
    return "\n".join([*lines, "", *reasons, count])


def _row(each: Listed, settings: str) -> tuple[str, ...]:
    simulated = each.run is not None and each.task not in SEARCHES
    numbers = headline(each.run.summary if each.run and simulated else {})
    status = each.status if each.task in ("", "simulate") else f"{each.status} ({each.task})"
    if each.repetitions:
        status += f" × {each.repetitions + 1}"
    name = f"“{each.labels.name}”" if each.labels.name else ""
    tags = " ".join(f"#{tag}" for tag in each.labels.tags)
    made = f"{datetime.fromtimestamp(each.made).astimezone():%Y-%m-%d %H:%M}"
    about = _printable(" ".join(filter(None, (name, tags, settings))))
    return (status, made, *numbers, about, _printable(str(each.folder)))


def _told(runs: Sequence[Listed]) -> list[str]:
    """Return of each simulation the settings in which it differs from others."""
    known = [each.run.settings for each in runs if each.run and each.task not in SEARCHES]
    keys = telling(differing(known), known)
    told = []
    for each in runs:
        own = each.run.settings if each.run and each.task not in SEARCHES else {}
        pairs = [f"{short(key)}={words(own[key])}" for key in keys if key in own]
        more = [f"… {len(pairs) - MOST_SETTINGS} more"] if len(pairs) > MOST_SETTINGS else []
        told.append(" ".join(pairs[:MOST_SETTINGS] + more))
    return told


def _printable(text: str) -> str:
    """Return a text of somebody's files as a terminal can show it."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)
