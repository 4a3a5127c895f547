"""Compare predictions with measurements, and write errors.json, rows.parquet and the report.

    scripts/validate [--steps CSV] [--e2e CSV] [--vllm DIR] [--out DIR] [--only PART]
                     [--limit N] [--jobs N] [--left-out JSON] [--silicon]
                     [--choices] [--write-docs]

--steps holds single forward steps, --e2e serving runs (each simulated whole), --vllm vLLM runs
(each replayed request by request); they default to ../shared/data. OUT (build/validation) gets
errors.json and rows.parquet. docs/validation.md and its plots are written only with the default
OUT and all rows, or with --write-docs; --left-out adds the figures that
``scripts/calibrate --left-out --errors JSON`` leaves, --silicon the serving runs with the step
times of aiconfigurator-core, where it is installed and can answer, --choices some of them without
each modelling choice, which rows of other sources, engines, GPUs and models judge. Public figures
that none of the tables has (simulator/validation/figures.py) are part of the report, or --only
public.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from simulator.errors import ConfigError
from simulator.latency.silicon import package
from simulator.validation import (
    choices,
    figures,
    page,
    plots,
    replay,
    score,
    serving,
    steps,
    tables,
)
from simulator.validation.names import Catalogue
from simulator.validation.replay import Measured, Replayed
from simulator.validation.score import Scored

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "build" / "validation"
DOCS = ROOT / "docs"
PARTS = ("steps", "e2e", "vllm")
PUBLIC = "public"
DEFAULTS = (DATA / "step_latencies.csv", DATA / "measured_e2e.csv", DATA / "vllm_runs")
BATCH = 16  # serving rows per task
Item = TypeVar("Item")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks and return the exit code."""
    options = parsed(arguments)
    try:
        return validate(options)
    except ConfigError as error:
        sys.stderr.write(f"validate: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"validate: cannot write to {options.out} ({error})\n")
        return 2


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    head, _, _ = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="scripts/validate", description=head)
    parser.add_argument("--steps", type=Path, default=DEFAULTS[0], metavar="CSV")
    parser.add_argument("--e2e", type=Path, default=DEFAULTS[1], metavar="CSV")
    parser.add_argument("--vllm", type=Path, default=DEFAULTS[2], metavar="DIR")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR")
    parser.add_argument("--only", choices=(*PARTS, PUBLIC), help="do this part alone")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="about N rows per table")
    parser.add_argument("--jobs", type=at_least_one, default=2, metavar="N", help="processes")
    parser.add_argument("--left-out", type=Path, metavar="JSON", help="what scripts/calibrate left")
    parser.add_argument("--silicon", action="store_true", help="aiconfigurator-core beside ours")
    parser.add_argument("--choices", action="store_true", help="judge modelling choices too")
    parser.add_argument("--write-docs", action="store_true", help="write docs/validation.md too")
    return parser.parse_args(arguments)


def at_least_one(text: str) -> int:
    """Return the whole number ``text`` is, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 but is {value}")
    return value


def validate(options: argparse.Namespace) -> int:
    """Read all that is asked for, predict it and write what came of it."""
    parts = asked(options)
    # Everything is read and found before anything is computed: what is wrong is said at once.
    step_rows = read("steps", parts, options, steps.REQUIRED)
    serving_rows = read("e2e", parts, options, serving.REQUIRED)
    runs = thinned(replay.read_runs(options.vllm), options.limit) if "vllm" in parts else []
    if options.silicon:
        package()  # absent: said now, once
    scored: list[Scored] = []
    replays: list[Replayed] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        scored += score_steps(step_rows, progress)
        scored += score_serving(serving_rows, serve, options.jobs, progress)
        if options.silicon:
            scored += score_serving(serving_rows, serve_silicon, options.jobs, progress)
        for name in choices.CHOICES if options.choices else ():
            work = functools.partial(serve_otherwise, name=name)
            some = thinned(serving_rows, choices.ROWS)
            scored += score_serving(some, work, options.jobs, progress)
        if reported(options) or options.only == PUBLIC:
            scored += score_public(options.jobs, progress)
        for rows, replayed in score_runs(runs, progress):
            scored += rows
            replays += [replayed] if replayed else []
    write(options, scored, replays)
    return 0


def asked(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the parts to do: those whose input was named, or lies where it is by default."""
    if options.only:
        return (options.only,)
    absent = [
        part for part in PARTS if (at := getattr(options, part)) in DEFAULTS and not at.exists()
    ]
    if len(absent) == len(PARTS):
        raise ConfigError(f"there is nothing at {DATA}: give --steps, --e2e or --vllm")
    for part in absent:
        sys.stderr.write(f"validate: --{part} is left out: nothing at {getattr(options, part)}\n")
    return tuple(part for part in PARTS if part not in absent)


def read(
    part: str, parts: Sequence[str], options: argparse.Namespace, required: tuple[str, ...]
) -> list[tuple[int, dict[str, str]]]:
    """Return one table's rows with their numbers."""
    if part not in parts:
        return []
    rows = tables.read_rows(getattr(options, part), required, f"--{part}")
    return thinned(list(enumerate(rows)), options.limit)


def thinned(items: list[Item], limit: int | None) -> list[Item]:
    """Return every k-th item, so that about ``limit`` are left."""
    return items if limit is None else items[:: max(1, -(-len(items) // limit))]


@functools.cache
def catalogue() -> Catalogue:
    """Return this process's catalogue."""
    return Catalogue.shipped()


def score_steps(rows: list[tuple[int, dict[str, str]]], progress: Progress) -> list[Scored]:
    """Predict the steps."""
    task = progress.add_task("steps", total=len(rows))
    scored = steps.score_steps(rows, catalogue()) if rows else []
    progress.update(task, completed=len(rows))
    return scored


def serve(part: list[tuple[int, dict[str, str]]]) -> list[Scored]:
    """Simulate one task of serving rows."""
    return serving.score_serving(part, catalogue())


def serve_silicon(part: list[tuple[int, dict[str, str]]]) -> list[Scored]:
    """Simulate one task of serving rows with aiconfigurator-core's step times."""
    return serving.score_serving(part, catalogue(), silicon=True)


def serve_otherwise(part: list[tuple[int, dict[str, str]]], name: str) -> list[Scored]:
    """Simulate one task of serving rows without a modelling choice."""
    return serving.score_otherwise(part, catalogue(), name)


def serve_public(part: list[tuple[int, dict[str, str]]]) -> list[Scored]:
    """Simulate one task of public figures."""
    return serving.score_public(part, catalogue())


def score_public(jobs: int, progress: Progress) -> list[Scored]:
    """Simulate the public figures that no table has."""
    rows = [(at, dict(row)) for at, row in enumerate(figures.public_rows())]
    return score_serving(rows, serve_public, jobs, progress)


def score_serving(
    rows: list[tuple[int, dict[str, str]]],
    work: Callable[[list[tuple[int, dict[str, str]]]], list[Scored]],
    jobs: int,
    progress: Progress,
) -> list[Scored]:
    """Simulate the rows in ``jobs`` processes; their order is that of the table again."""
    task = progress.add_task("serving runs", total=len(rows))
    parts = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    done: dict[int, list[Scored]] = {}
    for at, result in mapped(work, parts, jobs):
        done[at] = result
        progress.advance(task, len(parts[at]))
    return [each for at in sorted(done) for each in done[at]]


def mapped(
    work: Callable[[Item], list[Scored]], parts: Sequence[Item], jobs: int
) -> Iterator[tuple[int, list[Scored]]]:
    """Yield number and result of each part's work as it is done."""
    if jobs == 1 or len(parts) < 2:
        yield from ((at, work(part)) for at, part in enumerate(parts))
        return
    with ProcessPoolExecutor(jobs) as pool:
        tasks = {pool.submit(work, part): at for at, part in enumerate(parts)}
        for task in as_completed(tasks):
            yield tasks[task], task.result()


def score_runs(
    runs: list[Measured], progress: Progress
) -> Iterator[tuple[list[Scored], Replayed | None]]:
    """Replay the runs one by one."""
    task = progress.add_task("vLLM runs", total=len(runs))
    for measured in runs:
        yield replay.score_run(measured, catalogue())
        progress.advance(task)


def write(options: argparse.Namespace, scored: list[Scored], replays: list[Replayed]) -> None:
    """Write the tables, the report where asked for, and errors.json last."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    score.frame(scored).write_parquet(out / "rows.parquet")
    summary = score.summary(scored)
    if reported(options):
        write_docs(scored, replays, summary, options.left_out)
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    (out / "errors.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{page.targets_text(summary)}\n{out / 'errors.json'}\n")


def reported(options: argparse.Namespace) -> bool:
    """Tell whether docs/validation.md is written."""
    whole = options.only is None and options.limit is None
    return options.write_docs or (whole and options.out == OUT)


def write_docs(
    scored: list[Scored], replays: list[Replayed], summary: dict[str, Any], left_out: Path | None
) -> None:
    """Write docs/validation.md and its plots."""
    folder = DOCS / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "steps": plots.step_plot(scored),
        "tpot": plots.tpot_plot(scored),
        "throughput": plots.throughput_plot(scored),
        **{f"queue_{number}": plots.queue_plot(each) for number, each in enumerate(replays, 1)},
    }
    for name, drawing in drawings.items():
        (folder / f"{name}.svg").write_text(drawing, encoding="utf-8")
    found = tables.read_json(left_out, "--left-out") if left_out else None
    text = page.markdown(summary, scored, replays, found)
    (DOCS / "validation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
