"""Asks, before a prompt is placed, whether its decode worker is to compute it."""

from functools import partial

from simulator.cluster.ledger import Ledger
from simulator.cluster.pools.router import Router, is_index
from simulator.cluster.workers.batch import BatchWorker
from simulator.errors import ConfigError
from simulator.policies.local_prefill import LocalPlacing, LocalPrefill, Prompt


class Bypass:
    """Shows the policy where a prompt would go, and has it placed there if it is to stay.

    Where it would go is asked of the routers without their keeping anything of it, so a prompt that
    does not stay leaves no trace; where its decode worker is then is decided at its hand-over.
    ``knows``: somebody is to know of decode workers' caches; of a prompt without ids, or a worker
    without a cache, that nothing is cached is known.
    """

    __slots__ = ("_asks", "_decide", "_decode_router", "_knows", "_ledger", "_router")

    def __init__(
        self,
        policy: LocalPrefill | LocalPlacing,
        ledger: Ledger,
        routers: tuple[Router, Router],
        *,
        knows: bool,
    ) -> None:
        if isinstance(policy, LocalPlacing):
            self._decide = partial(self._chosen, policy)
        else:
            self._decide = partial(self._kept, policy)
        self._asks: bool = getattr(policy, "asks_prefill", False)
        self._ledger = ledger
        self._router, self._decode_router = routers
        self._knows = knows

    def placed(self, request: int, tokens: int, output: int) -> BatchWorker | None:
        """Return the decode worker that gets a prompt, or ``None`` if it goes the usual way."""
        if not self._decode_router.team.workers:
            return None
        return self._decide(request, tokens, output)

    def _chosen(
        self, policy: LocalPlacing, request: int, tokens: int, output: int
    ) -> BatchWorker | None:
        """Ask a policy that chooses the decode worker itself."""
        router = self._decode_router
        routed = router.routed(request, tokens, output)
        index = policy.place(routed, self._router.view, router.view)
        if index is None:
            return None
        size = len(router.team.workers)
        if not is_index(index, size):
            raise ConfigError(
                f"local_prefill {type(policy).__name__}: chose worker {index!r} for request "
                f"{request}, but the decode pool has workers 0 to {size - 1}"
            )
        router.sent(request, int(index))
        self._ledger.expected.pop(request, None)
        worker: BatchWorker = router.team.workers[index]
        return worker

    def _kept(
        self, policy: LocalPrefill, request: int, tokens: int, output: int
    ) -> BatchWorker | None:
        """Ask a policy whether the decode worker that its router would choose keeps a prompt."""
        router, ledger = self._decode_router, self._ledger
        team = router.team
        index, found = router.peek(request, tokens, output)
        worker: BatchWorker = team.workers[index]
        cached = found if self._knows else None
        waiting, step = self._prefill(request, tokens, output)
        blocks = team.load.kv_blocks[index] + worker.blocks(tokens)
        seen = Prompt(tokens, cached, blocks, worker.capacity, waiting, step)
        answer = policy.local(seen)
        if type(answer) is not bool:
            raise ConfigError(
                f"local_prefill {type(policy).__name__}: answered {answer!r} for request "
                f"{request}, but may say True or False"
            )
        if not answer:
            return None
        router.place(request, tokens, output)
        ledger.expected.pop(request, None)
        if cached:
            ledger.expected[request] = cached
        return worker

    def _prefill(self, request: int, tokens: int, output: int) -> tuple[int, int]:
        """Return the prompt tokens that wait where a prompt would be computed, and of a step."""
        router = self._router
        if not self._asks:
            return 0, 0
        index, _ = router.peek(request, tokens, output)
        batching = router.team.workers[index].settings.batching
        return router.team.load.tokens[index], batching.max_num_batched_tokens
