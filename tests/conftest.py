"""What tests of the whole program share."""

import sys
from pathlib import Path

import pytest
from command import Command, Finished
from hypothesis import HealthCheck, settings

settings.register_profile("disaggsim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("disaggsim")  # how long an example takes says how busy the machine is


@pytest.fixture
def disaggsim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs the command line in this process, in an empty directory."""
    from simulator.__main__ import run as command

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["disaggsim", *arguments])
        capsys.readouterr()
        code = command()
        told = capsys.readouterr()
        return Finished(code=code, out=told.out, err=told.err)

    return run


@pytest.fixture(scope="session")
def command_path() -> Path:
    """Return the installed ``disaggsim`` of the interpreter that runs the tests."""
    path = Path(sys.executable).parent / "disaggsim"
    if not path.exists():
        pytest.skip("disaggsim is not installed beside this interpreter")
    return path
