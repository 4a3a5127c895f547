"""Run folders: one simulation carried out into its folder, and the account of a sweep of them."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from simulator.errors import ConfigError
from simulator.experiment import Experiment, OnProgress, simulate
from simulator.report import write_report
from simulator.results import Results, config_digest

SUMMARY, REPORT, JOB = "summary.json", "report.html", "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one job of the command ``command`` ended.

    ``status`` is ``done``, ``skipped`` (it was done before) or ``failed``; then ``message`` is one
    sentence and ``exit_code`` 2, or ``message`` is the traceback of a bug and ``exit_code`` 1.
    """

    command: str
    number: int
    overrides: str
    folder: str
    status: str
    exit_code: int = 0
    message: str = ""

    def write(self) -> None:
        """Leave this account in the job's folder, for the process that started the sweep."""
        (Path(self.folder) / JOB).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary, read from its folder."""
        return read_summary(Path(self.folder)) or {}


def read_outcomes(sweep: Path, command: str) -> list[Outcome]:
    """Return what the jobs of ``command`` left under the folder ``sweep``, by job number."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sweep.rglob(JOB))
    ours = (Outcome(**account) for account in found if account["command"] == command)
    return sorted(ours, key=lambda outcome: outcome.number)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a complete run folder, ``None`` of any other."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def is_done(folder: Path, config: str) -> bool:
    """Tell whether ``folder`` holds the complete run of exactly the settings ``config``."""
    summary = read_summary(folder)
    return summary is not None and summary.get("config_digest") == config_digest(config)


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


def carry_out(
    experiment: Experiment, folder: Path, *, config: str, html: bool, progress: OnProgress | None
) -> Results:
    """Simulate ``experiment`` and write the run's ``folder``; return the results."""
    results = simulate(experiment, config=config, progress=progress)
    results.write(folder, report=write_report if html else None)
    return results


def discard(folder: Path) -> None:
    """Make ``folder`` not look complete, and remove it and the parents it leaves empty.

    Only parents below the working directory go; whatever holds a file stays.
    """
    (folder / SUMMARY).unlink(missing_ok=True)
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


STAGES = {
    "prefill_queue_s": "prefill queue",
    "prefill_s": "prefill",
    "transfer_queue_s": "transfer queue",
    "transfer_s": "transfer",
    "decode_queue_s": "decode queue",
    "decode_s": "decode",
}


def table(summary: Mapping[str, Any]) -> str:
    """Return a run's summary as a compact table of text."""
    heads = f"{'':<14}" + "".join(f"{name:>10}" for name in ("mean", "p50", "p90", "p99", "max"))
    latencies = [
        _latency_row(name, summary[key], scale)
        for name, key, scale in (
            ("TTFT (ms)", "ttft_s", 1e3),
            ("TPOT (ms)", "tpot_s", 1e3),
            ("ITL (ms)", "itl_s", 1e3),
            ("E2E (s)", "e2e_s", 1.0),
        )
    ]
    facts = (
        ("requests", _requests(summary)),
        ("goodput", _goodput(summary)),
        ("tokens", _tokens(summary)),
        ("GPU-hours", _by_pool(summary["gpu_hours"], "{:.2f}")),
        ("KV in use", _by_pool(summary["kv_utilization"], "{:.0%}")),
        ("time spent", _stages(summary)),
    )
    return "\n".join([heads, *latencies, *(f"{name:<12}{text}" for name, text in facts)])


def _number(value: float | None, pattern: str) -> str:
    return "–" if value is None else pattern.format(value)


def _latency_row(name: str, spread: Mapping[str, Any], scale: float) -> str:
    cells = (spread[column] for column in ("mean", "p50", "p90", "p99", "max"))
    scaled = (None if cell is None else cell * scale for cell in cells)
    return f"{name:<14}" + "".join(f"{_number(cell, '{:,.1f}'):>10}" for cell in scaled)


def _requests(summary: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {status}" for status, count in summary["requests"].items())
    return f"{counts} in {_number(summary['duration_s'], '{:,.1f}')} s"


def _goodput(summary: Mapping[str, Any]) -> str:
    targets = ", ".join(
        f"{name.removesuffix('_s').upper()} ≤ {target * 1e3:g} ms"
        for name, target in summary["slo"].items()
        if target is not None
    )
    share = _number(summary["slo_attainment"], "{:.1%}")
    rate = _number(summary["goodput_rps"], "{:.2f}")
    return f"{rate} requests/s; {share} of arrivals within {targets or 'no target'}"


def _tokens(summary: Mapping[str, Any]) -> str:
    output = _number(summary["output_tokens_per_s"], "{:,.0f}")
    per_gpu = _number(summary["output_tokens_per_s_per_gpu"], "{:,.1f}")
    inputs = _number(summary["input_tokens_per_s_per_gpu"], "{:,.1f}")
    return f"{output} output/s; per GPU {per_gpu} output/s and {inputs} input/s"


def _by_pool(values: Mapping[str, float | None], pattern: str) -> str:
    """Return the pools that exist, the total first."""
    known = {pool: value for pool, value in values.items() if value}
    total = known.pop("total", None)
    parts = ", ".join(f"{pool} {pattern.format(value)}" for pool, value in known.items())
    return parts if total is None else f"{pattern.format(total)} ({parts})"


def _stages(summary: Mapping[str, Any]) -> str:
    """Return each stage's share of the time all requests spent, largest first."""
    spent = {
        words: (summary[key]["mean"] or 0.0) * summary[key]["count"]
        for key, words in STAGES.items()
    }
    total = sum(spent.values())
    if not total:
        return "–"
    ranked = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{words} {seconds / total:.1%}" for words, seconds in ranked if seconds)


def sweep_table(outcomes: Sequence[Outcome]) -> str:
    """Return one line per job that has results, then where they are."""
    heads = ("TTFT p50", "TTFT p99", "TPOT p50", "goodput", "in SLO", "out/s/GPU")
    width = max([len("job"), *(len(outcome.overrides) for outcome in outcomes)])
    lines = [f"{'job':<{width}}" + "".join(f"{head:>12}" for head in heads) + "  folder"]
    for outcome in outcomes:
        if outcome.status != "failed":
            cells = "".join(f"{cell:>12}" for cell in _sweep_cells(outcome.summary))
            done = " (already done)" if outcome.status == "skipped" else ""
            lines.append(f"{outcome.overrides:<{width}}{cells}  {outcome.folder}{done}")
    return "\n".join(lines)


def _sweep_cells(summary: Mapping[str, Any]) -> tuple[str, ...]:
    ttft, tpot = summary["ttft_s"], summary["tpot_s"]
    return (
        _number(ttft["p50"], "{:.3f} s"),
        _number(ttft["p99"], "{:.3f} s"),
        _number(tpot["p50"], "{:.4f} s"),
        _number(summary["goodput_rps"], "{:.2f}/s"),
        _number(summary["slo_attainment"], "{:.1%}"),
        _number(summary["output_tokens_per_s_per_gpu"], "{:,.1f}"),
    )
