"""The compact table a terminal shows at the end of a run."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simulator.measured import STATISTICS
from simulator.report import counterpart, prose
from simulator.report.theme import number, percent, seconds, share, statistic
from simulator.results import Results

ROWS = (
    ("TTFT", "ttft_s"),
    ("TPOT", "tpot_s"),
    ("TTST", "ttst_s"),
    ("ITL", "itl_s"),
    ("E2E", "e2e_s"),
)


def summary_table(results: Results) -> Group:
    """Return the latencies, measured ones too, throughput, cost and where the time was spent.

    Then how the counterpart fared, where it was simulated.
    """
    told = results.summary["measured"]
    measured: list[RenderableType] = ["", _measured(told)] if told else []
    around = _counterpart(results.summary)
    return Group(_latencies(results), *measured, "", _facts(results), *around)


def _counterpart(summary: Mapping[str, Any]) -> list[RenderableType]:
    told, rows = counterpart.sentence(summary), counterpart.rows(summary)
    if not told:
        return []
    table = Table(box=None, pad_edge=False)
    table.add_column(counterpart.HEADS[0], style="bold")
    for name in counterpart.HEADS[1:]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    return ["", Text(told), *([table] if rows else [])]


def _latencies(results: Results) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="bold")
    for name in ("mean", "p50", "p90", "p99", "target"):
        table.add_column(name, justify="right")
    targets = results.slo.targets()
    for label, name in ROWS:
        told = results.summary[name]
        cells = [statistic(told, column) for column in ("mean", "p50", "p90", "p99")]
        target = targets.get(name)
        table.add_row(label, *cells, f"≤ {seconds(target)}" if target else "")
    return table


def _measured(told: Mapping[str, Any]) -> Table:
    """Return what the traffic's source measured of the same requests, and how far off we are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("measured", style="bold")
    for name in STATISTICS:
        table.add_column(name, justify="right")
    for name, each in told.items():
        cells = [
            f"{seconds(each['measured'][column])} ({percent(each['error'][column])})"
            for column in STATISTICS
        ]
        table.add_row(prose.LABELS[name], *cells)
    return table


def _facts(results: Results) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in facts(results):
        table.add_row(name, Text(value))  # names out of a file are no markup
    return table


def facts(results: Results) -> list[tuple[str, str]]:
    """Return the run's headline numbers as label and text."""
    summary = results.summary
    shares = sorted(prose.stage_shares(summary).items(), key=lambda item: -item[1])
    spent = [f"{prose.LABELS[name].lower()} {share(part)}" for name, part in shares if part]
    hours = [f"{pool} {number(value)}" for pool, value in summary["gpu_hours"].items() if value]
    used = {pool: value for pool, value in summary["kv_utilization"].items() if value is not None}
    counts = [f"{number(count)} {status}" for status, count in summary["requests"].items() if count]
    return [
        ("requests", ", ".join(counts) or "none"),
        *prose.not_served(summary),
        *prose.losses(summary),
        *prose.conversations(summary),
        *prose.unfinished(summary),
        ("goodput", f"{number(summary['goodput_rps'])} requests/s"),
        ("SLO attainment", f"{share(summary['slo_attainment'])} of all arrivals"),
        *prose.classes(summary),
        *prose.services(summary),
        *_missed(summary),
        ("output tokens/s/GPU", number(summary["output_tokens_per_s_per_gpu"])),
        ("input tokens/s/GPU", number(summary["input_tokens_per_s_per_gpu"])),
        ("GPU-hours", ", ".join(hours) or "0"),
        *prose.regret(summary),
        *prose.changes(summary),
        *prose.scaling(summary),
        ("KV utilisation", ", ".join(f"{pool} {share(u)}" for pool, u in used.items()) or "–"),
        *prose.cached(summary),
        *prose.stayed(summary),
        ("time spent", ", ".join(spent) or "–"),
        ("preemptions", number(summary["preemptions"])),
        *prose.recomputed(summary),
    ]


def _missed(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, per target that was missed, by how many requests and in which stage."""
    words = [
        f"{prose.LABELS[name]} by {number(missed['requests'])}{prose.where_missed(missed)}"
        for name, missed in summary["missed"].items()
        if missed["requests"]
    ]
    return [("targets missed", "; ".join(words))] if words else []
