"""A study of a trace on disk, and what a terminal shows of it."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from simulator.files import whole, write_text
from simulator.report.theme import number, seconds, share
from simulator.tracing.page import write_page
from simulator.tracing.study import Studied, TraceOptions
from workloads.fitting import Fit, Fitted
from workloads.writing import Written, aiperf, mooncake

NAMES = {
    "parquet": "trace.parquet",
    "mooncake": "trace.mooncake.jsonl",
    "aiperf": "trace.aiperf.jsonl",
}
FITTED = "workload/fitted.yaml"


def write(done: Studied, options: TraceOptions, text: str, digest: str, folder: Path) -> list[str]:
    """Write the study into ``folder``, ``summary.json`` last, and return what to say of it.

    Raises:
        TraceError: the trace cannot be told in the format it is to be converted to.
    """
    written = _written(done, options.convert)
    said = _convert(done, options.convert, written, folder)
    write_text(folder / "config.yaml", text)
    if done.fitted is not None:
        (folder / FITTED).parent.mkdir(exist_ok=True)
        write_text(folder / FITTED, workload_of(done.fitted))
    with whole(folder / "report.html") as draft:
        write_page(done, text, draft)
    summary = json.dumps(summary_of(done, digest), indent=2, allow_nan=False, default=str)
    write_text(folder / "summary.json", summary + "\n")
    return said


def _written(done: Studied, kind: str | None) -> Written | None:
    """Return the lines of another format, before anything is written."""
    if kind == "mooncake":
        return mooncake(done.trace)
    return aiperf(done.trace) if kind == "aiperf" else None


def _convert(done: Studied, kind: str | None, written: Written | None, folder: Path) -> list[str]:
    if kind is None:
        return []
    path = folder / NAMES[kind]
    with whole(path) as draft:
        if written is None:
            done.trace.write_parquet(draft)
        else:
            with draft.open("w", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in written.lines)
    return [f"written: {path.name}", *(written.notes if written is not None else ())]


def workload_of(fitted: Fitted) -> str:
    """Return the fitted workload as a choice of its group, for ``--config-dir DIR``."""
    return str(yaml.safe_dump(fitted.workload, sort_keys=False))


def summary_of(done: Studied, digest: str) -> dict[str, Any]:
    """Return the summary: figures, fits with their distances, and the trace's account."""
    told = asdict(done.told)
    told["dispersion"] = {f"{width:g} s": index for width, index in done.told.dispersion.items()}
    return {
        "task": "trace",
        "config_digest": digest,
        "trace": told,
        "fit": None if done.fitted is None else _fits(done.fitted),
        "not_fitted": done.unfitted,
        "accounting": asdict(done.trace.meta),
        "warnings": list(done.trace.meta.warnings),
    }


def _fits(fitted: Fitted) -> dict[str, Any]:
    each = {
        name: [
            {"name": one.name, "settings": dict(one.settings), "ks_distance": one.distance}
            for one in getattr(fitted, name)
        ]
        for name in ("arrivals", "input_tokens", "output_tokens")
    }
    return {**each, "correlation": fitted.correlation}


def lines_of(done: Studied) -> Iterator[str]:
    """Yield what a terminal shows: the figures, and the best fit of each kind."""
    told = done.told
    yield (
        f"{told.requests:,} requests over {seconds(told.duration_s)}"
        + ("" if told.rate is None else f", {number(told.rate)}/s")
        + ("" if told.gap_cv is None else f", CV of gaps {told.gap_cv:.2f}")
    )
    if told.dispersion:
        widths = ", ".join(
            f"{index:.3g} in {width:g} s" for width, index in told.dispersion.items()
        )
        yield f"index of dispersion (Poisson: 1): {widths}"
    for name, words in (("input_tokens", "prompt"), ("output_tokens", "output")):
        lengths = getattr(told, name)
        ranks = ", ".join(f"{rank} {value:,.0f}" for rank, value in lengths.items())
        yield f"{words} tokens: {ranks}"
    if told.hit_rate is not None:
        yield (
            f"a prefix cache that forgets nothing finds {share(told.hit_rate)} of the prompt "
            f"tokens, something of {share(told.shared)} of the requests"
        )
    if told.sessions is not None and told.turns is not None:
        yield f"{told.sessions:,} sessions of {told.turns['mean']:.2f} turns on average"
    if done.unfitted is not None:
        yield f"not fitted: {done.unfitted}"
    if done.fitted is not None:
        for name in ("arrivals", "input_tokens", "output_tokens"):
            yield f"fit of {name.replace('_', ' ')}: {fit_words(getattr(done.fitted, name)[0])}"


def fit_words(fit: Fit) -> str:
    """Return one fit in words."""
    settings = ", ".join(
        f"{key} {_plain(value)}" for key, value in fit.settings.items() if key != "_target_"
    )
    return f"{fit.name} ({settings}), KS distance {fit.distance:.3f}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(f"{each:.4g}" for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
