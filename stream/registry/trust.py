"""How registries are reached: which are trusted, and with whose credentials."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How registries are reached. Without `tls_verify`, plain HTTP and any certificate will do.
    `authfile` replaces the files in which credentials are looked up.
    """

    tls_verify: bool = True
    authfile: str | None = None
