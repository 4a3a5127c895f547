"""Modelling choices are judged by rows that had no say: what one group alone wants shows."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.latency.roofline import Roofline
from simulator.validation import choices, page, score, serving
from simulator.validation.__main__ import main
from simulator.validation.choices import CHOICES, PREFIX, SETS
from simulator.validation.names import Catalogue
from simulator.validation.score import Scored

RUN = {
    "id": "r1",
    "source": "somebody notes",
    "model": "Llama-3.1-8B",
    "precision": "fp8",
    "gpu": "H100",
    "n_gpus": "1",
    "engine": "trtllm 1.0",
    "mode": "agg",
    "prefill_parallel": "TP1",
    "decode_parallel": "TP1",
    "isl": "512",
    "osl": "32",
    "concurrency_or_rate": "4",
    "ttft_ms": "20",
    "tpot_ms": "5",
    "tok_s_per_gpu_out": "600",
    "notes": "",
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Everything the package ships."""
    return Catalogue.shipped()


def pair(source: str, ours: float, other: float) -> tuple[Scored, Scored]:
    """Return a row of ``source`` whose TPOT is off by so many percent with a choice and without."""
    row = Scored(set=SETS[0], row=source, source=source, engine="e", gpu="g", model="m")
    return tuple(  # type: ignore[return-value]
        replace(row, measured=100.0, predicted=100.0 + error) for error in (ours, other)
    )


def test_what_one_group_alone_wants_does_not_carry_over() -> None:
    """The others decide for the group left out, and the error is of what they decided there.

    a: 10 with, 40 without; b and c: 20 with, 15 without. Left out a: b and c decide against, which
    costs 40. Left out b: medians of a and c are 15 with and 27.5 without: for it; so for c.
    """
    rows = [pair("a", 10.0, 40.0), pair("b", -20.0, 15.0), pair("c", 20.0, -15.0)]
    got = choices.judge("companions", SETS[0], rows)
    assert [got.rows, got.ours, got.other] == pytest.approx([3, 20.0, 15.0])
    source = got.left_out["source"]
    assert (source.groups, source.agree, source.better) == (3, 2, 1)
    assert source.error == pytest.approx(20.0)  # of 40, 20 and 20
    assert got.left_out["gpu"].error is None  # nothing is left that could decide
    assert choices.verdict([got]) == "open (decided for in 2, no worse in 1 of 3)"


def test_a_choice_that_all_rows_want_is_decided_by_any_of_them() -> None:
    """Whatever is left out, the rest decides for it, and rightly."""
    rows = [pair(name, 5.0, -9.0) for name in "abcd"]
    got = choices.judge("companions", SETS[0], rows)
    source = got.left_out["source"]
    assert (source.groups, source.agree, source.better) == (4, 4, 4)
    assert choices.verdict([got]).startswith("carries over")
    turned = choices.judge("companions", SETS[0], [(other, ours) for ours, other in rows])
    assert choices.verdict([turned]).startswith("the other way does better")
    alone = choices.judge("companions", SETS[0], rows[:1])
    assert choices.verdict([alone]) == "nothing could be left out"
    assert source.error == pytest.approx(5.0)


@pytest.mark.parametrize("engine", ["generic", "trtllm", "sglang", "vllm"])
def test_a_choice_is_undone_only_where_it_was_made(engine: str) -> None:
    """An engine that overlaps its host and whose ranks do not wait has nothing to undo there.

    Nor has one with quantising in the curves of its FP8 products, or a run whose script names no
    backend of experts.
    """
    latency = Roofline(engine=engine)
    named = replace(latency, moe_backend="cutlass")
    assert choices.without(named, "moe_backend") == latency
    for name in CHOICES:
        other = choices.without(latency, name)
        makers = {
            "host": ("vllm",),
            "rank_wait": ("vllm",),
            "fp8_scales": ("generic", "trtllm"),
            "moe_backend": (),
        }
        assert (other is None) == (engine not in makers.get(name, (engine,))), name
        assert other is None or other != latency


def test_runs_are_simulated_otherwise(catalogue: Catalogue) -> None:
    """Fewer kernels take less time; choices on experts do not touch a dense model.

    Nor do those on FP8 products one in 16 bits.
    """
    rows = [(0, RUN), (1, {**RUN, "gpu": "RTX 3090"})]
    ours = {row.set: row for row in serving.score_serving(rows[:1], catalogue)}
    without = serving.score_otherwise(rows, catalogue, "companions")
    assert {row.set for row in without} == {f"{PREFIX}companions_{name}" for name in ours}
    faster = next(row for row in without if row.set.endswith("agg_tpot"))
    mine = ours["e2e_agg_tpot"]
    assert faster.predicted is not None
    assert mine.predicted is not None
    assert faster.predicted < mine.predicted
    for name in ("shared_beside", "even_experts", "steep_experts", "host", "rank_wait"):
        assert serving.score_otherwise(rows, catalogue, name) == []
    assert serving.score_otherwise(rows, catalogue, "fp8_scales") != []
    wide = [(0, {**RUN, "precision": "bf16"})]
    assert serving.score_otherwise(wide, catalogue, "fp8_scales") == []
    scored = [*ours.values(), *without]
    text = page.markdown(score.summary(scored), scored, [])
    assert "Modelling choices on rows left out" in text
    assert CHOICES["companions"].title in text
    assert CHOICES["host"].title not in text


def test_choices_are_scored_on_the_command_line(tmp_path: Path) -> None:
    """``--choices`` adds a set for each that touches a row, and changes none of the others."""
    table = tmp_path / "e2e.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(RUN))
        writer.writeheader()
        writer.writerow(RUN)
    found = {}
    for name, more in (("without", []), ("with", ["--choices"])):
        out = tmp_path / name
        given = ["--only", "e2e", "--e2e", str(table), "--out", str(out), "--jobs", "1"]
        assert main([*given, *more]) == 0
        found[name] = json.loads((out / "errors.json").read_text())
    extra = {name for name in found["with"] if name.startswith(PREFIX)}
    assert f"{PREFIX}companions_e2e_agg_tpot" in extra
    assert not any("experts" in name for name in extra)
    assert {name: got for name, got in found["with"].items() if name not in extra} == (
        found["without"]
    )
