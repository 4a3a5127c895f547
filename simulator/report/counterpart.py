"""A run beside its counterpart: the same GPUs used the other way, under the same requests."""

from collections.abc import Mapping
from typing import Any

from simulator.report.theme import number, seconds, share

DOING = {"co-located": "workers that do both", "disaggregated": "a prefill and a decode pool"}
HEADS = ("", "here", "counterpart")


def sentence(summary: Mapping[str, Any]) -> str:
    """Return how the counterpart fared, or why there is none; nothing where nobody asked."""
    other = summary.get("counterpart")
    if other is None:
        return ""
    if other["reason"] is not None:
        kind = f"{other['kind']} " if "kind" in other else ""
        return f"Not compared with a {kind}counterpart: {other['reason'].rstrip('.')}."
    does = f"On the same {number(other['gpus'])} GPUs, {DOING[other['kind']]} ({other['pools']})"
    if any(target is not None for target in summary["slo"].values()):
        held = share(other["slo_attainment"])
        here = share(summary["slo_attainment"])
        return (
            f"{does} hold the targets for {held} of the same requests, here {here}{_more(other)}."
        )
    medians = (
        f"{label} {seconds(other[name]['p50'])} (here {seconds(summary[name]['p50'])})"
        for label, name in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"))
    )
    return f"{does} reach a median {' and '.join(medians)} with the same requests."


def _more(other: Mapping[str, Any]) -> str:
    """Return by how many points the counterpart holds more, and how sure that is."""
    more, ends = other["more_attained"], other["more_attained_95"]
    if more is None:
        return ""
    if ends is None:
        return ": too few requests to say how sure that is"
    low, high = (f"{100 * end:+.1f}" for end in ends)
    interval = f"{100 * more:+.1f} points, 95 % interval {low} to {high}"
    if ends[0] <= 0 <= ends[1]:
        return f": no clear difference ({interval})"
    return f" ({interval})"


def rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return label, this run's and the counterpart's number; none where there is none."""
    other = summary.get("counterpart")
    if other is None or other["reason"] is not None:
        return []
    sides = (summary, other)
    table = [("workers", other["here"], other["pools"])]
    steps = (number(other["here_step_tokens"]), number(other["step_tokens"]))
    table.append(("tokens of a prompt step", *steps))
    for label, name in (("TTFT", "ttft_s"), ("TPOT", "tpot_s")):
        for rank in ("p50", "p99"):
            here, there = (seconds(side[name][rank]) for side in sides)
            table.append((f"{label} {rank}", here, there))
    told = [
        ("SLO attainment", share, "slo_attainment"),
        ("goodput (requests/s)", number, "goodput_rps"),
    ]
    told.append(("output tokens/s/GPU", number, "output_tokens_per_s_per_gpu"))
    table.extend((label, say(summary[name]), say(other[name])) for label, say, name in told)
    lost = [side["requests"]["arrived"] - side["requests"]["completed"] for side in sides]
    if any(lost):
        table.append(("requests not completed", number(lost[0]), number(lost[1])))
    return table
