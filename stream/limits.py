"""Limits that several modules share. A limit of one module is defined there."""

from __future__ import annotations

MAX_FAULTS = 20  # the most reported of one kind
MAX_SIZE = 2**63 - 1  # bytes: the maximum of file systems and databases
MAX_ID = 2**32 - 2  # the one above, (uid_t)-1, means "no change" to chown
MAX_LINKS = 40  # symbolic links followed for one path, as Linux does
MAX_DEPTH = 200  # of lists and objects in JSON: json.dumps recurses
MAX_ENTRIES = 1 << 22  # in all layers of an image

MAX_DOCUMENT = 8 << 20  # bytes of a JSON document in an archive
MAX_DOCUMENTS = 64 << 20  # bytes of all that are kept while a compressed tar is scanned
MAX_MEMBERS = 100_000  # of an archive
MAX_IMAGES = 1000  # in an archive
MAX_LAYERS = 10_000  # of an image in an archive
MAX_INDEXES = 4  # OCI indexes, one in another
DOCKER_MAX_LAYERS = 125  # dockerd's own limit for one image
OVERLAY_MAX_LAYERS = 128  # that of overlay file systems, which podman and buildah meet
