"""A full disk, a read-only one, and output nobody can take: one sentence, nothing in halves."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from command import FAST, TINY

from simulator.files import whole, write_parquet, write_text

SENTENCE = "No space left on device"


def on_a_small_disk(script: str, place: Path, options: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in ``place`` with a file system of its own there, gone afterwards."""
    mount = f"mount -t tmpfs -o {options} tmpfs {place} && cd {place} || exit 77\n{script}"
    ended = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mount], capture_output=True, text=True, check=False
    )
    if ended.returncode in (77, 1):
        pytest.skip(f"a file system cannot be mounted here: {ended.stderr.strip()}")
    return ended


@pytest.mark.parametrize("requests", [20, 5000])
def test_a_full_disk(requests: int, command_path: Path, tmp_path: Path) -> None:
    """The file that does not fit is named, and neither it nor a draft of it is left."""
    arguments = " ".join([*FAST, f"workload.requests={requests}", "hydra.run.dir=run"])
    script = f"{command_path} {arguments} || echo code $?\nls -A run"
    ended = on_a_small_disk(script, tmp_path, "size=40k")
    code, *left = ended.stdout.splitlines()
    assert code == "code 2"
    (line,) = ended.stderr.splitlines()
    name = line.removeprefix(f"disaggsim: {tmp_path}/run/").removesuffix(f": {SENTENCE}")
    assert name.endswith(".parquet")
    assert name not in left
    assert "summary.json" not in left
    assert not [each for each in left if each.startswith(".")]


def test_a_full_disk_loses_no_finished_job(command_path: Path, tmp_path: Path) -> None:
    """Where a sweep runs out of room, what finished stays whole and the rest is named."""
    sweep = " ".join(["-m", "seed=1,2,3,4", *TINY])
    script = f"{command_path} {sweep} || echo code $?\ncat multirun/*/summary.json"
    ended = on_a_small_disk(script, tmp_path, "size=140k")
    assert "code 2" in ended.stdout
    assert SENTENCE in ended.stderr
    assert "Traceback" not in ended.stderr
    summaries = ended.stdout.partition("code 2\n")[2]
    assert json.JSONDecoder().raw_decode(summaries)[0]["requests"]["completed"] == 20


def test_a_read_only_folder(command_path: Path, tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    script = f"{command_path} {' '.join(TINY)} || echo code $?"
    ended = on_a_small_disk(script, tmp_path, "ro")
    assert ended.stdout == "code 2\n"
    assert ended.stderr == "disaggsim: outputs: Read-only file system\n"


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [(TINY, 1), (("-m", "seed=1,2", *TINY), 2), (("--help",), 0), (("--cfg", "job"), 0)],
    ids=["run", "sweep", "help", "cfg"],
)
def test_stdout_that_is_full(
    arguments: tuple[str, ...], complete: int, command_path: Path, tmp_path: Path
) -> None:
    """What cannot be told costs one sentence and exit code 2; what was run is complete."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            [command_path, *arguments],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.count(SENTENCE) == 1
    assert re.search(f"^disaggsim: (std)?out(put)?: {SENTENCE}$", ended.stderr, re.MULTILINE)
    assert "Traceback" not in ended.stderr
    assert len(list(tmp_path.rglob("summary.json"))) == complete


def test_stderr_that_is_full(command_path: Path, tmp_path: Path) -> None:
    """Where nothing can be told at all, the exit code still does."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run([command_path, "seed=-1"], cwd=tmp_path, stderr=full, check=False)
    assert ended.returncode == 2


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """A draft becomes the file when it is done; an error leaves the old one as it was."""
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with whole(path) as draft:
            draft.write_text("half", encoding="utf-8")
            raise OSError(errno.ENOSPC, SENTENCE)

    with pytest.raises(OSError, match=SENTENCE) as caught:
        fail()
    assert caught.value.filename == str(path)
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_file_is_not_left(error: type[BaseException], tmp_path: Path) -> None:
    """Whatever ends the writing, no draft stays, and what is no file error passes as it is."""

    def end() -> None:
        with whole(tmp_path / "file.txt") as draft:
            draft.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(error):
        end()
    assert list(tmp_path.iterdir()) == []


def test_what_polars_says_of_the_system_is_understood(tmp_path: Path) -> None:
    """An error of polars that comes from the system names the file; any other passes as it is."""
    with pytest.raises(OSError, match="No such file") as caught:
        write_parquet(tmp_path / "absent" / "a.parquet", pl.DataFrame({"a": [1]}))
    assert caught.value.filename == str(tmp_path / "absent" / "a.parquet")
    with pytest.raises(pl.exceptions.ColumnNotFoundError), whole(tmp_path / "b.parquet") as draft:
        pl.LazyFrame({"a": [1]}).select("b").sink_parquet(draft)


def test_a_reader_that_stops_early_costs_nothing_in_words_either() -> None:
    """``disaggsim --help | true`` complains of nothing."""
    command = f"{sys.executable} -m simulator --help | true"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
