"""Limits that several modules share. A limit of one module is defined there."""

from __future__ import annotations

MAX_FAULTS = 20  # reported of one kind
MAX_SIZE = 2**63 - 1  # bytes: the maximum of file systems and databases
MAX_ID = 2**32 - 2  # the last one, (uid_t)-1, means "no change" to chown
MAX_LINKS = 40  # symbolic links followed for one path, as Linux does
MAX_DEPTH = 200  # of lists and objects in JSON: json.dumps recurses
MAX_ENTRIES = 1 << 22  # of all layers of an image
