"""What holds when runs are put side by side."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from simulator.compare import Options, compare, find, prose, write
from simulator.compare.comparison import _static, best_of, front_of
from simulator.compare.flat import differing, flat, telling
from simulator.compare.metrics import METRICS, at
from simulator.errors import ConfigError
from tests.fakes import FakeRun, fake_record
from tests.simulator.compare.folders import Made, settings_of, write_run


def pools(prefill: int) -> Made:
    """Return a run with so many prefill workers."""
    record = fake_record(FakeRun(requests=300, prefill=prefill))
    return Made(settings={"pools": {"prefill": {"workers": prefill}}}, record=record)


def test_numbers_are_those_of_the_summaries(tmp_path: Path) -> None:
    """Every number of every row is the run's own, and both files hold the same table."""
    summaries = [write_run(tmp_path / f"{n}", pools(n)).summary for n in (1, 2, 3)]
    done = compare(find([str(tmp_path)]).runs)
    write(done, tmp_path / "out")
    table = pl.read_parquet(tmp_path / "out" / "comparison.parquet")
    for row, summary in zip(table.iter_rows(named=True), summaries, strict=True):
        assert {m.path: row[m.path] for m in METRICS} == {
            m.path: at(summary, m.path) for m in METRICS
        }
        per = row["usd"] / row["requests.arrived"]
        assert row["usd_per_1k_requests"] == pytest.approx(1000 * per)
    assert table["pools.prefill.workers"].to_list() == [1, 2, 3]
    listed = pl.read_csv(tmp_path / "out" / "comparison.csv")
    assert listed.columns == table.columns
    assert listed["ttft_s.p99"].to_list() == table["ttft_s.p99"].to_list()
    assert (tmp_path / "out" / "compare.html").stat().st_size > 4_000_000


def test_dollars_are_gpu_hours_at_their_price(tmp_path: Path) -> None:
    """A run's cost is its GPU-hours times the price of each GPU."""
    summary = write_run(tmp_path).summary
    assert summary["usd"] == pytest.approx(2.0 * summary["gpu_hours"]["total"])
    assert summary["gpus"] > 0


def test_folders_globs_and_whole_sweeps_are_the_same(tmp_path: Path) -> None:
    """Each run is found once, however it is named and how often."""
    for n in (1, 2):
        write_run(tmp_path / "sweep" / f"a=[{n}]", pools(n))
    ways = (
        [str(tmp_path)],
        [str(tmp_path / "sweep" / "*")],
        [str(tmp_path / "sweep" / f"a=[{n}]") for n in (1, 2)],
        [str(tmp_path / "sweep"), str(tmp_path / "sweep" / "a=[[]1]")],
    )
    found = [[run.folder for run in find(way).runs] for way in ways]
    assert all(each == found[0] for each in found)
    assert len(found[0]) == 2


def test_seeds_of_one_configuration_are_one_point(tmp_path: Path) -> None:
    """Runs that differ by seed alone are gathered, under the mean of their numbers."""
    for seed, workers in itertools.product((0, 1, 2), (1, 2)):
        record = fake_record(FakeRun(requests=300, prefill=workers, seed=seed))
        made = {"pools": {"prefill": {"workers": workers}}}
        write_run(tmp_path / f"{seed}-{workers}", Made(settings=made, record=record, seed=seed))
    done = compare(find([str(tmp_path)]).runs)
    assert [len(point.runs) for point in done.points] == [3, 3]
    assert {done.runs[point.base].seed for point in done.points} == {0}
    first = done.table.filter(point=0)["slo_attainment"].mean()
    assert done.means("slo_attainment")[0] == pytest.approx(first)
    assert done.keys == ("pools.prefill.workers",)


def test_pools_of_another_kind_are_a_difference(tmp_path: Path) -> None:
    """Runs of other pools do not differ in chance alone, and are said not to."""
    kinds = {"split": "prefill", "whole": "mixed"}
    for name, role in kinds.items():
        pool = {"workers": 2, "layout": {"tp": 4}}
        write_run(tmp_path / name, Made(settings={"pools": {role: pool}}))
    found = compare(find([str(tmp_path)]).runs)
    assert len(found.points) == 2
    assert "chance" not in prose.subject(found)


def test_the_same_run_in_two_folders_counts_once(tmp_path: Path) -> None:
    """A copy adds no row, and that is said."""
    for name in ("a", "b"):
        write_run(tmp_path / name)
    done = compare(find([str(tmp_path)]).runs)
    assert len(done.table) == 1
    assert "told once" in done.notes[0]


@pytest.mark.parametrize("seed", range(20))
def test_best_and_fronts_are_what_they_say(seed: int) -> None:
    """None beats the marked ones, by trying all; the unknown are passed over."""
    rng = np.random.default_rng(seed)
    cost, held = rng.integers(1, 6, 30).astype(float), rng.integers(0, 5, 30) / 4
    cost[rng.random(30) < 0.1] = np.nan
    known = [each for each in range(30) if np.isfinite(cost[each])]
    best = best_of(cost, held, 0.75)
    assert best in known
    enough = [each for each in known if held[each] >= 0.75]
    assert not enough or (cost[best], -held[best]) == min((cost[e], -held[e]) for e in enough)
    kept = front_of(-cost, held)
    for each in known:
        beaten = any(
            cost[o] <= cost[each]
            and held[o] >= held[each]
            and (cost[o], held[o]) != (cost[each], held[each])
            for o in known
        )
        same = [o for o in kept if (cost[o], held[o]) == (cost[each], held[each])]
        assert bool(same) != beaten
    assert best_of(cost, held * 0, 0.75) == min(known, key=lambda each: cost[each])
    assert best_of(cost * np.nan, held, 0.75) is None


def test_what_tells_configurations_apart() -> None:
    """A class or name stands for its group, a missing pool is no list of its settings."""
    one = flat(settings_of(Made(settings={"workload": {"concurrency": None, "why": 1}})))
    other = flat(
        settings_of(
            Made(
                settings={
                    "model": {"name": "another", "layers": 3},
                    "router": {"_target_": "simulator.policies.routing.Random", "salt": 3},
                    "workload": {"concurrency": 4, "why": True},
                    "pools": {"mixed": {"workers": 2, "layout": {"tp": 4}}},
                    "report": {"html": False},
                }
            )
        )
    )
    keys = differing([one, other])
    assert {"model.name", "model.layers", "pools.mixed.workers"} <= set(keys)
    assert not any(key.startswith("report") for key in keys)
    shown = telling(keys, [one, other])
    assert shown == ["model.name", "router._target_", "workload.concurrency", "workload.why"]


def test_traffic_targets_and_versions_that_differ_are_told(tmp_path: Path) -> None:
    """What makes runs less comparable than they look is said in words."""
    write_run(tmp_path / "a")
    other = {"workload": {"requests": 300, "arrivals": {"rate": 9.0}}, "slo": {"ttft_s": 1.0}}
    write_run(tmp_path / "b", Made(settings=other, head="# disaggsim 0.0.9"))
    done = compare(find([str(tmp_path)]).runs)
    assert "traffic of its own (workload.arrivals.rate)" in prose.certainty(done)
    notes = " ".join(done.notes)
    for words in ("different traffic (workload.arrivals.rate)", "targets differ", "0.0.9"):
        assert words in notes


REPLACED: dict[str, dict[str, Any]] = {
    "no number": {"goodput_rps": float("nan")},
    "a huge one": {"preemptions": 10**400},
    "a seed of words": {"seed": "one"},
    "targets of words": {"slo": {"ttft_s": "fast"}},
    "one warning": {"warnings": "mind"},
}


def broken(folder: Path, kind: str) -> None:
    """Break a finished run in one way."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    if kind == "unfinished":
        (folder / "summary.json").unlink()
    elif kind == "half a summary":
        (folder / "summary.json").write_text("{", encoding="utf-8")
    elif kind == "a list":
        (folder / "summary.json").write_text("[]", encoding="utf-8")
    elif kind == "another version":
        del summary["itl_s"]
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    elif kind == "words":
        summary["goodput_rps"] = "fast"
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    elif kind in REPLACED:
        (folder / "summary.json").write_text(json.dumps({**summary, **REPLACED[kind]}))
    elif kind == "edited settings":
        (folder / "config.yaml").write_text(config.replace("tp: 4", "tp: 8"), encoding="utf-8")
    elif kind == "not text":
        (folder / "config.yaml").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unfinished", "not finished"),
        ("half a summary", "summary.json: not JSON"),
        ("a list", "expected an object but got list"),
        ("another version", "itl_s.mean is missing: written by disaggsim 0.1.0"),
        ("words", "goodput_rps must be a number or null but got 'fast'"),
        ("edited settings", "not the settings that summary.json is of"),
        ("not text", "not UTF-8"),
        ("no number", "goodput_rps must be a number or null but got nan"),
        ("a huge one", "preemptions must be a number"),
        ("a seed of words", "seed must be a whole number but got 'one'"),
        ("targets of words", "slo must be targets in seconds"),
        ("one warning", "warnings must be sentences"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, kind: str, words: str) -> None:
    """One sentence with the file and what is wrong with it."""
    write_run(tmp_path / "run")
    broken(tmp_path / "run", kind)
    with pytest.raises(ConfigError, match=words) as told:
        find([str(tmp_path / "run")])
    assert str(tmp_path / "run") in str(told.value)


def test_yaml_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    """Aliases of aliases end in a sentence instead of the machine's memory."""
    from simulator.results import config_digest

    write_run(tmp_path)
    levels = [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40)]
    text = "\n".join(["a0: &a0 {x: 1}", *levels])
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    summary["config_digest"] = config_digest(text)
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.yaml: more than 20,000 settings"):
        find([str(tmp_path)])


def test_other_tasks_are_no_runs(tmp_path: Path) -> None:
    """An exploration or search beside runs is passed over, by itself it is refused."""
    write_run(tmp_path / "run")
    other = tmp_path / "search"
    write_run(other, pools(2))
    summary = json.loads((other / "summary.json").read_text(encoding="utf-8"))
    told = {"task": "goodput", "config_digest": summary["config_digest"]}
    (other / "summary.json").write_text(json.dumps(told), encoding="utf-8")
    assert [run.folder.name for run in find([str(tmp_path)]).runs] == ["run"]
    with pytest.raises(ConfigError, match="has no requests that could be"):
        find([str(other)])


def test_unfinished_neighbours_are_left_out(tmp_path: Path) -> None:
    """Of a folder of runs what is finished is compared, and the rest is known."""
    for n in (1, 2):
        write_run(tmp_path / f"{n}", pools(n))
    broken(tmp_path / "2", "unfinished")
    found = find([str(tmp_path)])
    assert [run.folder.name for run in found.runs] == ["1"]
    assert [folder.name for folder in found.incomplete] == ["2"]


@pytest.mark.parametrize("bad", [{"attainment": 0.0}, {"confidence": 1.0}, {"pictures": -1}])
def test_options_are_checked(bad: dict[str, float]) -> None:
    """Numbers out of range are named with their setting."""
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Options(**bad)  # type: ignore[arg-type]


def test_sections_read_once_are_the_settings_read_whole(tmp_path: Path) -> None:
    """Whatever runs share, each has its own settings: comments, lists, anchors and all."""
    shared = ["spare", "parts"]
    odd: dict[str, Any] = {
        "changes": [{"at_s": 1, "pool": "decode"}],
        "both": {"one": shared, "two": shared},
        "text": "several\nlines: of it\n\nlast",
        "none": None,
    }
    for n, extra in enumerate(({}, odd, {"text": "a & b *c"}, {"changes": []})):
        write_run(tmp_path / f"{n}", Made(settings={"n": n, **extra}))
    for run in find([str(tmp_path)]).runs:
        text = (run.folder / "config.yaml").read_text(encoding="utf-8")
        assert run.settings == flat(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("requests", {"ttft_s": "fast"}, "conversion"),
        ("requests", {"ttft_s": None}, "made by another version"),
        ("timeline", {"worker": 99}, "workers that are not in lives.parquet"),
        ("lives", {"pool": None}, "made by another version"),
    ],
)
def test_frames_of_something_else_are_named(
    name: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Columns that are missing, words or out of range cost a sentence with the file."""
    for n in (1, 2):
        write_run(tmp_path / f"{n}", pools(n))
    path = tmp_path / "1" / f"{name}.parquet"
    ((column, value),) = change.items()
    frame = pl.read_parquet(path).drop(column)
    frame = frame if value is None else frame.with_columns(pl.lit(value).alias(column))
    frame.write_parquet(path)
    with pytest.raises(ConfigError, match=words) as told:
        write(compare(find([str(tmp_path)]).runs), tmp_path / "out")
    assert str(tmp_path / "1") in str(told.value)


@pytest.mark.parametrize(
    ("settings", "static"),
    [
        ({}, True),
        ({"autoscaler._target_": "simulator.policies.autoscaling.Static", "changes": "[]"}, True),
        ({"autoscaler._target_": "simulator.policies.windows.PerPool"}, False),
        ({"rate_matcher._target_": "simulator.policies.matching.Unmatched"}, True),
        ({"rate_matcher._target_": "simulator.policies.matching.Paper"}, False),
        ({"flipping._target_": "simulator.policies.flipping.ArrowFlips"}, False),
        ({"changes": "[{at_s: 5}]"}, False),
        ({"services.a.b.autoscaler._target_": "simulator.policies.windows.PerPool"}, False),
        ({"autoscaler.policy._target_": "simulator.policies.windows.PerPool"}, True),
    ],
)
def test_pools_that_never_change(settings: dict[str, Any], static: bool) -> None:
    """Neither an autoscaler nor a matcher, flips or planned changes, of any service."""
    assert _static(settings) is static
