"""`python -m stream` is `stream-image`."""

import sys

from stream.cli import main

sys.exit(main())
