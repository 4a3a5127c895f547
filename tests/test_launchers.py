"""Sweeps: every launcher runs them, a failing job loses no other, and a rerun does only the rest."""

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import TINY

PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}

OPTIONS = {
    "basic": (),
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit_local": ("hydra.launcher.timeout_min=2",),
}
"""Every launcher that runs on one machine. Slurm and Ray need a cluster and are not tried here."""


def sweep(
    command: Path, folder: Path, launcher: str, seeds: str
) -> subprocess.CompletedProcess[str]:
    """Run a tiny simulation per seed in ``folder`` with a launcher."""
    plugin = PLUGINS.get(launcher)
    if plugin is not None and find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    arguments = [f"hydra/launcher={launcher}", *OPTIONS[launcher], f"seed={seeds}", *TINY]
    return subprocess.run(
        [command, "-m", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def job(folder: Path, seed: int) -> Path:
    """Return the folder of one job of a sweep."""
    (found,) = (path for path in folder.glob("multirun/*") if f"seed={seed}," in path.name)
    return found


@pytest.mark.parametrize("launcher", OPTIONS)
def test_a_failing_job_loses_no_other(launcher: str, command_path: Path, tmp_path: Path) -> None:
    """The job in the middle fails in one sentence; those around it finish and are tabled."""
    ended = sweep(command_path, tmp_path, launcher, "0,-1,2")
    assert ended.returncode == 2
    sentences = [line for line in ended.stderr.splitlines() if "must be at least" in line]
    assert sentences == ["disaggsim: seed=-1: seed must be at least 0 but got -1"]
    assert "Traceback" not in ended.stderr
    assert [(job(tmp_path, seed) / "summary.json").exists() for seed in (0, -1, 2)] == [
        True,
        False,
        True,
    ]
    rows = ended.stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["seed=0", "seed=2"]


@pytest.mark.parametrize("launcher", OPTIONS)
def test_a_rerun_does_only_the_rest(launcher: str, command_path: Path, tmp_path: Path) -> None:
    """The same sweep again skips what is done, says so, and does what is not."""
    assert sweep(command_path, tmp_path, launcher, "0").returncode == 0
    summary = job(tmp_path, 0) / "summary.json"
    before = summary.read_bytes()
    again = sweep(command_path, tmp_path, launcher, "0,1")
    assert again.returncode == 0
    assert summary.read_bytes() == before
    done, fresh = again.stdout.splitlines()[1:]
    assert done.endswith("(already done)")
    assert not fresh.endswith("(already done)")


def test_launchers_agree(command_path: Path, tmp_path: Path) -> None:
    """A job's requests are the same bytes whichever launcher ran it."""
    written = []
    for launcher in OPTIONS:
        folder = tmp_path / launcher
        folder.mkdir()
        assert sweep(command_path, folder, launcher, "3").returncode == 0
        written.append((job(folder, 3) / "requests.parquet").read_bytes())
    assert written[0] == written[1] == written[2]


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
