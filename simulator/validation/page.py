"""The published account: targets and results, error tables, and how each row was predicted."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.validation import capacity, choices, small_batches
from simulator.validation.names import Catalogue
from simulator.validation.replay import QUANTILES, Replayed, queue_error
from simulator.validation.score import BY, SILICON, Scored, statistics

COVERED = 75.0
"""Percent of disaggregated TPOT rows whose error the default band of comparisons stands for."""
BAND_STEP = 5.0
"""A band is rounded to so many percent."""
EXPERIMENT = "SemiAnalysisAI/InferenceX"
"""A source whose publisher calls its runs experimental and unofficial."""
Summary = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one set should reach: percent of median (and 90th percentile) absolute error."""

    title: str
    median: float
    p90: float | None = None
    missed: str = ""


TARGETS: Mapping[str, Target] = {
    "steps": Target(
        title="one forward step",
        median=5.0,
        p90=13.0,
        missed="see the precisions and engines below that stand out",
    ),
    "e2e_disagg_tpot": Target(
        title="TPOT, disaggregated",
        median=12.0,
        p90=30.0,
        missed="wide expert parallelism: the busiest rank's load",
    ),
    "e2e_agg_tpot": Target(
        title="TPOT, co-located",
        median=12.0,
        p90=40.0,
        missed="one source's rows are an experiment, see below; elsewhere steps follow the "
        "kernels' measurements, and versions of one engine differ by more, such as SGLang's "
        "earlier TP-only runs of DeepSeek on B200 beside its EP runs of the same batch",
    ),
    "e2e_throughput": Target(
        title="output throughput",
        median=10.0,
        missed="one source's rows are an experiment, see below; it follows TPOT, and TTFT, which "
        "in some of SGLang's runs holds seconds of compilation",
    ),
    "public_throughput": Target(
        title="throughput, figures outside the data",
        median=12.0,
        missed="mixtures of experts come out too fast offline, most where tokens are short or "
        "layers are split over PCIe: see by model below",
    ),
    "vllm_tpot_mean": Target(
        title="vLLM replay, mean TPOT",
        median=3.0,
        missed="steps of a mixture of experts over data-parallel ranks are too fast at large "
        "batches; simulating ranks that batch on their own changes little of that",
    ),
    "vllm_ttft_mean": Target(
        title="vLLM replay, mean TTFT",
        median=10.0,
        missed="it is nearly all queueing: a step some percent off shifts when the batch fills up",
    ),
    "vllm_e2e_mean": Target(
        title="vLLM replay, mean E2E", median=4.0, missed="the sum of the two above"
    ),
}
"""What this model should reach, and why a set may miss it."""

TITLES = {**{name: target.title for name, target in TARGETS.items()}, "e2e_ttft": "TTFT"}
_TABLES = {
    "steps": ("model", "gpu", "precision", "phase", "engine", "layout", "batch"),
    "e2e_disagg_tpot": ("gpu", "precision", "engine", "batch", "seats"),
    "e2e_agg_tpot": ("model", "gpu", "precision", "engine", "batch", "source"),
    "e2e_throughput": ("model", "gpu", "precision", "phase", "engine", "source"),
    "e2e_ttft": ("gpu", "phase", "engine", "batch", "seats"),
    "public_throughput": ("model", "gpu"),
}
_MOST_LINES = 24
_FEW = 5
_FAR = 20.0
"""Rows of a group, and percent of its median error, from which it is listed as far off."""


def verdict(name: str, statistics: Mapping[str, Any]) -> str:
    """Return ``held``, ``missed`` or ``–`` (no rows) for one set."""
    target, median = TARGETS[name], statistics["median_abs_pct"]
    if median is None:
        return "–"
    over = target.p90 is not None and statistics["p90_abs_pct"] > target.p90
    return "missed" if median > target.median or over else "held"


def targets_text(summary: Summary) -> str:
    """Return one line per set for a terminal."""
    lines = [f"{'':<26}{'rows':>6}{'median':>9}{'p90':>8}{'bias':>8}  target"]
    for name, target in TARGETS.items():
        got = summary[name]
        cells = (_percent(got[f"{each}_pct"]) for each in ("median_abs", "p90_abs", "bias"))
        median, p90, bias = cells
        skipped = sum(got["skipped"].values())
        note = f"{target.median:g} % {verdict(name, got)}" + (
            f" ({skipped} skipped)" if skipped else ""
        )
        lines.append(f"{target.title:<26}{got['rows']:>6}{median:>9}{p90:>8}{bias:>8}  {note}")
    return "\n".join(lines)


def markdown(
    summary: Summary,
    rows: Sequence[Scored],
    replays: Sequence[Replayed],
    left_out: Mapping[str, Any] | None = None,
) -> str:
    """Return docs/validation.md."""
    parts = [
        _HEAD,
        "## Targets and results",
        _targets_table(summary),
        *_missed(summary),
        *_tails(rows),
        *filter(None, [_band(rows)]),
        "## What was fitted and what was not",
        _SAMPLES,
        *_left_out(left_out or {}),
        "## Single forward steps",
        "![predicted over measured](validation/steps.svg)",
        *_breakdown("steps", summary),
        "## Serving runs, simulated whole",
        _METHOD,
        "![TPOT](validation/tpot.svg)",
        "![throughput](validation/throughput.svg)",
        *(
            part
            for name in ("e2e_disagg_tpot", "e2e_agg_tpot", "e2e_throughput", "e2e_ttft")
            for part in (f"### {TITLES[name]}", *_breakdown(name, summary))
        ),
        *_choices(rows),
        *_beside(rows),
        *_public(rows, summary),
        "## vLLM runs, replayed request by request",
        _REPLAY,
        *_runs(rows, replays),
        small_batches.section(Catalogue.shipped()),
        capacity.section(Catalogue.shipped()),
        "## What was skipped, and why",
        _skipped(summary),
    ]
    return "\n\n".join(parts) + "\n"


def _targets_table(summary: Summary) -> str:
    lines = ["| | rows | median error | p90 | bias | target | |", "|---|--:|--:|--:|--:|--:|---|"]
    for name, target in TARGETS.items():
        got = summary[name]
        aim = f"{target.median:g} %" + (f", p90 {target.p90:g} %" if target.p90 else "")
        lines.append(_line(target.title, got, aim, verdict(name, got)))
    return "\n".join(lines)


def _missed(summary: Summary) -> Iterator[str]:
    lines = [
        f"- {target.title}: {target.missed}."
        for name, target in TARGETS.items()
        if verdict(name, summary[name]) == "missed" and target.missed
    ]
    if lines:
        yield "Where a target is missed, and why:"
        yield "\n".join(lines)


def _left_out(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the errors on models and GPUs that were left out of the fit, where they are known."""
    lines = [
        "| left out | rows | median error | p90 | bias | target |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, words, aim in (("model", "one model at a time", 8), ("system", "one GPU", 12)):
        figures = found.get(f"left_out_{name}", {}).get("all", [])
        lines += [_line(words, each, f"{aim} %, p90 25 %") for each in figures]
    if len(lines) > 2:
        yield "\n".join(lines)


def _breakdown(name: str, summary: Summary) -> Iterator[str]:
    for by in _TABLES.get(name, BY):
        parts = {key: each for key, each in summary[name]["by"][by].items() if each["rows"]}
        if len(parts) < 2:
            continue
        largest = sorted(parts, key=lambda key: -parts[key]["rows"])[:_MOST_LINES]
        lines = [f"| {by} | rows | median error | p90 | bias |", "|---|--:|--:|--:|--:|"]
        lines += [_line(key, parts[key]) for key in sorted(largest, key=_numbers_first)]
        if len(parts) > len(largest):
            lines.append(f"| ({len(parts) - len(largest)} smaller ones) | | | | |")
        yield "\n".join(lines)


def _numbers_first(key: str) -> tuple[float, str]:
    """Return what puts ranges such as ``16 to 63`` in the order of their numbers."""
    head = key.split(" to ")[0]
    return (float(head) if head.isdigit() else float("inf"), key)


def _line(title: str, got: Mapping[str, Any], *more: str) -> str:
    cells = [
        title,
        f"{got['rows']:,}",
        *(_percent(got[f"{each}_pct"]) for each in ("median_abs", "p90_abs", "bias")),
        *more,
    ]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _choices(rows: Sequence[Scored]) -> Iterator[str]:
    """Yield what modelling choices come to on rows that had no say in them."""
    found = list(choices.judged(rows))
    if not found:
        return
    yield "### Modelling choices on rows left out"
    yield _CHOICES
    yield "\n".join(
        f"- {choice.title}: {choices.verdict(told)}."
        for name, choice in choices.CHOICES.items()
        if (told := [each for each in found if each.name == name])
    )
    by = choices.LEFT_OUT
    named = ["GPU" if each == "gpu" else each for each in by]
    lines = [
        f"| choice | of | rows | with it | otherwise | {' | '.join(named)} |",
        f"|---|---|--:|--:|--:|{'--:|' * len(by)}",
    ]
    for each in found:
        cells = [_told(each.left_out[name]) for name in by]
        title, of = choices.CHOICES[each.name].title, TITLES[each.set]
        both = f"{_percent(each.ours)} | {_percent(each.other)}"
        lines.append(f"| {title} | {of} | {each.rows:,} | {both} | {' | '.join(cells)} |")
    yield "\n".join(lines)


def _told(got: choices.LeftOut) -> str:
    if got.error is None:
        return "–"
    return f"{_percent(got.error)}; {got.agree} and {got.better} of {got.groups}"


def _beside(rows: Sequence[Scored]) -> Iterator[str]:
    """Yield both step times' errors on the rows that aiconfigurator-core can answer."""
    found = {(row.set, row.row): row for row in rows if row.error_pct is not None}
    lines = ["| | rows | ours: median error | bias | aiconfigurator-core: median error | bias |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for name in ("e2e_disagg_tpot", "e2e_agg_tpot", "e2e_throughput"):
        theirs = [row for (name_, _), row in found.items() if name_ == f"{SILICON}{name}"]
        both = [(found[name, row.row], row) for row in theirs if (name, row.row) in found]
        if both:
            ours, other = (statistics([pair[side] for pair in both]) for side in (0, 1))
            cells = [_percent(got[f"{key}_pct"]) for got in (ours, other) for key in _SIDE]
            lines.append(f"| {TITLES[name]} | {len(both):,} | {' | '.join(cells)} |")
    if len(lines) > 2:
        yield "### Beside aiconfigurator-core"
        yield _BESIDE
        yield "\n".join(lines)


def band(rows: Sequence[Scored]) -> float | None:
    """Return the percent by which comparisons should shorten and lengthen steps, if known.

    Step times enter decode latency in proportion, so it is the error that :data:`COVERED` percent
    of the disaggregated TPOT rows keep, rounded up to :data:`BAND_STEP`, so that they do keep it.
    """
    errors = _errors(rows, "e2e_disagg_tpot")
    if not errors:
        return None
    return BAND_STEP * max(1.0, math.ceil(float(np.percentile(errors, COVERED)) / BAND_STEP))


def _errors(rows: Sequence[Scored], name: str) -> list[float]:
    return [abs(row.error_pct) for row in rows if row.set == name and row.error_pct is not None]


def _band(rows: Sequence[Scored]) -> str:
    """Return what comparisons' default band of step times stands for, and covers."""
    width = band(rows)
    if width is None:
        return ""
    exact = float(np.percentile(_errors(rows, "e2e_disagg_tpot"), COVERED))
    covered = [
        f"{100.0 * sum(error <= width for error in errors) / len(errors):.0f} % of the rows of "
        f"{TARGETS[name].title}"
        for name in ("e2e_disagg_tpot", "e2e_agg_tpot")
        if (errors := _errors(rows, name))
    ]
    low, high = 1.0 - width / 100.0, 1.0 + width / 100.0
    return (
        f"**The band of comparisons.** Three of four disaggregated rows have their TPOT within "
        f"{exact:.1f} %. Rounded up to {BAND_STEP:.0f} that is the band comparisons repeat with: "
        f"step times {width:.0f} % shorter and longer, `band=[{low:g},1,{high:g}]` "
        f"(`latency.scale`). It covers {' and '.join(covered)}: more than the median error, "
        "less than the 90th percentile, so a ranking that turns within it is open, and one that "
        "holds within it is likely, not certain."
    )


def _tails(rows: Sequence[Scored]) -> Iterator[str]:
    """Yield what co-located figures are without one experiment, and which runs are far off."""
    lines = ["| without it | rows | median error | p90 | bias |", "|---|--:|--:|--:|--:|"]
    for name in ("e2e_agg_tpot", "e2e_throughput", "e2e_ttft"):
        every = [row for row in rows if row.set == name and row.error_pct is not None]
        rest = [row for row in every if row.source != EXPERIMENT]
        if rest and len(rest) < len(every):
            lines.append(_line(TITLES[name], statistics(rest)))
    if len(lines) > 2:
        yield "### Where the tails come from"
        yield _EXPERIMENT
        yield "\n".join(lines)
        yield "Groups of co-located runs, five or more, whose median TPOT is a fifth off or more:"
        yield "\n".join(_far(rows))


def _public(rows: Sequence[Scored], summary: Summary) -> Iterator[str]:
    """Yield the figures outside the data beside ours, by model and GPU and one by one."""
    found = [row for row in rows if row.set == "public_throughput"]
    if not found:
        return
    yield "## Public figures outside the data"
    yield _PUBLIC
    yield from _breakdown("public_throughput", summary)
    lines = ["| model | GPU | layout | input / output | public | ours | error |"]
    lines.append("|---|---|---|---|--:|--:|--:|")
    for row in found:
        if row.measured is None or row.predicted is None:
            values = f"– | – | {row.reason}"
        else:
            values = f"{row.measured:,.0f} | {row.predicted:,.0f} | {row.error_pct:+.0f} %"
        tokens = row.about.partition(" at ")[0]
        lines.append(f"| {row.model} | {row.gpu} | {row.layout} | {tokens} | {values} |")
    yield "\n".join(lines)


def _far(rows: Sequence[Scored]) -> Iterator[str]:
    yield "| model | precision | GPU | engine | source | rows | median error | p90 | bias |"
    yield "|---|---|---|---|---|--:|--:|--:|--:|"
    groups: dict[tuple[str, ...], list[Scored]] = {}
    for row in rows:
        if row.set == "e2e_agg_tpot" and row.error_pct is not None:
            key = (row.model, row.precision, row.gpu, row.engine, row.source)
            groups.setdefault(key, []).append(row)
    for names in sorted(groups):
        got = statistics(groups[names])
        if got["rows"] >= _FEW and got["median_abs_pct"] >= _FAR:
            yield _line(" | ".join(names), got)


def _runs(rows: Sequence[Scored], replays: Sequence[Replayed]) -> Iterator[str]:
    found = {(row.row, row.set): row for row in rows if row.set.startswith("vllm_")}
    for number, name in enumerate(dict.fromkeys(run for run, _ in found), 1):
        lines = ["| | measured | simulated | error |", "|---|--:|--:|--:|"]
        for metric in ("ttft", "tpot", "e2e"):
            for quantile in QUANTILES:
                row = found[name, f"vllm_{metric}_{quantile}"]
                lines.append(_run_line(f"{metric.upper()} {quantile}", row))
        yield f"### {name.replace('_', ' ')}"
        yield "\n".join(lines)
        yield from _queue_words(name, number, replays)


def _run_line(title: str, row: Scored) -> str:
    if row.measured is None or row.predicted is None or row.error_pct is None:
        return f"| {title} | | {row.reason} | |"
    measured, predicted = 1e3 * row.measured, 1e3 * row.predicted
    return f"| {title} | {measured:,.1f} ms | {predicted:,.1f} ms | {row.error_pct:+.1f} % |"


def _queue_words(name: str, number: int, replays: Sequence[Replayed]) -> Iterator[str]:
    at, replayed = next(
        ((at, each) for at, each in enumerate(replays, 1) if each.measured.name == name),
        (number, None),
    )
    if replayed is None:
        return
    gaps = queue_error(replayed)
    if gaps:
        words = " and ".join(f"{name} {100 * gap:.1f} %" for name, gap in gaps.items())
        yield f"Mean distance from the gauges, of their peak: {words}."
    yield f"![queue over time](validation/queue_{at}.svg)"


def _skipped(summary: Summary) -> str:
    lines = ["| set | reason | rows |", "|---|---|--:|"]
    for name, title in TITLES.items():
        lines += [f"| {title} | {why} | {n:,} |" for why, n in summary[name]["skipped"].items()]
    return "\n".join(lines) if len(lines) > 2 else "Nothing."


_SIDE = ("median_abs", "bias")
_BESIDE = """The same rows through the same simulator, with the step times of `aiconfigurator-core`
(`latency=silicon`) in place of the roofline's, where it has tables for the model, GPU and layout.
The single steps above are themselves composed from its kernels."""

_EXPERIMENT = """119 co-located rows (vLLM nightly on 8 H200, 128 tokens out) come from a folder
that its publisher calls experimental and unofficial; they are most of the rows beyond the 90th
percentile of co-located TPOT and throughput. They are scored above like all others, and their
launch scripts are public and name nothing unusual. What speaks against modelling them is that
another source measured the same: MiniMax-M2.5 under vLLM 0.18 on 8 H200 with 8,192 tokens in and 4
clients had its first token after 198 ms, this experiment's after 1,435 ms (TP8 with EP); and its
Qwen3.5 takes 4.3 to 4.6 s for the first token of 1,024, 2,048 and 4,096 tokens alike, which no
prompt's computation does. So both are given:"""

_PUBLIC = """Output tokens/s of whole deployments, offline at most load, from NVIDIA's TensorRT-LLM
performance overviews 0.19 (Llama-3.3-70B on B200 by TP, its first three lengths) and 1.0 (every
figure there of a model, GPU and layout that the serving runs above do not have);
`simulator/validation/figures.py` has them with source.
Nothing was fitted to them, and no choice was made by them: fitting Blackwell Ultra apart, which
models and GPUs left out of the fit speak for, took their median from 12.4 to 13.1 %. MLPerf is not
among them: its figures come without the lengths of its prompts and answers."""

_CHOICES = f"""Some of the runs above (about {choices.ROWS} of the table's rows, evenly spread;
of them those that a choice touches) simulated with a choice as shipped and otherwise: median errors
of both. Then source by source, engine by engine, GPU by GPU and model by model the rows of all
others decide between the two: the median error of what they decide, on the rows left out; for how
many of those left out they decide for the choice as shipped; and on how many of them it is no
worse. Over all of these a choice carries over where both hold in more than two of three, whatever
its median; where both hold in fewer than one of three the other way does better. The shipped
choices were settled as said above, not by this table, and stay where it says otherwise: what is
chosen by it would be chosen on these rows. `–`: of one kind only, so that nothing is left."""

_HEAD = """# Validation

Written by `scripts/validate`; do not edit. Errors are of predicted over measured, minus one: the
median and the 90th percentile of their absolute values, and as bias the median with its sign.
What was used in a fit, and what was not, is said below."""

_SAMPLES = """Each kind of kernel is fitted to its own measured calls (`scripts/kernel_rows`, public
tables of GEMM, attention, MLA and experts by GPU, engine and dtype), then all of them together to
the composed steps below, held by what their own calls weigh (`conf/calibration`,
`simulator/calibration`): errors of steps here are **in sample**. Every file of the calibration
lists the error of each kind of kernel on shapes held out (`fit_error.kernels`) and the parameters
that only a bound holds (`on_bound`). B300 and GB300 have kernels of their own (`blackwell_ultra`:
attention over prompts 1.2 to 1.3 times as fast, decodes alike) and take what no kernel tells from
B200 and GB200. Before, one curve stood for all four, whose NVFP4 peaks differ by half: apart, the
error on models left out fell from 5.4 to 5.0 % (p90 32.5 to 30.0 %), on GPUs left out from 4.9
to 4.7 % (p90 18.5 to 17.7 %). Experts' kernels move values of every token that comes to their rank
(routing, quantising, summing what a token's experts answer), however few of its experts it meets
there: charged for that, which before was spread over their products, they were half as far off on
shapes held out for several engines, and nowhere much farther. TensorRT-LLM's experts in NVFP4 are
of two backends on datacentre Blackwell, of which CUTLASS takes 1.3 to 2.4 times as long as
TRTLLM-gen: the tables' steps are composed of the former beyond 128 tokens, some of them by calls
that were not tuned (1.5 to 1.9 times what the same call takes on the same GPU's other system), so
nothing is fitted to those steps, which are two in five of those beyond the 90th percentile below.
Runs have the engine's own backend, TRTLLM-gen (`latency.moe_backend`), but for NVIDIA's offline
overviews, whose commands say CUTLASS, and co-located runs of TensorRT-LLM since 1.2, whose scripts
say CUTLASS for NVFP4 with attention-DP and TRTLLM-gen for FP8 (`simulator/validation/launches.py`;
earlier scripts differ from version to version, and runs do not tell theirs). Both were looked for
after errors of offline rows had been seen. What the model does for a model or a GPU it was not
fitted to is measured by `scripts/calibrate --left-out`, which fits without one model (its quantised
copies and the experts of its shape), or without one GPU, at a time.

The gateway and the hand-over of the engine profiles are medians of what measured TTFT exceeds the
simulated by in serving runs at low concurrency (`scripts/calibrate_engine --first-token`; each
profile's `first_token_source` says on which GPUs, and which were left to judge it by), so TTFT of
these rows is partly in sample.

Beside that serving runs are **never fitted** but for four numbers of the `vllm` profile: the host's
seconds per step, per sequence and per prompt, and the share of time that data-parallel ranks wait
for each other, are fitted by `scripts/calibrate_engine` to the token rates of both vLLM runs below,
so these are partly in sample; arrivals, queueing and batching are not fitted to anything. All else
is predicted from the shipped calibration and published engine settings.

What serving adds to single kernels comes from outside these rows: small kernels beside products and
attention (1.7 µs each) from whole attention modules that TensorRT-LLM measured and nothing was
fitted to; shared experts on a second stream as engines are known to run them; the load of the
busiest expert rank (1.49 times the mean over 32 ranks) from what SGLang gained by balancing them;
the parts of NVFP4 checkpoints that stay in 16 bits from their `hf_quant_config.json`; SGLang's
and vLLM's KV dtype from public recipes, vLLM's looked for after rows of H200 had come out too fast,
and so were the small kernels that only some models have (norms over all heads with their
all-reduce, gates, the sum of shared and routed experts), which are of the engines' sources; that
Grace takes 2.6 times as long as x86 servers for what a host does from a layer timed on both
(TransformerEngine issue 2053), looked for after rows of GB200 had come out too fast where hosts are
busiest. Several combinations of them were scored on the serving rows
below and the best was kept, without leaving any of these rows out: for that choice the rows are no
evidence, and on others the errors may be larger. How much a kernel's own calls weigh beside whole
steps was chosen by the error on models left out of the fit. Further choices were made after seeing
errors of serving runs, two of which change figures much: collectives follow the fastest of the
measured software versions, as one L40S box was 5 to 13 times slower than another; and ranks'
waiting is a share of a step, not a constant, which fitted the vLLM runs a little worse and made
short steps on B200 far too slow. That TensorRT-LLM's host passes over all active requests for each
microbatch of a pipeline is of its source, that cards without P2P start collectives after 20 µs of
measured ones: both were looked for after rows of eight stages and a run without P2P had come out
too fast."""

_METHOD = """Every row becomes a deployment and runs through the whole simulator.

- Concurrency N is a closed loop of N clients that send their next request when the last one ends,
  lengths uniform in 0.8 to 1.0 of nominal; TensorRT-LLM's own benchmark and the runs that note
  medians of fixed-length prompts use the nominal lengths. 10 N requests (or as many as the row
  notes) up to 6,000, and 3 N at least; all are scored, ramp-up included, as the benchmarks do, by
  mean or, where the row reports medians, median.
- Offline rows send all requests at once, as many as TensorRT-LLM's benchmark does for the length;
  throughput is all output tokens over the whole run. A closed loop's is by Little's law, N times
  mean output over mean E2E, which is how the measured column was derived.
- Disaggregated rows have the prefill and decode workers and layouts of the row, KV pulled over the
  fabric; a client sees its first token when the decode worker takes over.
- Where a public recipe names how many sequences a decode rank has room for, that is its room
  (`simulator/validation/recipes.py`, each with its source; below: `seats`). Clients beyond it
  wait for a seat, which is most of the first token of such runs: seconds that were put down to the
  server before. A recipe with fewer seats than the run had answers under way (clients times the
  share of the end-to-end time spent decoding) is another version's and left aside. Nothing of this
  is fitted, but seats, turns and what is left aside were settled while looking at the disaggregated
  rows, so these are no evidence for them. Dynamo's front end takes decode workers in turn, its
  default; where each worker has one seat the runs waited longer than that, as if placed at random,
  which several front ends would do.
- Co-located rows of InferenceX have what its public scripts launched their servers with
  (`simulator/validation/launches.py`): tokens of a step, seats, share of memory, how often SGLang
  looks for new requests (every 10 steps, mostly, and every 30 from 16 clients on), where
  TensorRT-LLM has prompts wait for others, or for one on every attention-DP rank, whether SGLang
  fuses all-reduces, which before May 2026 were slow otherwise, and the dtype of linear layers'
  states. Nothing of it is fitted, but it was
  looked for after TTFT of SGLang's rows had come out 42 % too short, and Qwen3.5's steps a fifth,
  so what these rows gain by it is no evidence; `gateway_s` was fitted anew. So it is with
  schedulers that form a step while the one before runs (`batching.schedules_ahead`), which SGLang's
  and TensorRT-LLM's are by their sources. Runs that no script speaks of keep their engine's
  defaults.
- NVIDIA's overviews name no limits of their offline runs. `trtllm-bench` chooses them itself, by
  lengths and by what KV memory seems to leave, and the overviews list the batches captured as CUDA
  graphs, of which those up to the limit count; its PyTorch backend computes prompts whole
  (`simulator/validation/trtllm_bench.py`; a public log has the 4,096 sequences and 23,552 tokens
  of the rule). Taken from its source, after errors of offline rows had been looked at.
- Otherwise a step has 8,192 tokens and 1,024 sequences (offline 2,048) per attention rank. KV is
  in 8 bits for weights of 8 bits and fewer, on Hopper under SGLang and vLLM in 16 (their default).
  Tokens of data-parallel ranks meet their experts as the engine's profile has it
  (`expert_exchange`).
  SGLang's prompts stall its decodes, the others' ride beside them: the engines' defaults.
  TensorRT-LLM's overview ran mixtures of experts with attention-DP and EP where its first version
  wrote TP.
- In one public dump, co-located layouts with EP were multiplied by their EP degree (an 8-GPU box
  appears as `TP64 EP8`): they are run as they were deployed. As written, some would not fit and
  the others' errors would double or worse; the KV capacity at which measured TTFT explodes is that
  of the layout divided again. MiniMax-M2.5 in FP8 over 8 ranks has EP whatever is said of it: its
  experts' 1,536 columns are 192 a rank otherwise, which cuts a block of 128, and vLLM refuses."""

_REPLAY = """Each request arrives when it was queued, with its own lengths; engine arguments come
from the run's description, and so do KV blocks where it gives them."""
