"""What starting costs: how often Hydra composes the settings, and what is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from command import TINY, Command
from hydra._internal.config_loader_impl import ConfigLoaderImpl


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows by one with each time all settings are composed."""
    times: list[object] = []
    compose = ConfigLoaderImpl.load_configuration

    def counted(*arguments: object, **named: object) -> object:
        times.append(named.get("overrides"))
        return compose(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    return times


def test_a_run_is_composed_once(disaggsim: Command, composed: list[object]) -> None:
    """Nothing is composed to ask for a mode that is not there."""
    assert disaggsim(*TINY, "hydra.run.dir=here").code == 0
    assert len(composed) == 1


def test_jobs_that_differ_in_numbers_are_checked_once(
    disaggsim: Command, composed: list[object]
) -> None:
    """The command's settings, one job of each router to check, and each job's own."""
    done = disaggsim("-m", "seed=1,2,-3,4e0", "router=random,round_robin", *TINY)
    assert done.code == 2  # seeds are whole and not below 0, which the jobs tell
    assert len(composed) == 1 + 2 + 8


def test_every_choice_is_checked_before_any_job(disaggsim: Command, tmp_path: Path) -> None:
    """A choice that does not exist, last of all, costs no simulation."""
    done = disaggsim("-m", "seed=1,2", "router=random,rondom", *TINY)
    assert done.code == 2
    assert "router=rondom: no such choice" in done.err
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("given", ["override", "file"])
def test_settings_may_ask_for_several_jobs(given: str, disaggsim: Command, tmp_path: Path) -> None:
    """``hydra.mode`` counts without ``-m``, on the command line and in a file of the user's."""
    arguments = ["seed=1,2", *TINY]
    if given == "file":
        (tmp_path / "own" / "experiment").mkdir(parents=True)
        text = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
        (tmp_path / "own" / "experiment" / "both.yaml").write_text(text, encoding="utf-8")
        arguments = ["--config-dir", "own", "experiment=both", *TINY]
    else:
        arguments.append("hydra.mode=MULTIRUN")
    done = disaggsim(*arguments)
    assert done.code == 0, done.err
    assert len(list(tmp_path.rglob("summary.json"))) == 2


def test_starting_imports_nothing_slow_that_few_runs_need() -> None:
    """Fitting, linear programs and graphs of requests import their parts of scipy when they run."""
    slow = ("scipy.stats", "scipy.optimize", "scipy.sparse", "scipy.linalg")
    code = f"import sys, simulator.cli; print([each for each in {slow} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
