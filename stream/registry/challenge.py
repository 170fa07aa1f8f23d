"""How a registry wants requests to be authorized: the challenge in WWW-Authenticate, and tokens.

RFC 9110, 11.6.1; the token protocol of the distribution project, "Token Authentication
Specification" and "OAuth2 Token Authentication". Tokens are kept and renewed here. Must not know
blobs, manifests, or where credentials are kept.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from stream.errors import RegistryError
from stream.parsing import parse_json
from stream.registry.credentials import Credentials
from stream.registry.transport import Answer, ConnectionFailure, Request, Transport
from stream.registry.trust import URL, UntrustedURL
from stream.values import dataclass

_MAX_CHALLENGE = 8 << 10  # characters of all challenges of an answer
_MAX_TOKEN = 64 << 10  # bytes of a token service's answer
_SHORTEST = 60.0  # seconds that a token lives at least, whatever is said
_LONGEST = 24 * 3600.0
_MARGIN = 15.0  # seconds before its end in which a token is renewed
_MAX_SCOPES = 32
_CLIENT = "stream-image"

_SCHEME = re.compile(r"[\s,]*([A-Za-z0-9_-]+)(?=[\s,]|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A challenge: `scheme` is in lower case, and so are the names of its parameters."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Parse the values of WWW-Authenticate, as far as they follow the grammar."""
    text = ", ".join(values)[:_MAX_CHALLENGE]
    found: list[Challenge] = []
    position = 0
    while True:
        if found and (parameter := _PARAMETER.match(text, position)):
            name, quoted, bare = parameter.groups()
            value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
            position = parameter.end()
        elif scheme := _SCHEME.match(text, position):
            found.append(Challenge(scheme=scheme[1].lower(), parameters={}))
            position = scheme.end()
        else:
            return found


class Authorization:
    """The Authorization header of requests to one registry. Several threads may use it at once.

    `where` is the repository in messages, `challenges` those of the registry's first answer, and
    `scopes` what tokens are asked for, the most important one first, as some registries look only
    at that. `find_credentials` is called when they are first needed.
    """

    def __init__(
        self,
        transport: Transport,
        where: str,
        challenges: Sequence[Challenge],
        scopes: Sequence[str],
        find_credentials: Callable[[], Credentials | None],
    ) -> None:
        self._transport = transport
        self._where = where
        self._scopes = list(scopes)
        self._find = find_credentials
        self._credentials: Credentials | None = None
        self._is_found = False
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        self._challenge = _choose(challenges)
        if challenges and self._challenge is None:
            names = ", ".join(dict.fromkeys(one.scheme for one in challenges))
            raise RegistryError(where, f"asks for a login that is not supported: {names}")
        self._value: str | None = None
        self._expires = 0.0  # of time.monotonic()

    def header(self) -> str | None:
        """Return the value for requests from now on, None for none. A token that is about to end
        is renewed first. Raises RegistryError.
        """
        with self._lock:
            return self._current()

    def widen(self, scope: str) -> None:
        """Ask for tokens for `scope` as well from now on, unless the token service refuses."""
        with self._lock:
            if not self._add(scope):
                return
            before, self._value = self._value, None
            try:
                self._current()
            except RegistryError:
                self._scopes.remove(scope)
                self._value = before

    def renew(self, used: str | None, challenges: Sequence[Challenge]) -> bool:
        """Return whether there is another value than `used`, which was answered with 401 and
        `challenges`: with a token for the scope named there too. Raises RegistryError.
        """
        with self._lock:
            chosen = _choose(challenges)
            if self._current() != used:
                return True
            if self._challenge is None:  # the first answer asked for nothing
                self._challenge = chosen
            if self._challenge is None or (self._challenge.scheme == "basic" and used is not None):
                return False
            named = chosen.parameters.get("scope", "").split() if chosen is not None else []
            for scope in named:
                self._add(scope)
            self._value = None
            return self._current() != used

    @property
    def origin(self) -> str | None:
        """Return where the credentials are from; None if there are none, or none were needed."""
        return self._credentials.origin if self._credentials is not None else None

    def redact(self, text: str) -> str:
        """Return `text` without the secrets that were sent, should a server repeat them."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    def _add(self, scope: str) -> bool:
        is_new = scope not in self._scopes and len(self._scopes) < _MAX_SCOPES
        if is_new:
            self._scopes.append(scope)
        return is_new

    def _current(self) -> str | None:
        challenge = self._challenge
        if challenge is None:
            return None
        if not self._is_found:
            self._credentials = self._find()
            self._is_found = True
            self._keep_secret(self._credentials)
        if challenge.scheme == "basic":
            return self._basic()
        if self._value is None or time.monotonic() > self._expires - _MARGIN:
            token, life = self._fetch(challenge)
            self._secrets.add(token)
            self._value = f"Bearer {token}"
            self._expires = time.monotonic() + life
        return self._value

    def _keep_secret(self, credentials: Credentials | None) -> None:
        if credentials is not None:
            encoded = (self._basic() or "").partition(" ")[2]
            secrets = (credentials.password, credentials.identity_token, encoded)
            self._secrets.update(filter(None, secrets))

    def _basic(self) -> str | None:
        """Return the credentials as a value of their own."""
        given = self._credentials
        if given is None:
            return None
        user, password = given.username, given.password
        if given.identity_token and not password:
            user, password = user or "<token>", given.identity_token
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"

    def _fetch(self, challenge: Challenge) -> tuple[str, float]:
        """Return a token for the scopes, and the seconds that it lives. Raises RegistryError."""
        try:
            realm = self._transport.trust.follow(challenge.parameters.get("realm", ""))
        except UntrustedURL as wrong:
            raise RegistryError(self._where, f"its token service {wrong}") from None
        service = challenge.parameters.get("service")
        try:
            answer = self._ask(realm, service)
        except ConnectionFailure as failure:
            reason = f"token service {realm.origin}: {failure.reason}"
            raise RegistryError(self._where, reason, is_passing=failure.is_passing) from None
        if answer.status != 200:
            raise self._refusal(realm, answer)
        try:
            document = parse_json(answer.data)
        except ValueError:
            document = None
        document = document if isinstance(document, dict) else {}
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RegistryError(self._where, f"token service {realm.origin}: sends no token")
        return token, _life(document.get("expires_in"))

    def _ask(self, realm: URL, service: str | None) -> Answer:
        given = self._credentials
        named = [("service", service)] if service else []
        if given is not None and given.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                *named,
                ("client_id", _CLIENT),
                ("scope", " ".join(self._scopes)),
                ("refresh_token", given.identity_token),
            ]
            answer = self._transport.request(
                Request(
                    method="POST",
                    url=realm,
                    headers={"Content-Type": "application/x-www-form-urlencoded"},
                    body=urlencode(form).encode(),
                    limit=_MAX_TOKEN,
                )
            )
            if answer.status != 404:  # where it is, only GET is understood
                return answer
        account = [("account", given.username)] if given is not None and given.username else []
        query = urlencode([*account, *named, *(("scope", scope) for scope in self._scopes)])
        joint = "&" if "?" in realm.target else "?"
        basic = self._basic()
        headers = {} if basic is None else {"Authorization": basic}
        url = realm._replace(target=f"{realm.target}{joint}{query}")
        return self._transport.request(
            Request(method="GET", url=url, headers=headers, limit=_MAX_TOKEN)
        )

    def _refusal(self, realm: URL, answer: Answer) -> RegistryError:
        code, message = answer.error(self.redact)
        said = " ".join(filter(None, (str(answer.status), code, message)))
        reason = f"token service {realm.origin}: {said}"
        if answer.status in (400, 401, 403):
            reason += f"; {describe_origin(self.origin)}"
        return RegistryError(
            self._where, reason, status=answer.status, code=code, is_passing=answer.is_passing,
            retry_after=answer.retry_after,
        )  # fmt: skip


def describe_origin(origin: str | None) -> str:
    """Return where refused credentials are from, for a person."""
    if origin is None:
        return "no credentials were used; log in with skopeo, podman or docker login"
    return f"the credentials are from {origin}"


def _choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """Return the challenge to answer: a token before a password."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def _life(stated: Any) -> float:
    is_number = isinstance(stated, int | float) and not isinstance(stated, bool)
    return min(max(float(stated), _SHORTEST), _LONGEST) if is_number else _SHORTEST
