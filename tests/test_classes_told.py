"""What becomes of each class of tenants, from the command line to the report."""

import json
from pathlib import Path

import polars as pl
from command import TINY, Command

TWO = ("+classes.gold={priority: 1, ttft_s: 0.001, share: 0.5}", "+classes.batch={share: 0.2}")


def test_each_class_is_told_by_its_own_targets(disaggsim: Command) -> None:
    """Whoever was promised a millisecond did not get it; the others did."""
    done = disaggsim(*TINY, *TWO, "workload.requests=60", "hydra.run.dir=out", "report=html")
    assert done.code == 0, done.err
    frame = pl.read_parquet("out/requests.parquet")
    assert frame["class"].dtype == pl.Enum(["other", "gold", "batch"])
    told = json.loads(Path("out/summary.json").read_text("utf-8"))["classes"]
    counts = dict(frame.group_by("class").len().iter_rows())
    assert {name: each["requests"]["arrived"] for name, each in told.items()} == counts
    assert told["gold"]["slo_attainment"] == 0.0
    for name in ("other", "batch"):
        those = frame.filter(pl.col("class") == name)
        good = ((those["ttft_s"] <= 0.5) & (those["tpot_s"] <= 0.05)).mean()
        assert told[name]["slo_attainment"] == good
    assert "by class" in done.out
    assert "gold 0 %" in done.out
    assert "By class" in Path("out/report.html").read_text("utf-8")
    again = disaggsim(*TINY[:-1], "workload=trace", "workload.path=out/requests.parquet")
    assert again.code == 0, again.err


def test_without_classes_nothing_is_told(disaggsim: Command) -> None:
    """No column, no line, no table."""
    done = disaggsim(*TINY, "hydra.run.dir=out")
    assert done.code == 0, done.err
    assert "class" not in pl.read_parquet_schema("out/requests.parquet")
    assert json.loads(Path("out/summary.json").read_text("utf-8"))["classes"] == {}
    assert "by class" not in done.out


def test_a_class_cannot_be_called_as_those_of_none(disaggsim: Command) -> None:
    """One sentence says so."""
    done = disaggsim(*TINY, "+classes.other={share: 0.5}")
    assert done.code == 2
    assert "classes.other: that is what requests of no class are called" in done.err
