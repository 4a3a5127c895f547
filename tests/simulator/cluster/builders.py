"""Small deployments and traffic for tests of the event engine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.fabric import Fabric
from hardware.gpu import GPU
from hardware.link import Link
from simulator.cluster.simulation import Traffic
from simulator.cluster.workers.prompts import PromptBlocks
from simulator.deployment import Batching, Deployment, Pool, Transfer
from simulator.latency.base import Busiest, Piece, WorkerSpec
from simulator.layout import Layout
from simulator.model import Model

NVLINK = Link(name="test scale-up", bandwidth=450e9, latency_s=0.0)
NIC = Link(name="test NIC", bandwidth=50e9, latency_s=0.0)

A_GPU = GPU(
    name="test GPU",
    architecture="hopper",
    peak_flops={"bf16": 1e15},
    memory_bytes=80e9,
    memory_bandwidth=3e12,
    scale_up=NVLINK,
    scale_up_domain=8,
    nic=NIC,
    source="made up for tests",
)

A_FABRIC = Fabric(
    name="one GPU per domain",
    network=Link(name="test switch", bandwidth=1e15, latency_s=0.0),
    domain_gpus=1,
    source="made up for tests",
)

INSTANT = Link(name="instant", bandwidth=1e40, latency_s=0.0)
INSTANT_LINKS = {
    "gpu": replace(A_GPU, scale_up=INSTANT, nic=INSTANT),
    "fabric": replace(A_FABRIC, network=INSTANT),
}
"""A transfer over these takes less than the clock can tell: it ends at the instant it starts."""

A_MODEL = Model(
    name="test model",
    layers=4,
    hidden=512,
    heads=8,
    kv_heads=1,
    head_dim=64,
    vocab=1000,
    max_context=1_000_000,
    dense_intermediate=1024,
    source="made up for tests",
)


@dataclass(frozen=True, kw_only=True)
class LinearLatency:
    """A step costs ``base`` + ``per_seq``·batch + ``per_context``·context + prompt terms.

    Two pieces: above ``knee`` tokens of context each further token costs twice.
    """

    base: float = 0.010
    per_seq: float = 1e-4
    per_context: float = 1e-7
    per_token: float = 1e-5
    per_pair: float = 1e-9
    knee: float = float("inf")
    stages: int = 1

    def bind(self, worker: WorkerSpec) -> "LinearLatency":  # noqa: ARG002 - a protocol's
        """Return itself: it costs the same on every worker."""
        return self

    def decode_pieces(self, batch: int) -> Sequence[Piece]:
        """Return the one or two affine pieces."""
        fixed = self.base + self.per_seq * batch
        if self.knee == float("inf"):
            return [Piece(self.knee, fixed, self.per_context, 0.0)]
        above = Piece(float("inf"), fixed - self.per_context * self.knee, 2 * self.per_context, 0.0)
        return [Piece(self.knee, fixed, self.per_context, 0.0), above]

    def step_seconds(
        self,
        tokens: int,
        pairs: int,
        past: int,  # noqa: ARG002 - a protocol's
        prompts: int,  # noqa: ARG002 - a protocol's
        batch: int,
        context: int,
        busiest: Busiest | None = None,
    ) -> float:
        """Return the sum of all terms; of tokens, the busiest rank's count."""
        tokens = busiest.tokens if busiest else tokens
        _, c0, c1, c2 = next(p for p in self.decode_pieces(batch) if context <= p.upto)
        decode = c0 + context * (c1 + context * c2)
        return decode + self.per_token * tokens + self.per_pair * pairs


def disaggregated(
    prefill: int = 2, decode: int = 2, *, batching: Batching | None = None, **changes: Any
) -> Deployment:
    """Return a deployment of one-GPU workers with the linear latency model."""
    batching = batching or Batching()
    whole = Deployment(
        model=A_MODEL,
        gpu=A_GPU,
        fabric=A_FABRIC,
        latency=LinearLatency(),
        pools=(
            Pool(role="prefill", workers=prefill, batching=replace(batching, kv_blocks=None)),
            Pool(role="decode", workers=decode, batching=batching),
        ),
        transfer=Transfer(),
    )
    return replace(whole, **changes)


def colocated(workers: int = 1, *, batching: Batching | None = None, **changes: Any) -> Deployment:
    """Return a deployment of mixed one-GPU workers with the linear latency model."""
    pools = (Pool(role="mixed", workers=workers, batching=batching or Batching()),)
    return disaggregated(pools=pools, **changes)


def spread(deployment: Deployment, ranks: int) -> Deployment:
    """Return the deployment with workers of so many attention-DP ranks."""
    layout = Layout(attention_dp=ranks)
    return replace(deployment, pools=tuple(replace(p, layout=layout) for p in deployment.pools))


def traffic(
    arrival: Sequence[float],
    inputs: Sequence[int] | int,
    outputs: Sequence[int] | int,
    concurrency: int | None = None,
) -> Traffic:
    """Return traffic from plain sequences; a single length stands for all requests."""
    shape = len(arrival)
    return Traffic(
        arrival_s=np.asarray(arrival, dtype=np.float64),
        input_tokens=np.broadcast_to(np.asarray(inputs, dtype=np.int32), shape),
        output_tokens=np.broadcast_to(np.asarray(outputs, dtype=np.int32), shape),
        concurrency=concurrency,
    )


def prompt_blocks(
    prompts: Sequence[tuple[int, Sequence[int]]],
    block_size: int,
    follower: Sequence[int] | None = None,
) -> PromptBlocks:
    """Return prompts of so many tokens with these ids, each id a run or part of one."""
    starts, first, count = [0], [], []
    for _, ids in prompts:
        for at, each in enumerate(ids):
            if at and each == ids[at - 1] + 1:
                count[-1] += 1
            else:
                first.append(each)
                count.append(1)
        starts.append(len(first))
    return PromptBlocks(
        block_size=block_size,
        starts=np.array(starts, np.int64),
        first=np.array(first, np.int64),
        count=np.array(count, np.int64),
        tokens=np.array([tokens for tokens, _ in prompts], np.int32),
        follower=None if follower is None else np.array(follower, np.int64),
    )


def shared(load: Traffic, block_size: int = 8, words: int = 2, seed: int = 0) -> Traffic:
    """Return the traffic with prompts out of a random tree: each next block is one of ``words``.

    The fewer words, the more they share. The blocks at the end of a prompt are partial. Answers are
    taken to be the beginning of any later prompt, or of none.
    """
    rng = np.random.default_rng(seed)
    numbers: dict[tuple[int, ...], int] = {}
    prompts = []
    for tokens in load.input_tokens.tolist():
        drawn = tuple(rng.integers(0, words, -(-tokens // block_size)).tolist())
        starts = [drawn[:upto] for upto in range(1, len(drawn) + 1)]
        prompts.append((tokens, [numbers.setdefault(each, len(numbers)) for each in starts]))
    later = rng.integers(1, 9, len(prompts)) + np.arange(len(prompts))
    follower = np.where((rng.random(len(prompts)) < 0.7) & (later < len(prompts)), later, -1)
    return replace(load, blocks=prompt_blocks(prompts, block_size, follower.tolist()))


def poisson_traffic(
    requests: int, rate: float, mean_in: int, mean_out: int, seed: int = 0
) -> Traffic:
    """Return Poisson arrivals with geometric-like lengths around the means."""
    rng = np.random.default_rng(seed)
    return traffic(
        np.cumsum(rng.exponential(1 / rate, requests)).tolist(),
        np.maximum(1, rng.exponential(mean_in, requests).astype(int)).tolist(),
        np.maximum(1, rng.exponential(mean_out, requests).astype(int)).tolist(),
    )
