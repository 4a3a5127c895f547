"""What a policy is without settings is what its file in conf says: a default has one value."""

import importlib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

CONF = Path(__file__).resolve().parents[3] / "conf"
GROUPS = (
    *("admission", "autoscaler", "decode_router", "flipping", "flow_control"),
    "forecaster",
    *("local_prefill", "queue", "rate_matcher", "rebalancing", "router"),
)
DELIBERATE = {
    ("decode_router/kv_aware.yaml", "overlap_credit"),  # decode workers are chosen by load alone
    ("decode_router/kv_aware.yaml", "track_prefill"),
    ("decode_router/kv_aware.yaml", "beliefs"),
    ("local_prefill/isl_or_load.yaml", "prefill_busy"),  # what makes them other choices
    ("local_prefill/prefill_load.yaml", "prefill_busy"),
    ("local_prefill/prefill_load.yaml", "below_tokens"),
    ("local_prefill/prefill_load.yaml", "beliefs"),
    ("local_prefill/prefix_based.yaml", "by"),  # llm-d believes what it routed
    ("autoscaler/keda_waiting.yaml", "cooldown_s"),  # production-stack's, not KEDA's
    ("autoscaler/keda_waiting.yaml", "metric"),
    ("router/cache_aware.yaml", "by"),  # the gateway believes what it routed, not events
    ("router/prefix_affinity.yaml", "by"),
    ("admission/early_rejection_predictive.yaml", "predicts"),  # what makes it another choice
    *(  # the experiment's own targets
        (f"autoscaler/{name}.yaml", target)
        for name in ("dynamo_classic", "dynamo_sla", "heteroscale", "token_velocity")
        for target in ("ttft_s", "tpot_s")
    ),
    ("autoscaler/kpa.yaml", "interval_s"),  # Knative's ticks and Ray's metrics, not Kubernetes'
    ("autoscaler/kpa.yaml", "scrape_s"),
    ("autoscaler/ray_serve.yaml", "interval_s"),
    ("autoscaler/ray_serve.yaml", "scrape_s"),
    ("autoscaler/keda_slo.yaml", "ttft_s"),  # each pool is asked for the latency it makes
    ("autoscaler/keda_slo.yaml", "tpot_s"),
    ("rate_matcher/model_predictive.yaml", "startup_s"),  # as long as starts take
    ("rate_matcher/model_predictive.yaml", "utilization"),  # a forecast's rate needs room
    ("queue/priority.yaml", "aging_s"),  # without it nobody grows older
}


def policies_in(node: Any) -> Iterator[tuple[type, dict[str, Any]]]:
    """Return every policy of a file, however deep, and its settings."""
    if isinstance(node, dict):
        module, _, name = str(node.get("_target_", "")).rpartition(".")
        if module.startswith("simulator.policies"):
            yield from parts_of(getattr(importlib.import_module(module), name), node)
        for each in node.values():
            yield from policies_in(each)
    elif isinstance(node, list):
        for each in node:
            yield from policies_in(each)


def parts_of(kind: type, settings: dict[str, Any]) -> Iterator[tuple[type, dict[str, Any]]]:
    """Return a dataclass and those within it whose settings are a mapping without a name."""
    yield kind, settings
    hints = get_type_hints(kind)
    for name, told in settings.items():
        if isinstance(told, dict) and "_target_" not in told and is_dataclass(hints.get(name)):
            yield from parts_of(hints[name], told)


def default(field: Field[Any]) -> Any:
    """Return a field's default, ``MISSING`` where it has none."""
    made = field.default_factory
    return field.default if made is MISSING else made()


FILES = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_defaults_are_what_is_shipped(path: Path) -> None:
    """Each plain setting of a file equals its class's default, but for those that are listed."""
    name = f"{path.parent.name}/{path.name}"
    found = list(policies_in(yaml.safe_load(path.read_text("utf-8"))))
    assert found
    for kind, settings in found:
        assert is_dataclass(kind)
        for field in fields(kind):
            told = settings.get(field.name, MISSING)
            plain = told is not MISSING and not isinstance(told, dict | list)
            if plain and default(field) is not MISSING and (name, field.name) not in DELIBERATE:
                assert told == default(field), f"{kind.__name__}.{field.name}"


def test_what_is_listed_as_deliberate_is_there() -> None:
    """No entry outlives the setting it excuses."""
    for name, field in DELIBERATE:
        found = policies_in(yaml.safe_load((CONF / name).read_text("utf-8")))
        assert any(field in settings for _, settings in found)
