"""What engines answer: read without trust in its form, and cut to what is worth reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stream.errors import EngineError
from stream.oci.reference import split

# Each image takes some milliseconds to look at, and a layer that is not found there is only sent
# once more.
MAX_LOOKED_AT = 32


@contextmanager
def understanding(label: str) -> Iterator[None]:
    """Raise EngineError, for the engine called `label`, if the body meets an answer that does
    not have the expected form.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineError(label, f"gave an answer that makes no sense: {error!r}") from error


def unanswered(error: Exception) -> str:
    """Return the reason for an EngineError if `error` kept a connection from being made."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
    advice = "are you in its group?" if isinstance(error, PermissionError) else "is it running?"
    return f"does not answer: {reason}; {advice}"


def promising(images: Iterable[tuple[str, Iterable[str]]], repo_tag: str) -> list[str]:
    """Return the IDs of those `images`, each an ID and tags, that most likely have layers of the
    one to be tagged `repo_tag`, best first: the one with that tag, others of its repository,
    those without a tag, which this image's tag may have left behind, and then the rest.
    """

    def rank(names: Iterable[str]) -> int:
        named = [name.removeprefix("localhost/") for name in names if not name.startswith("<none>")]
        if repo_tag in named:
            return 0
        if any(split(name)[0] == split(repo_tag)[0] for name in named):
            return 1
        return 3 if named else 2

    best = sorted((rank(names), number, one) for number, (one, names) in enumerate(images))
    return list(dict.fromkeys(one for *_, one in best))[:MAX_LOOKED_AT]
