"""Which setting an unknown one may have meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.nearest import dotted, nearest

TREE = {
    "seed": 0,
    "workload": {"requests": 5, "arrivals": {"_target_": "x.Y", "rate": 8.0, "rate_cv": 1}},
    "pools": {
        "prefill": {"workers": 3, "layout": {"tp": 4, "pp": 1}},
        "decode": {"workers": 2, "layout": {"tp": 4, "pp": 1}},
        "mixed": None,
    },
    "slo": {"ttft_s": 0.5, "tpot_s": 0.05},
}


def hint(key: str) -> str:
    """Return the clause for ``key`` in :data:`TREE`."""
    node = TREE
    for part in key.split(".")[:-1]:
        node = node[part]  # type: ignore[assignment]
    return nearest(key, [name for name in node if not name.startswith("_")], list(dotted(TREE)))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("rate", "workload.arrivals.rate"),
        ("workload.rate", "workload.arrivals.rate"),
        ("rat", "workload.arrivals.rate"),
        ("workload.reqeusts", "requests"),
        ("workload.arrivals.requests", "workload.requests"),
        ("workload.seed", "seed"),
        ("workload.arrivals.seed", "seed"),
        ("pools.workers", "pools.prefill.workers or pools.decode.workers"),
        ("pools.prefill.tp", "pools.prefill.layout.tp"),
        ("pools.prefill.layout.workers", "pools.prefill.workers"),
        ("slo.workers", "pools.prefill.workers or pools.decode.workers"),
        ("slo.ttft", "ttft_s"),
        ("sede", "seed"),
        ("pools.prefil", "prefill"),
    ],
)
def test_the_setting_that_was_meant_is_named(key: str, meant: str) -> None:
    """A name one level too high or too low is found, and a slip of the keyboard too."""
    assert hint(key) == f"did you mean {meant}?"


def test_without_a_guess_the_known_names_are_listed() -> None:
    """Where nothing is near, everything there is beside the key is told."""
    assert hint("slo.zzz") == "known: tpot_s, ttft_s"


def test_many_of_one_name_are_cut_short() -> None:
    """Three settings of one name are told, and that there are others."""
    tree = [f"pools.{at}.workers" for at in range(5)]
    text = nearest("workers", ["pools"], tree)
    assert text == "did you mean pools.0.workers or pools.1.workers or pools.2.workers or others?"


@given(key=st.from_regex(r"[a-z_]{1,9}(\.[a-z_]{1,9}){0,2}", fullmatch=True))
def test_a_key_is_never_its_own_hint(key: str) -> None:
    """Whatever is asked for, the answer is another setting or a list."""
    tree = [*dotted(TREE), key]
    text = nearest(key, ["seed", "slo"], tree)
    assert f"did you mean {key}?" != text
    assert text.startswith(("did you mean ", "known: "))
