"""Run folders: one simulation carried out into its folder, and the account of a sweep of them."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from simulator.errors import ConfigError
from simulator.experiment import OnProgress
from simulator.files import write_text
from simulator.results import config_digest

SUMMARY, REPORT, JOB = "summary.json", "report.html", "job.json"

SEARCHES = ("explore", "goodput", "trace")
"""Tasks whose folders have no requests of a run, to be compared with another's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one job of the command ``command`` ended.

    ``status`` is ``done``, ``skipped`` (it was done before) or ``failed``; then ``message`` is one
    sentence and ``exit_code`` 2, or ``message`` is the traceback of a bug and ``exit_code`` 1.
    ``compare`` are the settings of the sweep's comparison.
    """

    command: str
    number: int
    overrides: Sequence[str]
    folder: str
    status: str
    exit_code: int = 0
    message: str = ""
    compare: Mapping[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        """Leave this account in the job's folder, for the process that started the sweep."""
        write_text(Path(self.folder) / JOB, json.dumps(asdict(self)))

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary, read from its folder."""
        return read_summary(Path(self.folder))


def read_outcomes(sweep: Path, command: str) -> list[Outcome]:
    """Return what the jobs of ``command`` left under the folder ``sweep``, by job number."""
    found = (_read_json(path) for path in sweep.rglob(JOB))
    ours = (Outcome(**account) for account in found if account.get("command") == command)
    return sorted(ours, key=lambda outcome: outcome.number)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a complete run folder, nothing of any other."""
    return _read_json(folder / SUMMARY)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the mapping a JSON file holds; nothing where it is absent or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_account(folder: Path) -> dict[str, Any]:
    """Return how a sweep's job in ``folder`` ended, nothing of any other folder."""
    return _read_json(folder / JOB)


def is_done(folder: Path, config: str) -> bool:
    """Tell whether ``folder`` holds the complete run of exactly the settings ``config``."""
    return read_summary(folder).get("config_digest") == config_digest(config)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against any other run; the claim dies with the process that made it.

    Raises:
        ConfigError: another run is writing there now.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"{folder}: another run is writing to this folder now") from error
    else:
        yield
    finally:
        os.close(handle)


def discard(folder: Path, *, keep: bool = False) -> None:
    """Make ``folder`` not look complete; unless ``keep``, remove it and the parents left empty.

    Only parents below the working directory go; whatever holds a file stays.
    """
    (folder / SUMMARY).unlink(missing_ok=True)
    if keep:
        return
    here = Path.cwd()
    below = [parent for parent in folder.absolute().parents if here in parent.parents]
    for each in (folder, *below):
        try:
            each.rmdir()
        except OSError:  # not empty, or not ours to remove: it stays
            return


@contextmanager
def progress_bar(*, enabled: bool) -> Iterator[OnProgress | None]:
    """Show a bar on stderr while requests finish; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} requests"),
        BarColumn(),
        TextColumn("{task.fields[simulated_s]:,.0f} s simulated"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("simulate", total=1, simulated_s=0.0)

        def advance(simulated_s: float, finished: int, requests: int) -> None:
            bar.update(task, completed=finished, total=requests, simulated_s=simulated_s)

        yield advance


def _number(value: float | None, pattern: str) -> str:
    return "–" if value is None else pattern.format(value)


def _rank(told: Mapping[str, Any], name: str, pattern: str) -> str:
    """Return a percentile; more than what it is, where it lies among unfinished requests."""
    beyond = told.get("at_least", {})
    if name not in beyond:
        return _number(told[name], pattern)
    return "never" if beyond[name] is None else f"> {pattern.format(beyond[name])}"


def labels(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what tells each job from the others: the overrides they do not all share."""
    first = outcomes[0].overrides if outcomes else ()
    shared = {o for o in first if all(o in outcome.overrides for outcome in outcomes)}
    own = ([o for o in outcome.overrides if o not in shared] for outcome in outcomes)
    return [" ".join(each) or f"job {at}" for at, each in enumerate(own)]


def sweep_table(outcomes: Sequence[Outcome]) -> str:
    """Return one line per job that has results, and where they are."""
    rows = [
        (
            name,
            outcome.summary,
            outcome.folder + (" (already done)" * (outcome.status == "skipped")),
        )
        for name, outcome in zip(labels(outcomes), outcomes, strict=True)
        if outcome.status != "failed"
    ]
    return runs_table(rows)


def _again(outcome: Outcome) -> str:
    return " (already done)" if outcome.status == "skipped" else ""


def runs_table(rows: Sequence[tuple[str, Mapping[str, Any], str]]) -> str:
    """Return one line per run: its name, the main numbers of its summary, and its folder."""
    heads = headline(None)
    width = max(len(name) for name in ["job", *(name for name, _, _ in rows)])
    lines = [f"{'job':<{width}}" + "".join(f"{head:>12}" for head in heads) + "  folder"]
    for name, summary, folder in rows:
        cells = "".join(f"{cell:>12}" for cell in headline(summary))
        lines.append(f"{name:<{width}}{cells}  {folder}")
    return "\n".join(lines)


HEADLINE = ("TTFT p50", "TTFT p99", "TPOT p50", "goodput", "in SLO", "out/s/GPU")


def headline(summary: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the main numbers of a summary: none of an empty one, of ``None`` what they are."""
    if not summary:
        return HEADLINE if summary is None else ("",) * len(HEADLINE)
    ttft, tpot = summary["ttft_s"], summary["tpot_s"]
    return (
        _rank(ttft, "p50", "{:.3f} s"),
        _rank(ttft, "p99", "{:.3f} s"),
        _rank(tpot, "p50", "{:.4f} s"),
        _number(summary["goodput_rps"], "{:.2f}/s"),
        _number(summary["slo_attainment"], "{:.1%}"),
        _number(summary["output_tokens_per_s_per_gpu"], "{:,.1f}"),
    )
