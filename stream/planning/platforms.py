"""Specifications of one image for several platforms: what the images have in common. Must not know
how each is planned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from stream.model import ImageConf
from stream.planning.spec import Spec
from stream.planning.tag import encode_tag
from stream.values import replace


def with_one_tag(specs: Sequence[Spec], confs: Sequence[ImageConf]) -> list[ImageConf]:
    """Return the planned `confs` of `specs`. Those whose tags were derived get one tag, which
    changes whenever one of theirs does: it is for all of them.
    """
    derived = [
        conf.repo_tag for spec, conf in zip(specs, confs, strict=True) if spec.conf.repo_tag is None
    ]
    if len(derived) < 2:
        return [*confs]
    tag = encode_tag(hashlib.sha256(json.dumps(derived).encode()).digest())
    return [
        replace(conf, repo_tag=f"{spec.repository}:{tag}") if spec.conf.repo_tag is None else conf
        for spec, conf in zip(specs, confs, strict=True)
    ]
