"""Starting points from AIConfigurator's tables, and the report's further sections."""

from pathlib import Path

import polars as pl
import pytest
from command import Command

from simulator.errors import ConfigError
from simulator.explore.advice import top
from simulator.explore.export import aiconfigurator
from simulator.explore.sections import Section, cell, map_section, tornado_section
from simulator.explore.space import Lengths, Platform, Space
from simulator.explore.start import evaluate_starts, read_starts
from simulator.explore.study import Study, study
from simulator.policies.rate_matching import Given

LENGTHS = Lengths.constant(2048, 256)
SMALL = ("model=llama_3_1_8b", "explore.worker_gpus=2", "explore.max_batch=128", "slo=relaxed")
HEAD = (
    "isl,osl,ttft,tpot,tokens/s/gpu,(p)tp,(p)pp,(p)dp,(p)moe_tp,(p)moe_ep,(p)bs,(p)workers,"
    "(d)tp,(d)pp,(d)dp,(d)moe_tp,(d)moe_ep,(d)bs,(d)workers"
)
GOOD = "2048,256,100,20,1000,1,1,1,1,1,1,2,2,1,1,1,1,16,1"
MIXED_HEAD = "isl,osl,ttft,tpot,tokens/s/gpu,tp,pp,dp,moe_tp,moe_ep,bs"


@pytest.fixture(scope="module", params=["dense", "experts"])
def done(request: pytest.FixtureRequest) -> Study:
    """Return a small study of a dense model, or of experts over the ranks of 8 GPUs."""
    platform: Platform = request.getfixturevalue(request.param)
    gpus = 2 if request.param == "dense" else 8
    return study(Space(platform=platform, lengths=LENGTHS, worker_gpus=gpus, max_batch=32))


def write(path: Path, *lines: str) -> Path:
    """Write a table and return its path."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_what_is_exported_comes_back(done: Study, tmp_path: Path) -> None:
    """Our own deployments, through the table and costed again, keep their figures."""
    ranked = top(done.deployments(), count=6)
    path = tmp_path / "best_config_topn.csv"
    aiconfigurator(ranked, LENGTHS).write_csv(path)
    starts = read_starts(path, done.space.platform.model)
    again = evaluate_starts(starts, done.platforms, LENGTHS)
    for name in ("prefill_workers", "decode_workers", "gpus", "decode_tp", "decode_ep"):
        assert again[name].to_list() == ranked[name].to_list()
    for name in ("throughput", "ttft_s", "tpot_s"):
        assert again[name].to_list() == pytest.approx(ranked[name].to_list())
        assert again[f"their_{name}"].to_list() == pytest.approx(ranked[name].to_list())


def test_a_colocated_table_is_read_too(dense: Platform, tmp_path: Path) -> None:
    """Its points are costed as workers that do both."""
    path = write(tmp_path / "t.csv", MIXED_HEAD, "2048,256,100,20,1000,2,1,1,1,1,16")
    table = evaluate_starts(read_starts(path, dense.model), (dense, dense), LENGTHS)
    assert table["mixed_tp"].to_list() == [2]
    assert table["mixed_batch"].to_list() == [16]
    assert table["throughput"][0] > 0
    assert table["gap_s"][0] <= 5.0 * table["tpot_s"][0]


def test_experts_may_be_shared_by_gpus(experts: Platform, tmp_path: Path) -> None:
    """``moe_tp`` GPUs share each expert: as our layout of that ``ep``, in both kinds of tables."""
    path = write(tmp_path / "t.csv", MIXED_HEAD, "2048,256,400,20,500,2,1,4,2,4,16")
    (start,) = read_starts(path, experts.model)
    layout = start.pools["mixed"].layout
    assert (layout.ep, layout.expert_tp) == (4, 2)
    table = evaluate_starts([start], (experts, experts), LENGTHS)
    assert table["mixed_ep"].to_list() == [4]
    assert table["throughput"][0] > 0
    uneven = write(tmp_path / "u.csv", MIXED_HEAD, "2048,256,400,20,500,2,1,4,2,3,16")
    with pytest.raises(ConfigError, match="moe_tp × moe_ep must be tp × dp = 8 GPUs"):
        read_starts(uneven, experts.model)


def test_a_point_that_does_not_fit_is_said_so(dense: Platform, tmp_path: Path) -> None:
    """Prompts or decodes beyond the memory have no figures of ours beside theirs."""
    rows = GOOD.replace(",16,1", ",100000,1"), GOOD.replace("1,1,1,1,1,1,2,", "1,1,1,1,1,100000,2,")
    path = write(tmp_path / "t.csv", HEAD, *rows)
    table = evaluate_starts(read_starts(path, dense.model), (dense, dense), LENGTHS)
    assert table["throughput"].to_list() == [None, None]
    assert table["their_throughput"].to_list() == [1000.0, 1000.0]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("",), "readable CSV"),
        ((HEAD,), "1 to 1000 rows but has none"),
        (("isl,osl", "1,2"), "no column"),
        ((HEAD, GOOD.replace("2048", "many", 1)), "row 2: isl must be a finite number"),
        ((HEAD, GOOD, GOOD.replace(",16,1", ",0.5,1")), r"row 3: \(d\)bs must be a whole number"),
        ((HEAD, GOOD.replace("1000,1,", "1000,3,", 1)), "row 2: .*tp"),
        ((HEAD, GOOD.replace(",16,1", ",16,1e30")), r"row 2: \(d\)workers must be .* to 1,000,000"),
        ((HEAD, GOOD + ",1,2,3"), "readable CSV"),
        ((f"{HEAD},(p)cp", GOOD + ",2"), "context parallel"),
    ],
)
def test_a_bad_table_is_refused(
    dense: Platform, tmp_path: Path, lines: tuple[str, ...], told: str
) -> None:
    """One sentence names the file, and the row and column where there is one."""
    path = write(tmp_path / "bad.csv", *lines)
    with pytest.raises(ConfigError, match=told) as caught:
        read_starts(path, dense.model)
    assert "bad.csv" in str(caught.value)


def test_experts_must_cover_their_group(experts: Platform, tmp_path: Path) -> None:
    """For a mixture of experts moe_tp × moe_ep GPUs are those of tp × dp."""
    row = "2048,256,100,20,1000,1,1,8,1,4,1,2,1,1,8,1,8,16,1"
    path = write(tmp_path / "t.csv", HEAD, row)
    with pytest.raises(ConfigError, match=r"row 2: \(p\)moe_tp × \(p\)moe_ep must be .* = 8 GPUs"):
        read_starts(path, experts.model)


def test_the_command_costs_starting_points(disaggsim: Command, tmp_path: Path) -> None:
    """They take their own lengths along, and stand beside the choice in the answer and report."""
    path = write(tmp_path / "start.csv", HEAD, GOOD)
    done = disaggsim("task=explore", *SMALL, f"explore.start={path}")
    assert done.code == 0, done.err
    assert "start, row 2:" in done.out
    (table,) = tmp_path.rglob("starts.parquet")
    assert pl.read_parquet(table)["isl"].to_list() == [2048]
    page = (table.parent / "report.html").read_text("utf-8")
    assert "Where AIConfigurator would start" in page


@pytest.mark.parametrize("text", ["", "not,a\ntable,at all"])
def test_a_bad_start_ends_with_one_sentence(disaggsim: Command, tmp_path: Path, text: str) -> None:
    """Exit code 2, no traceback; a missing file too."""
    path = tmp_path / "start.csv"
    if text:
        path.write_text(text, encoding="utf-8")
    done = disaggsim("task=explore", *SMALL, f"explore.start={path}")
    assert done.code == 2
    assert str(path) in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_tornado_and_map_come_with_the_report(disaggsim: Command, tmp_path: Path) -> None:
    """Each writes its parquet and a section."""
    more = ("explore.isl=512", "explore.osl=64", "explore.tornado=true", "explore.map=true")
    grid = ("explore.map_isl=[300,1000]", "explore.map_osl=[64]")
    done = disaggsim(
        "task=explore", *SMALL, *more, *grid, "explore.worker_gpus=1", "explore.max_batch=16"
    )
    assert done.code == 0, done.err
    (table,) = tmp_path.rglob("tornado.parquet")
    assert len(pl.read_parquet(table)) == 10
    pairs = pl.read_parquet(table.parent / "map.parquet").select("isl", "osl")
    assert pairs.rows() == [(300, 64), (1000, 64)]
    page = (table.parent / "report.html").read_text("utf-8")
    assert "What the answer hangs on" in page
    assert "Where it pays" in page


def test_sections_show_what_has_no_answer() -> None:
    """Tables without any figure are drawn all the same; text is escaped; null is a dash."""
    nothing: dict[str, list[object]] = {"gain": [None], "throughput": [None], "gpu_ratio": [None]}
    floats = dict.fromkeys(nothing, pl.Float64)
    empty = pl.DataFrame({"isl": [1], "osl": [2], **nothing}, schema_overrides=floats)
    assert "–" in map_section(empty).body()
    numbers = pl.DataFrame(
        {"number": ["a"], "factor": [0.8], **nothing, "swing": [None]}, schema_overrides=floats
    )
    assert "<svg" not in tornado_section(numbers).body()
    page = Section(name="x", title="<b>", note="", table=pl.DataFrame({"a": ["<i>"]})).body()
    assert "<b>" not in page
    assert "<i>" not in page
    assert cell(None) == "–"


@pytest.mark.parametrize("name", ["prefill_workers", "decode_workers"])
def test_given_workers_check_themselves(name: str) -> None:
    """Worker counts are whole and at least one."""
    counts = {"prefill_workers": 1, "decode_workers": 1, name: 0}
    with pytest.raises(ConfigError, match=f"{name} must be a whole number ≥ 1 but got 0"):
        Given(**counts)
