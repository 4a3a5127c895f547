"""An exploration as a job: its folder, and how its answer moves."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from simulator.errors import ConfigError
from simulator.explore.advice import Limits
from simulator.explore.bandwidth import carried
from simulator.explore.exploration import Exploration, Options, explore
from simulator.explore.export import Surroundings
from simulator.explore.match import disaggregated
from simulator.explore.pareto import best_at, pareto
from simulator.explore.sensitivity import NUMBERS, lengths_map, tornado
from simulator.explore.space import Lengths, Platform
from simulator.policies.rate_matching import WithinBudget


@pytest.fixture(scope="module")
def exploration(dense: Platform) -> Exploration:
    """Return a small exploration of Llama-3.1-8B on H100s."""
    return Exploration(
        platforms=(dense, dense),
        lengths=Lengths.constant(2048, 256),
        limits=Limits(ttft_s=1.0, tpot_s=0.02),
        options=Options(worker_gpus=2, max_batch=256),
    )


def test_a_folder_is_complete(exploration: Exploration, tmp_path: Path) -> None:
    """The folder holds the points, fronts, ranking, page and chosen experiment, and a summary."""
    done = explore(exploration)
    groups = {"model": "llama_3_1_8b"}
    done.write(tmp_path, {"config_digest": "abc"}, Surroundings(groups=groups))
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["answer"] == done.advice.answer
    assert summary["config_digest"] == "abc"
    best = done.advice.split
    assert best is not None
    assert summary["goodput_rps"] == best["rate"]
    assert summary["output_tokens_per_s_per_gpu"] == best["throughput"] / best["load"]
    assert summary["tpot_s"] == {"p50": None, "p99": None, "p90": best["tpot_tail_s"]}
    assert summary["disaggregated"]["ttft_limit_s"] == 1.0
    assert summary["colocated"]["gpus"] == done.advice.mixed["gpus"]  # type: ignore[index]
    deployments = pl.read_parquet(tmp_path / "deployments.parquet")
    fronts = pl.read_parquet(tmp_path / "fronts.parquet")
    split = fronts.filter(series="disaggregated")
    assert split["throughput"].to_list() == pareto(deployments)["throughput"].to_list()
    assert not (tmp_path / "report.html").exists()  # nobody asked for one
    for name, pools in (("chosen", "disaggregated"), ("colocated", "colocated")):
        text = (tmp_path / "experiment" / f"{name}.yaml").read_text("utf-8")
        assert f"cluster: {pools}" in text
    assert len(pl.read_csv(tmp_path / "aiconfigurator.csv")) >= 1


def test_no_answer_is_written_too(exploration: Exploration, tmp_path: Path) -> None:
    """Limits nobody meets leave a complete folder that says so, without a chosen experiment."""
    options, limits = exploration.options, Limits(tpot_s=1e-6)
    impossible = Exploration(
        platforms=exploration.platforms,
        lengths=exploration.lengths,
        limits=limits,
        options=options,
    )
    explore(impossible).write(tmp_path, {}, Surroundings())
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["answer"].startswith("Nothing meets")
    assert summary["gain"] is None
    assert not (tmp_path / "experiment").exists()


def test_a_budget_bounds_both_sides(exploration: Exploration) -> None:
    """No deployment has more GPUs than the budget, and any prefill point may serve it."""
    rule = WithinBudget(gpus=8)
    small = Exploration(
        platforms=exploration.platforms,
        lengths=exploration.lengths,
        options=Options(worker_gpus=2, total_gpus=8, max_batch=256, headroom=0.0),
    )
    done = explore(small)
    assert done.deployments["gpus"].max() == 8
    mixed = done.study.mixed
    worker = mixed["mixed_tp"] * mixed["mixed_pp"]
    assert (mixed["mixed_workers"] * worker == mixed["gpus"]).all()
    assert ((mixed["gpus"] <= 8) & (mixed["gpus"] + worker > 8)).all()
    one = done.study.prefill
    single = disaggregated(one, done.study.decode, small.platforms, small.lengths, rule)
    assert (done.deployments["rate"] >= single["rate"]).all()
    assert done.deployments["ttft_s"].mean() < 0.5 * single["ttft_s"][0]  # more than enough before


@pytest.mark.parametrize("total", [3, 5, 7])
def test_idle_gpus_count(exploration: Exploration, total: int) -> None:
    """Within a budget the best have the highest rate, whatever they leave idle of the GPUs."""
    options = Options(worker_gpus=2, total_gpus=total, max_batch=64)
    done = explore(replace(exploration, options=options, limits=Limits()))
    for row in done.advice.ranked.iter_rows(named=True):
        tokens = row["rate"] * exploration.lengths.mean_osl
        assert row["throughput"] == pytest.approx(tokens / row["gpus"])
        assert row["cluster_throughput"] == pytest.approx(tokens / total)
    split, mixed = done.advice.split, done.advice.mixed
    assert split is not None
    assert mixed is not None
    assert split["rate"] == carried(done.deployments)["rate"].max()
    assert done.advice.gain == pytest.approx(split["rate"] / mixed["rate"])
    for row, side in zip((split, mixed), done.advice.sides, strict=True):
        assert f"on {row['gpus']} of {total} GPUs: " in side


def test_one_gpu_is_shared(exploration: Exploration) -> None:
    """Two pools do not fit one GPU: the answer is the co-located worker that does."""
    options = Options(worker_gpus=2, total_gpus=1, max_batch=64)
    done = explore(replace(exploration, options=options, limits=Limits()))
    assert done.advice.split is None
    assert done.advice.mixed is not None
    assert done.advice.mixed["gpus"] == 1
    assert done.advice.sentence.startswith("Stay co-located: no disaggregated deployment")


def test_drafting_is_one_more_choice(exploration: Exploration) -> None:
    """With 0 among the drafts every undrafted deployment is there, and no front is lower."""
    plain = explore(exploration)
    options = replace(exploration.options, draft_tokens=(0, 2))
    drafted = explore(replace(exploration, options=options))
    assert plain.deployments["decode_draft_tokens"].unique().to_list() == [0]
    assert drafted.deployments.filter(decode_draft_tokens=0).equals(plain.deployments)
    for series in ("disaggregated", "co-located"):
        old, new = (each.fronts.filter(series=series) for each in (plain, drafted))
        at = old["interactivity"].to_numpy()
        assert (best_at(new, at) >= old["throughput"].to_numpy()).all()
        assert best_at(new, at).sum() > old["throughput"].sum()
    best = drafted.advice.split
    assert best is not None
    assert best["decode_draft_tokens"] == 2
    assert f"batch {best['decode_batch']}, 2 drafts)" in drafted.text


def test_every_number_is_varied_both_ways(exploration: Exploration) -> None:
    """The tornado has two rows per number, widest first; faster memory never costs throughput."""
    table = tornado(exploration)
    assert sorted(table["number"].unique()) == sorted(NUMBERS)
    assert len(table) == 2 * len(NUMBERS)
    assert table["swing"].is_sorted(descending=True)
    slow, fast = table.filter(number="memory_bandwidth").sort("factor")["throughput"]
    assert fast > slow


def test_the_map_has_every_pair(exploration: Exploration) -> None:
    """Longer prompts want more prefill GPUs per decode GPU; what does not fit has no answer."""
    table = lengths_map(exploration, (512, 2048, 120_000), (256,))
    assert table["isl"].to_list() == [512, 2048, 120_000]
    short, long = table["gpu_ratio"][:2]
    assert long > short
    assert table["gain"][2] is None  # 1 s is too short for 120k tokens on two GPUs


def test_the_maps_lengths_are_the_options(exploration: Exploration) -> None:
    """Where no lengths are given, a map goes over every pair of the options' lengths."""
    options = replace(exploration.options, map=True, map_isl=(1000, 300), map_osl=(64, 32))
    table = lengths_map(replace(exploration, options=options))
    assert table.select("isl", "osl").rows() == [(1000, 64), (1000, 32), (300, 64), (300, 32)]


def test_a_map_of_no_lengths_is_empty(exploration: Exploration) -> None:
    """An empty list is no lengths, not the options'."""
    assert not len(lengths_map(exploration, isl=()))


@pytest.mark.parametrize(
    "values",
    [
        {"aim": "fame"},
        {"ttft_cutoff_s": 0.0},
        {"isl": 0},
        {"osl": 1},
        {"draft_tokens": ()},
        {"draft_tokens": (1, -1)},
        {"draft_tokens": (1, 1)},
        {"map": True, "map_isl": ()},
        {"map": True, "map_isl": (512, 0)},
        {"map": True, "map_osl": (1,)},
        {"map": True, "map_osl": (128, 128)},
        {"map_isl": (1000,)},
    ],
)
def test_options_check_themselves(values: dict[str, object]) -> None:
    """A value out of range is refused by name."""
    with pytest.raises(ConfigError, match=list(values)[-1]):
        Options(**values)  # type: ignore[arg-type]


def test_progress_ends_with_every_layout_and_point(exploration: Exploration) -> None:
    """What is told rises to all the layouts, and to the points the study counts."""
    heard: list[tuple[int, int, int]] = []
    done = explore(exploration, lambda *told: heard.append(told))
    layouts = len(done.study.space.layouts)
    assert [told[0] for told in heard] == list(range(1, 3 * layouts + 1))
    assert {told[1] for told in heard} == {3 * layouts}
    assert heard[-1][2] == done.study.points
    assert [told[2] for told in heard] == sorted(told[2] for told in heard)
