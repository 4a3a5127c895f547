"""AIPerf's ``profile_export.jsonl``: one object per request, with ``metadata`` and ``metrics``.

``metadata.request_start_ns`` counts from 1970; every metric is a ``value`` with its ``unit``.
Source: AIPerf's guide to its export files. A request that failed has no metrics of output.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy, clean
from workloads.readers import measured
from workloads.readers.fields import tokens
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object, plain_text
from workloads.trace import Trace
from workloads.where import Where

START = "request_start_ns"
LENGTHS = {
    "input_tokens": ("input_sequence_length", "error_isl"),
    "output_tokens": ("output_sequence_length", "output_token_count"),
}
LATENCIES = {"src_ttft_s": "time_to_first_token", "src_e2e_s": "request_latency"}
SCHEMA = {
    "time_ns": pl.Int64,
    "source_id": pl.String,
    "input_tokens": pl.Float64,
    "output_tokens": pl.Float64,
    "src_ttft_s": pl.Float64,
    "src_e2e_s": pl.Float64,
}


class AIPerf:
    """Reads the records of single requests."""

    name = "aiperf"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with a record of AIPerf's."""
        row = first_object(head) or {}
        metadata = row.get("metadata")
        return "metrics" in row and isinstance(metadata, dict) and START in metadata

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        records = [_record(fields, where) for fields, where in measured.rows(path)]
        frame, where = pl.DataFrame(records, schema=SCHEMA), Where(str(path), 1)
        frame = frame.with_columns(
            *(tokens(frame[name], where) for name in LENGTHS),
            *(pl.col(name).cast(pl.Float32) for name in LATENCIES),
        )
        return clean(measured.raw(path, self.name, frame, utc_offset="+00:00"), policy)


def _record(fields: dict[str, Any], where: Where) -> dict[str, object]:
    """Return one request's canonical columns."""
    metadata = _mapping(fields, "metadata", where)
    metrics = _mapping(fields, "metrics", where) if fields.get("metrics") else {}
    start = measured.number(metadata.get(START), START, where)
    return {
        "time_ns": metadata[START] if isinstance(metadata[START], int) else int(start),
        "source_id": plain_text(metadata.get("x_request_id"), "x_request_id", where),
        **{name: _tokens(metrics, keys, where) for name, keys in LENGTHS.items()},
        **{name: _seconds(metrics, key, where) for name, key in LATENCIES.items()},
    }


def _mapping(fields: dict[str, Any], name: str, where: Where) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        where.fail(0, name, value, "an object")
    return value


def _tokens(metrics: Mapping[str, Any], keys: tuple[str, ...], where: Where) -> float:
    """Return the first of the metrics that is there; 0 where none is, as of a failed request."""
    name = next((key for key in keys if key in metrics), None)
    return 0.0 if name is None else _value(metrics, name, where)


def _seconds(metrics: Mapping[str, Any], name: str, where: Where) -> float | None:
    if name not in metrics:
        return None
    value, unit = _value(metrics, name, where), metrics[name].get("unit")
    if unit not in measured.SECONDS:
        where.fail(0, f"{name}'s unit", unit, f"one of {', '.join(measured.SECONDS)}")
    return value * measured.SECONDS[unit]


def _value(metrics: Mapping[str, Any], name: str, where: Where) -> float:
    metric = metrics[name]
    if not isinstance(metric, dict):
        where.fail(0, name, metric, "an object with value and unit")
    return measured.number(metric.get("value"), name, where)
