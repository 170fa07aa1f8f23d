"""`python -m stream` and `stream-image`: the door to the command line."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process. Returns the exit status."""
    # Until the command line has its own handlers, Ctrl-C ends us without a word:
    # Python's would show where its imports stood.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from stream.cli.main import main as run

    status = run()
    if status > 128:
        # A signal ends us now: another one must not meet an interpreter that is
        # taking its handlers down.
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
