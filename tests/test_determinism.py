"""Same seed, same settings: the same bytes, in this process and in another."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.cli import compose
from simulator.experiment import simulate

OVERRIDES = (
    "workload.requests=300",
    "router=random",
    "decode_router=random",
    "transfer.sharing=processor_sharing",
)
SCALED = (
    *("cluster=colocated", "workload.requests=600", "workload.arrivals.rate=20"),
    *("pools.mixed.workers=1", "startup=hot", "startup.failure_probability=0.2"),
    *("autoscaler=keda_epp_queue", "flow_control=utilization", "router=power_of_two"),
    *("clients.cancel_probability=0.1", "clients.first_token_timeout_s=20"),
    "control.observing.orphans=[mixed.waiting,router]",
)
SPLIT = (
    *("workload.requests=400", "startup=hot", "autoscaler=predictive", "decode_router=random"),
    *("rate_matcher=aiconfigurator", "rate_matcher.common.flips=true"),
)
RUNS = {"static": OVERRIDES, "scaled": SCALED, "split": SPLIT}
FILES = tuple(
    f"{name}.parquet" for name in ("requests", "timeline", "events", "lives", "decisions")
)
SCRIPT = """
import sys
from pathlib import Path
from simulator.cli import compose
from simulator.experiment import simulate

simulate(compose(sys.argv[2:])).write(Path(sys.argv[1]), report=None)
"""


def digests(folder: Path) -> list[str]:
    """Return the digest of every table of a run's folder."""
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


@pytest.mark.parametrize("kind", RUNS)
def test_two_runs_and_two_processes_write_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """Two runs here and one in a fresh process leave byte-identical tables, whatever decides."""
    overrides = RUNS[kind]
    for name in ("one", "two"):
        simulate(compose(overrides)).write(tmp_path / name, report=None)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "three"), *overrides]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "77", "PATH": ""})
    assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(tmp_path / "three")


def test_the_seed_matters() -> None:
    """Another seed draws other traffic."""
    one, other = (compose([*OVERRIDES, f"seed={seed}"]).trace() for seed in (1, 2))
    assert not one.equals(other)


@pytest.mark.parametrize("change", ["router=least_tokens", "transfer.mode=push", "seed=0"])
def test_traffic_does_not_depend_on_the_policies(change: str) -> None:
    """Policies are compared on the same requests."""
    assert compose(OVERRIDES).trace().equals(compose([*OVERRIDES, change]).trace())
