"""``task=list``, and the names and tags that runs are found by."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command import TINY, Command
from folders import Made, write_run

from simulator.compare import compare, find
from simulator.compare.listing import listed, table
from simulator.errors import ConfigError
from simulator.labels import Labels
from simulator.runs import SUMMARY


def label(folder: Path, **given: Any) -> None:
    """Give the run in ``folder`` labels."""
    Labels(**given).leave(folder / SUMMARY)


def statuses(text: str) -> dict[str, str]:
    """Return every listed folder's status."""
    rows = (line.split() for line in text.split("\n\n", maxsplit=1)[0].splitlines()[1:])
    return {row[-1]: row[0] for row in rows}


def test_a_folder_of_everything_is_told(disaggsim: Command, tmp_path: Path) -> None:
    """Runs done, failed, under way and broken have a line each; nothing is left behind."""
    disaggsim("-m", "seed=1,-1", "router=random,round_robin", *TINY)
    jobs = sorted(each.parent for each in tmp_path.rglob(SUMMARY))
    assert len(jobs) == 2
    (jobs[0] / SUMMARY).unlink()
    for name, text in (("begun", ""), ("broken", "{")):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "config.yaml").write_text("a: 1\n", encoding="utf-8")
        if text:
            (tmp_path / "outputs" / name / SUMMARY).write_text(text, encoding="utf-8")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    done = disaggsim("task=list")
    assert (done.code, done.err) == (0, "")
    found = statuses(done.out)
    assert found["outputs/begun"] == "unfinished"
    assert found["outputs/broken"] == "unreadable"
    assert found[str(jobs[1].relative_to(tmp_path))] == "done"
    assert sorted(found.values()) == [
        "done",
        "failed",
        "failed",
        "unfinished",
        "unfinished",
        "unreadable",
    ]
    assert "seed must be at least 0 but got -1" in done.out
    assert "summary.json: not JSON" in done.out
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_main_numbers_and_what_differs_are_told(disaggsim: Command) -> None:
    """As in a sweep's own table, and only the settings that are not all the same."""
    swept = disaggsim("-m", "seed=1,2", "pools.decode.workers=1,2", *TINY)
    told = disaggsim("task=list", "runs=[multirun]").out
    for line in swept.out.splitlines()[1:5]:
        numbers = re.search(r"\s[\d.]+ s .*/s.*%\s+[\d.,]+", line)
        assert numbers is not None
        assert re.sub(r"\s+", " ", numbers[0]) in re.sub(r"\s+", " ", told)
    assert told.count("pools.decode.workers=1 ") == 2
    assert "latency" not in told.replace("latency=polynomial", "")


def test_labels_are_no_part_of_a_run(disaggsim: Command, tmp_path: Path) -> None:
    """Other labels do not make it run again, are there afterwards, and stay if none are given."""
    for arguments, expected in (
        ([], {}),
        (["name=one", "tags=[a,b]"], {"name": "one", "tags": ["a", "b"]}),
        (["tags=[c]"], {"name": "one", "tags": ["c"]}),
        ([], {"name": "one", "tags": ["c"]}),
    ):
        assert disaggsim("-m", "seed=1", *arguments, *TINY).code == 0
        (summary,) = tmp_path.rglob(SUMMARY)
        assert json.loads(summary.read_text(encoding="utf-8")).get("labels", {}) == expected
    made = (summary.parent / "requests.parquet").stat().st_mtime_ns
    disaggsim("-m", "seed=1", "tags=[d]", *TINY)
    assert (summary.parent / "requests.parquet").stat().st_mtime_ns == made


def test_labels_reach_repetitions_and_comparisons(disaggsim: Command, tmp_path: Path) -> None:
    """Every repetition of a run has them, and a comparison's table too."""
    done = disaggsim("-m", "pools.decode.workers=1,2", "seeds=2", "tags=[x,y]", *TINY)
    assert done.code == 0
    told = pl.read_parquet(tmp_path / "multirun" / "comparison.parquet")
    assert told["tags"].to_list() == ["x, y"] * 4
    assert disaggsim("task=list").out.count("done × 2") == 2


def test_runs_are_called_by_names_of_their_own(tmp_path: Path) -> None:
    """Where each configuration has one; else as ever."""
    for prefill in (1, 2):
        made = Made(settings={"pools": {"prefill": {"workers": prefill}}})
        write_run(tmp_path / str(prefill), made)
    label(tmp_path / "1", name="small")
    names = [each.name for each in compare(find([str(tmp_path)]).runs).points]
    assert names == ["1 prefill × tp1", "2 prefill × tp1"]
    label(tmp_path / "2", name="large")
    assert [each.name for each in compare(find([str(tmp_path)]).runs).points] == ["small", "large"]


WANTED = {
    "all": (Labels(), ["a", "b", "c"]),
    "a tag": (Labels(tags=("red",)), ["a", "b"]),
    "two": (Labels(tags=("red", "big")), ["b"]),
    "a name": (Labels(name="fi?st"), ["a"]),
    "a folder's": (Labels(name="c"), ["c"]),
    "neither": (Labels(name="*", tags=("blue",)), []),
}


@pytest.mark.parametrize("wanted", WANTED)
def test_labels_narrow_a_list_down(wanted: str, tmp_path: Path) -> None:
    """All tags must be there, and the name, or else the folder's, match."""
    for seed, name in enumerate("abc"):
        write_run(tmp_path / name, Made(seed=seed))
    label(tmp_path / "a", name="first", tags=("red",))
    label(tmp_path / "b", tags=("red", "big"))
    labels, folders = WANTED[wanted]
    found = listed([str(tmp_path)], labels)
    assert [each.folder.name for each in found] == folders
    assert len(table(found).splitlines()) == (len(folders) + 3 if folders else 1)


BAD: dict[str, tuple[list[str], str]] = {
    "an empty tag": (["tags=['']", *TINY], "tags must be text of one line"),
    "a comma": (["tags=['a,b']", *TINY], "tags must be without commas"),
    "two lines": (['name="a\nb"', *TINY], "name must be text of one line"),
    "a number": (["tags=[1]", *TINY], "tags"),
    "a sweep of lists": (["-m", "task=list"], "without -m"),
    "nowhere": (["task=list", "runs=[nowhere]"], "there is no such folder"),
    "nothing left": (["task=compare", "runs=[there]", "tags=[x]"], "has this name and these tags"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_cost_a_sentence(name: str, disaggsim: Command, tmp_path: Path) -> None:
    """They are told in one sentence."""
    write_run(tmp_path / "there")
    arguments, words = BAD[name]
    done = disaggsim(*arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.splitlines()[-1].startswith("disaggsim: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("bad", [5, {"name": 5}, {"tags": "a"}, {"tags": ["\x1b[2J"]}], ids=str)
def test_labels_of_a_file_are_checked(bad: object, tmp_path: Path) -> None:
    """A summary that somebody changed is refused in a comparison, and told of in a list."""
    write_run(tmp_path)
    summary = json.loads((tmp_path / SUMMARY).read_text(encoding="utf-8"))
    (tmp_path / SUMMARY).write_text(json.dumps(summary | {"labels": bad}), encoding="utf-8")
    with pytest.raises(ConfigError, match="labels"):
        find([str(tmp_path)])
    (one,) = listed([str(tmp_path)], Labels())
    assert one.status == "unreadable"
    assert "\x1b" not in table([one])
