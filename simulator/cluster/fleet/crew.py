"""Makes a pool's workers: alike, so what they share is made once."""

from dataclasses import dataclass

from simulator.cluster.clock import Clock
from simulator.cluster.ledger import Ledger
from simulator.cluster.pools.wiring import worker_spec
from simulator.cluster.traffic.gateway import Limits
from simulator.cluster.workers.batch import BatchWorker
from simulator.cluster.workers.gaps import GapLog
from simulator.cluster.workers.lines import KeyOf, OrderedLine
from simulator.cluster.workers.pace import Pace
from simulator.cluster.workers.prefill import PrefillWorker
from simulator.cluster.workers.prompts import PromptBlocks
from simulator.cluster.workers.timing import DecodeTimes, PromptTimes
from simulator.cluster.workers.worker import Listener, WorkerSettings
from simulator.deployment import Deployment, Pool
from simulator.latency.checked import bind
from simulator.policies.engines import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every worker is given: the clock, the ledger, whom to tell, and the batch worker's kind.

    ``leap`` bounds the iterations taken at once (``None``: as many as possible); where not all
    ``clients_stay``, workers keep what it takes to part with a sequence in a stall. ``key_of``
    orders their prompts (``None``: as they come), ``prompts`` have ids of their blocks if there are
    caches to be.
    """

    clock: Clock
    ledger: Ledger
    listener: Listener
    batch_worker: type[BatchWorker] = BatchWorker
    leap: int | None = None
    clients_stay: bool = True
    key_of: KeyOf | None = None
    prompts: PromptBlocks | None = None


class Crew:
    """The workers that one pool can have."""

    def __init__(self, deployment: Deployment, pool: Pool) -> None:
        self.pool = pool
        self.spec = worker_spec(deployment, pool)
        self._steps = bind(deployment.latency, self.spec)
        self._times = DecodeTimes(self._steps)
        self._prompt_times = PromptTimes(self._steps)
        self.engine = Engine(
            steps=self._steps,
            gpus=self.spec.layout.gpus,
            max_num_batched_tokens=pool.batching.max_num_batched_tokens,
            max_num_seqs=pool.batching.max_num_seqs,
            kv_tokens=self.spec.memory.kv_blocks * pool.batching.block_size,
            max_context=deployment.model.max_context,
        )
        self.gaps = GapLog(self._times.seconds)
        self._max_context = deployment.model.max_context
        self._recomputes = deployment.recomputes and pool.role == "decode"
        self._keeps = deployment.transfer.release == "idle"

    def worker(self, number: int, means: Means) -> PrefillWorker | BatchWorker:
        """Make worker ``number``."""
        settings = WorkerSettings(
            worker=number,
            spec=self.spec,
            batching=self.pool.batching,
            steps=self._steps,
            times=self._times,
            prompt_times=self._prompt_times,
            gaps=self.gaps,
            recomputes=self._recomputes,
            keeps=self._keeps,
            prompts=means.prompts if self.pool.batching.prefix_cache else None,
        )
        kind = PrefillWorker if self.pool.role == "prefill" else means.batch_worker
        worker = kind(means.clock, means.ledger, means.listener, settings)
        if means.key_of is not None:
            worker.prompts = OrderedLine(means.key_of)
        if isinstance(worker, BatchWorker) and means.leap is not None:
            worker.leap.limit = means.leap
        if isinstance(worker, BatchWorker) and not means.clients_stay:
            worker.expect_leavers()
        return worker

    def pace(self) -> Pace:
        """Return what its workers would take for some work."""
        ranks = self.spec.layout.attention_dp
        return Pace(self.pool.batching, ranks, self._steps.stages, self._times, self._prompt_times)

    def limits(self, last: "Crew") -> Limits:
        """Return what a request may need at most that comes in here and ends at ``last``."""
        last = last if self.pool.role == "prefill" else self
        return Limits(
            max_context=self._max_context,
            block_size=self.pool.batching.block_size,
            kv_blocks=self.spec.memory.kv_blocks,
            last_block_size=last.pool.batching.block_size,
            last_kv_blocks=last.spec.memory.kv_blocks,
        )
