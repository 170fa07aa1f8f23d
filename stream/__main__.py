"""The entry point of `python -m stream` and `stream-image`."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process. Return the exit status."""
    # Until the command line installs its handlers, Ctrl-C ends the process silently:
    # Python's own handler would print a traceback from the middle of the imports.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from stream.cli.main import main as run

    status = run()
    if status > 128:
        # A signal ended the run. Exit at once: a second signal during the interpreter's
        # shutdown would find no handler.
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
