"""Verify an archive in one reading: open it, scan it, check its documents and layers, and
compare it with a conf.

The order of these steps only; the rules and the checks are those of the other modules.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from stream.archives.sequential import STANDARD_INPUT, Sequential
from stream.config import load_conf
from stream.errors import ArchiveError, ArgumentError
from stream.model import ImageConf
from stream.tools.verify.comparison import compare
from stream.tools.verify.documents import INDEX, MANIFEST, CheckedImage, Documents
from stream.tools.verify.findings import ALL, CONSUMERS, TAKE_FIRST, Finding, Findings
from stream.tools.verify.sbom import compare_sbom
from stream.tools.verify.scan import Scan
from stream.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of verifying the archive `name`: `size` bytes, with `layers` distinct
    layers of `entries` entries in all.
    """

    name: str
    compression: str | None
    size: int
    images: tuple[CheckedImage, ...]
    layers: int
    entries: int
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are faults; empty for a sound archive."""
        return tuple(finding for finding in self.findings if finding.fault)

    @property
    def refusals(self) -> dict[str, tuple[Finding, ...]]:
        """For each consumer, the findings for which it refuses the archive."""
        return {
            consumer: tuple(f for f in self.findings if consumer in f.refused_by)
            for consumer in CONSUMERS
        }


def verify(
    archive: str | os.PathLike[str],
    conf: ImageConf | str | os.PathLike[str] | None = None,
    *,
    sboms: Sequence[bytes] = (),
) -> Verification:
    """Verify `archive`, a path (`-`: standard input), and compare it with the image
    of `conf` if one is given. `sboms` are compared with what is in the archive and in `conf`.

    Faults of the archive are findings. Raises ArchiveError if it cannot be opened,
    and StreamImageError if the image of `conf` cannot be built.
    """
    ArgumentError.require("archive", archive, str, os.PathLike)
    ArgumentError.require("conf", conf, ImageConf, str, os.PathLike, type(None))
    for sbom in sboms:
        ArgumentError.require("sboms", sbom, bytes)
    if conf is not None and not isinstance(conf, ImageConf):
        conf = load_conf(conf)
    target = os.fspath(archive)
    findings = Findings()
    scan = _scan(target, findings, summarises=bool(sboms))
    documents = Documents(scan.members, findings, ALL if not scan.members.last else TAKE_FIRST)
    documents.check()
    if scan.members.last:
        Documents(scan.members.with_last(), findings, ALL - TAKE_FIRST).check()
    if scan.compression is not None:
        layout = documents.has_index and scan.compression == "gzip"
        rule = "oci-gzip-archive" if layout else f"{scan.compression}-archive"
        findings.add(rule, "", f"is compressed with {scan.compression}")
    if conf is not None and scan.members.readable:
        compare(None if target == "-" else target, documents.images, conf, findings)
    if scan.members.readable:
        summaries = [layer.summary for layer in documents.layers.values() if layer.summary]
        for sbom in sboms:
            compare_sbom(sbom, summaries, conf, findings)
    layers = {layer.content_digest: layer for layer in documents.layers.values()}.values()
    return Verification(
        name=STANDARD_INPUT if target == "-" else target,
        compression=scan.compression,
        size=scan.size,
        images=tuple(documents.images),
        layers=len(layers),
        entries=sum(layer.entries for layer in layers),
        findings=findings.all(),
    )


def _scan(target: str, findings: Findings, *, summarises: bool) -> Scan:
    scan = Scan(findings, summarises=summarises)
    if target == "-":
        scan.tar(Sequential(0, STANDARD_INPUT))
        return scan
    try:
        fd = os.open(os.fsencode(target), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "its name contains a NUL character"
        )
        raise ArchiveError(target, f"cannot be read: {reason}") from error
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            scan.tar(Sequential(fd, target))
        elif not stat.S_ISDIR(mode):
            raise ArchiveError(target, "is neither a regular file nor a directory")
        elif not any(os.path.exists(f"{target}/{name}") for name in (INDEX, MANIFEST)):
            raise ArchiveError(target, f"is a directory with neither {INDEX} nor {MANIFEST}")
        else:
            scan.directory(target)
    finally:
        os.close(fd)
    return scan
