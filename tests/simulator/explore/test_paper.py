"""The paper's figures: that claims are computed, drawn and written, and never left out."""

import json
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
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
    Claim,
    Figure,
    Laboratory,
    gains,
    layouts,
    ratios,
)
from simulator.explore.paper.laboratory import Fronts
from simulator.explore.space import Platform

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
            [False, True, False],
        ),
    ],
)
def test_verdicts_follow_the_evidence(sheet: Any, evidence: Any, held: list[bool]) -> None:
    """Each claim of a figure is judged by the evidence alone, and can fail."""
    claims = [statement.judged(evidence) for statement in sheet.statements]
    assert [claim.held for claim in claims] == held
    assert all(claim.id.startswith(sheet.id) and claim.numbers for claim in claims)


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
