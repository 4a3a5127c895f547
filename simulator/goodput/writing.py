"""A search on disk, and what a terminal shows of it."""

import json
import math
from pathlib import Path
from typing import Any

from simulator.files import whole, write_parquet, write_text
from simulator.goodput import telling
from simulator.goodput.page import write_page
from simulator.goodput.study import Found
from simulator.goodput.trials import Trials

TABLE, PAGE = "goodput.parquet", "report.html"


def write(found: Found, text: str, digest: str, folder: Path) -> None:
    """Write ``found`` into ``folder``; ``summary.json`` comes last: then it is complete.

    ``text`` is the configuration, ``digest`` its digest.
    """
    write_text(folder / "config.yaml", text)
    write_parquet(folder / TABLE, found.table)
    with whole(folder / PAGE) as draft:
        write_page(found, text, draft)
    summary = json.dumps(summary_of(found, digest), indent=2, allow_nan=False, default=str)
    write_text(folder / "summary.json", summary + "\n")


def write_begun(trials: Trials, folder: Path) -> None:
    """Write what has been tried so far into ``folder``, which does not look complete."""
    if trials.rows:
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / TABLE, trials.table())


def summary_of(found: Found, digest: str) -> dict[str, Any]:
    """Return the summary of the run at the answer, and the search's under ``goodput``."""
    checked = found.checked if found.rate is not None else None
    told = {
        "find": found.options.find,
        "rate": found.rate,
        "gpus": found.gpus,
        "workers": None
        if found.counts is None
        else {
            pool.role: count
            for pool, count in zip(found.experiment.deployment.pools, found.counts, strict=True)
        },
        "usd_per_hour": found.usd_per_hour,
        "rate_per_gpu": None if found.rate is None or not found.gpus else found.rate / found.gpus,
        "interval_95": found.interval,
        "each_draw": found.each,
        "capped": found.capped,
        "one_draw_only": found.alike,
        "attainment_asked": found.options.attainment,
        "attainment_own_draw": found.own["attainment"],
        "attainment_fresh_draws": None if checked is None else checked.mean,
        "attainment_fresh_draws_half_95": None
        if checked is None or math.isnan(checked.half)
        else checked.half,
        "trials": len(found.table),
    }
    sure = telling.certainty(found)
    return {
        **found.summary,
        "task": "goodput",
        "answer": " ".join([telling.answer(found), *sure]),
        "goodput": told,
        "config_digest": digest,
    }


def text_of(found: Found) -> str:
    """Return what a terminal shows: the answer, how sure it is, and the rates around it."""
    lines = [telling.answer(found), *telling.certainty(found)]
    if found.options.map and (best := telling.best_split(found)):
        lines.append(best)
    table = [telling.HEADS, *telling.rows(found)]
    widths = [max(len(row[at]) for row in table) for at in range(len(telling.HEADS))]
    drawn = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in table
    ]
    return "\n".join([*lines, "", *drawn])
