"""Compare an SBOM with the store paths in an archive, and with what a conf knows of them. Must not
know the formats of SBOMs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from stream.archives.summary import Summary
from stream.model import ImageConf
from stream.sbom.documents import read_sbom
from stream.sbom.inventory import take_inventory
from stream.sbom.listing import Listed, Malformed
from stream.tools.verify.findings import Findings

_RULE = "sbom-mismatch"


def compare_sbom(
    data: bytes, layers: Collection[Summary], conf: ImageConf | None, findings: Findings
) -> None:
    """Note how the SBOM in `data` differs from `layers`, those of an archive, and from `conf`."""
    try:
        listed = read_sbom(data)
    except Malformed as wrong:
        findings.add(_RULE, "", f"the SBOM {wrong}")
        return
    for message in (*_with_layers(listed, layers), *(_with_conf(listed, conf) if conf else ())):
        findings.add(_RULE, "", message)


def _with_layers(listed: Listed, layers: Collection[Summary]) -> Iterator[str]:
    named = {path.lstrip("/").encode(errors="surrogateescape") for path in listed.hashes}
    there = {path for layer in layers for path in layer.store_paths(named)}
    for path in sorted(listed.hashes.keys() - there - listed.copied):
        yield f"the SBOM lists {path}, which is not in the image"
    if listed.is_whole:
        for path in sorted(there - listed.hashes.keys()):
            yield f"the SBOM does not list {path}, which is in the image"


def _with_conf(listed: Listed, conf: ImageConf) -> Iterator[str]:
    """Describe differences in what both know: the other differences are the archive's."""
    components = {one.path: one for one in take_inventory(conf).components}
    for path in sorted(components.keys() - listed.hashes.keys()):
        yield f"the SBOM does not list {path}, which is in the closure"
    for path in sorted(listed.hashes.keys() - components.keys()):
        yield f"the SBOM lists {path}, which is not in the closure"
    for path in sorted(listed.hashes.keys() & components.keys()):
        stated, known = listed.hashes[path], components[path].nar_hash
        if stated and known and stated != known:
            yield f"the SBOM says that the NAR of {path} has the hash {stated}; it is {known}"
        references = components[path].references
        if references is None or path not in listed.references:
            continue
        more, less = (
            sorted(listed.references[path] - {*references}),
            sorted({*references} - listed.references[path]),
        )
        if more:
            yield f"the SBOM says that {path} refers to {more[0]}; it does not"
        if less:
            yield f"the SBOM does not say that {path} refers to {less[0]}"
