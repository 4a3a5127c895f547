"""The command ``disaggsim``: what a run leaves, and that bad input costs one sentence, not more."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest
import yaml
from command import FAST, TINY, Command

from simulator.__main__ import main
from simulator.cli import folder_name
from simulator.errors import ConfigError
from simulator.policies.routing import LeastTokens
from simulator.runs import claimed

TABLES = ("requests", "timeline", "events", "lives", "decisions")
"""What a run's folder holds as parquet."""

TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{second:02d}.0000000,{100 + second},{second + 2}\n" for second in range(30)
)


def summaries(folder: Path) -> list[Path]:
    """Return every file that would mark a run below ``folder`` as complete."""
    return sorted(folder.rglob("summary.json"))


def test_an_interrupt_of_the_start_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while the packages are imported costs one line and exit code 130."""

    class Interrupted(MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> None:
            if fullname == "simulator.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "simulator.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert main() == 130
    assert capsys.readouterr().err == "disaggsim: interrupted\n"


def test_a_run_leaves_its_folder(disaggsim: Command, tmp_path: Path) -> None:
    """The run folder holds all its files, its summary adds up, and stdout says where it is."""
    done = disaggsim("latency=polynomial", "workload.requests=20", "seed=7")
    assert done.code == 0
    assert done.err == ""
    report = tmp_path / done.out.strip().splitlines()[-1].removeprefix("report: ")
    names = {path.name for path in report.parent.iterdir()}
    parquets = {
        f"{name}.parquet" for name in ("requests", "timeline", "events", "lives", "decisions")
    }
    assert names == {"config.yaml", "summary.json", "report.html", *parquets}
    summary = json.loads((report.parent / "summary.json").read_text(encoding="utf-8"))
    assert summary["requests"]["arrived"] == summary["requests"]["completed"] == 20
    assert summary["seed"] == 7
    assert pl.read_parquet(report.parent / "requests.parquet").height == 20
    config = yaml.safe_load((report.parent / "config.yaml").read_text(encoding="utf-8"))
    assert config["seed"] == 7
    assert config["workload"]["requests"] == 20


def test_the_table_is_on_stdout(disaggsim: Command) -> None:
    """What a run prints names the latencies, the goodput and the cost."""
    out = disaggsim(*TINY).out
    for word in ("TTFT", "TPOT", "goodput", "GPU-hours"):
        assert word in out


def test_same_seed_same_bytes(disaggsim: Command, tmp_path: Path) -> None:
    """Two runs of the same settings write the same requests, byte for byte."""
    for name in ("a", "b"):
        assert disaggsim(*TINY, f"hydra.run.dir={name}").code == 0
    for file in (
        "requests.parquet",
        "timeline.parquet",
        "events.parquet",
        "lives.parquet",
        "config.yaml",
    ):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_two_runs_never_share_a_folder(disaggsim: Command, tmp_path: Path) -> None:
    """Runs started within one second have a folder each."""
    started = time.monotonic()
    runs = 0
    while time.monotonic() - started < 1.0 or runs < 2:
        assert disaggsim(*TINY, "workload.requests=1").code == 0
        runs += 1
    assert len(summaries(tmp_path)) == runs


def test_a_trace_is_replayed(disaggsim: Command, tmp_path: Path) -> None:
    """``workload=trace workload.path=…`` replays the file's requests and accounts for its rows."""
    (tmp_path / "trace.csv").write_text(TRACE, encoding="utf-8")
    assert disaggsim(*FAST, "workload=trace", "workload.path=trace.csv").code == 0
    summary = json.loads(summaries(tmp_path)[0].read_text(encoding="utf-8"))
    assert summary["requests"]["completed"] == 30
    assert summary["accounting"]["rows_read"] == summary["accounting"]["rows_kept"] == 30


def test_colocated_workers_run(disaggsim: Command, tmp_path: Path) -> None:
    """The co-located baseline is one choice away."""
    assert disaggsim(*TINY, "cluster=colocated", "pools.mixed.workers=2").code == 0
    hours = json.loads(summaries(tmp_path)[0].read_text(encoding="utf-8"))["gpu_hours"]
    assert hours["mixed"] == hours["total"] > 0


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_choices(flag: str, disaggsim: Command, tmp_path: Path) -> None:
    """``--help`` names the groups and their choices, the user's too, and is short."""
    (tmp_path / "own" / "router").mkdir(parents=True)
    (tmp_path / "own" / "router" / "mine.yaml").touch()
    ended = disaggsim("seed=1", flag, "--config-dir", "own")
    assert ended.code == 0
    groups = {line.partition(":")[0] for line in ended.out.splitlines() if ":" in line}
    shipped = files("conf")
    for path in shipped.iterdir():
        if path.is_dir() and path.name not in ("hydra", "__pycache__"):
            assert path.name in {group.partition("/")[0] for group in groups}
    routers = {each.name.removesuffix(".yaml") for each in (shipped / "router").iterdir()}
    listed = f"router: {', '.join(sorted({*routers, 'mine'} - {'__pycache__'}))}"
    assert f" {listed} " in " ".join(ended.out.split())
    assert "\npools/decode, pools/mixed, pools/prefill: tensor_parallel\n" in ended.out
    assert "llama_3_1_70b" in ended.out
    assert len(ended.out.splitlines()) < 80
    assert "mine" not in disaggsim("--help").out


def test_the_version_is_ours(disaggsim: Command) -> None:
    """``--version`` tells this program's version, not Hydra's."""
    ended = disaggsim("--version")
    assert (ended.code, ended.out) == (0, f"disaggsim {version('disaggsim')}\n")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_words_cost_no_imports(flag: str) -> None:
    """What is only told is told without the engine, the frames, the figures or Hydra."""
    code = (
        f"import sys; sys.argv[1:] = [{flag!r}]\n"
        "from simulator.__main__ import main\n"
        "assert main() == 0\n"
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("loaded: ")[2].split())
    assert "simulator" in loaded
    assert not loaded & {"hydra", "numpy", "plotly", "polars", "rich", "scipy", "simpy"}


def test_cfg_shows_what_can_be_set(disaggsim: Command) -> None:
    """``--cfg job`` prints the settings as YAML that names every key."""
    shown = yaml.safe_load(disaggsim("--cfg", "job", "seed=3").out)
    assert shown["seed"] == 3
    assert shown["pools"]["prefill"]["layout"]["tp"] == 4


BAD = {
    "an unknown setting": (["typo=3"], "typo"),
    "an unknown setting, added": (["+typo=3"], "typo"),
    "an unknown setting of a pool": (["pools.prefill.wrkers=3"], "did you mean workers?"),
    "an unknown setting of a pool, added": (["+pools.prefill.wrkers=3"], "pools.prefill.wrkers"),
    "an unknown pool": (["+pools.vision.workers=3"], "known: decode, mixed, prefill"),
    "an unknown group": (["clster=colocated"], "did you mean cluster?"),
    "an unknown choice": (["router=fastest"], "no such choice; known: "),
    "an unknown model": (["model=llama_3_1_70c"], "did you mean llama_3_1_70b?"),
    "an unknown launcher": (["hydra/launcher=fog"], "basic"),
    "a setting of a group that has none": (["classes.gold.share=1"], "+classes.gold=… adds it"),
    "a folder of choices": (["experiment=policys"], "did you mean policies/…?"),
    "settings for a choice": (["pools=mixed"], "pools is no choice but settings; set pools.decode"),
    "a choice that is a number": (["workload=3"], "bursty"),
    "two choices": (["router=[random,nope]"], "router/nope"),
    "text for a number": (["pools.prefill.workers=many"], "pools.prefill.workers"),
    "a broken number": (["pools.prefill.workers=2.5"], "pools.prefill.workers"),
    "no workers": (["pools.prefill.workers=0"], "workers must be at least 1 but got 0"),
    "a billion workers": (["pools.prefill.workers=1000000000"], "workers must be at most 4096"),
    "a million ranks": (["pools.decode.layout.attention_dp=1000000"], "attention_dp must be at"),
    "a rate of nothing": (["workload.arrivals.rate=1e-300"], "rate must lie in 1e-09..1e+09"),
    "a rate of everything": (["workload.arrivals.rate=1e300"], "rate must lie in 1e-09..1e+09"),
    "more requests than fit": (["workload.requests=1000000000000000000"], "requests must be at"),
    "more clients than fit": (
        ["workload=closed_loop", "workload.concurrency=100000000000"],
        "concurrency must be at most 10000000",
    ),
    "a negative seed": (["seed=-1"], "seed must be at least 0 but got -1"),
    "a stop in the past": (["until_s=-5"], "until_s"),
    "an interval of nothing": (["sample_interval_s=0"], "sample_interval_s"),
    "a target that is text": (["slo.ttft_s=fast"], "slo.ttft_s must be a number"),
    "an unknown mode": (["transfer.mode=teleport"], "push_layerwise"),
    "a pool without its partner": (["pools.decode=null"], "decode pool"),
    "heads that do not divide": (["pools.prefill.layout.tp=7"], "tp 7"),
    "a model that does not fit": (["pools.prefill.layout.tp=1"], "does not fit"),
    "a fabric of other GPUs": (["fabric=nvl72"], "nvl72"),
    "a change that is no list": (["changes={at_s: 5}"], "changes must be a list but got {at_s"),
    "a change that is a number": (["changes=[5]"], "changes[0] must be a group of settings (at_s"),
    "a list for a group": (["control.observing=[1]"], "control.observing must be a group of"),
    "a controller that never looks": (
        ["control.observing.scrape_s=0"],
        "disaggsim: control.observing: scrape_s must be",
    ),
    "a schedule of nothing": (["autoscaler=schedule"], "autoscaler.steps: a schedule without"),
    "clients without patience": (["clients.timeout_s=0"], "clients: timeout_s must be above 0 s"),
    "no requests": (["workload.requests=0"], "requests"),
    "a negative rate": (["workload.arrivals.rate=-2"], "rate"),
    "a trace without a path": (["workload=trace"], "workload.path must be given"),
    "a trace that is absent": (["workload=trace", "workload.path=absent.csv"], "absent.csv"),
    "a trace that is a folder": (["workload=trace", "workload.path=."], "directory"),
    "a trace that is empty": (["workload=trace", "workload.path=empty.csv"], "empty.csv"),
    "a trace that is noise": (["workload=trace", "workload.path=noise.csv"], "noise.csv"),
    "a trace cut off": (["workload=trace", "workload.path=cut.csv.gz"], "cut.csv.gz"),
    "a trace of other columns": (["workload=trace", "workload.path=other.csv"], "other.csv"),
    "a trace with negative tokens": (["workload=trace", "workload.path=minus.csv"], "minus.csv"),
    "a config.json that is absent": (["model.config_json=absent.json"], "absent.json"),
    "a config.json that is noise": (["model.config_json=noise.csv"], "noise.csv"),
    "a config.json and a shape": (["model.config_json=a", "model.layers=3"], "model.layers"),
    "a class that is absent": (["latency._target_=nowhere.Model"], "nowhere.Model"),
    "a class that is no class": (["latency._target_=math.pi"], "math.pi"),
    "a class of another kind": (["router._target_=simulator.results.SLO"], "router"),
    "a setting one level too high": (["rate=5"], "workload.arrivals.rate?"),
    "a setting one level too low": (["workload.seed=5"], "did you mean seed?"),
    "an added one too high": (["+workload.rate=5"], "did you mean workload.arrivals.rate?"),
    "an added one too low": (["+workload.seed=5"], "did you mean seed?"),
    "a setting of another choice": (["workload.path=a.csv"], "workload=trace has it"),
    "one below another choice": (["workload.rate_scale=2"], "workload=trace has workload.replay."),
    "a trace whose unit is in doubt": (
        ["workload=trace", "workload.path=seconds.jsonl"],
        "seconds.jsonl: row 2, timestamp is 2.5, but the format counts whole milliseconds",
    ),
    "values without -m": (["seed=1,2"], "-m"),
    "a broken override": (["seed=[1"], "seed=[1"),
    "a value to be quoted": (["workload.path=a=b"], "quote"),
    "a bare word": (["fast"], "fast"),
    "a reference to nothing": (["seed=${nothing}"], "nothing"),
    "an unknown flag": (["--fast"], "--fast"),
    "two commands": (["-m", "--cfg", "job"], "--multirun"),
    "a pickle": (["--experimental-rerun", "x"], "pickle"),
    "a folder of settings that is absent": (["--config-dir", "absent"], "absent"),
    "an unknown main file": (["--config-name", "absent"], "absent"),
    "a run folder that is a file": (["hydra.run.dir=noise.csv"], "noise.csv"),
}


def test_what_is_not_served_is_told(disaggsim: Command, tmp_path: Path) -> None:
    """Dropped and rejected requests are on the terminal, warned of, and in summary and report."""
    rows = [(0, 900, 40), (1000, 30_000, 9), (2000, 50, 0), (3000, 200_000, 4)]
    names = ("timestamp", "input_length", "output_length")
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"[b]user": "x"}) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = disaggsim(
        *("workload=trace", "workload.path=t.jsonl", "workload.max_context=100000"),
        *("model=llama_3_1_8b", "model.max_context=8192"),
    )
    assert done.code == 0
    lost, told = 200_004 + 50 + 30_009, sum(i + o for _, i, o in rows)
    share = f"{lost / told:.1%} of the tokens and 75.0% of the requests were not served"
    (line,) = done.err.splitlines()
    assert line.startswith(f"disaggsim: warning: {share}")
    assert "for example model.max_context=32768" in line
    assert "workload.zero_output=keep_prefill_only" in line
    text = " ".join(done.out.split())
    assert "rejected 1 × exceeds_context dropped 1 × zero_output, 1 × over_context" in text
    assert "not read [b]user (4)" in text
    (path,) = summaries(tmp_path)
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert sum(summary["dropped"]["tokens"].values()) == lost
    assert summary["dropped"]["token_share"] == pytest.approx(lost / told)
    assert summary["warnings"] == [line.removeprefix("disaggsim: warning: ")]
    page = (path.parent / "report.html").read_text(encoding="utf-8")
    assert "of the tokens and 75.0% of the requests were not served" in page


def test_a_run_replays_as_a_trace(disaggsim: Command, tmp_path: Path) -> None:
    """A run's own requests give the same run again, and know how they fared the first time."""
    base = ("latency=polynomial", "report=none")
    assert disaggsim(*base, "workload.requests=30", "hydra.run.dir=first").code == 0
    again = ("workload=trace", "workload.path=first/requests.parquet", "hydra.run.dir=second")
    assert disaggsim(*base, *again).code == 0
    first, second = (
        pl.read_parquet(tmp_path / run / "requests.parquet") for run in ("first", "second")
    )
    assert second.select(first.columns).equals(first)
    assert second["source_row"].to_list() == list(range(30))
    assert (second["src_e2e_s"] == first["e2e_s"].cast(pl.Float32)).all()


def test_a_run_with_caches_replays_as_a_trace(disaggsim: Command, tmp_path: Path) -> None:
    """What prompts have in common is kept with a run's requests: caches find it again."""
    base = ("latency=polynomial", "report=none")
    first = ("workload=documents", "workload.requests=60", "hydra.run.dir=first")
    assert disaggsim(*base, *first).code == 0
    again = ("workload=trace", "workload.path=first/requests.parquet", "hydra.run.dir=second")
    assert disaggsim(*base, *again).code == 0
    before, after = (
        pl.read_parquet(tmp_path / run / "requests.parquet") for run in ("first", "second")
    )
    assert before["cached_tokens"].sum() > 0
    assert after.select(before.columns).equals(before)


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_in_one_sentence(kind: str, disaggsim: Command, tmp_path: Path) -> None:
    """Exit code 2, one line on stderr that names the culprit, nothing on stdout, no folder left."""
    write_bad_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, culprit = BAD[kind]
    ended = disaggsim(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    assert culprit in ended.err
    assert sorted(tmp_path.rglob("*")) == before


def write_bad_files(folder: Path) -> None:
    """Write the broken inputs the table above names."""
    (folder / "empty.csv").touch()
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 8)
    packed = gzip.compress(TRACE.encode() * 50)
    (folder / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    rows = ({"timestamp": t, "input_length": 9, "output_length": 3} for t in (0, 2.5, 7.25))
    (folder / "seconds.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "other.csv").write_text("colour,size\nred,3\n", encoding="utf-8")
    negative = TRACE.splitlines()[0] + "\n2023-11-16 18:17:03.0000000,-5,7\n"
    (folder / "minus.csv").write_text(negative, encoding="utf-8")


def test_a_failing_run_never_looks_complete(disaggsim: Command, tmp_path: Path) -> None:
    """A run that fails over an old one's folder takes the mark of completeness away."""
    assert disaggsim(*TINY, "hydra.run.dir=here").code == 0
    assert summaries(tmp_path)
    assert disaggsim(*TINY, "hydra.run.dir=here", "seed=-1").code == 2
    assert not summaries(tmp_path)


def test_flags_may_stand_anywhere(disaggsim: Command, tmp_path: Path) -> None:
    """``a=1 -m b=2`` is the sweep it looks like."""
    assert disaggsim("seed=1,2", "-m", *TINY).code == 0
    assert len(summaries(tmp_path)) == 2


def test_a_shadowed_file_is_warned_of(disaggsim: Command, tmp_path: Path) -> None:
    """A user's file with a shipped name is not used, and is not silently dropped either."""
    own = tmp_path / "own"
    (own / "slo").mkdir(parents=True)
    (own / "slo" / "interactive.yaml").write_text("ttft_s: 9.0\n", encoding="utf-8")
    (own / "slo" / "mine.yaml").write_text("ttft_s: 9.0\n", encoding="utf-8")
    (own / "config.yaml").write_text("seed: 3\n", encoding="utf-8")
    done = disaggsim("--config-dir", "own", *TINY, "slo=mine")
    assert done.code == 0
    assert "interactive.yaml" in done.err
    assert "config.yaml" in done.err
    assert "mine.yaml" not in done.err
    summary = json.loads(summaries(tmp_path)[0].read_text(encoding="utf-8"))
    assert summary["slo"]["ttft_s"] == 9.0


def test_a_users_class_is_a_choice(
    disaggsim: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router outside the package is used by its dotted name, its own settings checked."""
    (tmp_path / "mine.py").write_text(
        "class Always:\n"
        "    def __init__(self, worker: int) -> None:\n"
        "        self.worker = worker\n"
        "    def choose(self, request, pool):\n"
        "        return self.worker\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own" / "router").mkdir(parents=True)
    text = "_target_: mine.Always\nworker: 1\n"
    (tmp_path / "own" / "router" / "always.yaml").write_text(text, encoding="utf-8")
    chosen = ("--config-dir", "own", *TINY, "router=always")
    assert disaggsim(*chosen).code == 0
    requests = pl.read_parquet(summaries(tmp_path)[0].with_name("requests.parquet"))
    assert requests["prefill_worker"].unique().to_list() == [1]
    assert "router.worker" in disaggsim(*chosen, "router.worker=first").err


def test_a_bug_shows_its_traceback(
    disaggsim: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not the user's fault exits with 1 and hides nothing."""

    def broken(*_: object) -> int:
        raise KeyError("ours")

    monkeypatch.setattr(LeastTokens, "choose", broken)
    ended = disaggsim(*TINY)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "KeyError: 'ours'" in ended.err
    assert not summaries(tmp_path)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    """A second claim on a folder is refused while the first is held, and granted after."""
    with claimed(tmp_path), pytest.raises(ConfigError, match="another run"), claimed(tmp_path):
        pass
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [("here", ["hydra.run.dir=here"]), ("sweep/one", ["-m", "hydra.sweep.subdir=one"])],
)
def test_a_refused_run_leaves_the_other_alone(
    folder: str, arguments: list[str], disaggsim: Command, tmp_path: Path
) -> None:
    """A run that finds its folder held by another touches nothing in it, alone or in a sweep."""
    own = [*arguments, "hydra.sweep.dir=sweep", *TINY]
    assert disaggsim(*own).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / folder).iterdir()}
    with claimed(tmp_path / folder):
        refused = disaggsim(*own)
    assert refused.code == 2
    assert "another run" in refused.err
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / folder).iterdir()}
    assert after == before


@pytest.mark.parametrize(
    ("overrides", "name"),
    [("seed=1", "seed=1"), ("a=1,b.c=x", "a=1,b.c=x"), ("", "default")],
)
def test_plain_overrides_name_their_folder(overrides: str, name: str) -> None:
    """Where the overrides are a good folder name, they are it."""
    assert folder_name(overrides) == name


def test_strange_overrides_stay_in_their_folder() -> None:
    """Paths and long lists give names that are safe, short and different."""
    strange = ["workload.path=../../a.csv", "workload.path=.././a.csv", "x" * 500, "x" * 501, ".."]
    names = [folder_name(each) for each in strange]
    assert len(set(names)) == len(names)
    for name in names:
        assert "/" not in name
        assert len(name) < 140
        assert not name.startswith(".")


def test_interrupted(command_path: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a run: exit code 130, one sentence, no folder that looks complete."""
    long = ["workload.requests=1000000", "workload.arrivals.rate=1.0", "report=none"]
    process = subprocess.Popen(
        [command_path, *long],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
    )
    while process.poll() is None and not list(tmp_path.rglob("outputs/*/*")):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err == "disaggsim: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command(command_path: Path, tmp_path: Path) -> None:
    """The console script runs, keeps talk and result apart, and fails with code 2."""
    done = subprocess.run(
        [command_path, *TINY], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "TTFT" in done.stdout
    bad = subprocess.run(
        [command_path, "seed=-1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr == "disaggsim: seed must be at least 0 but got -1\n"


def test_a_reader_that_stops_early_costs_nothing(command_path: Path, tmp_path: Path) -> None:
    """``disaggsim | true`` still leaves a complete run and no complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [command_path, *TINY],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(summaries(tmp_path)) == 1
