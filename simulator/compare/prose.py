"""What a comparison says, in sentences: the answer, and how sure it is."""

from simulator.compare.comparison import Comparison, Point, short
from simulator.compare.metrics import METRIC
from simulator.report.theme import number, share

COSTS = {
    "usd_per_1k_requests": "USD per 1,000 requests",
    "gpu_hours_per_1k_requests": "GPU-hours per 1,000 requests",
}


def title(comparison: Comparison) -> str:
    """Return the page's title."""
    points, runs = len(comparison.points), len(comparison.runs)
    told = f"{points:,} configuration{'s' if points > 1 else ''} compared"
    return told if points == runs else f"{told}, {runs:,} runs"


def subject(comparison: Comparison) -> str:
    """Return what was compared and in what the runs differ."""
    keys = list(dict.fromkeys(short(key) for key in comparison.shown))
    more = f" and {len(keys) - 8:,} more settings" if len(keys) > 8 else ""
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
            f"SLO: {share(held)}, at {spent}."
        )
    return (
        f"None holds the SLO for {wanted} of the requests; {point.name} comes closest with "
        f"{share(held)}, at {spent}."
    )


def certainty(comparison: Comparison) -> str:
    """Return how sure the order is."""
    if len(comparison.points) == 1 and not comparison.repeated:
        return "One run is one draw: other seeds tell how far its numbers move by chance."
    if not comparison.repeated:
        return (
            "Each was run once: nothing here says whether this order outlasts another seed or an "
            "error of the step times. Repeat it with other seeds (-m seed=0,1,2,3)."
        )
    return ""


def value(comparison: Comparison, path: str, index: int) -> str:
    """Return a number of a point in words."""
    mean = float(comparison.means(path)[index])
    return METRIC[path].write(None if mean != mean else mean)
