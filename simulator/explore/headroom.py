"""How much of a steady state's rate can be promised when requests arrive at random.

A pool that is full computes at its steady rate, and queues before it grow without bound. What is
promised is the share of that rate, its *load*, at which the requests that count still hold the
limits under Poisson arrivals:

* **prompts** wait as at ``n`` servers with a common queue (M/G/n). A share ``C`` of them waits at
  all, ``C = ρ^(√(2(n+1)) − 1)`` (Sakasegawa 1977), and for longer than t seconds a share
  ``C · exp(−t/τ)`` with ``τ = s · (1 + c²) / (2n · (1 − ρ))`` (Kingman's heavy-traffic
  exponential; ``s`` and ``c²`` are mean and squared variation of what a prompt keeps a server
  busy);
* **seats** of decode batches are taken by a Poisson number of sequences (M/G/∞, whatever the
  lengths): a mean of ``a`` needs ``a + z·√a`` seats for that share of the arrivals to find one.

Both are rules of thumb to rank deployments by; what the best keep is found by simulation.
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from simulator.errors import ConfigError
from simulator.explore.bandwidth import Handover
from simulator.explore.space import Floats

HALVINGS = 12
"""Steps of looking for a load: to within 1/4096."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What of the steady rate to keep free.

    ``share`` of it (0: promise the steady state), or, with ``None``, as much as lets ``attainment``
    of the requests have their first token within ``ttft_s`` seconds and find a seat to decode.
    ``handover`` is what a first token waits for beside its prompt.
    """

    share: float | None = None
    attainment: float = 0.9
    ttft_s: float = math.inf
    handover: Handover = field(default_factory=Handover)

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share < 1:
            raise ConfigError(f"explore: headroom must lie in [0, 1) but got {self.share!r}")

    def prompts_load(self, queue: "Queue", own_s: Floats) -> Floats:
        """Return the greatest load at which prompts that take ``own_s`` alone are in time.

        0 where they are not even without a wait.
        """
        if self.share is not None:
            return np.full(np.shape(own_s), 1.0 - self.share)
        slack = self.ttft_s - own_s
        low, high = np.zeros(np.shape(own_s)), np.ones(np.shape(own_s))
        for _ in range(HALVINGS):
            middle = (low + high) / 2.0
            held = queue.wait_s(middle, self.attainment) <= slack
            low, high = np.where(held, middle, low), np.where(held, high, middle)
        return low

    def wait_s(self, queue: "Queue", load: Floats) -> Floats:
        """Return what ``attainment`` of the prompts wait at most; none in the steady state."""
        if self.share is not None:
            return np.zeros(np.shape(load))
        return queue.wait_s(load, self.attainment)

    def seats_load(self, seats: Floats) -> Floats:
        """Return the greatest load at which arrivals find one of ``seats`` free."""
        if self.share is not None:
            return np.full(np.shape(seats), 1.0 - self.share)
        z = NormalDist().inv_cdf(self.attainment)
        root = (np.sqrt(z * z + 4.0 * seats) - z) / 2.0
        taken: Floats = root * root / seats
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Prompts before ``servers`` that each serve ``rate`` requests/s in steady state.

    They are busy with prompts for the share ``busy`` of the time then; ``variation`` is the squared
    coefficient of variation of what a prompt takes.
    """

    rate: Floats
    servers: Floats
    variation: float
    busy: Floats | float = 1.0

    def wait_s(self, load: Floats, attainment: float) -> Floats:
        """Return the seconds that this share of the prompts wait at most."""
        rho = np.minimum(load * self.busy, 1.0 - 1e-9)
        waiting = rho ** (np.sqrt(2.0 * (self.servers + 1.0)) - 1.0)
        service = self.busy / self.rate
        mean = service * (1.0 + self.variation) / (2.0 * self.servers * (1.0 - rho))
        wait: Floats = mean * np.log(np.maximum(waiting / (1.0 - attainment), 1.0))
        return wait
