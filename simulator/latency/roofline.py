"""Step times from first principles: FLOPs, bytes and messages over what the hardware reaches."""

import logging
import math
from dataclasses import dataclass, replace

from hardware.fabric import Fabric
from hardware.gpu import GPU
from simulator.errors import ConfigError
from simulator.latency.base import StepModel, WorkerSpec
from simulator.latency.collectives import Network
from simulator.latency.efficiency import load
from simulator.latency.engine import DEFAULT, Engine, known
from simulator.latency.engine import load as load_engine
from simulator.latency.machine import Machine
from simulator.latency.passes import PEAK_OF, Load, Number, PassSpec
from simulator.latency.scaling import check_scale, scaled_steps
from simulator.latency.speculative import Speculative
from simulator.latency.step import Step
from simulator.latency.stepping import RooflineSteps
from simulator.layout import PARTS, TENSOR_DTYPE

log = logging.getLogger(__name__)

EXCHANGES = ("all_to_all", "all_gather")
MOE_BACKENDS = ("cutlass", "trtllm")


MEASURED_SKEW = 1.49
"""Load of the busiest of 32 expert ranks over the mean: what balancing the experts gained in
DeepSeek's prefill over 32 ranks (SGLang on H100s, lm-sys 2025-05-05). The kernel tables that
calibration fits to are routed by a steeper law, which its files state as ``moe_skew``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The calibrated roofline: any model × GPU × layout, from the operators of its forward pass.

    ``calibration`` is a folder of efficiency files by GPU architecture (``None``: the shipped
    ones). ``engine`` is the serving engine: the name of a shipped one, or one's own.
    ``host_overhead_s`` seconds are added to every step in place of the engine's host work.
    ``moe_skew`` is the load of the busiest of 32 expert ranks over the mean (``None``:
    :data:`MEASURED_SKEW`); without ``busiest_rank`` chance adds nothing to that.
    ``cache_upprojected_kv`` spares chunked MLA prefill from redoing the up-projection of
    earlier chunks. ``expert_exchange`` is ``all_to_all`` (dispatch and combine kernels) or
    ``all_gather`` (plain collectives over the attention-DP ranks; ``None``: as the engine does).
    ``moe_backend`` computes experts by kernels other than the engine's own, one of
    :data:`MOE_BACKENDS`, where those were measured apart (datacentre Blackwell: ``cutlass`` in
    NVFP4, ``trtllm`` in FP8 with block scales; ``None``: the engine's own).
    ``two_batch_overlap`` runs the
    all-to-all of one half of a step beside the compute of the other. ``speculative`` decodes
    several tokens per step. Every step takes ``scale`` times what all this says.
    """

    calibration: str | None = None
    engine: str | Engine = DEFAULT
    host_overhead_s: float | None = None
    moe_skew: float | None = None
    busiest_rank: bool = True
    cache_upprojected_kv: bool = False
    expert_exchange: str | None = None
    moe_backend: str | None = None
    two_batch_overlap: bool = False
    speculative: Speculative | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.host_overhead_s is not None and not 0 <= self.host_overhead_s < math.inf:
            raise ConfigError(
                "latency roofline: host_overhead_s must be at least 0 s "
                f"but got {self.host_overhead_s!r}"
            )
        if self.moe_skew is not None and not 1 <= self.moe_skew < math.inf:
            raise ConfigError(
                f"latency roofline: moe_skew must be at least 1 but got {self.moe_skew!r}"
            )
        check_scale("roofline", self.scale)
        if self.expert_exchange is not None:
            _one_of("expert_exchange", self.expert_exchange, EXCHANGES)
        if self.moe_backend is not None:
            _one_of("moe_backend", self.moe_backend, MOE_BACKENDS)
        if isinstance(self.engine, str):
            _one_of("engine", self.engine, tuple(known()))

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the step times of one worker; ``ConfigError`` for a dtype its GPU lacks."""
        return scaled_steps(RooflineSteps(self.step(worker), worker.role), self.scale)

    def pass_seconds(self, worker: WorkerSpec, load: Load) -> Number:
        """Return seconds of a step over arrays of loads **per attention rank**, vectorised.

        The fields of ``load`` broadcast; every entry must have prompt tokens or a batch.
        """
        return self.step(worker).seconds(load)

    def step(self, worker: WorkerSpec) -> Step:
        """Return what decides the seconds of a worker's steps; ``ConfigError`` as for ``bind``."""
        machine = self.machine(worker.gpu, worker.fabric)
        return Step(
            spec=self.pass_spec(worker),
            machine=machine,
            engine=self.profile,
            speculative=self.speculative or Speculative(),
            two_batch_overlap=self.two_batch_overlap,
            host_s=self.host_overhead_s,
            scale=self.scale,
        )

    @property
    def profile(self) -> Engine:
        """The serving engine's profile."""
        return load_engine(self.engine) if isinstance(self.engine, str) else self.engine

    def machine(self, gpu: GPU, fabric: Fabric) -> Machine:
        """Return the GPU with its efficiency; the log says so where that is inherited."""
        engine = self.profile
        measured = load(gpu.architecture, self.calibration)
        efficiency = measured.for_engine(engine.kernels, engine.kernel_factor, self.moe_backend)
        efficiency = replace(efficiency, all_reduce=engine.all_reduce)
        if efficiency.inherits is not None:
            log.info(
                "%s (%s) has no measurements: its efficiency is inherited from %s, measured on %s",
                gpu.name,
                gpu.architecture,
                efficiency.inherits,
                ", ".join(efficiency.measured_on),
            )
        return Machine(
            gpu=gpu,
            efficiency=efficiency,
            network=Network.of(gpu, fabric),
            companion_s=engine.companion_s,
        )

    def pass_spec(self, worker: WorkerSpec) -> PassSpec:
        """Return what the worker passes through, after checking that its GPU can compute it."""
        skew = MEASURED_SKEW if self.moe_skew is None else self.moe_skew
        engine = self.profile
        gpu, ranks = worker.gpu, worker.layout.expert_group
        boxed = not gpu.scale_up_multicast and ranks <= worker.fabric.domain_size(gpu)
        own = engine.exchange(boxed=boxed)
        spec = PassSpec(
            model=worker.model,
            layout=worker.layout,
            precision=worker.precision,
            cache_upprojected_kv=self.cache_upprojected_kv,
            moe_skew=skew,
            busiest_rank=self.busiest_rank,
            expert_exchange=own if self.expert_exchange is None else self.expert_exchange,
            decode_width=1 + (self.speculative.drafts if self.speculative else 0),
            shared_beside=engine.shared_beside,
            gathers_quantized=engine.gathers_quantized,
            fp8_scales=engine.fp8_scales,
            companions=engine.companion_s > 0.0,
        )
        _check_dtypes(worker, spec)
        return spec


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        names = ", ".join(known)
        raise ConfigError(f"latency roofline: {name} must be one of {names} but got {value!r}")


def _check_dtypes(worker: WorkerSpec, spec: PassSpec) -> None:
    """Refuse weights × activations that the GPU has no tensor cores for."""
    peaks, precision = worker.gpu.peak_flops, worker.precision
    for dtype in (*map(spec.computed, ("weights", *PARTS)), "bf16"):
        if PEAK_OF[dtype] not in peaks:
            works = ", ".join(n for n, peak in TENSOR_DTYPE.items() if peak in peaks) or "none"
            raise ConfigError(
                f"precision: {worker.gpu.name} has no {PEAK_OF[dtype]} peak to compute in {dtype} "
                f"(weights={precision.weights}, activations={precision.activations}); dtypes it "
                f"can compute in: {works}"
            )
