"""One exploration as a job: its settings in, a folder of results out."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import polars as pl

from simulator.errors import ConfigError
from simulator.explore.advice import Advice, Limits, advise, figures, full, workers
from simulator.explore.bandwidth import Handover, carried
from simulator.explore.degrees import Degrees
from simulator.explore.export import Surroundings, aiconfigurator, experiment_text
from simulator.explore.headroom import Headroom
from simulator.explore.match import CLUSTER, FTL_CUTOFF_S
from simulator.explore.pareto import pareto
from simulator.explore.sections import Section
from simulator.explore.space import LONGEST_GAP, Lengths, Platform, Space
from simulator.explore.start import Start
from simulator.explore.study import OnStudy, Promise, Study, study
from simulator.files import whole, write_parquet, write_text
from simulator.policies.rate_matching import Balanced, Degraded, RateMatcher

log = logging.getLogger(__name__)

RUN = ("requests", "attainment", "throughput", "arriving_s", "duration_s")
"""What is told of a run of the exported experiment."""
AIMS = ("throughput", "usd_per_mtok", "joules_per_token")
WORKER_GPUS = 16
MAP_ISL, MAP_OSL = (512, 2048, 8192, 32768), (128, 512, 2048, 8192)
"""Prompt and output tokens of a map, where none are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Degrees):
    """How far to explore, and by what to judge; the limits of :class:`Degrees` among it.

    ``isl`` and ``osl`` are tokens of every request (``None``: the workload's own, of which at most
    ``sample`` requests are drawn). ``attainment`` is the share of requests that are to hold the
    limits: TTFT and TPOT are judged at that quantile. ``headroom`` is the share of the steady rate
    that is not promised (``None``: as much as that takes when requests arrive at random).
    ``longest_gap`` TPOTs is the longest a
    co-located worker's steps with prompts may take (``None``: only means count). ``worker_gpus``
    bounds the GPUs of one worker, ``total_gpus`` those of the whole deployment (``None``: as many
    as the pools' rates ask); ``gpus``, the former name of ``worker_gpus``, is moved
    there with a warning.
    ``ttft_cutoff_s`` drops slower points; a TTFT target below it takes its place. ``aim`` ranks
    deployments, of which the best ``confirm`` of each kind are simulated. ``start`` is the path of
    an AIConfigurator
    table whose points are costed beside the choice (its lengths take the workload's place);
    ``tornado`` varies the hardware's numbers; ``map`` the lengths, over every pair of ``map_isl``
    and ``map_osl`` tokens. ``draft_tokens`` are the numbers of tokens to draft per decode step
    (``None``: what the latency model says).
    """

    isl: int | None = None
    osl: int | None = None
    sample: int = 4096
    attainment: float = 0.9
    longest_gap: float | None = LONGEST_GAP
    headroom: float | None = None
    worker_gpus: int = WORKER_GPUS
    total_gpus: int | None = None
    gpus: int | None = None
    max_batch: int = 4096
    ttft_cutoff_s: float = FTL_CUTOFF_S
    across_domains: bool = False
    draft_tokens: tuple[int, ...] | None = None
    aim: str = "throughput"
    confirm: int = 1
    start: str | None = None
    tornado: bool = False
    map: bool = False
    map_isl: tuple[int, ...] = MAP_ISL
    map_osl: tuple[int, ...] = MAP_OSL
    rate_matching: RateMatcher = field(default_factory=Balanced)

    def __post_init__(self) -> None:
        if self.aim not in AIMS:
            raise ConfigError(f"explore: aim must be one of {', '.join(AIMS)} but got {self.aim!r}")
        if not 0 < self.ttft_cutoff_s < math.inf:
            raise ConfigError(
                f"explore: ttft_cutoff_s must be above 0 s but got {self.ttft_cutoff_s!r}"
            )
        if self.confirm < 0:
            raise ConfigError(f"explore: confirm must be at least 0 but got {self.confirm!r}")
        for name, least in (("isl", 1), ("osl", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"explore: {name} must be at least {least} tokens or null but got {value!r}"
                )
        if self.sample < 1:
            raise ConfigError(f"explore: sample must be at least 1 request but got {self.sample!r}")
        self._check_lists()
        self.check_degrees()
        if self.gpus is not None:
            self._move_gpus()

    def _move_gpus(self) -> None:
        if self.worker_gpus != WORKER_GPUS:
            raise ConfigError(
                f"explore: gpus is what worker_gpus was called: give worker_gpus alone, not gpus "
                f"{self.gpus!r} beside it"
            )
        log.warning(
            "explore.gpus=%s is taken as explore.worker_gpus, the GPUs of one worker; the GPUs of "
            "the whole deployment are explore.total_gpus",
            self.gpus,
        )
        object.__setattr__(self, "worker_gpus", self.gpus)
        object.__setattr__(self, "gpus", None)

    def _check_lists(self) -> None:
        if self.draft_tokens is not None:
            _check_list("draft_tokens", self.draft_tokens, "drafts", 0)
        _check_list("map_isl", self.map_isl, "tokens", 1)
        _check_list("map_osl", self.map_osl, "tokens", 2)
        if not self.map and (self.map_isl, self.map_osl) != (MAP_ISL, MAP_OSL):
            raise ConfigError("explore: map_isl and map_osl have no effect without map=true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """What to explore: prefill's and decode's platforms, the lengths, the limits.

    ``starts`` are somebody else's choices, to be costed beside what is found. ``traffic`` says in
    words whose lengths they are, where they were drawn from a workload, and ``replays`` whether
    that says when requests arrive. ``handover`` is how prompts go from one pool to the other.
    """

    platforms: tuple[Platform, Platform]
    lengths: Lengths
    limits: Limits = field(default_factory=Limits)
    options: Options = field(default_factory=Options)
    starts: tuple[Start, ...] = ()
    traffic: str = ""
    replays: bool = False
    handover: Handover = field(default_factory=Handover)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Explored:
    """What came of it."""

    exploration: Exploration
    study: Study
    advice: Advice
    deployments: pl.DataFrame
    fronts: pl.DataFrame

    @property
    def summary(self) -> dict[str, Any]:
        """The advised deployment in the figures a simulation's summary has, and the answer.

        ``goodput_rps`` is what is promised, ``output_tokens_per_s_per_gpu`` what workers that are
        never idle put out: the promise is ``load`` of that.
        """
        advice = self.advice
        best, share = advice.best or {}, f"p{100 * advice.terms.attainment:g}"
        sides = {"disaggregated": advice.split, "colocated": advice.mixed}
        run = {name: best[f"run_{name}"] for name in RUN if f"run_{name}" in best}
        return {
            "task": "explore",
            "answer": self.advice.answer,
            "gain": None if math.isnan(self.advice.gain) else self.advice.gain,
            "points": self.study.points + len(self.deployments),
            "traffic": self.exploration.traffic or None,
            "attainment": advice.terms.attainment,
            **{
                kind: None if row is None else figures(row, advice.terms)
                for kind, row in sides.items()
            },
            "ttft_s": _spread(best, "ttft", share, "ttft_s"),
            "tpot_s": _spread(best, "tpot", share, "tpot_tail_s"),
            "goodput_rps": best.get("rate"),
            "slo_attainment": best.get("attainment"),
            "output_tokens_per_s_per_gpu": full(best) if best else None,
            "experiment": run or None,
        }

    @property
    def text(self) -> str:
        """The answer, and the best deployments in a line each."""
        advice = self.advice
        lines = [advice.answer, *filter(None, [self.exploration.traffic]), ""]
        if len(advice.ranked):
            lines.append("The best in steady state, with headroom by rule:")
        lines.extend(
            f"{row['throughput']:>10,.1f} tokens/s/GPU  {row['interactivity']:>6,.1f} "
            f"tokens/s/user  TTFT {row['ttft_s'] * 1e3:>7,.0f} ms  {row['gpus']:>4} GPUs  "
            f"{workers(row)}"
            for row in advice.ranked.head(5).iter_rows(named=True)
        )
        return "\n".join(lines)

    def write(
        self,
        folder: Path,
        about: Mapping[str, str],
        surroundings: Surroundings,
        sections: Sequence[Section] = (),
        report: Callable[[Path], None] | None = None,
    ) -> None:
        """Write everything into ``folder``; ``summary.json`` comes last: then it is complete.

        ``about`` joins the summary (the configuration's digest among it). ``surroundings`` are
        what the exported experiment runs in; the tables of ``sections`` are kept; ``report`` writes
        the page (``None``: no page).
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / "deployments.parquet", self.deployments)
        write_parquet(folder / "fronts.parquet", self.fronts)
        write_parquet(folder / "ranked.parquet", self.advice.ranked)
        lengths, platforms = self.exploration.lengths, self.exploration.platforms
        with whole(folder / "aiconfigurator.csv") as draft:
            aiconfigurator(self.advice.ranked, lengths).write_csv(draft)
        advice = self.advice
        named = (
            ("chosen", advice.best),
            ("disaggregated", advice.split),
            ("colocated", advice.mixed),
        )
        for name, row in named:
            if row is not None:
                text = experiment_text(row, platforms, lengths, surroundings)
                (folder / "experiment").mkdir(exist_ok=True)
                write_text(folder / "experiment" / f"{name}.yaml", text)
        for section in sections:
            write_parquet(folder / f"{section.name}.parquet", section.table)
        if report is not None:
            with whole(folder / "report.html") as draft:
                report(draft)
        summary = json.dumps({**self.summary, **about}, indent=2, allow_nan=False)
        write_text(folder / "summary.json", summary + "\n")


def explore(exploration: Exploration, progress: OnStudy | None = None) -> Explored:
    """Explore, match, and answer.

    Raises:
        ConfigError: nothing fits the GPUs, or nothing meets the TTFT cutoff.
    """
    options, limits = exploration.options, exploration.limits
    prompts, tokens = (_space(exploration, platform) for platform in exploration.platforms)
    cutoff = min(options.ttft_cutoff_s, limits.ttft_s or math.inf)
    own_shares = isinstance(options.rate_matching, Degraded)
    headroom = Headroom(
        share=0.0 if own_shares and options.headroom is None else options.headroom,
        attainment=options.attainment,
        ttft_s=cutoff,
        handover=exploration.handover,
    )
    done = study(tokens, cutoff, progress, prompts, Promise(headroom, limits.tpot_s))
    matched = done.deployments(options.rate_matching)
    named = {
        "disaggregated": pareto(carried(matched), y=CLUSTER),
        "co-located": done.mixed,
        "co-located, no piggybacking": done.whole,
    }
    return Explored(
        exploration=exploration,
        study=done,
        advice=advise(done, limits, options.aim, matched),
        deployments=matched,
        fronts=pl.concat(
            [
                each.with_columns(pl.lit(name).alias("series"))
                for name, each in named.items()
                if len(each)
            ],
            how="diagonal",
        ),
    )


def _spread(row: Mapping[str, Any], metric: str, share: str, column: str) -> dict[str, Any]:
    """Return what is known of a metric's distribution; medians and p99 where it was simulated."""
    known = {name: row.get(f"{metric}_{name}_s") for name in ("p50", "p99")}
    return {**known, share: row.get(column)}


def _check_list(name: str, values: tuple[int, ...], unit: str, least: int) -> None:
    """Refuse lists that are empty, or hold a value twice, below ``least``, or not whole."""
    if not values:
        raise ConfigError(f"explore: {name} must list at least one number of {unit} but got none")
    for value in values:
        if type(value) is not int or value < least:
            raise ConfigError(
                f"explore: {name} must be whole numbers ≥ {least} {unit} but got {value!r}"
            )
    if len(set(values)) < len(values):
        raise ConfigError(f"explore: {name} must list each number once but got {list(values)}")


def _space(exploration: Exploration, platform: Platform) -> Space:
    options = exploration.options
    return Space(
        platform=platform,
        lengths=exploration.lengths,
        worker_gpus=options.worker_gpus,
        total_gpus=options.total_gpus,
        max_batch=options.max_batch,
        across_domains=options.across_domains,
        degrees=Degrees(**{each.name: getattr(options, each.name) for each in fields(Degrees)}),
        draft_tokens=options.draft_tokens or (),
        attainment=options.attainment,
        longest_gap=options.longest_gap,
    )
