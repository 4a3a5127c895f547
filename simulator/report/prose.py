"""The run in plain words: what was simulated, whether it held its targets, where the time went."""

from collections.abc import Iterator, Mapping
from typing import Any

from simulator.dropped import counts
from simulator.report.theme import number, seconds, share, statistic
from simulator.results import DURATIONS, POOLS, STAGES, Results, gap_bin_width

LABELS = {metric.name: metric.label for metric in DURATIONS}
COMPLETE, CLOSE = 0.99, 0.9


def title(results: Results) -> str:
    """Return the page's title: the caller's, or a plain one."""
    return str(results.context.get("title") or "Simulation report")


def subject(results: Results) -> str:
    """Return one or two sentences on what was simulated."""
    summary = results.summary
    arrived, duration = summary["requests"]["arrived"], summary["duration_s"]
    words = results.context.get("workload")
    lasted = f" over {seconds(duration)}" if duration else ""
    source = f" ({words})" if words else ""
    served = f"{number(arrived)} {_plural('request', arrived)}{lasted}{source}, served by"
    model = results.context.get("model")
    of_model = f" of {model}" if model else ""
    turned = "".join(f" Meanwhile the pools changed: {words}." for _, words in changes(summary))
    return f"{served} {machines(results)}{of_model}.{turned} {outcome(summary)}"


def machines(results: Results) -> str:
    """Return the pools in words: 4 prefill workers (16 × H100) and 2 decode workers (…).

    They are those that the run began with.
    """
    parts = []
    for pool in POOLS:
        members = [w for w in results.workers if w.pool == pool and w.why == "initial"]
        if members:
            kinds = " and ".join(sorted({worker.gpu for worker in members}))
            gpus = sum(worker.gpus for worker in members)
            workers = _plural("worker", len(members))
            parts.append(f"{len(members)} {pool} {workers} ({gpus} × {kinds})")
    return " and ".join(parts) or "no worker at all"


def outcome(summary: Mapping[str, Any]) -> str:
    """Return what became of the requests, in one sentence."""
    counts = {name: count for name, count in summary["requests"].items() if name != "arrived"}
    arrived = summary["requests"]["arrived"]
    if not arrived:
        return "No request arrived."
    if counts["completed"] == arrived:
        return "Every request completed." if arrived > 1 else "It completed."
    parts = [f"{number(count)} {status}" for status, count in counts.items() if count]
    return f"Of these, {_join(parts)}."


def classes(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the share of each class's requests within its own targets, if there are classes."""
    told = [
        f"{name} {share(each['slo_attainment'])}"
        for name, each in summary["classes"].items()
        if each["requests"]["arrived"]
    ]
    return [("by class", f"{', '.join(told)}, each by its own targets")] if told else []


TOLD, WORST = 8, 4
"""Services that are told one by one; of more, those that fared worst."""


def services(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how each service fared and what it held, if several share the GPUs.

    Of many it is the worst served, and the range of all others.
    """
    every = summary["services"]
    if len(every) <= TOLD:
        told = ", ".join(_fared(every))
        return [("by service", f"{told}, each by its own targets")] if told else []
    known = sorted(
        (name for name in every if every[name]["slo_attainment"] is not None),
        key=lambda name: every[name]["slo_attainment"],
    )
    worst, rest = known[:WORST], [every[name]["slo_attainment"] for name in known[WORST:]]
    told = ", ".join(_fared({name: every[name] for name in worst}))
    others = f"; {len(rest)} others {share(rest[0])} to {share(rest[-1])}" if rest else ""
    return [("by service", f"of {len(every)} the worst: {told}{others}, each by its own targets")]


def _fared(services: Mapping[str, Any]) -> Iterator[str]:
    """Yield a service's attainment, its GPUs, and how long it waited for more."""
    for name, each in services.items():
        waited = each["longest_pending_s"]
        held = f"on {number(each['gpus'])} {_plural('GPU', each['gpus'])}"
        more = f" (waited up to {seconds(waited)} for more)" if waited else ""
        yield f"{name} {share(each['slo_attainment'])} {held}{more}"


def not_served(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, what was rejected, dropped in reading or left out, if any."""
    lost, account = summary["dropped"], summary["accounting"]
    rejected, left_out = summary["rejected_reasons"], account.get("drops") or {}
    groups = {
        "rejected": rejected,
        "dropped": {why: n for why, n in lost["requests"].items() if why not in rejected},
        "not replayed": {why: n for why, n in left_out.items() if why not in lost["requests"]},
    }
    rows = [(label, counts(group, lost["tokens"])) for label, group in groups.items() if group]
    if lost["requests"]:
        words = (
            f"{share(lost['request_share'])} of requests, {share(lost['token_share'])} of tokens"
        )
        rows.insert(-1 if groups["not replayed"] else len(rows), ("not served", words))
    if unread := _unread(account):
        rows.append(("not read", unread))
    return rows


def losses(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, which requests were lost with a worker or failed, if any."""
    failed, lost = summary["failed_reasons"], summary["retried_requests"]
    rows = [("failed", counts(failed, {}))] if failed else []
    if lost:
        begun = f"{number(lost)} {_plural('request', lost)} lost and begun anew"
        rows.append(("retries", f"{number(summary['retries'])} ({begun})"))
    if again := summary.get("resends"):
        of = number(summary["resent_requests"])
        rows.append(("sent again", f"{number(again)} times, {of} requests turned away before"))
    return rows


def conversations(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, what sent the turns of sessions and how they fared, if any."""
    told = summary["sessions"]
    if not told:
        return []
    parts = [SENT_BY[told["by"]]]
    if told.get("sessions"):
        parts.insert(0, f"{number(told['sessions'])} of {told['turns_mean']:.3g} turns on average")
        lasted = told["duration_s"]
        if lasted["count"]:
            parts.append(f"whole ones took {seconds(lasted['p50'])}, p90 {seconds(lasted['p90'])}")
    if told["never_sent"]:
        parts.append(f"{number(told['never_sent'])} requests never sent after a failed one")
    if told["unknown_delays"]:
        parts.append(f"{number(told['unknown_delays'])} waits that nobody told are 0 s")
    rows = [("sessions", "; ".join(parts))]
    turns = told.get("ttft_by_turn_s") or {}
    if len(turns) > 1:
        each = [f"{turn}: {seconds(values['p50'])}" for turn, values in turns.items()]
        rows.append(("TTFT p50 by turn", ", ".join(each)))
    return rows


SENT_BY = {
    "clock": "every turn at its recorded time",
    "completion": "turns sent after the answers they wait for",
}


def unfinished(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, how many answers are missing and what percentiles make of them."""
    most = max(summary[name].get("unfinished", 0) for name in ("ttft_s", "e2e_s"))
    if not most:
        return []
    part, count = most / summary["requests"]["arrived"], summary["requests"]["incomplete"]
    cut = f" ({number(count)} as the run ended before)" if count else ""
    return [
        (
            "unfinished",
            f"{share(part)} of requests had no complete answer{cut}; percentiles count them as "
            "slower than all others, means are of the others alone",
        )
    ]


def recomputed(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, the tokens computed again and on whose account, if any."""
    tokens = summary["recomputed_tokens"]
    causes = {"preempted": summary["preemptions"], "lost": summary["retries"]}
    blamed = " or ".join(why for why, count in causes.items() if count)
    words = f"{number(tokens)} tokens" + (f" of requests {blamed}" if blamed else "")
    return [("recomputed", words)] if tokens else []


def cached(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, what prefix caches spared, where there are any."""
    told = summary.get("prefix_cache")
    if not told:
        return []
    parts = [f"{share(told['hit_share'])} of prompt tokens found"]
    if told["hit_tokens"]:
        parts.append(f"{seconds(told['spared_prefill_s'])} of prefill spared")
    if told["kept_tokens"]:
        parts.append(f"{number(told['kept_tokens'])} tokens not transferred")
    if told["evicted_blocks"]:
        parts.append(f"{number(told['evicted_blocks'])} blocks evicted")
    tiers = summary.get("cache_tiers") or {}
    return [("prefix cache", ", ".join(parts)), *(_tier(*each) for each in tiers.items())]


def _tier(name: str, told: Mapping[str, Any]) -> tuple[str, str]:
    """Return, as label and text, what a memory beneath the caches gave."""
    parts = [
        f"{share(told['hit_share'])} of prompt tokens loaded",
        f"{number(told['loaded_bytes'] / 1e9)} GB",
        f"{number(told['written_bytes'] / 1e9)} GB written",
        f"{share(told['used_share'])} full at the end",
    ]
    if told["evicted_blocks"]:
        parts.append(f"{number(told['evicted_blocks'])} blocks evicted")
    if told.get("prefetched_bytes"):
        wasted = share(told["prefetch_wasted_bytes"] / told["prefetched_bytes"])
        parts.append(f"{number(told['prefetched_tokens'])} tokens prefetched, {wasted} in vain")
    return f"cache {name}", ", ".join(parts)


def stayed(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, how many prompts decode workers computed, if any."""
    told = summary.get("local_prefill")
    if not told:
        return []
    words = f"{share(told['share'])} of prompts at decode workers"
    return [("local prefill", f"{words}, {number(told['computed_tokens'])} tokens not found there")]


TURNS = {
    "started": "started",
    "stopped": "stopped",
    "failed": "failed",
    "draining": "draining at the end",
    "unplaced": "never given GPUs",
}
"""What :func:`simulator.results.turnover` counts beside initial workers, in words."""


def changes(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, which workers came and went while the run lasted, if any."""
    told = []
    for pool, turns in summary["workers"].items():
        parts = [f"{number(turns[name])} {word}" for name, word in TURNS.items() if turns[name]]
        if parts:
            told.append(f"{pool} {', '.join(parts)}")
    return [("workers", "; ".join(told))] if told else []


def scaling(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how steady the scaling was, as label and text, where somebody decided."""
    told = summary["scaling"]
    if told["reversals"] is None:
        return []
    words = f"{number(told['reversals'])} {_plural('reversal', told['reversals'])}"
    late = f"late for up to {seconds(told['longest_late_s'])} in a row"
    idle = f"{number(told['idle_gpu_hours'])} GPU-hours idle"
    return [("scaling", f"{words}, {late}, {idle}")]


def _unread(account: Mapping[str, Any]) -> str:
    """Return the columns or fields there was no use for, with the rows that had them."""
    told = [each for each in account.get("transforms") or () if each["name"] == "ignored_columns"]
    return ", ".join(f"{name} ({number(n)})" for each in told for name, n in each["counts"].items())


def verdict(results: Results) -> tuple[str, str]:
    """Return a level (``good``, ``fair``, ``poor`` or ``none``) and whether the SLO was held."""
    targets, attained = results.slo.targets(), results.summary["slo_attainment"]
    if attained is None:
        return "none", "No request arrived, so no target was put to the test."
    if not targets and not results.summary["services"]:
        return "none", f"No latency target was set; {share(attained)} of the requests completed."
    named = _join([f"{LABELS[name]} ≤ {seconds(target)}" for name, target in targets.items()])
    named = named or "each service has its own"
    level = "good" if attained >= COMPLETE else "fair" if attained >= CLOSE else "poor"
    why = "" if level == "good" else most_missed(results.summary)
    return level, f"{share(attained)} of the requests met the targets: {named}.{why}"


def most_missed(summary: Mapping[str, Any]) -> str:
    """Return a sentence on the target missed most and the stage that made its requests miss."""
    if not summary["missed"]:
        return ""
    metric = max(summary["missed"], key=lambda name: summary["missed"][name]["requests"])
    missed = summary["missed"][metric]
    if not missed["requests"]:
        return ""
    return f" What misses most is {LABELS[metric]}{where_missed(missed)}."


def where_missed(missed: Mapping[str, Any]) -> str:
    """Return a clause on the stage that made requests miss a target."""
    if 2 * missed["measured"] < missed["requests"]:
        return ", most of them unserved"
    return f", in {LABELS[missed['stage']].lower()}"


def against_targets(results: Results) -> list[str]:
    """Return, per target, how the p99 of its metric compares."""
    sentences: list[str] = []
    if not results.summary["requests"]["arrived"]:
        return sentences
    for name, target in results.slo.targets().items():
        told = results.summary[name]
        tail = told["p99"]
        if "p99" in told.get("at_least", {}):
            sentences.append(
                f"The p99 {LABELS[name]} lies among requests without a complete answer: "
                f"{statistic(told, 'p99')}, against a target of {seconds(target)}."
            )
            continue
        if tail is None:
            sentences.append(f"{LABELS[name]} was measured on no request.")
            continue
        side = "within" if tail <= target else "above"
        sentences.append(
            f"The p99 {LABELS[name]} of {seconds(tail)} is {side} its target of {seconds(target)}"
            f"{_blame(name, results.summary)}."
        )
    return sentences


def _blame(name: str, summary: Mapping[str, Any]) -> str:
    """Return a clause on the requests that missed a target and where they spent their time."""
    missed = summary["missed"][name]
    count, stage = missed["measured"], missed["stage"]
    if not count:
        return ""
    every = " per token" if name == "tpot_s" else ""
    held = missed["held_s"]
    against = "" if held is None else f", those that held it {seconds(held)}"
    who = f"the {number(count)} {_plural('request', count)} that missed it spent"
    return f"; {who} {seconds(missed['spent_s'])}{every} in {LABELS[stage].lower()}{against}"


def stage_shares(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of all request-seconds spent in each stage (0–1)."""
    spent = {
        name: (summary[name]["mean"] or 0.0) * summary[name]["count"]
        for name in STAGES
        if name in summary
    }
    total = sum(spent.values())
    return {name: amount / total for name, amount in spent.items()} if total > 0 else {}


def time_spent(summary: Mapping[str, Any]) -> str:
    """Return where the requests' time went, largest share first."""
    shares = sorted(stage_shares(summary).items(), key=lambda item: -item[1])
    parts = [f"{share(part)} {LABELS[name].lower()}" for name, part in shares if part >= 0.0005]
    return f"Where the time went: {', '.join(parts)}." if parts else ""


def first_token(results: Results) -> str:
    """Return where a client sees its first token in this run."""
    if results.first_token == "decode":  # noqa: S105 - a place, not a secret
        return (
            "In this run the first token is emitted when the decode worker has taken the request "
            "over, also where it is the only one: TTFT includes the KV transfer and the wait for "
            "the decode batch."
        )
    return (
        "In this run the first token is emitted by the prefill worker when the prompt is done: "
        "the KV transfer and the wait for the decode batch fall between the first and second token."
    )


def definitions(results: Results) -> list[tuple[str, str, str]]:
    """Return the glossary: label, meaning and formula of everything the report names."""
    width = share(gap_bin_width(results.gaps))
    return [
        *((metric.label, metric.meaning, metric.formula) for metric in DURATIONS),
        (
            "ITL",
            "inter-token latency: every gap between two tokens, all requests pooled; percentiles "
            f"are read off a histogram whose bins are {width} wide, mean, min and max are exact",
            "time of a token - time of the one before",
        ),
        (
            "Good request",
            "completed, with every target held; TPOT and TTST of a request with fewer than two "
            "output tokens are undefined and do not count against it",
            "metric ≤ target, for each target",
        ),
        ("Goodput", "good requests per second", "good requests / duration"),
        (
            "SLO attainment",
            "share of all arrivals that were good; rejected and failed ones count as missed",
            "good requests / arrivals",
        ),
        (
            "Duration",
            "from the first arrival to the last token, or to the end of a run that left requests "
            "incomplete",
            "last finish (or end of run) - first arrival",
        ),
        (
            "Tokens/s/GPU",
            "tokens of completed requests per second and allocated GPU, all pools together",
            "tokens / duration / GPUs",
        ),
        (
            "GPU-hours",
            "GPUs allocated over time, starting and draining ones included",
            "Σ GPUs × allocated time",
        ),
        (
            "KV utilisation",
            "KV blocks in use, time-weighted, over the blocks a pool has",
            "∫ used blocks / (blocks × allocated time)",
        ),
        (
            "Retries",
            "how often requests were lost with their worker and begun anew elsewhere; times of a "
            "request are those of its last attempt, what was lost before counts as gateway",
            "Σ retries",
        ),
        (
            "Percentiles",
            "interpolated linearly between order statistics, over every request that has the "
            "value; for TTFT, TPOT, TTST and E2E, requests without a complete answer (not those "
            "taken back or rejected) count as slower than all others, and a percentile that lies "
            "among them is told as more than what it is",
            "",
        ),
    ]


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _join(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def regret(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return, as label and text, how many GPU-hours would have done for the same, if asked."""
    told = summary.get("clairvoyant")
    if told is None:
        return []
    if told["regret"] is None:
        return [("regret", told["reason"] or "–")]
    words = f"at least {number(told['gpu_hours'])} GPU-hours hold the targets for the same requests"
    return [("regret", f"{share(told['regret'])}: {words}")]
