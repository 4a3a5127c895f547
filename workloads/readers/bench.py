"""Results of ``vllm bench serve --save-detailed`` and ``sglang.bench_serving --output-details``.

One JSON object with a list each of ``input_lens`` and ``output_lens`` (tokens), ``ttfts`` (seconds
from sending a request to its first token) and ``itls`` (lists of the gaps after it), and, from
newer vLLM, ``start_times`` (seconds). Source: vllm/benchmarks/serve.py and SGLang's guide to
bench_serving. A request that failed has no output.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.fields import tokens
from workloads.readers.hints import Hints
from workloads.readers.source import read_text
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where, shown

STARTS = "start_times"
LISTS = ("input_lens", "output_lens", "ttfts", "itls")
WORDS = ('"backend"', '"completed"', '"request_rate"')
"""What a result says before its lists."""

MAX_CHARACTERS = 1 << 30
"""Of a result, which is one object and has to be in memory whole."""


class Bench:
    """Reads one benchmark's result."""

    name = "bench"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins as a benchmark's result does."""
        return head.lstrip()[:1] == b"{" and all(word.encode() in head for word in WORDS)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the list and the place that is wrong."""
        measured.own_unit(path, hints.time_unit)
        result = _result(path)
        lists = {name: _list(result, name, path) for name in (*LISTS, STARTS) if name in result}
        count = _common_length(lists, path)
        where = Where(str(path), 1)
        numbers = {name: _numbers(lists[name], name, where) for name in LISTS[:3]}
        gaps = pl.Series([_total(each, at, where) for at, each in enumerate(lists["itls"])])
        warnings: tuple[str, ...] = ()
        if STARTS in lists:
            starts = _numbers(lists[STARTS], STARTS, where)
        else:
            starts, warnings = _unknown_starts(result, count, path)
        frame = pl.DataFrame(
            {
                "time_ns": Clock(native="s").numbers(starts.alias(STARTS), where).ns,
                "input_tokens": tokens(numbers["input_lens"], where),
                "output_tokens": tokens(numbers["output_lens"], where),
                "src_ttft_s": numbers["ttfts"].cast(pl.Float32),
                "src_e2e_s": (numbers["ttfts"] + gaps).cast(pl.Float32),
            }
        )
        return clean(measured.raw(path, self.name, frame, warnings=warnings), policy)


def _result(path: Path) -> dict[str, Any]:
    """Return the file's one object."""
    parts, length = [], 0
    for text in read_text(path):
        parts.append(text)
        length += len(text)
        if length > MAX_CHARACTERS:
            raise TraceError(f"{path}: a benchmark's result of more than {MAX_CHARACTERS} signs")
    text = "".join(parts)
    try:
        result, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: is not one complete JSON object ({error})") from error
    rest = text.lstrip()[end:].strip()
    if rest:
        raise TraceError(
            f"{path}: holds more than one benchmark, the next begins with {shown(rest[:30])}; "
            "expected one: keep the line of the run that is meant"
        )
    return dict(result)


def _list(result: dict[str, Any], name: str, path: Path) -> list[Any]:
    values = result[name]
    if not isinstance(values, list):
        raise TraceError(f"{path}: {name} is {shown(values)}, expected a list, one per request")
    return values


def _common_length(lists: dict[str, list[Any]], path: Path) -> int:
    """Return the number of requests, which all lists must have."""
    absent = [name for name in LISTS if name not in lists]
    if absent:
        raise TraceError(
            f"{path}: a benchmark's result without {', '.join(absent)}, which vLLM writes with "
            "--save-detailed and SGLang with --output-details"
        )
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) > 1 or not counts["ttfts"]:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise TraceError(f"{path}: has {told}, expected one of each per request, and some")
    return counts["ttfts"]


def _numbers(values: list[Any], name: str, where: Where) -> pl.Series:
    checked = [
        measured.number(value, name, Where(where.path, at)) for at, value in enumerate(values, 1)
    ]
    return pl.Series(name, checked, dtype=pl.Float64)


def _total(gaps: object, at: int, where: Where) -> float:
    """Return the seconds from a request's first token to its last."""
    place = Where(where.path, at + 1)
    if not isinstance(gaps, list):
        place.fail(0, "itls", gaps, "a list of seconds")
    return sum(measured.number(gap, "itls", place) for gap in gaps)


def _unknown_starts(
    result: dict[str, Any], count: int, path: Path
) -> tuple[pl.Series, tuple[str, ...]]:
    """Return starts where the file has none: all at once, or drawn at the rate it names."""
    rate = result.get("request_rate")
    paced = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < np.inf
    if not paced:
        clients = result.get("max_concurrency")
        return pl.Series([0.0] * count), (
            f"{path}: has no {STARTS}, and its requests were sent as fast as the server took them: "
            f"say by how many clients with workload.concurrency (max_concurrency is {clients})",
        )
    gaps = np.random.default_rng(0).exponential(1 / float(rate), count)  # type: ignore[arg-type]
    return pl.Series(np.cumsum(gaps)), (
        f"{path}: has no {STARTS}: they are drawn as a Poisson process of its request_rate "
        f"{rate}/s, so compare distributions, not single requests",
    )
