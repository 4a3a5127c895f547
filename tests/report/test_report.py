"""What holds for the report: figures say what the frames say, and the page is safe and small."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from simulator.report import prose, series, theme, write_report
from simulator.report.figures import Panel, view
from simulator.report.sections import SECTIONS
from simulator.report.terminal import summary_table
from simulator.results import SLO, STAGES, Results
from tests.fakes import PORT, FakeRun, changing_record, fake_record

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror=alert(1)>&\u2028"
RUNS = {
    "disaggregated": FakeRun(requests=600, layerwise=True, rejected=0.02),
    "mixed": FakeRun(requests=200, prefill=0, decode=0, mixed=3),
    "both": FakeRun(requests=200, mixed=1, first_token="decode"),  # noqa: S106 - a place
    "rejected": FakeRun(requests=30, rejected=1.0),
    "one": FakeRun(requests=1, samples=1),
    "empty": FakeRun(requests=0, samples=1),
    "unsampled": FakeRun(requests=20, samples=0),
}


def results_of(run: FakeRun, slo: SLO | None = None, **context: Any) -> Results:
    """Return the results of a made-up run."""
    return Results.from_record(fake_record(run), slo=slo or SLO(), context=context)


def changing(**summary: Any) -> Results:
    """Return the results of a run whose pools change."""
    results = Results.from_record(changing_record(), slo=SLO(), context={})
    return replace(results, summary={**results.summary, **summary})


def panels_of(results: Results) -> dict[str, Panel]:
    """Return every panel of the page by name."""
    seen = view(results)
    return {panel.name: panel for _, _, build in SECTIONS for panel in build(seen)}


def drawn(panel: Panel) -> go.Figure:
    """Return the figure of ``panel``, which must have one."""
    assert panel.figure is not None, panel.note
    return panel.figure


def page_of(results: Results, folder: Path) -> str:
    """Return the report's text."""
    write_report(results, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("slo", [SLO(), SLO(ttft_s=None, tpot_s=None), SLO(e2e_s=3.0)])
def test_every_kind_of_run_has_a_page(name: str, slo: SLO, tmp_path: Path) -> None:
    """Whatever happened, the page has every section, and a panel has a figure or says why not."""
    results = results_of(RUNS[name], slo)
    text = page_of(results, tmp_path)
    late = any(missed["measured"] for missed in results.summary["missed"].values())
    for anchor, title, _ in SECTIONS:
        nothing = anchor in ("measured", "quota") or (anchor == "lateness" and not late)
        assert (f'<section id="{anchor}"><h2>{title}</h2>' in text) != nothing
    for panel in panels_of(results).values():
        assert (f'id="plot-{panel.name}"' in text) == (panel.figure is not None)
        assert panel.note


def test_names_in_the_page_are_unique(tmp_path: Path) -> None:
    """No two elements share an id, so every figure lands in its own place."""
    ids = re.findall(r' id="([^"]+)"', page_of(results_of(RUNS["both"]), tmp_path))
    assert len(ids) == len(set(ids)) > len(SECTIONS)


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    """Markup in the configuration, title, workload, accounting or an event is shown, never run."""
    hostile: dict[str, Any] = {
        "title": HOSTILE,
        "workload": HOSTILE,
        "model": HOSTILE,
        "config": HOSTILE,
    }
    results = results_of(RUNS["one"], **hostile, accounting={HOSTILE: {HOSTILE: HOSTILE}})
    text = page_of(results, tmp_path)
    clean = page_of(results_of(RUNS["one"]), tmp_path)
    assert text.count("<script>") == clean.count("<script>")
    assert "<img" not in text
    assert "&lt;script&gt;window.broken = 1&lt;/script&gt;" in text


def test_the_json_island_holds_every_figure_and_no_markup(tmp_path: Path) -> None:
    """The figures' data parse as JSON and hold no character that could end their element."""
    results = results_of(RUNS["disaggregated"])
    island = re.search(
        r'<script type="application/json" id="figures">(.*?)</script>', page_of(results, tmp_path)
    )
    assert island is not None
    assert not set("<&") & set(island[1])
    expected = {f"plot-{p.name}" for p in panels_of(results).values() if p.figure is not None}
    assert set(json.loads(island[1])) == expected


def test_the_page_asks_for_nothing_and_forbids_it(tmp_path: Path) -> None:
    """No element refers to another file, and the content security policy allows none."""
    text = page_of(results_of(RUNS["disaggregated"]), tmp_path)
    shell = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", shell)
    assert "default-src 'none'" in shell


def test_equal_results_give_equal_pages(tmp_path: Path) -> None:
    """The page depends on the results alone: no random names, no clock."""
    first, second = (page_of(results_of(RUNS["disaggregated"]), tmp_path) for _ in range(2))
    assert first == second


def test_the_page_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Thirty times the requests and samples add less than a tenth to the page, and no WebGL."""
    small, large = (
        results_of(FakeRun(requests=count, samples=samples))
        for count, samples in ((1000, 300), (30_000, 9000))
    )
    assert len(page_of(large, tmp_path)) < 1.1 * len(page_of(small, tmp_path))
    kinds = {trace.type for p in panels_of(large).values() if p.figure for trace in p.figure.data}
    assert kinds == {"scatter", "heatmap", "bar"}


def test_cdf_passes_through_the_summary_percentiles() -> None:
    """The drawn curve holds the same p50 and p99 as the summary."""
    results = results_of(RUNS["disaggregated"])
    curve = series.cdf(results.values("ttft_s"))
    for rank in ("p50", "p90", "p99"):
        drawn_value = np.interp(int(rank[1:]) / 100, series.CDF_SHARES, curve)
        assert drawn_value == pytest.approx(results.summary["ttft_s"][rank], rel=1e-9)


def test_a_cdf_reads_the_tail_off_its_ticks() -> None:
    """The curve passes the summary's p99 at the tick that says 99; each nine has equal room."""
    results = results_of(FakeRun(requests=5000))
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        figure = drawn(panels_of(results)[f"cdf_{name}"])
        axis, line = figure.layout.yaxis, figure.data[0]
        ticks = dict(zip(axis.ticktext, axis.tickvals, strict=True))
        steps = np.diff(np.log10([ticks[tick] for tick in ("0", "90", "99", "99.9")]))
        np.testing.assert_allclose(steps, -1.0)
        assert axis.range[0] == 0.0 > np.log10(ticks["99.9"]) > axis.range[1]
        scale = 1e3 if "(ms)" in figure.layout.xaxis.title.text else 1.0
        for rank in ("50", "90", "99"):
            drawn_value = np.interp(-ticks[rank], -np.asarray(line.y), line.x) / scale
            assert drawn_value == pytest.approx(results.summary[name][f"p{rank}"], rel=1e-4)


def test_a_cdf_ends_where_no_request_is_beyond() -> None:
    """Of 40 requests the curve ends at 1 in 40, and of one at half."""
    for requests, most in ((40, 1 / 40), (1, 0.5)):
        line = drawn(panels_of(results_of(FakeRun(requests=requests)))["cdf_ttft_s"]).data[0]
        assert most <= min(line.y) < most + 0.01


def test_stage_bars_add_up_to_the_mean_latency() -> None:
    """The stacked means of all requests sum to mean E2E, and those before decode to mean TTFT."""
    results = results_of(RUNS["mixed"])
    panels = panels_of(results)
    for name, metric in (("stages", "e2e_s"), ("stages_first", "ttft_s")):
        figure = drawn(panels[name])
        scale = 1e3 if "(ms)" in figure.layout.xaxis.title.text else 1.0
        total = sum(float(bar.x[0]) for bar in figure.data) / scale
        assert total == pytest.approx(results.summary[metric]["mean"], rel=1e-3)


def test_stage_shares_are_those_of_the_requests() -> None:
    """Shares of the summary's stages equal the columns' sums over the sum of all, and add to 1."""
    results = results_of(RUNS["both"])
    sums = results.requests.select(pl.col(stage).sum() for stage in STAGES).row(0, named=True)
    shares = prose.stage_shares(results.summary)
    assert sum(shares.values()) == pytest.approx(1.0)
    for stage, part in shares.items():
        assert part == pytest.approx(sums[stage] / sum(sums.values()), rel=1e-9)


def test_attainment_bins_weigh_up_to_the_whole() -> None:
    """Attainment by prompt length, weighted by requests, is the run's attainment."""
    results = results_of(RUNS["disaggregated"])
    bars = drawn(panels_of(results)["slo_length"]).data[0]
    good = float(np.dot(np.asarray(bars.y) / 100, bars.customdata))
    assert sum(bars.customdata) == results.summary["requests"]["arrived"]
    expected = results.summary["slo_attainment"] * sum(bars.customdata)
    assert good == pytest.approx(expected, abs=0.1)


def test_slo_lines_stand_at_the_targets() -> None:
    """Each figure of a metric with a target has its line there, in the axis's unit; others none."""
    panels = panels_of(results_of(RUNS["disaggregated"], SLO(ttft_s=0.25, tpot_s=None)))
    scale = 1e3 if "(ms)" in drawn(panels["cdf_ttft_s"]).layout.xaxis.title.text else 1.0
    assert [s.x0 for s in drawn(panels["cdf_ttft_s"]).layout.shapes] == [0.25 * scale]
    assert len(drawn(panels["time_ttft_s"]).layout.shapes) == 1
    assert not drawn(panels["cdf_tpot_s"]).layout.shapes
    assert not drawn(panels["time_tpot_s"]).layout.shapes


def test_the_port_limit_is_drawn_only_where_traffic_comes_near_it() -> None:
    """A limit far above the traffic is only named; one close to it is a line at its height."""
    results = results_of(FakeRun(requests=300))
    calm = panels_of(results)["sent_bytes_per_s"]
    assert f"{PORT / 1e9:.0f} GB/s" in calm.note
    assert not drawn(calm).layout.shapes
    narrow = tuple(replace(worker, max_transfer_bandwidth=2e9) for worker in results.workers)
    busy = panels_of(replace(results, workers=narrow))["sent_bytes_per_s"]
    assert [shape.y0 for shape in drawn(busy).layout.shapes] == [2.0]


def test_mixed_workers_have_no_links() -> None:
    """Without transfers the links section says so instead of drawing zeros."""
    panel = panels_of(results_of(RUNS["mixed"]))["links"]
    assert panel.figure is None
    assert "Nothing is transferred" in panel.note


@given(
    values=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 100)),
    seed=st.integers(0, 9),
)
def test_binned_percentiles_are_numpys_per_bin(values: np.ndarray, seed: int) -> None:
    """Each bin's percentiles are those of its own values; empty bins are NaN; none is lost."""
    moments = np.random.default_rng(seed).uniform(0, 10, len(values))
    edges = np.linspace(0, 10, 6)
    bins = series.bin_of(moments, edges)
    assert bins.min() >= 0
    table = series.binned_percentiles(bins, values, 5, (50.0, 99.0))
    for index in range(5):
        mine = values[(moments >= edges[index]) & (moments < edges[index + 1])]
        expected = np.percentile(mine, (50, 99)) if len(mine) else [np.nan, np.nan]
        np.testing.assert_allclose(table[:, index], expected)


def test_bins_keep_the_last_edge_and_drop_what_is_outside() -> None:
    """A value on the last edge belongs to the last bin; NaN and values outside to none."""
    bins = series.bin_of(np.array([0.0, 1.0, 2.0, -1.0, 3.0, np.nan]), np.array([0.0, 1.0, 2.0]))
    assert bins.tolist() == [0, 1, 1, -1, -1, -1]


def test_sampled_gauges_keep_their_mean() -> None:
    """Averaging runs of samples keeps each worker's mean and at most the allowed points."""
    results = results_of(FakeRun(requests=300, samples=900))
    samples = series.sampled(results.timeline, tuple(w.pool for w in results.workers))
    assert samples.gauges["running"].shape == (series.MAX_SAMPLES, 4)
    for worker in range(4):
        fine = results.timeline.filter(pl.col("worker") == worker)["running"]
        assert samples.gauges["running"][:, worker].mean() == pytest.approx(fine.mean())
    decode = samples.of("decode", "running")
    assert (series.max_over_workers(decode) >= series.mean_over_workers(decode)).all()


def test_an_unknown_gauge_is_left_out_of_means() -> None:
    """Means and maxima over workers skip NaN, and are NaN only where every worker's is."""
    gauge = np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 3.0]])
    np.testing.assert_array_equal(series.mean_over_workers(gauge), [1.0, np.nan, 2.0])
    np.testing.assert_array_equal(series.max_over_workers(gauge), [1.0, np.nan, 3.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (12e-6, "12 µs"),
        (0.0123, "12.3 ms"),
        (0.5, "500 ms"),
        (1.234, "1.23 s"),
        (300.0, "5 min"),
        (9000.0, "2.50 h"),
    ],
)
def test_durations_read_in_their_natural_unit(value: float | None, text: str) -> None:
    """A duration is written with three digits in the unit a person would choose."""
    assert theme.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "–"), (1.0, "100 %"), (0.99999, "> 99.9 %"), (0.00001, "< 0.1 %")),
        *((0.0, "0 %"), (0.1234, "12.3 %")),
    ],
)
def test_shares_never_round_to_all_or_nothing(value: float | None, text: str) -> None:
    """A share short of all or above nothing says so."""
    assert theme.share(value) == text


@pytest.mark.parametrize(
    ("ttft_s", "level"), [(60.0, "good"), (0.02, "poor")], ids=["loose", "tight"]
)
def test_the_verdict_follows_the_attainment(ttft_s: float, level: str) -> None:
    """The verdict's level and share are those of the summary, the targets named."""
    results = results_of(FakeRun(requests=400), SLO(ttft_s=ttft_s, tpot_s=5.0))
    told = prose.verdict(results)
    assert told[0] == level
    assert told[1].startswith(theme.share(results.summary["slo_attainment"]))
    assert f"TTFT ≤ {theme.seconds(ttft_s)}" in told[1]


def test_the_verdict_names_what_missed() -> None:
    """Below the level of good it names the target missed most and its stage; rejections too."""
    results = results_of(FakeRun(requests=400, prefill=1), SLO(ttft_s=0.3, tpot_s=5.0))
    missed = results.summary["missed"]["ttft_s"]
    assert missed["stage"] == "prefill_queue_s"
    assert prose.verdict(results)[1].endswith("What misses most is TTFT, in prefill queue.")
    (told,) = (each for each in prose.against_targets(results) if "TTFT" in each)
    assert theme.seconds(missed["spent_s"]) in told
    assert theme.seconds(missed["held_s"]) in told
    turned_away = results_of(RUNS["rejected"])
    assert prose.verdict(turned_away)[1].endswith("TTFT, most of them unserved.")
    calm = results_of(FakeRun(requests=400), SLO(ttft_s=60.0, tpot_s=5.0))
    assert "misses" not in prose.verdict(calm)[1]


def printed(results: Results) -> dict[str, str]:
    """Return the lines of the terminal's table by their label."""
    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(summary_table(results))
    return {line.split("  ")[0].strip(): line for line in capture.get().splitlines()}


@pytest.mark.parametrize("name", RUNS)
def test_the_terminal_table_says_what_the_summary_says(name: str) -> None:
    """Latencies with their target, goodput, attainment, cost and rejections are printed."""
    results = results_of(RUNS[name])
    lines = printed(results)
    assert theme.seconds(results.summary["ttft_s"]["p99"]) in lines["TTFT"]
    assert lines["TTFT"].endswith("≤ 500 ms")
    assert theme.number(results.summary["goodput_rps"]) in lines["goodput"]
    assert theme.share(results.summary["slo_attainment"]) in lines["SLO attainment"]
    assert ("rejected" in lines) == bool(results.summary["requests"]["rejected"])
    assert {"GPU-hours", "KV utilisation", "time spent", "preemptions"} <= set(lines)
    assert not {"failed", "retries", "workers"} & set(lines)


def test_the_terminal_tells_what_pools_that_change_did() -> None:
    """Retries, failures by reason, and the workers that came and went have a line each."""
    lines = printed(changing(failed_reasons={"worker_lost": 3, "timeout": 1}))
    assert "2 (1 request lost and begun anew)" in lines["retries"]
    assert "3 × worker_lost, 1 × timeout" in lines["failed"]
    assert "prefill 1 stopped; decode 1 started, 1 failed" in lines["workers"]


def test_caches_are_told_where_there_are_any(tmp_path: Path) -> None:
    """The terminal and the page say what was found, per worker too; without caches, nothing."""
    results = results_of(RUNS["mixed"])
    assert prose.cached(results.summary) == []
    assert "Prefix cache" not in page_of(results, tmp_path)
    told = {"hit_tokens": 5, "hit_share": 0.25, "spared_prefill_s": 2.0, "kept_tokens": 0}
    summary = {**results.summary, "prefix_cache": {**told, "evicted_blocks": 1234}}
    first, *others = results.workers
    workers = (replace(first, prefix_cache=True, found_tokens=4321), *others)
    cached = replace(results, summary=summary, workers=workers)
    words = "25 % of prompt tokens found, 2 s of prefill spared, 1,234 blocks evicted"
    assert prose.cached(summary) == [("prefix cache", words)]
    page = page_of(cached, tmp_path)
    assert all(each in page for each in ("Prefix cache", "tokens found", "4,321"))


def test_pools_are_named_as_they_began() -> None:
    """The page counts initial workers as the pools' sizes, and says what came of them."""
    told = prose.subject(changing())
    assert "2 prefill workers (8 × H100 SXM) and 2 decode workers (8 × H100 SXM)." in told
    assert "Meanwhile the pools changed: prefill 1 stopped; decode 1 started, 1 failed." in told
    assert "Meanwhile" not in prose.subject(results_of(RUNS["disaggregated"]))


def test_a_pool_sums_the_workers_that_are_there() -> None:
    """A worker that has failed or not begun leaves no hole in its pool's requests."""
    results = changing()
    lines = {line.name: line for line in drawn(panels_of(results)["running"]).data}
    known = results.timeline.group_by("pool", "time_s").agg(pl.col("running").sum()).sort("time_s")
    assert known.height == 2 * 400
    for pool, line in lines.items():
        sums = known.filter(pl.col("pool") == pool)["running"].to_numpy()
        assert np.isfinite(line.y).all()
        assert np.mean(line.y) == pytest.approx(sums.mean(), rel=0.01)
