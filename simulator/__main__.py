"""The command's door: an interrupt is answered even while the packages are being imported."""

import sys

from simulator.errors import INTERRUPTED


def main() -> int:
    """Run the command line in ``sys.argv`` and return its exit code."""
    try:
        from simulator.front import answer

        told = answer(sys.argv[1:])
        if told is not None:
            sys.stdout.write(f"{told}\n")
            return 0
        from simulator.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("disaggsim: interrupted\n")
        return INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
