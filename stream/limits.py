"""Limits that several modules share. A limit of one module is defined there."""

from __future__ import annotations

MAX_FAULTS = 20  # the most reported of one kind
MAX_CONF_FAULTS = 100  # the most reported of one conf; it has several for each key
MAX_SIZE = 2**63 - 1  # bytes: the maximum of file systems and databases
MAX_ID = 2**32 - 2  # the one above, (uid_t)-1, means "no change" to chown
MAX_LINKS = 40  # symbolic links followed for one path, as Linux does
MAX_DEPTH = 200  # of lists and objects in JSON: json.dumps recurses
# In all layers of an image. An entry whose name has 50 bytes takes verify 170 bytes of memory, and
# export 560, or 850 for a directory; inspect keeps none.
MAX_ENTRIES = 1 << 22

MAX_DOCUMENT = 8 << 20  # bytes of a JSON document in an archive
MAX_DOCUMENTS = 64 << 20  # bytes of all that are kept while a compressed tar is scanned
MAX_PARSED = 1 << 22  # values in the JSON of an archive; a document counts each time it is read
MAX_VALUES = 1 << 20  # in a JSON document, or in all configs of an archive
MAX_MEMBERS = 100_000  # of an archive
MAX_MEMBER_NAMES = 16 << 20  # bytes of the names and links' targets of all members
MAX_IMAGES = 1000  # in an archive
MAX_LAYERS = 10_000  # of an image in an archive
MAX_LISTED_LAYERS = 1 << 17  # of all images in an archive, each as often as it is listed
MAX_INDEXES = 4  # OCI indexes, one in another
DOCKER_MAX_LAYERS = 125  # dockerd's own limit for one image
OVERLAY_MAX_LAYERS = 128  # that of overlay file systems, which podman and buildah meet

# The budget of one input, for all readings of it together. What it holds is charged as if it were
# bytes of output: that bounds memory and time for a small input, whatever it expands to.
BOMB_SIZE = 1 << 30  # bytes of output; beyond this, BOMB_RATIO applies
BOMB_RATIO = 1100  # the most output per byte of input; gzip reaches 1032
ENTRY_COST = 16 << 10  # of each entry of a tar; honest ones take more than 15 bytes of input
RECORD_COST = 2 << 10  # of each record of a pax header
NAME_COST = 32  # of each byte of a name, a link's target or a pax record
