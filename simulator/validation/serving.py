"""Measured serving runs beside the same runs simulated whole.

Each row becomes a deployment under the load it was measured with. Concurrency-driven rows are a
closed loop of N clients of infinite speed, with lengths uniform in 0.8 to 1.0 of the nominal ones
unless the row says otherwise; offline rows start with all requests at once.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.gpu import GPU
from simulator.cluster.simulation import RunOptions, Traffic, run
from simulator.deployment import Batching, Deployment, Pool
from simulator.errors import CapacityError, ConfigError
from simulator.latency.base import StepModel, WorkerSpec
from simulator.latency.engine import load
from simulator.latency.roofline import Roofline
from simulator.latency.silicon import Silicon
from simulator.latency.speculative import Speculative
from simulator.layout import Layout, MemoryBudget, Precision, plan_memory
from simulator.model import Model
from simulator.policies.routing import LeastKV, RoundRobin
from simulator.record import STATUSES, RunRecord
from simulator.validation import choices, launches, recipes, trtllm_bench
from simulator.validation.names import Catalogue, Unmapped, Workers, precision, unfolded, workers
from simulator.validation.score import SILICON, Scored, batch_range
from simulator.validation.steps import profile_of, reason_of
from simulator.validation.tables import Row, number
from workloads.lengths import Constant, IndependentPairs, Lengths, Uniform

REQUIRED = (
    "model",
    "precision",
    "gpu",
    "mode",
    "prefill_parallel",
    "decode_parallel",
    "isl",
    "osl",
    "concurrency_or_rate",
    "tpot_ms",
    "tok_s_per_gpu_out",
)
"""Columns a table of serving runs must have; the others have defaults."""

STEP_TOKENS = 8192
"""Token budget of a step per attention rank: the default of TensorRT-LLM, SGLang and vLLM."""
SEQS = 1024
OFFLINE_SEQS = 2048
"""Sequences per attention rank: servers', and that of TensorRT-LLM's offline benchmark."""
MEMORY_SHARE = 0.9
"""Of GPU memory for weights, activations and KV (vLLM, SGLang), or of what they leave (TRT-LLM)."""
OFFLINE_SHARE = 0.95
"""Of what they leave, in TensorRT-LLM's offline benchmark."""
MOST_MEMORY = 0.97
"""The largest share such engines are run with."""
MOST_REQUESTS = 6000
"""Requests simulated at most, unless even three rounds of all clients are more."""
SEATED = 1.05
"""Of a recipe's seats, at most so many may be taken on average: what Little's law is off by."""
KV_AS_STORED = ("sglang", "vllm")
"""Engines that keep KV in the checkpoint's dtype unless told otherwise."""
SGLANG_UNFUSED = "sglang_0_5_10"
"""Profile of SGLang whose all-reduces are not fused."""
BLOCK = 128
"""Columns that share a scale in FP8 checkpoints with block scales."""
NEVER = 1e9
"""Seconds between gauge samples where nobody looks at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a row was measured under: ``clients`` ``None`` sends all ``requests`` at once."""

    clients: int | None
    requests: int
    lengths: IndependentPairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row with its counterpart here; ``gpus`` is what the row divides its throughput by.

    ``seats`` says where the limit of its decode batches is from.
    """

    deployment: Deployment
    load: Load
    gpus: float
    median: bool
    seats: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulated run comes to: seconds, and output tokens per second of the deployment."""

    ttft_s: float
    tpot_s: float
    tokens_per_s: float


def score_serving(
    rows: Sequence[tuple[int, Row]], catalogue: Catalogue, *, silicon: bool = False
) -> list[Scored]:
    """Return every numbered row, scored for each of the sets it belongs to.

    With ``silicon`` step times are aiconfigurator-core's, and the sets are named so.
    """
    scored = [each for at, row in rows for each in score_row(row, at, catalogue, silicon=silicon)]
    if not silicon:
        return scored
    return [replace(each, set=f"{SILICON}{each.set}") for each in scored]


def score_otherwise(
    rows: Sequence[tuple[int, Row]], catalogue: Catalogue, name: str
) -> list[Scored]:
    """Return every numbered row that a modelling choice touches, simulated without it.

    The sets are named for it (:data:`~simulator.validation.choices.PREFIX`).
    """
    scored: list[Scored] = []
    for at, row in rows:
        case = _otherwise(row, catalogue, name)
        if case is not None:
            scored += _simulated(row, at, case)
    return [replace(each, set=f"{choices.PREFIX}{name}_{each.set}") for each in scored]


def _otherwise(row: Row, catalogue: Catalogue, name: str) -> Case | None:
    """Return the row's case without a choice, ``None`` where there is none or it is the same."""
    try:
        case = case_of(row, catalogue)
    except (Unmapped, ConfigError):
        return None
    deployment = case.deployment
    sparse, wide = deployment.model.is_moe, any(p.layout.attention_dp > 1 for p in deployment.pools)
    fp8 = any(pool.precision.weights == "fp8" for pool in deployment.pools)
    if not choices.touches(name, sparse=sparse, wide=wide, fp8=fp8):
        return None
    own = deployment.latency
    latency = choices.without(own, name) if isinstance(own, Roofline) else None
    if latency is None:
        return None
    return replace(case, deployment=replace(deployment, latency=latency))


def _simulated(row: Row, at: int, case: Case) -> list[Scored]:
    try:
        outcome = simulate_case(case, seed=at)
    except (Unmapped, ConfigError) as error:
        return list(_scores(row, at, case, None, error))
    return list(_scores(row, at, case, outcome, None))


def score_public(rows: Sequence[tuple[int, Row]], catalogue: Catalogue) -> list[Scored]:
    """Return the throughput of every numbered row, in a set of its own."""
    scored = score_serving(rows, catalogue)
    return [
        replace(each, set="public_throughput") for each in scored if each.set == "e2e_throughput"
    ]


def score_row(row: Row, at: int, catalogue: Catalogue, *, silicon: bool = False) -> list[Scored]:
    """Return one row's TPOT, throughput and TTFT, each scored or skipped with its reason."""
    case = outcome = problem = None
    try:
        case = case_of(row, catalogue)
        outcome = simulate_case(_on_silicon(case, row) if silicon else case, seed=at)
    except (Unmapped, ConfigError) as error:
        problem = error
    return list(_scores(row, at, case, outcome, problem))


# --- what a row is --------------------------------------------------------------------------


def case_of(row: Row, catalogue: Catalogue) -> Case:
    """Return the deployment and load of a row; raise ``Unmapped`` or ``ConfigError``."""
    mode = _mode(row)
    if mode == "other":
        raise Unmapped(f"mode not known: {row['mode']}")
    name, model = catalogue.model(row["model"])
    gpu = catalogue.gpu(row["gpu"])
    dtypes = precision(row["precision"], name, gpu)
    if engine_of(row) in KV_AS_STORED and "kv" not in row["precision"].lower():
        dtypes = _default_kv(dtypes, gpu, model)
    offered = _load(row)
    roles = [
        (role, _blocks_whole(each, row, model, dtypes)) for role, each in _roles(row, mode, model)
    ]
    server = _Server(
        engine=engine_of(row),
        offline=offered.clients is None,
        model=model,
        gpu=gpu,
        precision=dtypes,
    )
    if chosen := _chosen(row, server, dict(roles)):
        server = replace(server, chosen=chosen, chunked=_chunks(row))
    if mode == "disagg" and name.startswith("deepseek"):
        server = replace(server, decode_seats=_seats(row, server, dict(roles), offered))
    if mode == "agg":
        own = _launch(row, name, server, dict(roles)["mixed"])
        server = replace(server, launch=own, model=own.served(model))
    pools = tuple(server.pool(role, given) for role, given in roles)
    deployment = Deployment(
        model=server.model,
        gpu=gpu,
        fabric=catalogue.fabric(gpu),
        latency=_captured(_latency(row, server.launch), row, server),
        pools=pools,
        first_token="decode" if mode == "disagg" else "prefill",
        decode_router=RoundRobin() if _of_inferencex(row) else LeastKV(),
    )
    ours = sum(pool.workers * pool.layout.gpus for pool in pools)
    return Case(
        deployment=deployment,
        load=offered,
        gpus=number(row.get("n_gpus", "")) or ours,
        median="medians" in row.get("notes", ""),
        seats="of a public recipe" if server.decode_seats else "the engine's default",
    )


def _chosen(
    row: Row, server: "_Server", roles: Mapping[str, Workers]
) -> trtllm_bench.Limits | None:
    """Return the limits that an offline benchmark of TensorRT-LLM chose for itself."""
    if not server.offline or "perf-overview" not in row.get("source", ""):
        return None
    return trtllm_bench.limits(
        trtllm_bench.Benchmark(
            model=server.model,
            precision=server.precision,
            gpu=server.gpu,
            layout=roles["mixed"].layout,
            isl=int(number(row["isl"]) or 0),
            osl=int(number(row["osl"]) or 0),
            chunked=_chunks(row),
        )
    )


def _chunks(row: Row) -> bool:
    """Tell whether prompts are computed in chunks: by TensorRT-LLM's engines of before 1.0.

    Its PyTorch backend does not unless it is told to.
    """
    return "pytorch" not in row.get("engine", "")


def _captured(latency: Roofline, row: Row, server: "_Server") -> Roofline:
    """Return the latency with the CUDA graphs of an offline benchmark; engines have none.

    And with the experts of its backend.
    """
    if server.chosen is None:
        return latency
    latency = replace(latency, moe_backend=trtllm_bench.MOE_BACKEND)
    if _chunks(row):
        return replace(latency, engine=replace(latency.profile, graph_sizes=()))
    return replace(latency, engine=trtllm_bench.captured(latency.profile, server.chosen.sequences))


def _default_kv(dtypes: Precision, gpu: GPU, model: Model) -> Precision:
    """Return the KV of SGLang and vLLM by default: the checkpoint's 16 bits, before Blackwell.

    Recipes of public runs set 8 bits on B200 and leave the default on H200 (InferenceX
    benchmarks/dsr1_fp8_b200.sh and dsr1_fp8_h200.sh; minimaxm2.5_fp8_h200.sh before pull request
    1354, of after these runs). For sparse attention vLLM keeps latents in 8 bits unasked.
    """
    kept = "fp4" in gpu.peak_flops or model.index_top_k > 0
    return dtypes if kept else replace(dtypes, kv="bf16")


def _seats(row: Row, server: "_Server", roles: Mapping[str, Workers], offered: Load) -> int | None:
    """Return the sequences of a decode rank by the run's public recipe, if there is one.

    More answers under way than the recipe has seats for: it is that of another version.
    """
    tokens = (int(number(row["isl"]) or 0), int(number(row["osl"]) or 0))
    run = recipes.Run(
        prefill_workers=roles["prefill"].count,
        decode=roles["decode"],
        clients=offered.clients or 0,
    )
    weights = server.precision.weights
    seats = recipes.seats(server.engine, recipes.key(server.gpu.name), weights, tokens, run)
    if seats is None:
        return None
    room = seats * run.decode.layout.attention_dp * run.decode.count
    return seats if SEATED * room >= _under_way(row, offered) else None


def _launch(row: Row, name: str, server: "_Server", given: Workers) -> launches.Launch:
    """Return what a co-located row's server was launched with, as far as a public script says."""
    if not _of_inferencex(row):
        return launches.DEFAULT
    return launches.launch(
        launches.Run(
            engine=server.engine,
            version=tuple(map(int, re.findall(r"\d+", row["engine"])[:3])),
            model=name,
            weights=server.precision.weights,
            gpu=recipes.key(server.gpu.name),
            gpus=given.layout.gpus,
            ranks=given.layout.attention_dp,
            tokens=(int(number(row["isl"]) or 0), int(number(row["osl"]) or 0)),
            clients=_clients(row),
        )
    )


def _under_way(row: Row, offered: Load) -> float:
    """Return how many answers were being decoded at a time, by Little's law; 0 if not known."""
    first, each = number(row.get("ttft_ms", "")), number(row.get("tpot_ms", ""))
    if first is None or each is None or offered.clients is None:
        return 0.0
    middle = float(offered.lengths.output.quantile(np.array([0.5]))[0])
    decoding = each * (middle - 1.0)
    return offered.clients * decoding / (first + decoding)


def _of_inferencex(row: Row) -> bool:
    """Tell whether a row is of InferenceX' sweeps.

    Behind all their disaggregated runs is Dynamo, whose front end takes decode workers in turn
    unless told otherwise (``--router-mode``).
    """
    return "silicon_sample" in row.get("source", "")


def _mode(row: Row) -> str:
    mode = row["mode"].lower()
    if mode == "agg" and _offline(row):
        return "offline"
    return mode if mode in ("agg", "disagg") else "other"


def _offline(row: Row) -> bool:
    return row["concurrency_or_rate"].lower().startswith(("inf", "offline"))


def _latency(row: Row, own: launches.Launch = launches.DEFAULT) -> Roofline:
    """Return the roofline of the row's engine, launched so."""
    engine = SGLANG_UNFUSED if own.unfused else profile_of(engine_of(row))
    return Roofline(engine=engine, speculative=_speculative(row), moe_backend=own.moe_backend)


def _on_silicon(case: Case, row: Row) -> Case:
    """Return the case with the step times of aiconfigurator-core; raise ``Unmapped`` without."""
    if _speculative(row) is not None:
        raise Unmapped("no speculative decoding with measured tables")
    engine = engine_of(row)
    guarded = _Guarded(model=Silicon(engine=engine), engine=engine)
    return replace(case, deployment=replace(case.deployment, latency=guarded))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guarded:
    """Another package's step times: whatever it raises is a row it cannot answer, not our end.

    What ``engine`` takes beside its steps is as with ours.
    """

    model: Silicon
    engine: str

    def bind(self, worker: WorkerSpec) -> StepModel:
        """Return the step times of a worker; raise ``Unmapped`` or ``ConfigError`` without."""
        try:
            return self.model.bind(worker)
        except ConfigError:
            raise
        except Exception as error:
            raise Unmapped(f"aiconfigurator-core: {type(error).__name__}", str(error)) from error


def _speculative(row: Row) -> Speculative | None:
    """Return the drafts the notes give (``MTP3``, ``MTP=1``), with their acceptance length if said.

    A length L of n drafts is one chance p with 1 + p + … + pⁿ = L.
    """
    notes = row.get("notes", "")
    drafts = re.search(r"\b(?:MTP|EAGLE)\s*(?:steps)?\s*=?\s*(\d+)", notes)
    if drafts is None or int(drafts[1]) == 0:
        return None
    count = int(drafts[1])
    length = re.search(r"acceptance length (\d+(?:\.\d+)?)", notes)
    if length is None:
        return Speculative(draft_tokens=count)
    chances = np.linspace(0.0, 1.0, 1001)
    lengths = (chances[:, None] ** np.arange(count + 1)).sum(axis=1)
    return Speculative(
        draft_tokens=count, acceptance=float(np.interp(float(length[1]), lengths, chances))
    )


def engine_of(row: Row) -> str:
    """Return ``trtllm``, ``sglang``, ``vllm``, or what else the engine column starts with."""
    text = row.get("engine", "").lower().replace("tensorrt-llm", "trtllm")
    return re.split(r"[^a-z]", text)[0] if text else ""


def _load(row: Row) -> Load:
    isl, osl = number(row["isl"]), number(row["osl"])
    if isl is None or osl is None:
        raise Unmapped("isl or osl is not a number of tokens")
    lengths = _lengths(row, isl, osl)
    if _offline(row):
        return Load(clients=None, requests=_offline_requests(isl + osl), lengths=lengths)
    clients = _clients(row)
    said = re.search(r"\b(\d+) (?:prompts|requests)\b", row.get("notes", ""))
    requests = int(said[1]) if said else 10 * clients
    return Load(
        clients=clients,
        requests=max(min(requests, MOST_REQUESTS), 3 * clients, 16),
        lengths=lengths,
    )


def _clients(row: Row) -> int:
    """Return how many clients the row has in all; ranks and GPUs multiply what is said of one."""
    text = row["concurrency_or_rate"]
    plain = number(text)
    if plain is not None:
        return max(1, round(plain))
    if each := re.fullmatch(r"(\d+) seq/GPU", text):
        return int(each[1]) * int(number(row.get("n_gpus", "")) or 1)
    if total := re.fullmatch(r"(\d+) \(\d+/rank\)", text):
        return int(total[1])
    raise Unmapped("concurrency not given" if not text else f"load not modelled: {text}")


def _lengths(row: Row, isl: float, osl: float) -> IndependentPairs:
    if _offline(row) or _fixed_lengths(row):
        return IndependentPairs(input=Constant(tokens=int(isl)), output=Constant(tokens=int(osl)))
    return IndependentPairs(input=_uniform(isl), output=_uniform(osl))


def _uniform(nominal: float) -> Lengths:
    return Uniform(low=max(1, round(0.8 * nominal)), high=max(1, int(nominal)))


def _fixed_lengths(row: Row) -> bool:
    """Tell whether every answer had the nominal length.

    TensorRT-LLM's benchmark draws without spread. So did the runs that note a median end-to-end
    time: at low load ``1 + (E2E − TTFT) / TPOT`` is the nominal length to a token.
    """
    return "TensorRT-LLM" in row.get("source", "") or "median e2e" in row.get("notes", "")


def _offline_requests(tokens: float) -> int:
    """Return how many requests TensorRT-LLM's offline benchmark sends, by their length."""
    if tokens <= 256:
        return 30000
    return 3000 if tokens <= 2500 else 1500 if tokens < 20000 else 1000


# --- its counterpart ------------------------------------------------------------------------


def _roles(row: Row, mode: str, model: Model) -> list[tuple[str, Workers]]:
    """Return the row's pools by role, with their workers."""
    if mode != "disagg":
        given = workers(row["decode_parallel"] or row["prefill_parallel"], model)
        return [("mixed", _deployed(given, row, model))]
    for role in ("prefill", "decode"):
        if not row[f"{role}_parallel"]:
            raise Unmapped(f"{role} layout not given")
    return [(role, workers(row[f"{role}_parallel"], model)) for role in ("prefill", "decode")]


def _blocks_whole(given: Workers, row: Row, model: Model, dtypes: Precision) -> Workers:
    """Return workers whose experts are whole where their TP would cut a block of scales.

    vLLM and SGLang refuse such a width to start ("not divisible by weight quantization block_n",
    quantization/fp8.py), so these runs had EP: InferenceX pull request 869, of MiniMax-M2.5's 1,536
    over 8 ranks, says so, and its script asked for it whenever a degree was given.
    """
    layout = given.layout
    blocks = engine_of(row) in KV_AS_STORED and dtypes.weights == "fp8_block" and model.is_moe
    if not blocks or model.moe_intermediate % (layout.expert_tp * BLOCK) == 0:
        return given
    return replace(given, layout=replace(layout, ep=layout.expert_group))


def _deployed(given: Workers, row: Row, model: Model) -> Workers:
    """Return the layout that a co-located row's text stands for in its source.

    TensorRT-LLM's performance overview runs every mixture of experts on its PyTorch backend with
    attention-DP and EP, and calls that TP up to version 1.0.
    """
    source, layout = row.get("source", ""), given.layout
    if "silicon_sample" in source:
        return unfolded(given)
    overview = "perf-overview" in source and "pytorch" in row.get("engine", "")
    if overview and model.is_moe and layout.attention_dp == 1:
        wide = replace(layout, tp=1, attention_dp=layout.tp, ep=layout.tp)
        return Workers(count=given.count, layout=wide)
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """An engine that serves a model on one kind of GPU, ``offline`` as TensorRT-LLM's benchmark."""

    engine: str
    offline: bool
    model: Model
    gpu: GPU
    precision: Precision
    decode_seats: int | None = None
    chosen: trtllm_bench.Limits | None = None
    chunked: bool = True
    launch: launches.Launch = launches.DEFAULT

    @property
    def block_size(self) -> int:
        return 32 if self.engine == "trtllm" else 16

    @property
    def seqs(self) -> int:
        if self.chosen is not None:
            return self.chosen.sequences
        return self.launch.seqs or (OFFLINE_SEQS if self.offline else SEQS)

    @property
    def step_tokens(self) -> int:
        if self.chosen is not None:
            return self.chosen.tokens
        return self.launch.step_tokens or STEP_TOKENS

    @property
    def memory_share(self) -> float:
        return self.launch.memory_share or (OFFLINE_SHARE if self.offline else MEMORY_SHARE)

    def rank_seqs(self, role: str) -> int:
        """Return how many sequences an attention rank of this role has room for."""
        return self.decode_seats if self.decode_seats and role == "decode" else self.seqs

    def pool(self, role: str, given: Workers) -> Pool:
        """Return a pool of these workers."""
        return Pool(
            role=role,
            workers=given.count,
            layout=given.layout,
            precision=self.precision,
            batching=self.batching(role, given.layout),
        )

    def batching(self, role: str, layout: Layout) -> Batching:
        """Return the engine's limits. Each attention rank and microbatch has its own.

        A worker's are those of all its ranks and microbatches together; the KV blocks are planned
        with one rank's, since a GPU only ever holds one rank's step.
        """
        at_once = layout.attention_dp * (1 if role == "prefill" else layout.pp)
        iters, ratio = self.launch.wait
        return Batching(
            max_num_batched_tokens=self.step_tokens * at_once,
            max_num_seqs=self.rank_seqs(role) * at_once,
            block_size=self.block_size,
            reserve="full" if self.engine == "trtllm" else "prompt",
            chunked_prefill=self.chunked and self.launch.chunked,
            piggyback=self.engine != "sglang",  # its default: no mixed chunks
            memory_utilization=1.0,  # kv_blocks says what is left; this only must not refuse
            kv_blocks=self.kv_blocks(role, layout),
            scheduler_recv_interval=self.launch.recv_interval,
            schedules_ahead=load(profile_of(self.engine)).overlap_scheduling,
            batch_wait_timeout_iters=iters,
            batch_wait_max_tokens_ratio=ratio,
            attention_dp_timeout_iters=self.launch.balance_iters,
        )

    def kv_blocks(self, role: str, layout: Layout) -> int:
        """Return a worker's KV blocks, where need be with all memory a run that fitted must have.

        Memory is divided as the engine's profile does.
        """
        budget = MemoryBudget(
            block_size=self.block_size,
            memory_utilization=self.memory_share,
            max_num_batched_tokens=self.step_tokens,
            max_num_seqs=self.seqs,
            role=role,
            rule=load(profile_of(self.engine)).memory,
        )
        model, dtypes, gpu = self.model, self.precision, self.gpu
        try:
            return plan_memory(model, layout, dtypes, gpu, budget).kv_blocks
        except CapacityError:
            most = replace(budget, memory_utilization=MOST_MEMORY)
            return plan_memory(model, layout, dtypes, gpu, most).kv_blocks


# --- its run --------------------------------------------------------------------------------


def simulate_case(case: Case, seed: int) -> Outcome:
    """Run the case to its end; raise ``Unmapped`` where a request could not be served."""
    record = run(case.deployment, _traffic(case.load, seed), RunOptions(sample_interval_s=NEVER))
    _check_served(record)
    return _outcome(case, record)


def _traffic(offered: Load, seed: int) -> Traffic:
    rng = np.random.default_rng(np.random.SeedSequence(zlib.crc32(f"row {seed}".encode())))
    inputs, outputs = offered.lengths.sample(offered.requests, rng)
    return Traffic(
        arrival_s=np.zeros(offered.requests),
        input_tokens=inputs,
        output_tokens=outputs,
        concurrency=offered.clients,
    )


def _check_served(record: RunRecord) -> None:
    served = record.requests["status"] == STATUSES.index("completed")
    if not served.all():
        raise Unmapped(
            "a request is longer than the KV cache or the model's context",
            f"{int((~served).sum())} of {len(served)} requests were rejected",
        )


def _outcome(case: Case, record: RunRecord) -> Outcome:
    """Return a run's figures over all its requests, ramp-up included, as benchmarks report them.

    Throughput of a closed loop is by Little's law, clients · mean output / mean E2E, of an
    offline run all tokens over its whole length.
    """
    columns = record.requests
    arrival, first, finish = (columns[n] for n in ("arrival_s", "first_token_s", "finish_s"))
    outputs = columns["output_tokens"].astype(np.float64)
    average = np.median if case.median else np.mean
    several = outputs > 1
    tpot = (finish - first)[several] / (outputs[several] - 1)
    if case.load.clients is None:
        rate = outputs.sum() / record.end_s
    else:
        rate = case.load.clients * outputs.mean() / float(np.mean(finish - arrival))
    return Outcome(
        ttft_s=float(average(first - arrival)),
        tpot_s=float(average(tpot)) if several.any() else float("nan"),
        tokens_per_s=float(rate),
    )


# --- its score ------------------------------------------------------------------------------


def _scores(
    row: Row, at: int, case: Case | None, outcome: Outcome | None, problem: Exception | None
) -> Iterator[Scored]:
    mode = _mode(row)
    common = _labels(row, at, case, mode)
    reason = reason_of(problem) if problem else ""
    gpus = case.gpus if case else number(row.get("n_gpus", "")) or 1.0
    measured = {
        f"e2e_{'disagg' if mode == 'disagg' else 'agg'}_tpot": ("tpot_ms", 1e-3, "tpot_s"),
        "e2e_throughput": ("tok_s_per_gpu_out", gpus, "tokens_per_s"),
        "e2e_ttft": ("ttft_ms", 1e-3, "ttft_s"),
    }
    for name, (column, scale, ours) in measured.items():
        value = number(row.get(column, ""))
        absent = _absent(row, column) if value is None else ""
        yield replace(
            common,
            set=name,
            measured=None if value is None else value * scale,
            predicted=None if outcome is None or absent else getattr(outcome, ours),
            reason=absent or reason,
            detail="" if absent or problem is None else str(problem),
        )


def _absent(row: Row, column: str) -> str:
    return f"no {column} measured" if not row.get(column) else f"{column} is only a bound"


def _labels(row: Row, at: int, case: Case | None, mode: str) -> Scored:
    clients = case.load.clients if case else None
    ours = " + ".join(f"{p.workers} × {p.layout}" for p in case.deployment.pools) if case else ""
    return Scored(
        set="",
        row=row.get("id") or str(at),
        model=case.deployment.model.name if case else row["model"],
        gpu=case.deployment.gpu.name if case else row["gpu"],
        precision=case.deployment.pools[0].precision.weights if case else row["precision"],
        phase=mode,
        engine=engine_of(row),
        layout=ours,
        batch="" if clients is None else batch_range(clients),
        source=row.get("source", "").split(" ")[0],
        seats=case.seats if case else "",
        about=f"{row['isl']} / {row['osl']} at {row['concurrency_or_rate']}",
    )
