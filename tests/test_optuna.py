"""Optuna chooses settings by what runs tell it; the sweeper itself is an extra."""

import math
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from command import FAST, TINY, Command
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from simulator.cli import Job
from simulator.compare.objective import Objective
from simulator.errors import ConfigError

OBJECTIVE = "output_tokens_per_s_per_gpu"
optuna = pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None if find_spec("hydra_plugins") else True,
    reason="the Optuna sweeper is not installed: pip install '.[optuna]'",
)


def test_an_objective_is_a_number_of_the_summary() -> None:
    """Known, among unfinished requests, never, or unknown."""
    summary = {
        "slo_attainment": 0.5,
        "ttft_s": {"p90": None, "p99": None, "at_least": {"p90": 3.0, "p99": None}},
        "usd": None,
    }
    wanted = Objective(paths=("slo_attainment", "ttft_s.p90", "ttft_s.p99", "usd"))
    *known, unknown = wanted.of(summary)
    assert known == [0.5, 3.0, math.inf]
    assert math.isnan(unknown)
    assert Objective().of(summary) == []


def test_objectives_are_checked() -> None:
    """A number that no summary has is refused, and the one that was meant named."""
    with pytest.raises(ConfigError, match="did you mean slo_attainment"):
        Objective(paths=("slo_atainment",))


BAD = {
    "misspelt": (["objective=slo_atainment", *TINY], "did you mean slo_attainment"),
    "of a search": (["task=goodput", "objective=usd", *FAST], "task=goodput has none"),
    "a number": (["objective=[3]", *TINY], "objective"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_objectives_cost_a_sentence(name: str, disaggsim: Command) -> None:
    """Nothing is simulated for them."""
    arguments, words = BAD[name]
    done = disaggsim(*arguments)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def told_to(returned: list[object], disaggsim: Command, *arguments: str) -> list[object]:
    """Return what the jobs of a command told their sweeper."""
    assert disaggsim(*arguments).code in (0, 2)
    return returned


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list of what every job returns from here on."""
    values: list[object] = []
    call = Job.__call__

    def kept(self: Job, config: object) -> object:
        values.append(call(self, config))  # type: ignore[arg-type]
        return values[-1]

    monkeypatch.setattr(Job, "__call__", kept)
    return values


def test_jobs_tell_their_objective(
    disaggsim: Command, returned: list[object], tmp_path: Path
) -> None:
    """One number, several, or none; none that is one of a failed job; done ones tell it too."""
    assert told_to(returned, disaggsim, "-m", "seed=1", *TINY) == [None]
    returned.clear()
    sweep = ("-m", "seed=1,-1", *TINY)
    one, failed = told_to(returned, disaggsim, *sweep, f"objective={OBJECTIVE}")
    assert isinstance(one, float)
    assert one > 0
    assert math.isnan(failed)  # type: ignore[arg-type]
    returned.clear()
    both, _ = told_to(returned, disaggsim, *sweep, f"objective=[{OBJECTIVE},gpus]")
    assert both == [one, pytest.approx(20.0)]
    assert len(list(tmp_path.rglob("summary.json"))) == 1


@optuna
def test_optuna_finds_what_every_combination_would(command_path: Path, tmp_path: Path) -> None:
    """Its best is the best of a small space that it has time to see whole."""
    arguments = [
        *("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random"),
        *("hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=14"),
        *("hydra.sweeper.sampler.seed=3", f"objective={OBJECTIVE}", *TINY),
        "pools.decode.workers=choice(1,2,3)",
    ]
    done = subprocess.run(
        [command_path, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(
        (tmp_path / "multirun" / "optimization_results.yaml").read_text(encoding="utf-8")
    )
    runs = {}
    for path in (tmp_path / "multirun").rglob("summary.json"):
        settings = OmegaConf.load(path.parent / "config.yaml")
        summary = yaml.safe_load(path.read_text(encoding="utf-8"))
        runs[settings.pools.decode.workers] = summary[OBJECTIVE]
    assert set(runs) == {1, 2, 3}
    assert told["best_value"] == pytest.approx(max(runs.values()))
    assert runs[int(told["best_params"]["pools.decode.workers"])] == pytest.approx(
        max(runs.values())
    )
    assert (tmp_path / "multirun" / "compare.html").is_file()
    GlobalHydra.instance().clear()
