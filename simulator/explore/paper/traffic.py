"""What traffic asks: of the network (figure F12), and by the spread of its lengths (figure F14)."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import lognorm

from simulator.explore.paper.claims import Sheet, Statement, Verdict, rounded
from simulator.explore.paper.curves import common_ratio, series
from simulator.explore.paper.laboratory import LARGE, R1, K, Laboratory, paper_space
from simulator.explore.space import Floats, Lengths

# --- F12 --------------------------------------------------------------------------------------

LONG = 1024 * K
LONG_S = 60.0
"""Within which a prompt of a million tokens is done. On 64 GPUs none takes less than ten seconds,
the paper's bound elsewhere."""


class Transfers(NamedTuple):
    """Disaggregated fronts of DeepSeek-R1: at 16k/2k, 1M/2k, by ISL, by OSL; and a GPU's port.

    The port, of the network, is in bytes/s.
    """

    main: pl.DataFrame
    long: pl.DataFrame
    by_isl: list[pl.DataFrame]
    by_osl: list[pl.DataFrame]
    port: float

    def need(self, column: str) -> Floats:
        """Return the main front's need in GB/s per GPU."""
        values: Floats = self.main[column].to_numpy() / 1e9
        return values


def _transfers(lab: Laboratory) -> Transfers:
    main = lab.pools(R1, 16 * K, 2 * K).split()
    short = lab.pools(R1, 2 * K, 2 * K).split()
    long = _long_front(lab)
    return Transfers(
        main=main,
        long=long,
        by_isl=[short, main, _constant_front(lab, 64 * K, 2 * K), long],
        by_osl=[_constant_front(lab, 2 * K, 512), short, _constant_front(lab, 2 * K, 16 * K)],
        port=lab.fabric.nic(lab.gpu).bandwidth,
    )


def _constant_front(lab: Laboratory, isl: int, osl: int) -> pl.DataFrame:
    lengths = Lengths.constant(isl, osl)
    return lab.split_front(paper_space(lab.platform(R1), lengths))


def _long_front(lab: Laboratory) -> pl.DataFrame:
    """Return the front of 1M/2k, beyond the model's own context as the paper goes."""
    platform = lab.platform(R1)
    longer = replace(platform, model=replace(platform.model, max_context=2 * LONG))
    space = paper_space(longer, Lengths.constant(LONG, 2 * K))
    return lab.split_front(space, LONG_S)


def _need_curves(found: Transfers) -> pl.DataFrame:
    return series(
        **{
            f"{name} {traffic}": front.select(
                "interactivity", (pl.col(column) / 1e9).alias("gb_per_s")
            )
            for traffic, front in (("16k/2k", found.main), ("1M/2k", found.long))
            for name, column in (("egress", "kv_egress"), ("ingress", "kv_ingress"))
        }
    )


def _a_small_part(found: Transfers) -> Verdict:
    most = max(found.need("kv_egress").max(), found.need("kv_ingress").max())
    share = float(most * 1e9 / found.port)
    return Verdict(share < 0.1, {"most_share_of_port": share, "port_gb_s": found.port / 1e9})


def _about_a_gigabyte(found: Transfers) -> Verdict:
    egress, ingress = found.need("kv_egress"), found.need("kv_ingress")
    held = all(0.4 <= float(np.median(each)) <= 1.2 for each in (egress, ingress))
    span = rounded(np.quantile(ingress, [0, 0.5, 1]))
    return Verdict(
        held, {"egress_median": float(np.median(egress)), "ingress_min_median_max": span}
    )


def _falls_with_length(found: Transfers) -> Verdict:
    out = np.array([curve["kv_egress"][0] / 1e9 for curve in found.by_isl])
    into = np.array([np.median(curve["kv_ingress"].to_numpy()) / 1e9 for curve in found.by_osl])
    return Verdict(
        bool((np.diff(out) < 0).all() and (np.diff(into) < 0).all()),
        {"egress_isl_2k_16k_64k_1m": rounded(out), "ingress_osl_512_2k_16k": rounded(into)},
    )


def _falls_with_latency(found: Transfers) -> Verdict:
    ingress = found.need("kv_ingress")
    third = max(1, len(ingress) // 3)
    loose, tight = float(ingress[:third].mean()), float(ingress[-third:].mean())
    return Verdict(tight < loose, {"loose": loose, "tight": tight})


F12 = Sheet(
    id="F12",
    title="DeepSeek-R1: KV bandwidth per GPU that holds a distinct shard",
    gather=_transfers,
    curves=_need_curves,
    y="gb_per_s",
    log_y=False,
    statements=(
        Statement(
            id="F12a",
            claim="DeepSeek-R1, 16k/2k: KV transfer needs a small part of what data centres "
            "provision (every point of the front below 10 % of a GPU's network port)",
            judge=_a_small_part,
        ),
        Statement(
            id="F12b",
            claim="It is about 0.4 … 1.2 GB/s per GPU (the medians of both within that)",
            judge=_about_a_gigabyte,
            note="the paper's ratio of 3.6 and largest ingress of 1.23 make an egress of 0.34, "
            "half of ours: F9c",
        ),
        Statement(
            id="F12c",
            claim="The egress need falls with ISL (to 1M), the ingress need with OSL",
            judge=_falls_with_length,
        ),
        Statement(
            id="F12d",
            claim="The ingress need falls with tighter TTL (the tightest third of the front below "
            "the loosest)",
            judge=_falls_with_latency,
        ),
    ),
)


# --- F14 --------------------------------------------------------------------------------------

ISL, OSL, SIGMA, SAMPLE = 4 * K, 512, 0.7, 64
Curves = dict[str, pl.DataFrame]


def _constant_and_drawn(lab: Laboratory) -> Curves:
    drawn = _log_normal()
    space = paper_space(lab.platform(LARGE), drawn)
    isl, osl = (round(float(np.mean(each))) for each in (drawn.isl, drawn.osl))
    return {
        f"constant {isl}/{osl}": lab.split_front(
            paper_space(lab.platform(LARGE), Lengths.constant(isl, osl))
        ),
        "log-normal, same means": lab.split_front(space),
    }


def _log_normal() -> Lengths:
    """Return lengths at even ranks of two log-normals of mean ISL and OSL, paired at random."""
    ranks = (np.arange(SAMPLE) + 0.5) / SAMPLE
    medians = (mean * np.exp(-0.5 * SIGMA**2) for mean in (ISL, OSL))
    isl, osl = (np.round(lognorm.ppf(ranks, SIGMA, scale=scale)) for scale in medians)
    shuffled = np.random.default_rng(0).permutation(osl)
    return Lengths(
        isl=tuple(int(each) for each in isl), osl=tuple(max(2, int(each)) for each in shuffled)
    )


def _close_to_constant(curves: Curves) -> Verdict:
    constant, dynamic = curves.values()
    ratio = common_ratio(dynamic, constant)
    return Verdict(
        float(np.abs(np.log(ratio)).mean()) <= np.log(1.15),
        {
            "mean_ratio": float(ratio.mean()),
            "least": float(ratio.min()),
            "most": float(ratio.max()),
            "sigma": SIGMA,
        },
    )


F14 = Sheet(
    id="F14",
    title="Llama-3.1-70B: constant lengths and their distribution",
    gather=_constant_and_drawn,
    curves=lambda curves: series(**curves),
    statements=(
        Statement(
            id="F14",
            claim="Llama-70B: the front under the length distribution is close to that of constant "
            "lengths, 4096/512 (15 % apart on average)",
            judge=_close_to_constant,
            note="the paper's distribution is not published: a log-normal stands in, whose means "
            "are the constant lengths; with its medians there it would read longer contexts, and "
            "the fronts lie 13 % apart",
        ),
    ),
)
