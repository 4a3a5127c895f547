"""Spans of generative AI by OpenTelemetry: OTLP/JSON as collectors write it, or spans on lines.

OTLP: ``{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano", "endTimeUnixNano",
"traceId", "spanId", "attributes": [{"key", "value": {"intValue": ..}}], "status"}]}]}]}``; other
exporters write a span on a line, with ``start_time`` and ``end_time`` in ISO 8601 and attributes as
an object. Read are the attributes ``gen_ai.usage.input_tokens`` and ``output_tokens`` (cached and
reasoning tokens are among them), their older names ``prompt_tokens`` and ``completion_tokens``,
``gen_ai.usage.cache_read.input_tokens``, ``gen_ai.conversation.id``, models and providers. Source:
OpenTelemetry's semantic conventions for generative AI. Spans of other operations are counted and
passed over. Spans of a conversation, or else of one trace, are a session.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.calls import Calls, text, whole
from workloads.readers.dynamo import link
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.times import LAST_NS, Clock
from workloads.readers.tracelab import EPOCH, date_of
from workloads.trace import Trace
from workloads.where import Where

CALLS = ("chat", "text_completion", "generate_content")
OPERATION = "gen_ai.operation.name"
INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
CACHED = ("gen_ai.usage.cache_read.input_tokens",)
MODEL = ("gen_ai.request.model", "gen_ai.response.model")
PROVIDER = ("gen_ai.provider.name", "gen_ai.system")
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
CONVERSATION = "gen_ai.conversation.id"
START = ("startTimeUnixNano", "start_time_unix_nano", "start_time")
END = ("endTimeUnixNano", "end_time_unix_nano", "end_time")
VALUES = ("stringValue", "intValue", "doubleValue", "boolValue")
Attributes = Mapping[str, Any]


class OTel:
    """Reads the spans that are calls of a model."""

    name = "otel"

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with spans."""
        row = first_object(head)
        if row is None:
            return head.lstrip()[:1] == b"{" and b'"resourceSpans"' in head[:4096]
        return "resourceSpans" in row or (
            "attributes" in row and any(name in row for name in START)
        )

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row and span that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        calls = Calls(path)
        for fields, where in measured.rows(path):
            for span, place in _spans(fields, where):
                _add(span, place, calls)
        if not len(calls):
            counted = ", ".join(f"{name}: {n}" for name, n in calls.counts.items()) or "none at all"
            raise TraceError(f"{path}: holds no span of a model's call ({counted})")
        link(calls, {}, unit_s=1e-9)
        return clean(calls.raw(self.name, Clock(native="ns")), policy)


def _spans(fields: dict[str, Any], where: Where) -> Iterator[tuple[dict[str, Any], Where]]:
    """Yield the spans of a row, each with its place."""
    if "resourceSpans" not in fields:
        yield fields, where
        return
    number = 0
    for resource in _objects(fields, "resourceSpans", where):
        key = "scopeSpans" if "scopeSpans" in resource else "instrumentationLibrarySpans"
        for scope in _objects(resource, key, where):
            for span in _objects(scope, "spans", where):
                yield span, where.within(f"span {number}")
                number += 1


def _objects(fields: Mapping[str, Any], name: str, where: Where) -> list[dict[str, Any]]:
    found = fields.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        where.fail(0, name, found, "a list of objects")
    return found


def _add(span: dict[str, Any], where: Where, calls: Calls) -> None:
    """Take a span if it is a call of a model."""
    said = _attributes(span.get("attributes", {}), where)
    operation = said.get(OPERATION)
    lengths = any(name in said for name in (*INPUT, *OUTPUT))
    if operation not in CALLS and (operation is not None or not lengths):
        calls.counts[f"spans_{str(operation or 'of_other_work')[:40]}_passed_over"] += 1
        return
    start, end = _instant(span, START, where), _instant(span, END, where)
    if end < start:
        calls.counts["spans_that_end_before_they_start"] += 1
        end = start
    session = text(dict(said), CONVERSATION, where) or _trace(span, where)
    cached = _first(said, CACHED)
    first_chunk = said.get(FIRST_CHUNK)
    calls.add(
        start,
        whole(_number(_first(said, INPUT) or 0), INPUT[0], where),
        whole(_number(_first(said, OUTPUT) or 0), OUTPUT[0], where),
        source_id=_id(span, ("spanId", "span_id"), where),
        session_id=session,
        model=_name(_first(said, MODEL)),
        tenant=_name(_first(said, PROVIDER)),
        cached_tokens_hint=None if cached is None else whole(_number(cached), CACHED[0], where),
        src_ttft_s=None
        if first_chunk is None
        else measured.number(_number(first_chunk), FIRST_CHUNK, where),
        src_e2e_s=(end - start) / 1e9,
    )


def _attributes(found: object, where: Where) -> dict[str, Any]:
    """Return attributes as a mapping, from OTLP's list of keys and values or as they are."""
    if isinstance(found, dict):
        return found
    if not isinstance(found, list):
        where.fail(0, "attributes", found, "a list or an object")
    plain = {}
    for each in found:
        key = each.get("key") if isinstance(each, dict) else None
        value = each.get("value") if isinstance(each, dict) else None
        if not isinstance(key, str):
            where.fail(0, "attributes", each, "an object with key and value")
        if isinstance(value, dict):
            value = next((value[name] for name in VALUES if name in value), None)
        plain[key] = value
    return plain


def _instant(span: Mapping[str, Any], names: tuple[str, ...], where: Where) -> int:
    """Return a moment as ns since 1970, from a number (as text, too) or a date."""
    name = next((each for each in names if each in span), names[0])
    value = span.get(name)
    number = _number(value)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= LAST_NS:
        return number
    date = date_of(value)
    if date is None:
        where.fail(0, name, value, "nanoseconds since 1970, or a date with an offset from UTC")
    return (date - EPOCH) // timedelta(microseconds=1) * 1000


def _number(value: object) -> object:
    """Return a number that is written as text, as OTLP does, as the number."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return value


def _first(said: Attributes, names: tuple[str, ...]) -> Any:
    return next((said[name] for name in names if said.get(name) is not None), None)


def _name(value: object) -> str | None:
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _id(span: Mapping[str, Any], names: tuple[str, ...], where: Where) -> str | None:
    context = span.get("context")
    for each in (span, context if isinstance(context, dict) else {}):
        for name in names:
            if name in each:
                return text(dict(each), name, where)
    return None


def _trace(span: Mapping[str, Any], where: Where) -> str | None:
    return _id(span, ("traceId", "trace_id"), where)
