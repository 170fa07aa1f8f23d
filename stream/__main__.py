"""The entry point of `python -m stream` and `stream-image`."""

import _signal  # type: ignore[import-not-found]  # signal imports enum: Ctrl-C may come meanwhile
import os
import sys


def main() -> int:
    """Run the command line of this process. Return the exit status."""
    # Until the command line installs its handlers, Ctrl-C ends the process silently:
    # Python's own handler would print a traceback from the middle of the imports.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from stream.cli.main import main as run
    except (ImportError, MemoryError, OSError) as error:
        from contextlib import suppress

        # No memory, no descriptors, or a package is missing: the command line cannot say it.
        reason = "".join(char if char.isprintable() else "?" for char in str(error))
        line = f"stream-image: cannot start: {reason or 'out of memory'}\n"
        with suppress(OSError):
            os.write(2, line.encode(errors="backslashreplace"))
        return 1

    status = run()
    if status > 128:
        # A signal ended the run. Exit at once: a second signal during the interpreter's
        # shutdown would find no handler.
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
