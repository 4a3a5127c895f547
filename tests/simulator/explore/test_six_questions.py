"""Six questions beside AIConfigurator's answers: the data, the factors and the page."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from simulator.explore.space import Lengths

ROOT = Path(__file__).parents[3]
DATA = yaml.safe_load((ROOT / "scripts" / "six_questions.yaml").read_text("utf-8"))
LENGTHS = Lengths.constant(DATA["isl"], DATA["osl"])


@pytest.fixture(scope="module")
def six() -> Iterator[ModuleType]:
    """Return the script as a module."""
    loader = importlib.machinery.SourceFileLoader(
        "six_questions", str(ROOT / "scripts" / "six_questions")
    )
    spec = importlib.util.spec_from_loader("six_questions", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["six_questions"] = module
    loader.exec_module(module)
    yield module
    del sys.modules["six_questions"]


@pytest.mark.parametrize("asked", DATA["questions"], ids=lambda asked: str(asked["name"]))
def test_its_deployments_are_costed_on_the_gpus_given(
    six: ModuleType, asked: dict[str, Any]
) -> None:
    """Each fits the budget, and costs within 30 % of its answer at the same shares.

    That is, if attention ranks with prompts all had them in the same steps, as there.
    """
    question = six.Question(asked, LENGTHS)
    for side in six.SIDES:
        row = question.theirs(side) or question.theirs(side, memory=1.0)
        assert row["gpus"] <= asked["gpus"]
        together = question.in_step if side == "colocated" else None
        shared = six.at_shares(row, LENGTHS) if together is None else together
        assert shared == pytest.approx(asked[side]["throughput"], rel=0.3)


def test_the_factors_make_the_ratio(six: ModuleType) -> None:
    """Kernels times shares times choice is our answer over theirs; co-located has no shares."""
    question = six.Question(DATA["questions"][0], LENGTHS)
    for side in six.SIDES:
        costed = question.theirs(side)
        better = {**costed, "cluster_throughput": 1.5 * costed["cluster_throughput"]}
        theirs = question.asked[side]["throughput"]
        answer = six.Answer(question=question, side=side, theirs=theirs, costed=costed, ours=better)
        kernels, shares, choice = answer.factors.values()
        assert kernels * shares * choice == pytest.approx(better["cluster_throughput"] / theirs)
        assert choice == pytest.approx(1.5)
        assert (shares == 1.0) == (side == "colocated")
    (line,) = six.differences([answer])
    assert "mostly another choice of deployment" in line


def test_the_page_has_a_place_for_it() -> None:
    """The generated section stands between its two marks."""
    page = (ROOT / "docs" / "explore.md").read_text("utf-8")
    begin, end = (f"<!-- six_questions: {word} -->" for word in ("begin", "end"))
    assert page.count(begin) == page.count(end) == 1
    assert page.index(begin) < page.index(end)
