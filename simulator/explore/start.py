"""Starting points: deployments that AIConfigurator chose, read from its table and costed here.

Its ``best_config_topn.csv`` (ai-dynamo/aiconfigurator, ``sdk/common.py``) has a row per deployment:
columns ``(p)…`` and ``(d)…`` of a prefill and a decode worker, or the same names bare for a
co-located one. ``tp``, ``pp`` and ``dp`` are our tp, pp and attention_dp, ``moe_ep`` our ep; ``bs``
counts the requests of one attention rank, over all its stages. Times are in milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from simulator.errors import ConfigError, LayoutError
from simulator.explore.colocated import colocated_points
from simulator.explore.evaluate import collect, decode_points, prefill_points
from simulator.explore.match import colocated, disaggregated
from simulator.explore.space import Lengths, Platform, Space
from simulator.layout import Layout
from simulator.model import Model
from simulator.policies.rate_matching import Given

MOST_ROWS = 1_000
"""Rows of a table of starting points: it lists the best, not all."""

MOST = 1_000_000
"""Tokens, requests, workers or degrees in a cell."""

MARKS: Mapping[str, str] = {"prefill": "(p)", "decode": "(d)", "mixed": ""}
DEGREES = ("tp", "pp", "dp", "moe_tp", "moe_ep")
THEIRS = {"tokens/s/gpu": 1.0, "ttft": 1e-3, "tpot": 1e-3}
"""What AIConfigurator predicts: its columns, and what makes SI units of them."""

Row = Mapping[str, str | None]
Platforms = tuple[Platform, Platform]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A pool of a starting point: its layout, requests in flight per attention rank, workers."""

    layout: Layout
    batch: int
    workers: int = 1

    @property
    def per_stage(self) -> int:
        """Requests of one attention rank and microbatch."""
        return -(-self.batch // self.layout.pp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One row of the table: ``line`` in the file, lengths in tokens, and its pools by role.

    ``throughput`` (tokens/s/GPU), ``ttft_s`` and ``tpot_s`` are what AIConfigurator predicts.
    """

    line: int
    isl: int
    osl: int
    pools: Mapping[str, Worker]
    throughput: float
    ttft_s: float
    tpot_s: float


def read_starts(path: Path, model: Model) -> list[Start]:
    """Return the starting points of a table, for ``model``.

    Raises:
        ConfigError: the file is no such table, or a value in it cannot be used; file, row and
            column are named.
    """
    table = _table(path)
    return [
        _start(f"{path}, row {line}", line, row, model)
        for line, row in enumerate(table.iter_rows(named=True), start=2)
    ]


def evaluate_starts(
    starts: Sequence[Start], platforms: Platforms, lengths: Lengths
) -> pl.DataFrame:
    """Return each starting point as this program's model sees it, beside what its row predicts.

    Columns: the ``row`` of the file, those of a study's deployments (null where the point does not
    fit its GPUs' memory here), and ``their_throughput``, ``their_ttft_s`` and ``their_tpot_s``,
    which are for the row's own ``isl`` and ``osl``.
    """
    rows = []
    for start in starts:
        theirs = pl.DataFrame(
            {
                "row": start.line,
                "isl": start.isl,
                "osl": start.osl,
                "their_throughput": start.throughput,
                "their_ttft_s": start.ttft_s,
                "their_tpot_s": start.tpot_s,
            }
        )
        found = evaluate(start.pools, platforms, lengths)
        rows.append(pl.concat([theirs, found], how="horizontal") if len(found) else theirs)
    table = pl.concat(rows, how="diagonal")
    missing = [name for name in ("throughput", "ttft_s", "tpot_s") if name not in table.columns]
    return table.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in missing)


def evaluate(pools: Mapping[str, Worker], platforms: Platforms, lengths: Lengths) -> pl.DataFrame:
    """Return these pools as one deployment, or an empty frame where a worker's KV does not fit.

    Prompts are computed whole or in the chunks that leave as many in flight, of the highest rate.
    So is the token mix of co-located ones, of those whose steps with prompts take no more TPOTs
    than are allowed (``Space.longest_gap``), or else the one that takes the fewest.
    """
    if "mixed" in pools:
        mixed = pools["mixed"]
        points = collect(colocated_points(_space(mixed, platforms[1], lengths)))
        best = _best(_steady(_own(points, mixed)), mixed)
        return colocated(best, platforms[1], lengths)
    prompts, tokens = pools["prefill"], pools["decode"]
    space = replace(_space(prompts, platforms[0], lengths), prompt_batches=(prompts.per_stage,))
    prefill = _best(collect(prefill_points(space)), prompts)
    decode = _best(collect(decode_points(_space(tokens, platforms[1], lengths))), tokens)
    if not len(prefill) or not len(decode):
        return pl.DataFrame()
    rule = Given(prefill_workers=prompts.workers, decode_workers=tokens.workers)
    return disaggregated(prefill, decode, platforms, lengths, rule)


def starts_lines(table: pl.DataFrame, chosen: float | None) -> list[str]:
    """Return a line per starting point, and how it stands to the throughput ``chosen`` here."""
    own = "" if chosen is None else f"; own choice {chosen:,.1f}"
    return [
        f"start, row {row['row']}: "
        + (
            "does not fit its GPUs' memory here"
            if row["throughput"] is None
            else f"{row['throughput']:,.1f} tokens/s/GPU, TTFT {row['ttft_s'] * 1e3:,.0f} ms, "
            f"TPOT {row['tpot_s'] * 1e3:.1f} ms here"
        )
        + f" (AIConfigurator: {row['their_throughput']:,.1f}, {row['their_ttft_s'] * 1e3:,.0f} ms, "
        f"{row['their_tpot_s'] * 1e3:.1f} ms){own}"
        for row in table.iter_rows(named=True)
    ]


def _space(worker: Worker, platform: Platform, lengths: Lengths) -> Space:
    return Space(
        platform=platform,
        lengths=lengths,
        worker_gpus=worker.layout.gpus,
        max_batch=worker.per_stage,
        fine=worker.per_stage,
        layouts=(worker.layout,),
    )


def _best(points: pl.DataFrame, worker: Worker) -> pl.DataFrame:
    """Return the worker's own point of highest rate, of those of its layout that fit."""
    own = _own(points, worker)
    return own.sort("rate", descending=True).head(1) if len(own) else own


def _own(points: pl.DataFrame, worker: Worker) -> pl.DataFrame:
    """Return the points of its layout that have the worker's batch in flight."""
    if not len(points):
        return points
    ranks = worker.layout.attention_dp
    filled = worker.per_stage * worker.layout.pp * ranks
    wanted = pl.col("batch").is_in(sorted({worker.batch * ranks, filled}))
    return points.filter(wanted)


def _steady(points: pl.DataFrame) -> pl.DataFrame:
    """Return the co-located points whose gaps are none too long, or that of the shortest."""
    if not len(points):
        return points
    steady = points.filter(pl.col("pace_s") <= pl.col("tpot_s"))
    return steady if len(steady) else points.sort("gap_s").head(1)


def _table(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ConfigError(f"explore.start: {path} is not a file; expected a best_config_topn.csv")
    try:
        table = pl.read_csv(path, infer_schema=False, n_rows=MOST_ROWS + 1)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"explore.start: {path} is not a readable CSV table: {error}") from error
    if not 0 < len(table) <= MOST_ROWS:
        rows = "none" if not len(table) else "more"
        raise ConfigError(f"explore.start: {path} must have 1 to {MOST_ROWS} rows but has {rows}")
    pools = _roles(table.columns)
    numbers = {f"{MARKS[pool]}{name}" for pool in pools for name in ("tp", "pp", "dp", "bs")}
    wanted = numbers | set(THEIRS) | {"isl", "osl"} | {f"{MARKS[pools[0]]}moe_ep"}
    missing = sorted(wanted - set(table.columns))
    if missing:
        raise ConfigError(
            f"explore.start: {path} has no column {missing[0]!r}; expected those of "
            "AIConfigurator's best_config_topn.csv"
        )
    return table


def _roles(columns: list[str]) -> tuple[str, ...]:
    return ("prefill", "decode") if "(p)tp" in columns else ("mixed",)


def _start(where: str, line: int, row: Row, model: Model) -> Start:
    theirs = [_number(where, row, name) * factor for name, factor in THEIRS.items()]
    return Start(
        line=line,
        isl=_whole(where, row, "isl"),
        osl=_whole(where, row, "osl"),
        pools={pool: _worker(where, row, pool, model) for pool in _roles(list(row))},
        throughput=theirs[0],
        ttft_s=theirs[1],
        tpot_s=theirs[2],
    )


def _worker(where: str, row: Row, pool: str, model: Model) -> Worker:
    """Return a pool's worker, its layout checked against the model."""
    mark = MARKS[pool]
    if f"{mark}cp" in row and _whole(where, row, f"{mark}cp", empty=1) > 1:
        raise ConfigError(f"explore.start: {where}: {mark}cp above 1 (context parallel) is unknown")
    tp, pp, dp = (_whole(where, row, f"{mark}{name}") for name in ("tp", "pp", "dp"))
    shards, ep = (_whole(where, row, f"{mark}{name}", empty=1) for name in ("moe_tp", "moe_ep"))
    if model.is_moe and shards * ep != tp * dp:
        raise ConfigError(
            f"explore.start: {where}: {mark}moe_tp × {mark}moe_ep must be {mark}tp × {mark}dp = "
            f"{tp * dp} GPUs but got {shards} × {ep}"
        )
    try:
        layout = Layout(
            tp=tp,
            pp=pp,
            attention_dp=dp,
            ep=ep if model.is_moe else 1,
            chunked_pipeline=pp > 1,
        )
        layout.validate(model)
    except LayoutError as error:
        raise ConfigError(f"explore.start: {where}: {error}") from error
    return Worker(
        layout=layout,
        batch=_whole(where, row, f"{mark}bs"),
        workers=_whole(where, row, f"{mark}workers", empty=1),
    )


def _number(where: str, row: Row, name: str) -> float:
    text = row[name]
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ConfigError(
            f"explore.start: {where}: {name} must be a finite number > 0 but got {text!r}"
        )
    return value


def _whole(where: str, row: Row, name: str, empty: int | None = None) -> int:
    """Return a whole number ≥ 1; ``empty`` where the column is absent or the cell has nothing."""
    text = row.get(name)
    if empty is not None and not text:
        return empty
    value = _number(where, row, name)
    if value != int(value) or not 1 <= value <= MOST:
        raise ConfigError(
            f"explore.start: {where}: {name} must be a whole number from 1 to {MOST:,} but got "
            f"{text!r}"
        )
    return int(value)
