"""What of the traffic was not served because of what it is: one account of a trace and its run.

Reading a trace drops requests that are empty or too long, and a simulation rejects those that
exceed the model's context or a worker's KV cache. Both leave the rest easier to serve than the
whole, so both count here, in requests and in tokens. What replay settings leave out is a part of
the time or a sample of the requests, does not change their kind, and does not count; nor do those
whom an admission policy turned away, as that is what the run is about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.record import TURNED_AWAY

NEVER_REPLAYED = ("zero_input", "zero_output", "over_context", "truncated", "over_max_input_tokens")
"""Reasons of a trace's account that count; the others are parts and samples."""

WARNED_SHARE = 0.01
"""Above this share of all tokens the results are not about the trace that was given."""


YARN_CONTEXT = 131_072
"""What recipes commonly stretch a model's trained context to; the example where it is shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Requests a run rejected for one reason: how many, their tokens, and the longest one's."""

    requests: int
    tokens: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """Requests that came to the workers, their tokens, and what was refused of them, by reason."""

    requests: int
    tokens: int
    refused: Mapping[str, Refused]


def dropped(accounting: Mapping[str, Any], arrived: Arrived) -> dict[str, Any]:
    """Return what was not served: shares of requests and tokens (0–1), and amounts by reason.

    Of a trace's file the share dropped in reading is that of the whole file, also where a part of
    it is replayed; of what came to the workers it is exact. Together: 1 − (1 − file) · (1 − run).
    """
    requests, tokens = _of_the_file(accounting)
    unfit = {why: each for why, each in arrived.refused.items() if why not in TURNED_AWAY}
    for reason, refused in unfit.items():
        requests[reason] = refused.requests
        tokens[reason] = refused.tokens
    return {
        "request_share": _share(
            _file_share(accounting, "drops", "rows_read"),
            sum(each.requests for each in unfit.values()),
            arrived.requests,
        ),
        "token_share": _share(
            _file_share(accounting, "dropped_tokens", "tokens_read"),
            sum(each.tokens for each in unfit.values()),
            arrived.tokens,
        ),
        "requests": requests,
        "tokens": tokens,
    }


def _of_the_file(accounting: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the requests and tokens dropped in reading, by reason."""
    rows, tokens = (accounting.get(name) or {} for name in ("drops", "dropped_tokens"))
    reasons = [reason for reason in NEVER_REPLAYED if rows.get(reason) or tokens.get(reason)]
    return (
        {reason: rows.get(reason, 0) for reason in reasons},
        {reason: tokens.get(reason, 0) for reason in reasons},
    )


def _file_share(accounting: Mapping[str, Any], name: str, total: str) -> float:
    counts, whole = accounting.get(name) or {}, accounting.get(total) or 0
    return sum(counts.get(reason, 0) for reason in NEVER_REPLAYED) / whole if whole else 0.0


def _share(of_file: float, refused: int, arrived: int) -> float:
    of_run = refused / arrived if arrived else 0.0
    return of_file + of_run - of_file * of_run


def warning(told: Mapping[str, Any], refused: Mapping[str, Refused], max_context: int) -> str:
    """Return one sentence on what :func:`dropped` told and what to do; empty where it is little."""
    if told["token_share"] <= WARNED_SHARE:
        return ""
    advice = [
        words
        for reason in told["requests"]
        if (words := _advice(reason, refused.get(reason), max_context))
    ]
    reasons = counts(told["requests"], told["tokens"])
    return (
        f"{told['token_share']:.1%} of the tokens and {told['request_share']:.1%} of the requests "
        f"were not served ({reasons}), so the results are of an easier rest"
        + "".join(f"; {words}" for words in dict.fromkeys(advice))
    )


def counts(requests: Mapping[str, int], tokens: Mapping[str, int]) -> str:
    """Return how many requests were dropped for each reason, or tokens where they were cut."""
    return ", ".join(
        f"{number:,} × {reason}" if number else f"{tokens.get(reason, 0):,} tokens {reason}"
        for reason, number in requests.items()
    )


def _advice(reason: str, refused: Refused | None, max_context: int) -> str:
    """Return what brings the requests of one reason back."""
    if reason == "exceeds_context" and refused is not None:
        enough = 1 << (refused.longest - 1).bit_length()
        if max_context < YARN_CONTEXT:
            enough = min(enough, YARN_CONTEXT)
        return (
            f"the model takes {max_context:,} tokens and the longest request has "
            f"{refused.longest:,}: if your engine serves more (YaRN), say so, for example "
            f"model.max_context={enough}"
        )
    if reason in ("exceeds_kv_capacity", "exceeds_prefill_kv_capacity") and refused is not None:
        return (
            f"no worker holds the KV of {refused.longest:,} tokens: give it more GPUs "
            "(layout.tp, layout.pp), memory (batching.memory_utilization) or an FP8 KV cache"
        )
    return {
        "over_context": "workload.max_context set the limit: raise it, or leave it null",
        "truncated": "workload.max_context set the limit: raise it, or leave it null",
        "over_max_input_tokens": "workload.replay.max_input_tokens set the limit: raise it, or "
        "leave it null",
        "zero_output": "workload.zero_output=keep_prefill_only computes prompts without an answer",
    }.get(reason, "")
