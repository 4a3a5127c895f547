"""The paper's figures: that claims are computed, drawn and written, and never left out."""

import json
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from simulator.explore.drawing import svg
from simulator.explore.paper import (
    FIGURES,
    LARGE,
    MODELS,
    NAMES,
    R1,
    SMALL,
    Claim,
    Figure,
    Laboratory,
    changes,
    chunks,
    deployments,
    gains,
    layouts,
    ratios,
)
from simulator.explore.paper.curves import common_ratio
from simulator.explore.paper.laboratory import Assumptions, Fronts
from simulator.explore.space import Platform
from simulator.latency.machine import Machine
from simulator.latency.passes import Operator
from simulator.latency.roofline import Roofline
from simulator.layout import Precision

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def figure(experts: Platform) -> Figure:
    """Return the quickest figure."""
    models = dict.fromkeys(MODELS, experts.model)
    return FIGURES["F5"](Laboratory(models=models, gpu=experts.gpu, fabric=experts.fabric))


def test_claims_follow_from_the_curves(figure: Figure) -> None:
    """F5's verdicts are those of its own curves, by the thresholds its claims state."""
    curve = figure.curves.sort("pp")
    ftl, tokens = curve["ttft_s"], curve["tokens_per_gpu"]
    assert curve["pp"].to_list() == [1, 2, 4, 8, 16, 32]
    falls, steady = figure.claims
    assert falls.held == (ftl.is_sorted(descending=True) and ftl[0] > 10 * ftl[-1])
    assert steady.held == bool(((tokens / tokens.mean() - 1).abs() <= 0.25).all())


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    """Return the paper's laboratory."""
    made: Laboratory = runpy.run_path(str(ROOT / "scripts" / "reproduce_paper"))["laboratory"]()
    return made


def curve(times: float, gpu_ratio: float = 1.0) -> pl.DataFrame:
    """Return a front that falls, ``times`` as high as another."""
    interactivity = [10.0, 20.0, 40.0, 80.0]
    throughput = [times * 1000.0 / each for each in interactivity]
    return pl.DataFrame(
        {"interactivity": interactivity, "throughput": throughput, "gpu_ratio": [gpu_ratio] * 4}
    )


def fronts(gain: float) -> Fronts:
    """Return fronts of which the disaggregated one is ``gain`` times the others."""
    return Fronts(curve(gain), *[curve(1.0)] * 4)


@pytest.mark.parametrize(
    ("sheet", "evidence", "held"),
    [
        (gains.F1, {"16k/2k": fronts(1.5), "1k/32k": fronts(1.1)}, [True, True]),
        (gains.F1, {"16k/2k": fronts(1.1), "1k/32k": fronts(1.1)}, [False, False]),
        (gains.F7, dict(zip("abc", map(fronts, (1.1, 1.2, 1.3)), strict=True)), [True]),
        (gains.F7, dict(zip("abc", map(fronts, (1.1, 1.3, 1.2)), strict=True)), [False]),
        (
            ratios.F10,
            ratios.Fixed(curve(1), {3.5: curve(0.5), 0.5: curve(1.1)}, 1.0, curve(1)),
            [False, False, False],
        ),
        (
            layouts.F11,
            {NAMES[R1]: [curve(1)] * 4, NAMES[LARGE]: [curve(1)] * 4},
            [False, False, False],
        ),
    ],
)
def test_verdicts_follow_the_evidence(sheet: Any, evidence: Any, held: list[bool]) -> None:
    """Each claim of a figure is judged by the evidence alone, and can fail."""
    claims = [statement.judged(evidence) for statement in sheet.statements]
    assert [claim.held for claim in claims] == held
    assert all(claim.id.startswith(sheet.id) and claim.numbers for claim in claims)


def by_ratio(ratios: list[float], reach: float = 1.0) -> pl.DataFrame:
    """Return a front with these GPU ratios along it, over so many times the interactivities."""
    return curve(1.0).with_columns(
        pl.Series("gpu_ratio", ratios), (reach * pl.col("interactivity")).alias("interactivity")
    )


@pytest.mark.parametrize(
    ("small", "reach", "held"),
    [
        ([0.5, 0.45, 0.4, 0.35], 1.0, True),
        ([0.4, 0.3, 0.2, 0.01], 1.0, False),
        ([0.4, 0.3, 0.2, 0.01], 4.0, True),
        ([0.9, 0.9, 0.8, 0.8], 1.0, False),
    ],
)
def test_flat_is_flat_on_the_axis_of_all(small: list[float], reach: float, held: bool) -> None:
    """F9b: near 0.4 in each third of what all fronts span, whatever it is beyond."""
    fronts = {NAMES[model]: by_ratio([4.0, 3.0, 2.0, 0.5]) for model in MODELS}
    fronts[NAMES[SMALL]] = by_ratio(small, reach)
    claims = {each.id: each.judged(fronts) for each in ratios.F9.statements}
    assert claims["F9b"].held == held
    own = claims["F9b"].numbers["mean_by_third_of_its_own_front"]
    assert isinstance(own, list)
    assert own[2] < own[0]


def domains(*gains: float) -> list[pl.DataFrame]:
    """Return fronts of four domains, each so many times the first."""
    return [curve(gain) for gain in (1.0, *gains)]


@pytest.mark.parametrize(
    ("large", "held"),
    [
        ((1.1, 1.2, 1.3), True),
        ((1.1, 1.1, 1.1), True),
        ((1.1, 1.2, 1.0), False),
        ((1.1, 1.2, 0.9), False),
    ],
)
def test_the_largest_domain_must_help_each_model(large: tuple[float, ...], held: bool) -> None:
    """F11a: 72 GPUs that add nothing to 8 of one model, or are worse, do not always help."""
    found = {NAMES[R1]: domains(1.1, 1.2, 1.3), NAMES[LARGE]: domains(*large)}
    claim = layouts.F11.statements[0].judged(found)
    assert claim.held == held
    steps = claim.numbers[f"share_helped_by_step {NAMES[LARGE]}"]
    assert steps == [float(b > 1.02 * a) for a, b in pairwise((1.0, *large))]


def test_piggybacking_is_a_chunk_beside_every_step() -> None:
    """F6a and F8b judge the front with one; that of any mix is told beside it."""
    names = [name for name, _, _ in chunks.CASES]
    lost = dict(zip(names, (0.6, 0.7, 0.9), strict=True))
    each = {name: fronts(1.0)._replace(steady=curve(kept)) for name, kept in lost.items()}
    claims = [
        s.judged(chunks.Piggybacking(each, dict.fromkeys(each, 0.1))) for s in chunks.F6.statements
    ]
    assert claims[0].held
    assert claims[0].numbers[f"loss {names[0]}"] == pytest.approx(0.4)
    assert claims[0].numbers[f"loss by any mix {names[0]}"] == pytest.approx(0.0, abs=1e-9)
    traffic = {"16k/2k": 0.5, "2k/16k": 0.4}
    cases = {name: fronts(2.0)._replace(steady=curve(kept)) for name, kept in traffic.items()}
    assert not gains.F8.statements[1].judged(cases).held


def test_the_chunks_beside_every_step_are_among_all(experts: Platform) -> None:
    """No front of them lies above that of any mix, and all its chunks are a prompt's parts."""
    models = dict.fromkeys(MODELS, experts.model)
    lab = Laboratory(models=models, gpu=experts.gpu, fabric=experts.fabric)
    both = lab.fronts_and_steady(R1, 2048, 128)
    counted = lab.points
    assert both.steady["mixed_chunk"].is_between(1, 2047).all()
    assert (common_ratio(both.steady, both.chunked) <= 1.0 + 1e-9).all()
    lab.steady(R1, 2048, 128)
    assert lab.points == counted


def test_changes_are_told_of_claims_that_do_not_hold(experts: Platform) -> None:
    """Each change draws its claims anew in a laboratory of its own, and only those asked for."""
    models = dict.fromkeys(MODELS, experts.model)
    lab = Laboratory(models=models, gpu=experts.gpu, fabric=experts.fabric)
    alike, *_ = (each for each in changes.CHANGES if "Tc" in each.shown)
    (told,) = alike.tried(lab)
    plain = {claim.id: claim for claim in layouts.T.draw(lab).claims}
    assert told.id == "Tc"
    assert told.what == alike.what
    assert set(told.numbers) < set(plain["Tc"].numbers) | {"share_with_ep"}
    assert lab.points > 0
    assert changes.tried(lab, []) == []
    unheld = {name for each in changes.CHANGES for name in each.shown}
    known = {
        s.id
        for sheet in (chunks.F6, layouts.T, ratios.F9, ratios.F10, layouts.F11)
        for s in sheet.statements
    }
    assert unheld <= known


def test_a_changed_laboratory_is_slower_or_wider_as_it_says(experts: Platform) -> None:
    """Prompts that take twice as long halve a worker's rate; the least EP leaves others out."""
    models = dict.fromkeys(MODELS, experts.model)
    lab = Laboratory(models=models, gpu=experts.gpu, fabric=experts.fabric)
    plain = lab.pools(R1, 1024, 128)
    slow = lab.assuming(Assumptions(prefill_scale=2.0)).pools(R1, 1024, 128)
    spread = lab.assuming(Assumptions(prefill_ep=8)).pools(R1, 1024, 128)
    per_gpu = [
        float(each.prefill["rate"][0] / each.prefill["gpus"][0]) for each in (plain, slow, spread)
    ]
    assert per_gpu[1] == pytest.approx(per_gpu[0] / 2, rel=0.05)
    assert spread.prefill["ep"][0] >= 8
    assert per_gpu[2] <= per_gpu[0]
    assert slow.decode.equals(plain.decode)
    other = Precision(weights="fp8", activations="fp8", kv="fp8")
    stored = Assumptions(mla_precision=other)
    latent = (
        replace(experts.model, attention="mla")
        if experts.model.attention != "mla"
        else experts.model
    )
    assert stored.stored(latent) == other


def test_machines_change_in_one_thing(experts: Platform) -> None:
    """Without floors kernels only compute and move; equal starts leave what 16 GPUs take."""
    latency = changes.Altered(altered=changes.without_floors)
    bare = latency.machine(experts.gpu, experts.fabric)
    whole = Roofline().machine(experts.gpu, experts.fabric)
    assert bare.rates("gemm", "nvfp4").floor_s == 0.0
    assert bare.rates("gemm", "nvfp4")._replace(floor_s=0.0) == whole.rates(
        "gemm", "nvfp4"
    )._replace(floor_s=0.0)
    flat = changes.equal_starts(whole)

    def reduced(machine: Machine, ranks: int) -> float:
        one = Operator(name="", kind="all_reduce", message=16384.0, ranks=ranks)
        return float(machine.seconds(one))

    assert reduced(flat, 16) == pytest.approx(reduced(whole, 16))
    assert reduced(flat, 64) < reduced(whole, 64)


def test_prefill_is_not_faster_than_deployments(lab: Laboratory) -> None:
    """DeepSeek-R1's prompts take at least as long here as in deployments, at most twice that."""
    for each, ours in deployments.rates(lab):
        assert 0.5 * each.reported < ours <= each.reported, each.name


def test_prefill_agrees_with_composed_kernels_by_their_exchange(lab: Laboratory) -> None:
    """By plain collectives within a fifth; the all-to-all is the sooner the wider the layout."""
    rows = list(deployments.composed(lab))
    for _, reported, plain, _ in rows:
        assert plain == pytest.approx(reported, rel=0.2)
    ahead = [spread / plain for _, _, plain, spread in rows]
    assert ahead == sorted(ahead)
    assert ahead[-1] > 1.5


def test_a_figure_is_drawn_with_every_curve(figure: Figure) -> None:
    """The SVG is well formed and has a line per series, all inside the frame."""
    root = ET.fromstring(svg(figure))  # noqa: S314 - our own text
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == figure.curves["series"].n_unique()
    width, height = (float(each) for each in root.attrib["viewBox"].split()[2:])
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_the_script_writes_what_it_says(tmp_path: Path) -> None:
    """One figure by command: claims.json with ids and verdicts, its parquet, and one page."""
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_paper"), "--figures", "F5"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True
    )
    claims = {
        each["id"]: each for each in json.loads((tmp_path / "claims.json").read_text("utf-8"))
    }
    assert set(claims) == {"F5a", "F5b"}
    assert all({"id", "claim", "held", "numbers"} <= set(each) for each in claims.values())
    assert len(pl.read_parquet(tmp_path / "F5.parquet")) == 6
    assert "<svg" in (tmp_path / "paper.html").read_text("utf-8")
    assert "design points" in done.stdout


def test_the_script_names_the_figures_it_knows(tmp_path: Path) -> None:
    """An unknown figure is refused with the known ones."""
    command = [sys.executable, str(ROOT / "scripts" / "reproduce_paper"), "--figures", "F99"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no figure 'F99'" in done.stderr
    assert "F14" in done.stderr


def test_what_was_settled_afterwards_is_said_either_way() -> None:
    """A claim's note is printed and kept in claims.json whether or not the claim holds."""
    script = runpy.run_path(str(ROOT / "scripts" / "reproduce_paper"))
    for held in (True, False):
        claim = Claim(id="X", claim="x", held=held, reason="why not", note="settled later")
        (listed, *_) = script["claims_of"]([SimpleNamespace(claims=(claim,))])
        assert listed["note"] == "settled later"
        assert ("reason" in listed) != held
        assert script["cells"](listed)[-1].endswith("settled later")
