"""Dynamo's replay and ours: what its mocker reports of small traces, and the script beside it."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from simulator.cli import compose
from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.cluster.workers.prompts import PromptBlocks

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "compare_dynamo"

SPLIT = ("experiment=parity/dynamo_3p2d", "pools.prefill.workers=1", "pools.decode.workers=1")
TOGETHER = ("experiment=parity/dynamo_agg4", "pools.mixed.workers=1")


def seats(count: int, *pools: str) -> tuple[str, ...]:
    """Return overrides that give these pools so many seats."""
    return tuple(f"pools.{pool}.batching.max_num_seqs={count}" for pool in pools)


# What python -m dynamo.replay (ai-dynamo 1.4.2) reports, blocks of 512 tokens, no prefix caching:
# requests (arrival ms, prompt, answer), then when each left the prefill worker, had its first and
# its last token, in ms.
REPORTED = {
    "a prompt in chunks": (
        SPLIT,
        [(0, 4096, 10), (1, 20000, 10), (2, 4096, 10), (3, 4096, 10)],
        [670.108836] * 4,
        [676.05942] * 4,
        [729.703344] * 4,
    ),
    "rounded means": (
        SPLIT,
        [(0, 10001, 10), (1, 5000, 10), (2, 3001, 10)],
        [380.466287] * 3,
        [386.324837] * 3,
        [439.051787] * 3,
    ),
    "few seats": (
        (*SPLIT, *seats(3, "prefill", "decode")),
        [(10 * at, 4000, 5) for at in range(8)],
        [248.884032, *[332.855194] * 2, 497.768064, *[581.739226] * 2, *[665.710388] * 2],
        [254.650398, *[338.647914] * 2, 503.53443, *[587.531946] * 2, *[671.503108] * 2],
        [277.715862, *[361.818794] * 2, 526.599894, *[610.702826] * 2, *[694.673988] * 2],
    ),
    "co-located": (
        TOGETHER,
        [(0, 4096, 10), (1, 20000, 10), (2, 4096, 3), (3, 4096, 10)],
        None,
        [91.522346, 616.539246, 616.539246, 699.460578],
        [729.144514, 746.848411, 705.421014, 752.618072],
    ),
    "co-located, few seats": (
        (*TOGETHER, *seats(3, "mixed")),
        [(10 * at, 3000, 5) for at in range(6)],
        None,
        [71.600506, 200.157832, 200.157832, 289.195786, 417.753112, 417.753112],
        [217.55575, 289.195786, 289.195786, 435.15103, 440.930574, 440.930574],
    ),
}


@pytest.mark.parametrize("name", REPORTED)
def test_a_small_trace_takes_the_times_that_dynamo_reports(name: str) -> None:
    """Releases to the microsecond; tokens to 0.2 ms, what whole blocks make of a few decodes."""
    overrides, requests, released, first, last = REPORTED[name]
    deployment = compose(list(overrides)).deployment
    arrivals, prompts, answers = zip(*requests, strict=True)
    load = Traffic(
        arrival_s=np.array(arrivals) / 1e3,
        input_tokens=np.array(prompts, dtype=np.int32),
        output_tokens=np.array(answers, dtype=np.int32),
    )
    columns = run(deployment, load, RunOptions()).requests
    if released is not None:
        left = columns["transfer_queue_enter_s"] * 1e3
        np.testing.assert_allclose(left, released, rtol=0.0, atol=1e-3)
    np.testing.assert_allclose(columns["first_token_s"] * 1e3, first, rtol=0.0, atol=0.2)
    np.testing.assert_allclose(columns["finish_s"] * 1e3, last, rtol=0.0, atol=0.4)


SHARED = [
    (0, 2100, 10, range(5)),
    (50, 2600, 10, [0, 1, 2, 3, 5, 6]),
    (60, 1024, 5, [0, 1]),
    (900, 2100, 5, [0, 1, 2, 3, 7]),
    (910, 5000, 8, [0, 1, *range(9, 17)]),
    (2000, 5000, 8, [0, 1, *range(9, 17)]),
]
FOUND = [0, 2048, 512, 2048, 1024, 4608]
LEFT = [*[99.639912] * 3, *[1000.818268] * 2, 2022.518021]
CACHING = {
    "apart": (
        SPLIT,
        [*[105.422750] * 3, *[1006.601106] * 2, 2028.290976],
        [157.448528, 157.448528, 128.567278, 1029.732458, 1047.051323, 2068.701661],
    ),
    "co-located": (
        TOGETHER,
        [55.999729, 86.773759, 116.925829, 923.048577, 1012.357586, 2028.290976],
        [157.293686, 163.053462, 140.004473, 1029.706100, 1052.797920, 2068.701661],
    ),
}
"""The same of prompts that share blocks, with prefix caching on: what is found, and when."""


@pytest.mark.parametrize("name", CACHING)
def test_prompts_that_share_blocks_take_the_times_that_dynamo_reports(name: str) -> None:
    """As much is found of each, and what is left takes as long."""
    overrides, first, last = CACHING[name]
    deployment = compose(list(overrides)).deployment
    pools = [
        replace(pool, batching=replace(pool.batching, prefix_cache=True))
        for pool in deployment.pools
    ]
    arrivals, prompts, answers, ids = zip(*SHARED, strict=True)
    load = Traffic(
        arrival_s=np.array(arrivals) / 1e3,
        input_tokens=np.array(prompts, dtype=np.int32),
        output_tokens=np.array(answers, dtype=np.int32),
        blocks=PromptBlocks(
            block_size=512,
            starts=np.cumsum([0, *map(len, ids)]),
            first=np.concatenate([list(each) for each in ids]).astype(np.int64),
            count=np.ones(sum(map(len, ids)), dtype=np.int64),
            tokens=np.array(prompts, dtype=np.int32),
        ),
    )
    columns = run(replace(deployment, pools=tuple(pools)), load, RunOptions()).requests
    assert columns["cached_tokens"].tolist() == FOUND
    if name == "apart":
        left = columns["transfer_queue_enter_s"] * 1e3
        np.testing.assert_allclose(left, LEFT, rtol=0.0, atol=1e-3)
    np.testing.assert_allclose(columns["first_token_s"] * 1e3, first, rtol=0.0, atol=0.2)
    np.testing.assert_allclose(columns["finish_s"] * 1e3, last, rtol=0.0, atol=0.4)


def script() -> ModuleType:
    """Return the script as a module."""
    loader = importlib.machinery.SourceFileLoader("compare_dynamo", str(SCRIPT))
    spec = importlib.util.spec_from_loader("compare_dynamo", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_dynamo"] = module
    loader.exec_module(module)
    return module


def test_without_dynamo_it_is_skipped_in_a_sentence() -> None:
    """One line on stderr says what is missing and how to get it, and that is no failure."""
    command = [sys.executable, str(SCRIPT), "trace.csv", "--python", "/nowhere/python"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert not done.stdout
    assert "skipped: ai-dynamo is not installed in /nowhere/python" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_figures_are_those_of_the_definitions() -> None:
    """TTFT per request, ITL over all gaps, TPOT per request with any; pairing ignores the order."""
    compare = script()
    columns: list[list[float]] = [
        *([0.0, 10.0, 10.0], [4.0, 12.0, 20.0]),
        *([5.0, 14.0, 30.0], [25.0, 14.0, 40.0]),
        *([8, 8, 9], [11, 1, 2], [0, 4, 0]),
    ]
    one = compare.Replay(*(np.array(column, dtype=float) for column in columns), 1.0)
    found = compare.figures(one)
    assert found["TTFT mean"] == pytest.approx((5 + 4 + 20) / 3)
    assert found["ITL mean"] == pytest.approx((20 + 10) / 11)
    assert found["TPOT p99"] == pytest.approx(np.percentile([2.0, 10.0], 99))
    assert found["E2E mean"] == pytest.approx((25 + 4 + 30) / 3)
    other = compare.Replay(*(np.array(column, dtype=float)[::-1] for column in columns), 1.0)
    np.testing.assert_array_equal(one.in_order(one.ttft), other.in_order(other.ttft))


def test_a_trace_s_own_ids_are_kept_where_dynamo_can_read_them(tmp_path: Path) -> None:
    """Blocks of 512 tokens are written as they are, others not at all."""
    source = tmp_path / "own.jsonl"
    row = {"timestamp": 3000, "input_length": 600, "output_length": 4, "hash_ids": [7, 9]}
    source.write_text(json.dumps(row) + "\n", "utf-8")
    path = script().shared(str(source), tmp_path)
    assert json.loads(path.read_text("utf-8")) == {**row, "timestamp": 0.0}
    plain = tmp_path / "own.csv"
    plain.write_text("arrival_s,input_tokens,output_tokens\n3.0,513,4\n", "utf-8")
    assert script().shared(str(plain), tmp_path) is None


def test_both_replay_one_file_without_shared_blocks(tmp_path: Path) -> None:
    """The file made of a trace keeps arrivals and lengths, and no block occurs twice."""
    source = tmp_path / "own.csv"
    source.write_text("arrival_s,input_tokens,output_tokens\n3.0,513,4\n4.25,512,1\n", "utf-8")
    name, size, path = script().converted(str(source), tmp_path)
    assert (name, size) == ("own.csv", 2)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [
        {"timestamp": 0.0, "input_length": 513, "output_length": 4, "hash_ids": [0, 1]},
        {"timestamp": 1250.0, "input_length": 512, "output_length": 1, "hash_ids": [2]},
    ]
