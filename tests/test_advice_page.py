"""An exploration's page says what its tables say, whatever came out."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from simulator.advice_page import Told, write_advice
from simulator.cli import compose
from simulator.explore import Exploration, Explored, Lengths, Limits, Options, Platform, explore
from simulator.explore.sections import Section

CONFIRMED = pl.DataFrame(
    {
        "kind": ["disaggregated", "co-located"] * 2,
        "rank": [1] * 4,
        "arrivals": ["poisson", "poisson", "own", "own"],
        "load": [0.9] * 4,
        "attainment": [0.99, 0.95, 0.7, 0.6],
    }
)


@pytest.fixture(scope="module")
def platform() -> Platform:
    """Return a small model on the default GPU."""
    deployment = compose(["model=llama_3_1_8b"]).deployment
    pool = deployment.pools[0]
    return Platform(
        model=deployment.model,
        gpu=deployment.gpu,
        fabric=deployment.fabric,
        precision=pool.precision,
        latency=deployment.latency,  # type: ignore[arg-type]
        memory_utilization=pool.batching.memory_utilization,
        block_size=pool.batching.block_size,
        transfer=deployment.transfer,
    )


def explored(platform: Platform, limits: Limits) -> Explored:
    """Explore one or two GPUs a worker."""
    return explore(
        Exploration(
            platforms=(platform, platform),
            lengths=Lengths.constant(2048, 256),
            limits=limits,
            options=Options(worker_gpus=2, max_batch=256),
        )
    )


def page_of(done: Explored, folder: Path, **told: Any) -> str:
    """Return the page of an exploration."""
    given = {"confirmed": pl.DataFrame(), "sections": (), "config": "task: explore"} | told
    write_advice(Told(done=done, **given), folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def figures_in(page: str) -> dict[str, Any]:
    """Return the figures the page carries."""
    island = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert island
    found: dict[str, Any] = json.loads(island[1])
    return found


def test_the_page_has_the_answer_and_both_sides(platform: Platform, tmp_path: Path) -> None:
    """The sentence, both sides' figures beside the limits, and a star for each."""
    done = explored(platform, Limits(ttft_s=1.0, tpot_s=0.02))
    page = page_of(done, tmp_path, confirmed=CONFIRMED)
    assert done.advice.sentence.splitlines()[0] in page.replace("&lt;", "<").replace("&gt;", ">")
    assert " of 1 s</td>" in page
    drawn = figures_in(page)
    names = [trace["name"] for trace in drawn["plot-fronts"]["data"]]
    assert names[-2:] == ["disaggregated, advised", "co-located, advised"]
    star = drawn["plot-fronts"]["data"][-2]
    best = done.advice.split
    assert best is not None
    assert star["x"] == [best["interactivity"]]
    assert star["y"] == [best["throughput"]]
    attained = drawn["plot-attained"]["data"]
    assert {trace["name"] for trace in attained} == {
        f"{kind}, {arrivals}"
        for kind in ("disaggregated", "co-located")
        for arrivals in ("Poisson", "the workload's own")
    }


def test_a_page_without_an_answer_says_so(platform: Platform, tmp_path: Path) -> None:
    """Limits that nothing meets leave a page with fronts, and no star."""
    page = page_of(explored(platform, Limits(tpot_s=1e-6)), tmp_path)
    assert "Nothing meets" in page
    assert "Neither kind fits" in page
    assert "advised" not in json.dumps(figures_in(page)["plot-fronts"])


def test_names_and_settings_are_no_markup(platform: Platform, tmp_path: Path) -> None:
    """What comes from files cannot become part of the page's code."""
    bad = "</script><script>alert(1)</script>"
    section = Section(name="s", title=bad, note=bad, table=pl.DataFrame({bad: [bad]}))
    done = explored(platform, Limits(ttft_s=1.0, tpot_s=0.02))
    page = page_of(done, tmp_path, sections=(section,), config=bad)
    assert "alert(1)</script>" not in page
