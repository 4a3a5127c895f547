"""``task=explore`` on the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from command import Command

from simulator.cli import points_bar

CALIBRATION = Path(__file__).parents[3] / "conf" / "calibration"
FEW = ("model=llama_3_1_8b", "explore.worker_gpus=2", "explore.max_batch=128", "slo=relaxed")
SMALL = (*FEW, "explore.confirm=0")


def the_run(root: Path) -> Path:
    """Return the only complete run folder under ``root``."""
    (summary,) = root.rglob("summary.json")
    return summary.parent


def test_it_answers_and_writes_a_folder(disaggsim: Command, tmp_path: Path) -> None:
    """The answer goes to stdout, and the folder's configuration is the whole of it."""
    done = disaggsim("task=explore", *SMALL)
    assert done.code == 0, done.err
    folder = the_run(tmp_path)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert done.out.startswith(summary["answer"])
    assert "task: explore" in (folder / "config.yaml").read_text("utf-8")
    assert len(pl.read_parquet(folder / "deployments.parquet"))


def test_what_it_chose_can_be_simulated_at_once(disaggsim: Command, tmp_path: Path) -> None:
    """The exported experiment runs with ``--config-dir`` and keeps up with its own rate."""
    assert disaggsim("task=explore", *SMALL, "explore.isl=512", "explore.osl=64").code == 0
    folder = the_run(tmp_path)
    promised = json.loads((folder / "summary.json").read_text("utf-8"))
    done = disaggsim("--config-dir", str(folder), "experiment=chosen", "report=none")
    assert done.code == 0, done.err
    (other,) = (each for each in tmp_path.rglob("summary.json") if each.parent != folder)
    summary = json.loads(other.read_text("utf-8"))
    assert summary["tpot_s"]["p90"] <= promised["tpot_s"]["p90"] * (1 + 1e-9)


def test_what_it_chose_runs_from_any_folder(
    disaggsim: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files given by relative paths are found from elsewhere; our config.yaml warns of nothing."""
    shutil.copytree(CALIBRATION, tmp_path / "mine")
    shape = {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_hidden_layers": 8,
        "vocab_size": 32000,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 4096,
        "max_position_embeddings": 4096,
    }
    (tmp_path / "own.json").write_text(json.dumps(shape), encoding="utf-8")
    files = ("model.config_json=own.json", "latency.calibration=mine")
    small = (
        "explore.worker_gpus=2",
        "explore.max_batch=64",
        "explore.isl=512",
        "explore.osl=64",
        "explore.confirm=0",
    )
    assert disaggsim("task=explore", "slo=relaxed", *files, *small).code == 0
    folder = the_run(tmp_path)
    chosen = yaml.safe_load((folder / "experiment" / "chosen.yaml").read_text("utf-8"))
    assert chosen["model"] == {"config_json": str(tmp_path / "own.json")}
    assert chosen["latency"]["calibration"] == str(tmp_path / "mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    few = ("report=none", "workload.requests=20")
    done = disaggsim("--config-dir", str(folder), "experiment=chosen", *few)
    assert done.code == 0, done.err
    assert "warning" not in done.err


def test_drafts_are_explored_exported_and_confirmed(disaggsim: Command, tmp_path: Path) -> None:
    """The chosen number of drafts is in the tables, the words and the exported experiment."""
    lengths = ("explore.isl=512", "explore.osl=256", "latency.speculative.acceptance=0.9")
    more = ("explore.draft_tokens=[0,3]", "explore.total_gpus=3", "slo.ttft_s=8.0")
    done = disaggsim("task=explore", *FEW, *lengths, *more)
    assert done.code == 0, done.err
    assert "3 drafts" in done.out
    folder = the_run(tmp_path)
    deployments = pl.read_parquet(folder / "deployments.parquet")
    assert sorted(deployments["decode_draft_tokens"].unique()) == [0, 3]
    ranked = pl.read_parquet(folder / "ranked.parquet")
    assert {"decode_draft_tokens", "mixed_draft_tokens"} <= set(ranked.columns)
    promised = json.loads((folder / "summary.json").read_text("utf-8"))
    done = disaggsim("--config-dir", str(folder), "experiment=chosen", "report=none")
    assert done.code == 0, done.err
    (other,) = (each for each in tmp_path.rglob("summary.json") if each.parent != folder)
    summary = json.loads(other.read_text("utf-8"))
    assert summary["tpot_s"]["p90"] == promised["tpot_s"]["p90"]
    settings = yaml.safe_load((other.parent / "config.yaml").read_text("utf-8"))
    assert settings["latency"]["speculative"]["draft_tokens"] == 3
    assert settings["latency"]["speculative"]["acceptance"] == 0.9
    assert settings["slo"]["ttft_s"] == 8.0
    assert promised["disaggregated"]["pools"]["decode"]["draft_tokens"] == 3


def test_the_best_are_confirmed_by_simulation(disaggsim: Command, tmp_path: Path) -> None:
    """Both kinds are tried under Poisson arrivals, and hold the SLO at what they promise."""
    lengths = ("explore.isl=512", "explore.osl=64", "explore.total_gpus=3")
    done = disaggsim("task=explore", *FEW, *lengths)
    assert done.code == 0, done.err
    folder = the_run(tmp_path)
    table = pl.read_parquet(folder / "confirmed.parquet")
    assert set(table["kind"]) == {"disaggregated", "co-located"}
    assert set(table["arrivals"]) == {"poisson"}
    assert (table.filter(load=1.0)["attainment"] >= 0.9).all()
    assert "Simulated, co-located, Poisson arrivals: " in done.out
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    for kind in ("disaggregated", "colocated"):
        side = summary[kind]
        assert side["slo_attainment"] >= 0.9
        assert side["ttft_s"] <= side["ttft_limit_s"] == 4.0
        assert side["tpot_s"] <= side["tpot_limit_s"] == 0.1
        assert side["gpus"] <= side["total_gpus"] == 3
        assert f"{side['workers']} on {side['gpus']} of 3 GPUs" in summary["answer"]


def test_the_exported_experiment_is_the_run_that_is_told(
    disaggsim: Command, tmp_path: Path
) -> None:
    """Simulated, it replays the workload at the promised rate and gives what the answer names."""
    rng = np.random.default_rng(3)
    rows = [
        json.dumps({"timestamp": int(1000 * t), "input_length": int(i), "output_length": int(o)})
        for t, i, o in zip(
            np.cumsum(rng.exponential(0.1, 400)),
            np.exp(rng.normal(6.0, 1.0, 400)) + 1,
            np.exp(rng.normal(4.0, 0.8, 400)) + 1,
            strict=True,
        )
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    trace = ("workload=trace", f"workload.path={path}", "seed=5", "explore.total_gpus=3")
    done = disaggsim("task=explore", *FEW, *trace)
    assert done.code == 0, done.err
    folder = the_run(tmp_path)
    told = json.loads((folder / "summary.json").read_text("utf-8"))
    table = pl.read_parquet(folder / "confirmed.parquet")
    assert set(table["arrivals"]) == {"poisson", "own"}
    done = disaggsim("--config-dir", str(folder), "experiment=chosen", "report=none")
    assert done.code == 0, done.err
    (other,) = (each for each in tmp_path.rglob("summary.json") if each.parent != folder)
    run = json.loads(other.read_text("utf-8"))
    assert run["output_tokens_per_s_per_gpu"] == told["experiment"]["throughput"]
    assert run["duration_s"] == told["experiment"]["duration_s"]
    assert run["requests"]["arrived"] == told["experiment"]["requests"] == 400
    trace_s = 399 / told["goodput_rps"]
    assert run["duration_s"] > trace_s
    assert told["experiment"]["arriving_s"] == pytest.approx(trace_s, rel=0.01)


def test_sweeps_work(disaggsim: Command) -> None:
    """A sweep of explorations ends in a table of their choices."""
    done = disaggsim("-m", "task=explore", *SMALL, "explore=balanced,aiconfigurator")
    assert done.code == 0, done.err
    assert "explore=aiconfigurator" in done.out


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("task=dream", "task must be one of simulate, explore"),
        ("explore.aim=fame", "aim must be one of"),
        ("explore.isl=200000", "max_context"),
        ("explore.sample=0", "sample must be at least 1 request but got 0"),
        ("explore.attainment=1.0", "attainment must lie between 0 and 1 but got 1.0"),
        ("slo.ttft_s=1e-6", "no prefill point has a TTFT below 1e-06 s"),
        ("explore.typo=1", "explore.typo"),
        ("explore.gpus=32", "give worker_gpus alone, not gpus 32 beside it"),
        ("explore=budget", "explore.total_gpus=N is the budget of the whole deployment"),
        ("explore.rate_matching.gpus=32", "explore.total_gpus is the budget"),
        ("explore.min_tp=3 explore.max_tp=2", "min_tp 3 must be at most max_tp 2"),
        ("explore.tp=[]", "explore: tp must list at least one degree but got none"),
        ("explore.max_pp=one", "explore.max_pp must be"),
        ("explore.min_tp=16", "no layout of Llama-3.1-8B divides at most 2 GPUs with tp ≥ 16"),
        ("explore.total_gpus=0", "total_gpus must be a whole number ≥ 1 or null but got 0"),
        ("explore.draft_tokens=[0,-1]", "draft_tokens must be whole numbers ≥ 0 drafts but got -1"),
        ("explore.draft_tokens=[]", "draft_tokens must list at least one number of drafts"),
        ("explore.draft_tokens=[0,1.5]", "explore.draft_tokens[1] must be a whole number"),
        ("explore.map_isl=[]", "explore: map_isl must list at least one number of tokens"),
        ("explore.map_osl=[1,2]", "map_osl must be whole numbers ≥ 2 tokens but got 1"),
        ("explore.map_osl=[64,many]", "explore.map_osl[1] must be a whole number but got 'many'"),
        ("explore.map_isl=[64]", "map_isl and map_osl have no effect without map=true"),
        ("explore.draft_tokens=2", "explore.draft_tokens must be a list but got 2"),
        ("explore.draft_tokens=[1,1]", "draft_tokens must list each number once"),
        ("explore.draft_tokens=[65]", "draft_tokens must lie in 0 to 64 but got 65"),
    ],
)
def test_what_cannot_be_explored_is_one_sentence(
    disaggsim: Command, override: str, told: str
) -> None:
    """Exit code 2 and one line on stderr that names the problem."""
    done = disaggsim("task=explore", *SMALL, *override.split())
    assert done.code == 2
    assert told in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_degrees_can_be_limited(disaggsim: Command, tmp_path: Path) -> None:
    """Without pipelines and with a list of degrees, no pool has any other."""
    limits = ("explore.max_pp=1", "explore.tp=[2]", "explore.isl=512", "explore.osl=64")
    done = disaggsim("task=explore", *SMALL, *limits)
    assert done.code == 0, done.err
    ranked = pl.read_parquet(the_run(tmp_path) / "ranked.parquet")
    for pool in ("prefill", "decode", "mixed"):
        assert set(ranked[f"{pool}_tp"].drop_nulls()) == {2}
        assert set(ranked[f"{pool}_pp"].drop_nulls()) == {1}


def test_the_former_name_of_a_workers_gpus_is_answered(disaggsim: Command, tmp_path: Path) -> None:
    """``explore.gpus`` bounds one worker as before; a sentence names today's settings."""
    few = ("explore.max_batch=64", "explore.isl=512", "explore.osl=64", "slo=relaxed")
    more = ("explore.gpus=1", "explore.confirm=0")
    done = disaggsim("task=explore", "model=llama_3_1_8b", *few, *more)
    assert done.code == 0, done.err
    assert "taken as explore.worker_gpus, the GPUs of one worker" in done.err
    assert "the whole deployment are explore.total_gpus" in done.err
    assert len(done.err.strip().splitlines()) == 1
    deployments = pl.read_parquet(the_run(tmp_path) / "deployments.parquet")
    assert (deployments["prefill_tp"] * deployments["prefill_pp"]).max() == 1


def test_a_table_of_latencies_cannot_be_explored(disaggsim: Command) -> None:
    """Only the roofline costs arrays of points; other latency models are refused by name."""
    done = disaggsim("task=explore", *SMALL, "latency=polynomial")
    assert done.code == 2
    assert "latency=roofline" in done.err


def test_a_bar_is_only_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere there is nothing to tell the progress to; on a terminal it is drawn on stderr."""
    with points_bar("layouts") as progress:
        assert progress is None
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    with points_bar("layouts", enabled=False) as progress:
        assert progress is None
    with points_bar("layouts") as progress:
        assert progress is not None
        progress(1, 2, 345)


def test_a_workload_is_sampled_and_said(disaggsim: Command, tmp_path: Path) -> None:
    """Without lengths of one's own, so many of the workload's requests are explored."""
    few = ("explore.sample=50", "workload.requests=200")
    for seed in (1, 1, 2):
        assert disaggsim("task=explore", *SMALL, *few, f"seed={seed}").code == 0
    said = sorted(
        json.loads(each.read_text("utf-8"))["traffic"] for each in tmp_path.rglob("summary.json")
    )
    assert all(each.startswith("Lengths of 50 of the 200 requests of bursty") for each in said)
    assert len(set(said)) == 2


def test_requests_beyond_the_context_are_left_out_and_counted(
    disaggsim: Command, tmp_path: Path
) -> None:
    """A prompt longer than the model's context is not explored; where all are, it is refused."""
    rows = [
        f'{{"timestamp": {t}, "input_length": {n}, "output_length": 9}}'
        for t, n in ((0, 200), (5, 140_000), (9, 300))
    ]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    done = disaggsim("task=explore", *SMALL, "workload=trace", f"workload.path={path}")
    assert done.code == 0, done.err
    assert "Lengths of 2 of the 3 requests of long.jsonl, without 1 that exceed" in done.out
    assert f"Warning: {140_009 / 140_527:.1%} of the tokens" in done.out
    path.write_text(rows[1], encoding="utf-8")
    done = disaggsim("task=explore", *SMALL, "workload=trace", f"workload.path={path}")
    assert done.code == 2
    assert "has more tokens than the max_context 131072" in done.err


def test_one_length_may_be_given(disaggsim: Command, tmp_path: Path) -> None:
    """explore.isl is every prompt's length; answers are then the workload's."""
    assert disaggsim("task=explore", *SMALL, "explore.isl=100", "workload.requests=200").code == 0
    summary = json.loads((the_run(tmp_path) / "summary.json").read_text("utf-8"))
    assert ": 100 prompt and " in summary["traffic"]
