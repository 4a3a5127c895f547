"""Several services under one quota, as a user runs them: one run, whose parts add up."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command import FAST, Command

from simulator import Experiment
from simulator.cli import carry_out, compose, compose_any
from simulator.compare import find
from simulator.compare.cutting import cut
from simulator.errors import ConfigError
from simulator.experiment import simulate
from simulator.lateness import CAUSES, late
from simulator.results import SLO, shared_slo, worst_service
from simulator.services import Services, _title, simulate_services
from simulator.settings import build_services

TWO = (
    *FAST,
    "cluster=colocated",
    "workload=poisson",
    "workload.requests=60",
    "workload.arrivals.rate=6",
    "pools.mixed.workers=1",
    "startup=hot",
    "elastic.quota_gpus=12",
    "+services.chat.slo={ttft_s: 0.4}",
    "+services.batch={workload: {requests: 40}, slo: {ttft_s: 5.0, tpot_s: 0.2}}",
)
"""Two services that differ in their targets and in how many requests they get."""

SCALED = (*TWO, "autoscaler=hpa")


def summary(folder: str = "out") -> dict[str, object]:
    """Return a run's summary."""
    told: dict[str, object] = json.loads((Path(folder) / "summary.json").read_text("utf-8"))
    return told


def test_parts_add_up(disaggsim: Command) -> None:
    """Requests, GPUs and GPU-hours of the services are the run's, and each has its own targets."""
    done = disaggsim(*TWO, "hydra.run.dir=out")
    assert (done.code, done.err) == (0, "")
    assert "by service" in done.out
    told = summary()
    services = told["services"]
    assert list(services) == ["chat", "batch"]  # type: ignore[call-overload]
    parts = list(services.values())  # type: ignore[attr-defined]
    assert [each["requests"]["arrived"] for each in parts] == [60, 40]
    assert sum(each["gpus"] for each in parts) == pytest.approx(told["gpus"])
    hours = told["gpu_hours"]["total"]  # type: ignore[index]
    assert sum(each["gpu_hours"] for each in parts) == pytest.approx(hours)
    assert [each["targets"]["ttft_s"] for each in parts] == [0.4, 5.0]
    assert [each["targets"]["tpot_s"] for each in parts] == [0.05, 0.2]
    good = sum(each["slo_attainment"] * each["requests"]["arrived"] for each in parts)
    assert told["slo_attainment"] == pytest.approx(good / 100)
    requests = pl.read_parquet("out/requests.parquet")
    assert dict(requests["service"].value_counts().iter_rows()) == {"chat": 60, "batch": 40}
    assert requests["arrival_s"].is_sorted()
    lives = pl.read_parquet("out/lives.parquet")
    whose = dict(lives.select("worker", "service").iter_rows())
    for service, worker in requests.select("service", "prefill_worker").iter_rows():
        assert whose[worker] == service


def test_nobody_scales_and_some_are_late(disaggsim: Command) -> None:
    """Without an autoscaler nothing is decided, and a report tells what made requests late."""
    late_ones = ("slo.ttft_s=0.001", "report=html", "hydra.run.dir=out")
    done = disaggsim(*(each for each in TWO if not each.startswith("report")), *late_ones)
    assert (done.code, done.err) == (0, "")
    assert Path("out/report.html").is_file()
    decisions = pl.read_parquet("out/decisions.parquet")
    assert decisions.is_empty()
    assert "service" in decisions.columns


def test_each_is_as_if_alone_where_there_are_gpus(disaggsim: Command) -> None:
    """The first service's requests are those of a run of its own, with the run's seed."""
    disaggsim(*TWO, "hydra.run.dir=out")
    alone = [each for each in TWO if "services" not in each]
    disaggsim(*alone, "slo.ttft_s=0.4", "counterpart=false", "hydra.run.dir=alone")
    both = pl.read_parquet("out/requests.parquet").filter(pl.col("service") == "chat")
    one = pl.read_parquet("alone/requests.parquet")
    times = [name for name in one.columns if name.endswith("_s")]
    assert both.select(times).equals(one.select(times))
    batch = pl.read_parquet("out/requests.parquet").filter(pl.col("service") == "batch")
    assert not np.isin(batch["arrival_s"].to_numpy(), one["arrival_s"].to_numpy()).any()


def test_the_same_again_is_the_same(disaggsim: Command) -> None:
    """Byte by byte, and another seed is another run."""
    for folder, seed in (("one", 1), ("two", 1), ("three", 2)):
        disaggsim(*SCALED, f"seed={seed}", f"hydra.run.dir={folder}")
    tables = ("requests", "timeline", "events", "lives", "decisions")
    one, two, three = (
        [Path(folder, f"{name}.parquet").read_bytes() for name in tables]
        for folder in ("one", "two", "three")
    )
    assert one == two
    assert one[0] != three[0]


def test_rules_are_compared_with_seeds_and_band(disaggsim: Command) -> None:
    """A sweep of rules ends in one comparison; the band holds for a service's own latency too."""
    own = "+services.batch.latency={scale: 2.0}"
    done = disaggsim(
        *("-m", *SCALED, own, "quota=first_come,guaranteed,queue_share"),
        *("seeds=2", "band=[0.9,1]", "hydra.sweep.dir=sweep"),
    )
    assert done.code == 0, done.err
    assert "comparison: sweep/compare.html" in done.out
    runs = sorted(Path("sweep").glob("*/replications/*/config.yaml"))
    assert len(runs) == 3 * 3
    factors = {path.read_text("utf-8").count("scale: 1.8") for path in runs}
    assert factors == {0, 1}
    page = Path("sweep/compare.html").read_text("utf-8")
    assert "Attainment by service" in page
    assert "worst service in SLO" in page


def test_what_is_cut_away_counts_for_no_service(disaggsim: Command) -> None:
    """A comparison without warm-up tells of what each service attained afterwards."""
    disaggsim(*SCALED, "hydra.run.dir=out")
    [run] = find(["out"]).runs
    requests = pl.read_parquet("out/requests.parquet")
    told = cut(run, 4.0, 0.0).summary
    inside = requests.filter(pl.col("arrival_s") >= requests["arrival_s"].min() + 4.0)  # type: ignore[operator]
    assert len(inside) < len(requests)
    for name, (ttft, tpot) in (("chat", (0.4, 0.05)), ("batch", (5.0, 0.2))):
        own = inside.filter(pl.col("service") == name)
        held = (own["ttft_s"] <= ttft) & (own["tpot_s"].fill_null(0.0) <= tpot)
        assert told["services"][name]["slo_attainment"] == pytest.approx(held.mean())
    held_by = [each["slo_attainment"] for each in told["services"].values()]
    assert told["worst_service"] == min(held_by)


def test_a_report_shows_who_had_what(disaggsim: Command) -> None:
    """Its section of services has its pictures and its table; names are no markup."""
    args = [each for each in SCALED if each != "report=none"]
    assert disaggsim(*args, "hydra.run.dir=out").code == 0
    page = Path("out/report.html").read_text("utf-8")
    for text in ("GPUs by service", "Waiting for GPUs", "Attainment by service", "By service"):
        assert text in page
    assert disaggsim(*FAST, "workload.requests=20", "report=html", "hydra.run.dir=one").code == 0
    assert "GPUs by service" not in Path("one/report.html").read_text("utf-8")


def test_python_has_it_too() -> None:
    """Experiments that share a quota are simulated together, and differ as the folder's do."""
    settings = [each for each in TWO if not each.startswith("+services")]
    one = compose(settings)
    services = Services(services={"a": one, "b": one})
    told = simulate_services(services).summary["services"]
    assert told["a"]["requests"] == told["b"]["requests"]
    alone = simulate(one).summary
    assert told["a"]["ttft_s"]["p99"] == alone["ttft_s"]["p99"]
    assert carry_out(settings).summary["ttft_s"] == alone["ttft_s"]
    assert carry_out(TWO).summary["services"]["chat"]["requests"]["arrived"] == 60


def test_what_made_requests_late_is_told_by_service() -> None:
    """Causes add up to the lateness, and no service's workers explain another's waits."""
    stages = ["workload=stages", "workload.arrivals.stages=[[2,20],[40,40],[2,20]]"]
    settings = [each for each in TWO if not each.startswith(("workload", "+services", "startup"))]
    base = compose([*settings, *stages, "autoscaler=hpa", "control.interval_s=5"])
    calm = compose(settings)
    results = simulate_services(Services(services={"a": base, "b": calm}))
    found = late(results, "ttft_s")
    sums = found.select(pl.sum_horizontal(CAUSES)).to_series()
    np.testing.assert_allclose(sums, found["late_s"])
    assert found["warm_up_s"].sum() + found["signal_age_s"].sum() >= 0


def test_targets_that_are_alike_are_the_runs() -> None:
    """Others are each service's own."""
    told = shared_slo({"a": SLO(ttft_s=1.0, tpot_s=0.1), "b": SLO(ttft_s=2.0, tpot_s=0.1)})
    assert told.targets() == {"tpot_s": 0.1}
    frame = pl.DataFrame(
        {
            "service": ["a", "a", "b", "b", "b"],
            "status": ["completed"] * 4 + ["failed"],
            "ttft_s": [0.5, 1.5, 1.5, 2.5, 0.1],
            "tpot_s": [0.05] * 5,
            "output_tokens": [5] * 5,
        }
    )
    good = frame.select(told.good().alias("good"))["good"].to_list()
    assert good == [True, False, True, False, False]


def test_a_planner_s_targets_are_its_service_s() -> None:
    """What refers to slo does so to the service's own, unless it is given itself."""
    made = compose_any(
        [
            *(*FAST, "cluster=colocated", "pools.mixed.workers=1", "elastic.quota_gpus=40"),
            *("autoscaler=dynamo_sla", "+services.plain={}", "+services.slow.slo.ttft_s=2"),
            "+services.both={slo: {ttft_s: 3, tpot_s: 0.2}, autoscaler: {ttft_s: 7}}",
            *(
                "+autoscaler@services.other.autoscaler=token_velocity",
                "+services.other.slo.ttft_s=9",
            ),
        ]
    )
    assert isinstance(made, Services)
    asked = {name: each.deployment.control.policy for name, each in made.services.items()}
    targets = {name: (each.ttft_s, each.tpot_s) for name, each in asked.items()}  # type: ignore[attr-defined]
    assert targets == {
        "plain": (0.5, 0.05),
        "slow": (2.0, 0.05),
        "both": (7.0, 0.2),
        "other": (9.0, 0.05),
    }
    assert [type(asked[name]).__name__ for name in ("slow", "other")] == [
        "DynamoSla",
        "TokenVelocity",
    ]


BAD = {
    "a planner without its service's targets": (
        ["autoscaler=dynamo_sla", "services.batch.slo.ttft_s=null"],
        "services.batch: autoscaler: dynamo_sla: ttft_s must be above 0 s, as the planner sizes",
    ),
    "a service that is no group": (["+services.a=5"], "services.a must be a group of settings"),
    "services that are no group": (["services=[1]"], "services must be a group of settings"),
    "a setting of the whole run": (["+services.a.seed=1"], "services.a.seed: no such setting"),
    "a fabric of its own": (["+services.a.fabric=x"], "services.a.fabric: no such setting"),
    "a quota of its own": (
        ["+services.a.elastic.quota_gpus=4"],
        "services.a.elastic.quota_gpus: services share one, elastic.quota_gpus",
    ),
    "a pool that cannot be": (
        ["+services.a.pools.mixed.workers=-1"],
        "services.a: pools.mixed: mixed pool: workers must be",
    ),
    "a change of a pool that is not there": (
        ["+services.batch.changes=[{at_s: 1, pool: decode, workers: 2}]"],
        "services.batch: changes[0].pool must be one of mixed but got 'decode'",
    ),
    "a change of a worker that is not there": (
        ["+services.batch.changes=[{at_s: 1, pool: mixed, workers: 2}, {at_s: 2, fail: 7}]"],
        "services.batch: changes[1].fail: there is no worker 7 at 2 s; so far there are 0 to 1",
    ),
    "a port of a worker that is not there": (
        ["+services.chat.changes=[{at_s: 1, worker: 7, bandwidth: 0.5}]"],
        "services.chat: changes[0].worker: there is no worker 7 at 1 s; so far there are 0 to 0",
    ),
    "a change that is none": (
        ["+services.chat.changes=[{at_s: 1}]"],
        "services.chat: changes[0]: change at 1 s: needs exactly one of workers",
    ),
    "a layout that does not divide": (["+services.a.pools.mixed.layout.tp=7"], "services.a: "),
    "an unknown setting deeper down": (
        ["+services.a.slo.tfft_s=1"],
        "services.a: slo.tfft_s: no such setting",
    ),
    "a quota too small": (["elastic.quota_gpus=5"], "quota_gpus 5 is less than the 8 GPUs"),
    "a floor of nobody": (
        ["quota=guaranteed", "+quota.floors.c=1"],
        "floors.c: there is no such service but chat, batch",
    ),
    "floors beyond the quota": (
        ["quota=guaranteed", "+quota.floors={chat: 9, batch: 9}"],
        "floors add up to 18 GPUs but elastic.quota_gpus is only 12",
    ),
    "a floor below nothing": (
        ["quota=guaranteed", "+quota.floors.chat=-1"],
        "floors.chat must be at least 0 GPUs but got -1",
    ),
    "floors without a quota": (
        ["quota=guaranteed", "elastic.quota_gpus=null"],
        "floors need a quota",
    ),
    "a look without a pause": (
        ["quota=queue_share", "quota.interval_s=0"],
        "interval_s must be at least 0.001 s but got 0.0",
    ),
    "an unknown rule": (["quota=fair"], "quota=fair: no such choice"),
    "another task": (
        ["task=goodput"],
        "services: several are simulated together",
    ),
    "an exploration": (
        ["task=explore"],
        "services: several are simulated together",
    ),
    "a counterpart": (["counterpart=true"], "counterpart: it is of one service"),
    "a regret": (["regret=true"], "regret: it is of one service"),
    "a trace that is absent": (
        ["+services.a.workload={_target_: workloads.workload.TraceWorkload, path: absent.csv}"],
        "absent.csv",
    ),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_services_are_told_in_one_sentence(kind: str, disaggsim: Command) -> None:
    """Naming the key or the service; nothing is left that looks complete."""
    overrides, says = BAD[kind]
    done = disaggsim(*TWO, *overrides, "hydra.run.dir=out")
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert says in done.err
    assert not list(Path().rglob("summary.json"))


@dataclass(frozen=True)
class Astray:
    """Sends what comes to a worker that is not there."""

    def choose(self, request: object, pool: object) -> int:  # noqa: ARG002
        """Return its number."""
        return 99


def test_what_goes_wrong_meanwhile_is_put_down_to_its_service() -> None:
    """A router's choice that is none, named by the service whose router it is."""
    one = compose([*FAST, "cluster=colocated", "workload.requests=5"])
    two = replace(one, deployment=replace(one.deployment, router=Astray()))
    with pytest.raises(ConfigError, match=r"^services\.b: router Astray: chose worker 99 "):
        simulate_services(Services(services={"a": one, "b": two}))


def test_many_services_are_titled_and_drawn_so_that_they_can_be_read(disaggsim: Command) -> None:
    """Of twelve alike the title names one; their attainment has a row each, no line."""
    services = [f"+services.s{at}={{}}" for at in range(12)]
    kept = [each for each in TWO if "services" not in each and not each.startswith("report")]
    quota = ("elastic.quota_gpus=64", "workload.requests=5")
    done = disaggsim(*kept, *services, *quota, "report=html", "hydra.run.dir=out")
    assert (done.code, done.err) == (0, "")
    page = Path("out/report.html").read_text("utf-8")
    assert "<h1>12 services, each " in page
    assert "of 12 the worst: " in done.out
    [figures] = re.findall(r'id="figures">(.*?)</script>', page)
    [heat] = json.loads(figures)["plot-quota_slo"]["data"]
    assert (heat["type"], heat["y"]) == ("heatmap", [f"s{at}" for at in range(12)])
    waiting = json.loads(figures)["plot-quota_pending"]["data"]
    assert [each["name"] for each in waiting][-2:] == ["s6", "5 others"]


def test_titles_of_services() -> None:
    """Few are told one by one, of many how many are what, of many kinds how many models."""
    one = compose([*FAST, "workload.requests=5"])

    def titled(*names: str) -> str:
        each = [
            replace(
                one,
                deployment=replace(one.deployment, model=replace(one.deployment.model, name=name)),
            )
            for name in names
        ]
        return _title({f"s{at}": experiment for at, experiment in enumerate(each)})

    assert titled("A", "B").startswith("s0: A on H100 SXM, ")
    assert titled("A", "B").count("; s1: B on ") == 1
    assert titled(*"AAAAA").startswith("5 services, each A on H100 SXM, ")
    assert titled(*"AABBA").startswith("5 services: 3 × A on H100 SXM, ")
    assert titled(*"ABCDE") == "5 services of 5 models"


def test_a_strange_name_is_refused() -> None:
    """What would not go into a folder's name or a command is no name of a service."""
    settings = {"services": {"a b": {}}, "quota": {}}
    with pytest.raises(ConfigError, match="a service's name is of letters, digits"):
        build_services(settings)


def test_what_must_be_alike_is_checked() -> None:
    """Services of other quotas, or none at all, are not run together."""
    one = compose(FAST)
    other = compose([*FAST, "elastic.quota_gpus=64"])
    with pytest.raises(ConfigError, match=r"elastic\.quota_gpus must be the same for all"):
        Services(services={"a": one, "b": other})
    with pytest.raises(ConfigError, match="until_s must be the same"):
        Services(services={"a": one, "b": compose([*FAST, "until_s=5"])})
    with pytest.raises(ConfigError, match="there must be 1 to 64 of them but got 0"):
        Services(services=dict[str, Experiment]())


def test_a_rule_without_services_is_refused(disaggsim: Command) -> None:
    """Else it would be taken to have been followed."""
    done = disaggsim(*FAST, "quota=guaranteed", "workload.requests=20", "hydra.run.dir=out")
    assert done.code == 2
    assert "quota Guaranteed: it is for services that share GPUs, but there are none" in done.err


def test_who_had_no_request_is_not_the_worst_served() -> None:
    """Of services without any request there is no attainment."""
    told = {"a": {"slo_attainment": None}, "b": {"slo_attainment": 0.7}}
    assert worst_service(told) == 0.7
    assert worst_service({"a": {"slo_attainment": None}}) is None
