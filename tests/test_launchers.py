"""Sweeps: every launcher runs them, a failing job loses no other, a rerun does only the rest."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import TINY

PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
}

OPTIONS = {
    "basic": (),
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit_local": ("hydra.launcher.timeout_min=10",),
    "ray": (
        "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.object_store_memory=100000000",
        "+hydra.launcher.ray.init.include_dashboard=false",
    ),
}
"""Every launcher that runs on one machine; a Slurm cluster, or several Ray nodes, are not tried."""

ALONE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
LOOPBACK = ("bash", "-c", 'ip link set lo up && exec "$@"', "bash")
"""A Ray head listens on every interface there is: it is started where there is none but loopback,
and ends with that place."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's folder and how its command ended."""

    folder: Path
    code: int
    out: str
    err: str

    def job(self, seed: int) -> Path:
        """Return the folder of the job of one seed."""
        (found,) = (each for each in self.folder.glob("multirun/*") if f"seed={seed}," in each.name)
        return found


def sweep(command: Path, folder: Path, launcher: str, seeds: str) -> Sweep:
    """Run a tiny simulation per seed in ``folder`` with a launcher."""
    plugin = PLUGINS.get(launcher)
    if plugin is not None and find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    arguments = [f"hydra/launcher={launcher}", *OPTIONS[launcher], f"seed={seeds}", *TINY]
    with rays_home() as environment:
        ended = subprocess.run(
            [*(alone() if launcher == "ray" else ()), command, "-m", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    return Sweep(folder=folder, code=ended.returncode, out=ended.stdout, err=ended.stderr)


def alone() -> tuple[str, ...]:
    """Return the start of a command that sees no network but loopback."""
    start = (*ALONE, *LOOPBACK)
    tried = subprocess.run([*start, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"network namespaces are not allowed here: {tried.stderr.strip()}")
    return start


@contextmanager
def rays_home() -> Iterator[dict[str, str]]:
    """Yield an environment whose home is a folder with a short name: Ray's sockets lie below."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        places = dict.fromkeys(("HOME", "RAY_TMPDIR"), folder)
        yield {**os.environ, **places, "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def swept(command_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sweep]:
    """Return a function that sweeps three seeds with a launcher, once; the middle one fails."""

    @cache
    def first(launcher: str) -> Sweep:
        return sweep(command_path, tmp_path_factory.mktemp(launcher), launcher, "0,-1,2")

    return first


@pytest.mark.parametrize("launcher", OPTIONS)
def test_a_failing_job_loses_no_other(launcher: str, swept: Callable[[str], Sweep]) -> None:
    """The job in the middle fails in one sentence; those around it finish and are tabled."""
    ended = swept(launcher)
    assert ended.code == 2
    sentences = [line for line in ended.err.splitlines() if "must be at least" in line]
    assert sentences == ["disaggsim: seed=-1: seed must be at least 0 but got -1"]
    assert "Traceback" not in ended.err
    complete = [(ended.job(seed) / "summary.json").exists() for seed in (0, -1, 2)]
    assert complete == [True, False, True]
    table, _, comparison = ended.out.partition("\n\n")
    assert [row.split()[0] for row in table.splitlines()[1:]] == ["seed=0", "seed=2"]
    assert comparison.endswith("comparison: multirun/compare.html\n")


@pytest.mark.parametrize("launcher", OPTIONS)
def test_a_rerun_does_only_the_rest(
    launcher: str, swept: Callable[[str], Sweep], command_path: Path
) -> None:
    """The same sweep again skips what is done, says so, and does what is not."""
    first = swept(launcher)
    before = (first.job(2) / "summary.json").stat().st_mtime_ns
    again = sweep(command_path, first.folder, launcher, "2,3")
    assert again.code == 0
    assert (again.job(2) / "summary.json").stat().st_mtime_ns == before
    _, done, fresh, *_ = again.out.splitlines()
    assert done.endswith("(already done)")
    assert not fresh.endswith("(already done)")


@pytest.mark.parametrize("launcher", [name for name in OPTIONS if name != "basic"])
def test_launchers_agree(launcher: str, swept: Callable[[str], Sweep]) -> None:
    """A job's requests are the same bytes whichever launcher ran it."""
    files = [swept(each).job(0) / "requests.parquet" for each in ("basic", launcher)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_settings_are_not_skipped(command_path: Path, tmp_path: Path) -> None:
    """A folder finished under other settings, or over another input file, is done afresh."""
    trace = tmp_path / "trace.csv"
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    arguments = ["-m", "latency=polynomial", "report=none", "workload=trace"]

    def replay(tokens: int) -> str:
        trace.write_text(f"{head}2023-11-16 18:17:03.0000000,{tokens},7\n", encoding="utf-8")
        return subprocess.run(
            [command_path, *arguments, "workload.path=trace.csv"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "already done" not in replay(100)
    assert "already done" in replay(100)
    assert "already done" not in replay(200)
