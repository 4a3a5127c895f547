"""Settings fitted to a measured run: what was hidden is found, and judged on the other half."""

from pathlib import Path

import pytest
import yaml
from command import Command

from simulator.cli import compose
from simulator.correction import GATEWAY, HANDOVER, SCALE, correct
from simulator.errors import ConfigError
from simulator.experiment import simulate

FAST = ("latency=polynomial", "report=none")
CLUSTERS = {
    "colocated": (GATEWAY, ("cluster=colocated", "workload.arrivals.rate=2")),
    "disaggregated": (HANDOVER, ("workload.arrivals.rate=2",)),
}


def measured(folder: Path, *overrides: str, requests: int = 240) -> str:
    """Write what a run of these settings would have been measured as; return its path."""
    done = simulate(compose([*FAST, f"workload.requests={requests}", *overrides]))
    frame = done.requests.select("arrival_s", "input_tokens", "output_tokens", "ttft_s", "e2e_s")
    path = folder / "measured.parquet"
    frame.write_parquet(path)
    return f"workload.path={path}"


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_was_hidden_is_found(name: str, tmp_path: Path) -> None:
    """A server 20 % slower than its model with a constant on top comes out as just that."""
    delay, cluster = CLUSTERS[name]
    path = measured(tmp_path, *cluster, "latency.scale=1.2", f"{delay}=0.08")
    settings = [each for each in cluster if not each.startswith("workload")]
    found = correct(compose([*FAST, *settings, "workload=trace", path]))
    assert set(found.settings) == {SCALE, delay}
    assert found.settings[SCALE] == pytest.approx(1.2, rel=0.02)
    assert found.settings[delay] == pytest.approx(0.08, abs=0.01)
    assert found.helps
    assert found.error[0] > 0.1
    assert found.error[1] < 0.02


def test_a_true_model_is_left_alone(tmp_path: Path) -> None:
    """Nothing is corrected where nothing is wrong."""
    path = measured(tmp_path, "workload.arrivals.rate=2")
    found = correct(compose([*FAST, "workload=trace", path]))
    assert found.settings[SCALE] == pytest.approx(1.0)
    assert not found.helps
    assert "Keep the settings as they are" in found.answer


def test_the_command_writes_settings_to_use(tmp_path: Path, disaggsim: Command) -> None:
    """The experiment it leaves behind runs, as the corrected deployment."""
    path = measured(tmp_path, "workload.arrivals.rate=2", "latency.scale=0.8")
    out = tmp_path / "out"
    traffic = (*FAST, "workload=trace", path)
    done = disaggsim("task=calibrate", *traffic, f"hydra.run.dir={out}")
    assert done.code == 0, done.err
    assert "Fitted to the first half of the requests: latency.scale=0." in done.out
    told = yaml.safe_load((out / "experiment" / "calibrated.yaml").read_text(encoding="utf-8"))
    assert told["latency"]["scale"] == pytest.approx(0.8, rel=0.02)
    again = disaggsim("--config-dir", str(out), "experiment=calibrated", *traffic)
    assert again.code == 0, again.err
    ran = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert ran["latency"]["scale"] == told["latency"]["scale"]


def test_traffic_that_was_not_measured_is_refused(tmp_path: Path) -> None:
    """Without latencies, or with too few of them, there is nothing to fit."""
    with pytest.raises(ConfigError, match="needs traffic whose TTFT and E2E were measured"):
        correct(compose([*FAST, "workload.requests=50"]))
    path = measured(tmp_path, requests=12)
    with pytest.raises(ConfigError, match="at least 20 measured ones"):
        correct(compose([*FAST, "workload=trace", path]))
