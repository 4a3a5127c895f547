"""The command's door: whatever happens behind it ends in an exit code and a sentence."""

import signal
import sys

from simulator.errors import BAD_INPUT, INTERRUPTED


def main() -> int:
    """Run the command line in ``sys.argv`` as this process's one task; return its exit code.

    An interrupt is answered at any moment from here on, even while packages are being imported.
    """
    try:
        from simulator.front import Interrupts

        Interrupts().listen()
        code = run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is told, only the interpreter is to end
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("disaggsim: interrupted\n")
        return INTERRUPTED
    return code


def run() -> int:
    """Run the command line in ``sys.argv`` and return its exit code.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    from simulator.front import UnheardError, answer, complain, hush, refuse_if_interrupted, say

    try:
        told = answer(sys.argv[1:])
        if told is not None:
            say(told)
            return 0
        from simulator.cli import main as run_command

        return run_command()
    except BrokenPipeError:  # whoever read stdout has seen enough; what was run is complete
        hush()
        return 0
    except UnheardError as error:
        hush()
        complain(f"{error.filename}: {error.strerror}")
        return BAD_INPUT
    except BaseException as error:
        refuse_if_interrupted(error)
        raise


if __name__ == "__main__":
    sys.exit(main())
