"""``task=compare measured=FILE``: a measured run beside finished simulations."""

import json
from pathlib import Path

import polars as pl
import pytest
from command import TINY, Command

EXPORTS = "report.exports=[aiperf,bench]"


@pytest.fixture
def made(disaggsim: Command) -> Path:
    """Run something small once; return its folder, with what other tools would tell of it."""
    done = disaggsim(*TINY, EXPORTS, "hydra.run.dir=one")
    assert done.code == 0, done.err
    return Path("one")


def errors(folder: str) -> pl.DataFrame:
    """Return what a comparison says of errors."""
    return pl.read_parquet(Path(folder) / "measured.parquet")


@pytest.mark.parametrize("export", ["profile_export.jsonl", "bench.json"])
def test_a_run_s_own_export_is_met_request_by_request(
    disaggsim: Command, made: Path, export: str
) -> None:
    """As many requests in the same order: no error, and single requests agree."""
    done = disaggsim("task=compare", "runs=[one]", f"measured={made / export}", "hydra.run.dir=out")
    assert done.code == 0, done.err
    told = errors("out")
    assert told["joined_by"].unique().to_list() == ["order of arrival"]
    assert told["latency"].unique(maintain_order=True).to_list() == ["ttft_s", "tpot_s", "e2e_s"]
    assert told["error"].abs().max() < 1e-5  # type: ignore[operator] - times are 32-bit
    assert told["correlation"].drop_nulls().min() > 0.999  # type: ignore[operator]
    assert "joined to a run's by their order of arrival" in done.out
    assert "TTFT measured" in done.out
    page = Path("out/compare.html").read_text("utf-8")
    for panel in ("measured_ttft_s", "measured_tpot_s", "measured_e2e_s", "measured_flight"):
        assert f"plot-{panel}" in page
    assert "Measured beside simulated" in page


def test_statistics_are_beside_all_requests(disaggsim: Command, made: Path) -> None:
    """AIPerf's summary has no single requests: its percentiles stand beside the run's."""
    path = made / "profile_export_aiperf.json"
    done = disaggsim("task=compare", "runs=[one]", f"measured={path}", "hydra.run.dir=out")
    assert done.code == 0, done.err
    assert "tells statistics of a run, no single requests" in done.out
    told = errors("out")
    assert told["joined_by"].null_count() == len(told)
    assert told["error"].abs().max() < 1e-5  # type: ignore[operator]
    page = Path("out/compare.html").read_text("utf-8")
    assert "plot-measured_ttft_s" in page
    assert "plot-measured_flight" not in page


def test_other_requests_are_compared_as_distributions(disaggsim: Command, made: Path) -> None:
    """A run of half the requests has no partner for each; its distributions are told."""
    half = disaggsim(*TINY, "workload.requests=3", "hydra.run.dir=two")
    assert half.code == 0, half.err
    path = made / "bench.json"
    done = disaggsim("task=compare", "runs=[one,two]", f"measured={path}", "hydra.run.dir=out")
    assert done.code == 0, done.err
    assert "those of runs with another number of requests are not" in done.out
    by = dict(errors("out").group_by("name").agg(pl.col("joined_by").first()).iter_rows())
    assert sorted(map(str, by.values())) == ["None", "order of arrival"]
    alone = disaggsim("task=compare", "runs=[two]", f"measured={path}", "hydra.run.dir=alone")
    assert "only distributions are compared" in alone.out


def table(name: str, **columns: object) -> str:
    """Write a parquet of requests; return its name."""
    pl.DataFrame(columns).write_parquet(name)
    return name


def test_names_join_whatever_the_order(disaggsim: Command) -> None:
    """A run of a trace with ids meets those of the same ids, and only them."""
    common = {"input_tokens": [100, 200, 300], "output_tokens": [5, 5, 5]}
    trace = table("t.parquet", source_id=["a", "b", "c"], arrival_s=[0.0, 1.0, 2.0], **common)
    run = disaggsim(
        *TINY, "workload=trace", f"workload.path={trace}", "~workload.requests", "hydra.run.dir=one"
    )
    if run.code:  # TINY names requests, which a trace has not
        told = [each for each in TINY if not each.startswith("workload")]
        run = disaggsim(*told, "workload=trace", f"workload.path={trace}", "hydra.run.dir=one")
    assert run.code == 0, run.err
    ours = pl.read_parquet("one/requests.parquet")
    late = (ours["e2e_s"] * 2).to_list()
    measured = table(
        "m.parquet",
        who=["c", "a", "x"],
        at=[0.0, 1.0, 2.0],
        ins=[300, 100, 9],
        outs=[5, 5, 5],
        first=[0.5, 0.5, 0.5],
        whole=[late[2], late[0], 9.0],
    )
    columns = "{source_id:who,arrival_s:at,input_tokens:ins,output_tokens:outs,"
    columns += "src_ttft_s:first,src_e2e_s:whole}"
    done = disaggsim(
        *("task=compare", "runs=[one]", f"measured={measured}", "hydra.run.dir=out"),
        "compare.measured.time_unit=s",
        f"compare.measured.columns={columns}",
    )
    assert done.code == 0, done.err
    told = errors("out").filter(latency="e2e_s")
    assert told["joined_by"].unique().to_list() == ["source_id"]
    assert told["requests"].unique().to_list() == [2]
    assert told["error"].to_list() == pytest.approx([-0.5] * 4, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["measured=nowhere.json"], "nowhere.json"),
        (["measured=7"], "measured must name a file but got 7"),
        (["measured=plain.csv"], "no request tells when it had its first or last token"),
        (["measured=words.txt"], "not a known trace format; row 1 is"),
        (["measured=words.txt"], "compare.measured.columns reads any CSV"),
        (
            ["measured=plain.csv", "compare.measured.format=abc"],
            "format must be auto or one of",
        ),
        (
            ["measured=plain.csv", "compare.measured.columns={src_ttft_s:nope}"],
            "input_tokens is missing",
        ),
        (["measured=units.json"], "the unit of ttft_s must be one of"),
    ],
)
def test_what_cannot_be_put_beside_is_one_sentence(
    disaggsim: Command, made: Path, given: list[str], told: str
) -> None:
    """It names the file and what was expected; nothing is left that looks complete."""
    assert made.is_dir()
    Path("words.txt").write_text("no trace at all\n", "utf-8")
    Path("plain.csv").write_text("arrival_s,input_tokens,output_tokens\n0,5,5\n1,5,5\n", "utf-8")
    wrong = {"time_to_first_token": {"unit": "furlong", "avg": 1.0}}
    Path("units.json").write_text(json.dumps(wrong), "utf-8")
    done = disaggsim("task=compare", "runs=[one]", "hydra.run.dir=out", *given)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") <= 1
    assert not Path("out/compare.html").exists()
