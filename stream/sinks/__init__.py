"""Where layers go: each module is one output format."""

from typing import Literal

from stream.sinks.docker_archive import DockerArchive
from stream.sinks.oci_archive import OciArchive

ArchiveFormat = Literal["docker-archive", "oci-archive"]
ARCHIVE_FORMATS: dict[ArchiveFormat, type[DockerArchive]] = {
    "docker-archive": DockerArchive,
    "oci-archive": OciArchive,
}
