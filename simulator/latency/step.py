"""One step of a worker, vectorised: the GPU's pass, its overlaps, the host, speculation.

A step's seconds are put together in this order, and :mod:`simulator.latency.stepping` does the
same on scalars:

1. the pass over the step's tokens, and over the drafts of speculative decoding;
2. with two-batch overlap the tokens are computed as two halves, one half's all-to-all beside the
   other's compute: ``2 · max(compute, exchange)`` of a half, and one layer's exchange that
   nothing hides;
3. attention-DP ranks wait for each other;
4. the host launches the kernels of a step that no CUDA graph holds, which takes at least as long,
   and does its other work, beside the GPU or after it; the microbatches of a pipeline take turns
   at it;
5. speculation: seconds per token a sequence gains, not per step;
6. ``scale``: a factor on all of it (there in :mod:`simulator.latency.scaling`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from simulator.latency.attention import at_load, attention_terms
from simulator.latency.engine import Engine
from simulator.latency.machine import Machine
from simulator.latency.operators import expert_operators, head_operators, token_operators
from simulator.latency.passes import Load, Number, Operator, PassSpec
from simulator.latency.speculative import Speculative


@dataclass(frozen=True, kw_only=True)
class Step:
    """What decides the seconds of a worker's steps; all numbers are per attention rank.

    ``host_s`` (``None``: the engine's own host work) is added to every step. Each takes ``scale``
    times as long as all that makes it.
    """

    spec: PassSpec
    machine: Machine
    engine: Engine
    speculative: Speculative
    two_batch_overlap: bool = False
    host_s: float | None = None
    scale: float = 1.0

    @property
    def halves(self) -> int:
        """Microbatches the exchange of experts overlaps with: 2, or 1 for none."""
        return 2 if self.two_batch_overlap and self.spec.dispatches else 1

    @property
    def unhidden_exchange(self) -> float:
        """Share of a half's exchange that nothing hides: one layer's."""
        return 1.0 / self.spec.model.moe_layers

    @property
    def draft_share(self) -> float:
        """Share of the model's layers that the drafts of one step pass through."""
        speculative = self.speculative
        return speculative.drafts * speculative.draft_layers / self.spec.model.layers

    @cached_property
    def draft_spec(self) -> PassSpec:
        """A decode pass of one token per sequence, as each draft takes."""
        return replace(self.spec, decode_width=1)

    @cached_property
    def launches(self) -> Mapping[tuple[bool, bool], float]:
        """Seconds of launching a step kernel by kernel, by whether it has prompts and decodes."""
        one = Load(tokens=1.0, pairs=1.0, prompts=1.0, batch=1.0, context=1.0)
        common = [*token_operators(self.spec, 1.0), *head_operators(self.spec, 1.0)]
        kinds = {"prefill": 0.0, "decode": 0.0}
        for term in attention_terms(self.spec):
            kinds[term.phase] += _kernels([at_load(term, one)])
        kinds["decode"] += self._draft_kernels
        each = self.engine.launch_s * self.host_factor * self.halves
        shared = _kernels(common)
        return {
            (True, False): each * (shared + kinds["prefill"]),
            (False, True): each * (shared + kinds["decode"]),
            (True, True): each * (shared + kinds["prefill"] + kinds["decode"]),
        }

    @property
    def _draft_kernels(self) -> float:
        one = Load(batch=1.0, context=1.0)
        layers = token_operators(self.draft_spec, 1.0)
        layers += [at_load(t, one) for t in attention_terms(self.draft_spec) if t.phase == "decode"]
        heads = head_operators(self.draft_spec, 1.0)
        return self.draft_share * _kernels(layers) + self.speculative.drafts * _kernels(heads)

    def compute_operators(self, rows: Number) -> list[Operator]:
        """Return what sees every token, less the exchange that runs beside it."""
        operators = token_operators(self.spec, rows)
        return [op for op in operators if self.halves == 1 or op.kind != "all_to_all"]

    def expert_operators(self, rows: Number) -> list[Operator]:
        """Return the routed experts of a pass of ``rows`` tokens per attention rank."""
        return expert_operators(self.spec, rows)

    def exchange_operators(self, rows: Number) -> list[Operator]:
        """Return the all-to-all of a half that runs beside the other half's compute."""
        return [op for op in token_operators(self.spec, rows) if op.kind == "all_to_all"]

    @property
    def host_factor(self) -> float:
        """What the host's work takes on this GPU's host, of what it takes on x86 servers."""
        return self.machine.gpu.host_factor

    def with_host(self, gpu: Number, launches: Number, decodes: Number, prompts: Number) -> Number:
        """Return seconds of a step of so many sequences that keeps the GPU busy for ``gpu``."""
        if self.host_s is not None:
            return np.maximum(gpu, launches) + self.host_s
        host = self.host_factor * self.engine.host_seconds(decodes, prompts)
        seconds = self.engine.with_host(gpu, launches, host)
        return seconds if self.stages == 1 else np.maximum(seconds, self.turns(decodes, prompts))

    @property
    def stages(self) -> int:
        """Microbatches that are on their way through a pipeline at once."""
        return self.spec.layout.pp

    def turns(self, decodes: Number, prompts: Number) -> Number:
        """Return the seconds that the microbatches of a pipeline take one host, turn by turn."""
        return self.host_factor * self.engine.turns_seconds(self.stages, decodes, prompts)

    @property
    def waiting(self) -> float:
        """What the GPU's seconds are multiplied by where attention-DP ranks wait for each other."""
        return 1.0 + self.engine.rank_wait if self.spec.layout.attention_dp > 1 else 1.0

    def seconds(self, load: Load) -> Number:
        """Return seconds of steps over arrays of loads."""
        return self.scale * self._gained(load)

    def _gained(self, load: Load) -> Number:
        """Return seconds of steps per token that a sequence gains by each."""
        if not self.speculative.drafts:
            return self._whole(load)
        gained = self.speculative.tokens_per_step
        if np.ndim(load.tokens) == 0 and not load.tokens:
            return self._whole(load) / gained
        alone = load._replace(batch=0.0 * load.batch, context=0.0 * load.batch)
        chunks = np.where(np.asarray(load.tokens) > 0, self._whole(alone), 0.0)
        return chunks + (self._whole(load) - chunks) / gained

    def _whole(self, load: Load) -> Number:
        """Return seconds of whole steps, whatever they yield."""
        half, batch = self._half(load), load.batch
        rows = half.tokens + half.batch * self.spec.decode_width
        padded = self._computed(rows, half)
        operators = self.compute_operators(padded)
        gpu = self.machine.sum_seconds(
            [
                *operators,
                *(at_load(t, half, self.spec.decode_width) for t in attention_terms(self.spec)),
                *head_operators(
                    self.spec, np.ceil(half.prompts) + half.batch * self.spec.decode_width
                ),
            ]
        )
        unhidden: Number = 0.0
        gpu = gpu + self._spared(operators, half) + self._drafts(half)
        if self.halves > 1:
            exchange = self.machine.sum_seconds(self.exchange_operators(padded))
            gpu = self.halves * np.maximum(gpu, exchange)
            unhidden = self.unhidden_exchange * exchange
        gpu = (gpu + unhidden) * self.waiting
        launches = self._launched(rows, load) * self.waiting if self.engine.graph_sizes else 0.0
        return self.with_host(gpu, launches, batch, np.ceil(load.prompts))

    def _spared(self, operators: Sequence[Operator], load: Load) -> Number:
        """Return the seconds (negative) that experts are spared where other ranks have less.

        ``operators`` are those of all ranks having as much as the busiest.
        """
        if np.ndim(load.occupied) == 0 and load.occupied == 1.0:
            return 0.0
        mean = np.ceil(load.occupied * load.tokens) + load.batch * self.spec.decode_width
        seconds = self.machine.sum_seconds
        fewer = seconds(self.expert_operators(self._computed(mean, load)))
        return fewer - seconds([op for op in operators if op.kind == "experts"])

    def _computed(self, rows: Number, load: Load) -> Number:
        """Return the rows that products compute: :meth:`Engine.computed` of arrays."""
        padded = self.engine.padded_rows(rows)
        if self.engine.graphs_prompts:
            return padded
        decodes = self.engine.padded_rows(load.batch * self.spec.decode_width)
        return np.where(np.asarray(load.tokens) > 0, np.maximum(rows, decodes), padded)

    def _launched(self, rows: Number, load: Load) -> Number:
        """Return the seconds a step takes at least where no CUDA graph holds it."""
        engine, launches = self.engine, self.launches
        prompts, decodes = np.asarray(load.tokens) > 0, np.asarray(load.batch) > 0
        largest = np.where(prompts, engine.largest_step(True), engine.largest_step(False))
        beside = np.where(decodes, launches[True, True], launches[True, False])
        launched = np.where(prompts, beside, launches[False, True])
        return np.where(rows > largest, launched, 0.0)

    def _drafts(self, load: Load) -> Number:
        if not self.speculative.drafts:
            return 0.0
        spec, drafts = self.draft_spec, self.speculative.drafts
        layers = token_operators(spec, self.engine.padded_rows(load.batch))
        layers += [at_load(t, load) for t in attention_terms(spec) if t.phase == "decode"]
        some = np.sign(load.batch)
        head = self.machine.sum_seconds(head_operators(spec, load.batch))
        return some * (self.draft_share * self.machine.sum_seconds(layers) + drafts * head)

    def _half(self, load: Load) -> Load:
        halves = self.halves
        if halves == 1:
            return load
        batch = np.ceil(load.batch / halves)
        share = batch / np.maximum(load.batch, 1.0)
        return Load(
            tokens=np.ceil(load.tokens / halves),
            pairs=load.pairs / halves,
            past=load.past / halves,
            prompts=load.prompts / halves,
            batch=batch,
            context=load.context * share,
            occupied=load.occupied,
        )


def _kernels(operators: Sequence[Operator]) -> float:
    """Return how many kernels these operators launch."""
    return sum(float(op.calls) * op.kernels for op in operators)
