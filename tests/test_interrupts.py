"""Ctrl-C at any moment: exit code 130, one sentence, no traceback, nothing that looks complete."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import FAST

ALARMED = """
import signal, sys
signal.signal(signal.SIGVTALRM, lambda *_: signal.raise_signal(signal.SIGINT))
from simulator.__main__ import main
signal.setitimer(signal.ITIMER_VIRTUAL, {after})
code = main()
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
sys.exit(code)
"""
"""The command, interrupted once it has used so many CPU seconds, however busy the machine is."""

WHOLE = 2.0  # CPU seconds of a run, its start included, or less
MOMENTS = 8


@pytest.mark.parametrize("part", range(MOMENTS))
def test_an_interrupt_at_any_moment(part: int, tmp_path: Path) -> None:
    """Within each eighth of a run's time, at a random moment: imports, settings, run, report."""
    moment = random.uniform(max(part, 0.05), part + 1)  # noqa: S311 - no secret
    after = moment * WHOLE / MOMENTS
    ended = subprocess.run(
        [sys.executable, "-c", ALARMED.format(after=after), "latency=polynomial"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"after {after} CPU s: {ended.stderr}"
    complete = list(tmp_path.rglob("summary.json"))
    assert not list(tmp_path.rglob(".*.tmp")), told
    if ended.returncode == 0:  # it was done before
        assert complete
        assert ended.stderr == "", told
        return
    assert ended.returncode == 130, told
    assert ended.stderr == "disaggsim: interrupted\n", told


def is_there(group: int) -> bool:
    """Tell whether any process of the group is still there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("wait_s", [0.0, 1.0, 3.0])
def test_an_interrupt_of_a_sweep_in_processes(
    wait_s: float, command_path: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches a terminal's whole group: joblib's workers say nothing and are gone."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="joblib launcher")
    jobs = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2,3,4")
    process = subprocess.Popen(
        [command_path, "-m", *jobs, *FAST, "workload.requests=1000000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    lines = []
    while "#3" not in (lines or [""])[-1]:
        lines.append(process.stderr.readline())
    time.sleep(wait_s * random.random())  # noqa: S311 - no secret
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err == "disaggsim: interrupted\n"
    assert not list(tmp_path.rglob("summary.json"))
    while is_there(process.pid):  # the tracker ends a moment after
        time.sleep(0.05)


def test_an_interrupt_that_comes_while_one_is_taken_up() -> None:
    """Sent again before the place that swallows it is left, it is raised all the same."""
    code = (
        "import signal, time\n"
        "from simulator import front\n"
        "class Late:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "soon = front._interrupt_later\n"
        "def slowly():\n"
        "    front._interrupt_later = soon\n"
        "    soon()\n"
        "    time.sleep(0.1)\n"
        "front._interrupt_later = slowly\n"
        "front.Interrupts().listen()\n"
        "try:\n"
        "    late = Late()\n"
        "    del late\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("raised\n", "")


def test_an_interrupt_that_a_library_swallows() -> None:
    """Where an exception cannot be raised, as in a finalizer, the interrupt is raised after it."""
    code = (
        "import signal, time\n"
        "from simulator.front import Interrupts\n"
        "class Late:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "Interrupts().listen()\n"
        "try:\n"
        "    late = Late()\n"
        "    del late\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("raised\n", "")


def test_an_interrupt_that_became_another_error(tmp_path: Path) -> None:
    """What a library raises in the place of an interrupt is told as the interrupt."""
    (tmp_path / "mine.py").write_text(
        "import signal\n"
        "class Mine:\n"
        "    def choose(self, request, pool):\n"
        "        try:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "        except BaseException:\n"
        "            raise ImportError('numpy could not be imported') from None\n",
        encoding="utf-8",
    )
    code = "import sys; from simulator.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *FAST, "router._target_=mine.Mine"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "disaggsim: interrupted\n")
