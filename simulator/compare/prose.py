"""What a comparison says, in sentences: the answer, and how sure it is."""

import math

from simulator.compare.comparison import Comparison, Point, short, traffic
from simulator.compare.statistics import against, confidence_of
from simulator.intervals import t_interval
from simulator.report.theme import number, share

COSTS = {
    "usd_per_1k_requests": "USD per 1,000 requests",
    "gpu_hours_per_1k_requests": "GPU-hours per 1,000 requests",
}


MOST_NAMED = 3
HARDLY = 0.01
"""A difference in costs that is named as none."""

ENOUGH = 5
"""Repetitions below which even an order that never changed is not called stable."""


def title(comparison: Comparison) -> str:
    """Return the page's title."""
    points, runs = len(comparison.points), len(comparison.runs)
    told = f"{points:,} configuration{'s' if points > 1 else ''} compared"
    return told if points == runs else f"{told}, {runs:,} runs"


def subject(comparison: Comparison) -> str:
    """Return what was compared and in what the runs differ."""
    keys = list(dict.fromkeys(short(key) for key in comparison.shown))
    more = f" and {len(keys) - 8:,} more settings" if len(keys) > 8 else ""
    told = any(key.startswith("pools.") for key in keys)
    if any(key.startswith("pools.") for key in comparison.keys) and not told:
        keys.insert(0, "the pools that are there")
    if not keys:
        return "The runs differ in nothing but chance."
    return f"They differ in {', '.join(keys[:8])}{more}."


def best(comparison: Comparison) -> Point | None:
    """Return the point that is marked best."""
    marked = comparison.table.filter("best")["point"]
    return comparison.points[marked[0]] if len(marked) else None


def answer(comparison: Comparison) -> str:
    """Return which configuration is best, and by what."""
    point = best(comparison)
    if point is None:
        return "No request arrived, so there is nothing to tell the runs apart by."
    index = comparison.points.index(point)
    held = float(comparison.means("slo_attainment")[index])
    cost = float(comparison.means(comparison.cost)[index])
    wanted = share(comparison.options.attainment)
    spent = f"{number(cost)} {COSTS[comparison.cost]}"
    if len(comparison.points) == 1:
        return f"{point.name}: {share(held)} of the requests within the SLO, at {spent}."
    if held >= comparison.options.attainment:
        return (
            f"{point.name} is the cheapest with at least {wanted} of the requests within the "
            f"SLO: {share(held)}, at {spent}.{_as_cheap(comparison, index)}"
        )
    return (
        f"None holds the SLO for {wanted} of the requests; {point.name} comes closest with "
        f"{share(held)}, at {spent}."
    )


def _as_cheap(comparison: Comparison, index: int) -> str:
    """Return who holds enough at hardly more than the cheapest one's cost, as a sentence."""
    cost, held = comparison.means(comparison.cost), comparison.means("slo_attainment")
    near = (held >= comparison.options.attainment) & (cost <= cost[index] * (1 + HARDLY))
    others = [int(at) for at in near.nonzero()[0] if at != index]
    if not others:
        return ""
    others.sort(key=lambda at: -held[at])
    named = [f"{comparison.points[at].name} ({share(float(held[at]))})" for at in others]
    more = f" and {len(named) - MOST_NAMED:,} more" if len(named) > MOST_NAMED else ""
    return f" As cheap to within {HARDLY:.0%}: {', '.join(named[:MOST_NAMED])}{more}.".replace(
        "%:", " %:"
    )


def certainty(comparison: Comparison) -> str:
    """Return how sure the answer is: its interval, and which orders outlast chance."""
    other = traffic(comparison.keys, comparison.runs)
    told = [f"Each is judged by traffic of its own ({other})."] if other else []
    point = best(comparison)
    if not comparison.repeated:
        told.append(_once(comparison))
    elif point is not None:
        told += [_spread(comparison, point), _orders(comparison, point)]
    return " ".join(filter(None, told))


def _once(comparison: Comparison) -> str:
    if len(comparison.points) == 1:
        return "One run is one draw: seeds=8 tells how far its numbers move by chance."
    return (
        "Each was run once: nothing here says whether this order outlasts another seed or an error "
        "of the step times. seeds=8 band=[0.85,1,1.15] repeats every configuration."
    )


def _spread(comparison: Comparison, point: Point) -> str:
    """Return the interval of the best one's attainment and cost over its seeds."""
    sure = confidence_of(comparison)
    rows = comparison.plain(point)
    held, cost = (
        t_interval(comparison.numbers(name)[rows], sure)
        for name in ("slo_attainment", comparison.cost)
    )
    if held.count < 2:
        return "It has one seed, so there is no interval: seeds=8 gives one."
    held, cost = held.within(1.0), cost.within(math.inf)
    return (
        f"Over {held.count} seeds its attainment lies between {share(held.low)} and "
        f"{share(held.high)}, its cost between {number(cost.low)} and {number(cost.high)} "
        f"({sure * 100:g} % intervals of the means)."
    )


def _orders(comparison: Comparison, point: Point) -> str:
    """Return which others the best one comes before in every repetition, and which not."""
    index = comparison.points.index(point)
    others = against(comparison, index)
    if len(comparison.points) == 1:
        return ""
    known = [each for each in others if each.cells > 1]
    alone = len(others) - len(known)
    if not known:
        return "No other was repeated with its seeds, so how chance orders them is not known."
    most = max(each.cells for each in known)
    stable = [each for each in known if each.ahead == each.cells]
    told = f"It comes before {len(stable):,} of {len(others):,} others in every repetition"
    told += f" ({repetitions(comparison, point)})."
    loose = sorted((each for each in known if each not in stable), key=lambda each: each.ahead)
    if loose:
        named = [
            f"{comparison.points[each.other].name} (ahead in {each.ahead} of {each.cells})"
            for each in loose[:MOST_NAMED]
        ]
        more = f" and {len(loose) - MOST_NAMED:,} more" if len(loose) > MOST_NAMED else ""
        told += f" Not certain is its order with {', '.join(named)}{more}."
    if alone:
        told += f" {alone:,} were not repeated with its seeds: their order is not known."
    if most < ENOUGH:
        told += f" {most} repetitions are few to call an order stable."
    return told


def repetitions(comparison: Comparison, point: Point) -> str:
    """Return the repetitions of a point in words: 8 seeds × 3 latencies: 0.85, 1, 1.15."""
    runs = [comparison.runs[row] for row in point.runs]
    seeds, scales = {run.seed for run in runs}, sorted({run.scale for run in runs})
    told = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    if len(scales) == 1:
        return f"{told}, latencies as they are"
    return f"{told} × {len(scales)} latencies: {', '.join(f'{scale:g}' for scale in scales)}"


def shortened(name: str, most: int = 120) -> str:
    """Return a name that is not too long for a caption."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
