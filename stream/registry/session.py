"""Requests to one repository: how its registry is spoken to, who asks, and what went wrong.

The first request finds out whether the registry speaks HTTPS and how it wants to be asked; what
comes back is an expected answer or a RegistryError for a person. Must not know blobs or manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from http import HTTPStatus

from stream.errors import RegistryError
from stream.registry.challenge import (
    Authorization,
    Challenge,
    describe_origin,
    parse_challenges,
)
from stream.registry.credentials import Credentials, Helper, find_credentials
from stream.registry.transport import (
    Answer,
    ConnectionFailure,
    Request,
    Sleep,
    Transport,
)
from stream.registry.trust import URL, Access, Origin, Trust, UntrustedURL, schemes
from stream.retries import Retries
from stream.values import dataclass, replace

_HINTS = {
    "NAME_UNKNOWN": "create the repository first; this registry does not create it",
    "405": "it may be read-only",
    "413": "it is larger than the registry, or a proxy before it, accepts",
    "429": "the registry limits requests; try again later",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The way to the repository `name` of the registry at `origin`."""

    name: str
    origin: Origin
    transport: Transport
    authorization: Authorization
    helper: Helper

    def close(self) -> None:
        """Close the connections, and end a helper that is asked for credentials."""
        self.transport.close()
        self.helper.end()

    def request(
        self,
        request: Request,
        what: str,
        expected: Container[int],
        *,
        is_repeatable: bool = True,
    ) -> Answer:
        """Send a request, again where that may help, and return its answer if its status is
        expected. Errors call its subject `what`. Raises RegistryError.
        """

        def send(authorized: Request) -> Answer:
            return self.transport.request(authorized, is_repeatable=is_repeatable)

        return self._authorized(request, what, expected, send, is_repeatable=True)

    def send(
        self, request: Request, what: str, expected: Container[int], size: int | None
    ) -> Answer:
        """Send a request with a body of `size` bytes, None for an unknown number, once. Otherwise
        as `request`. What the body raises passes.
        """

        def send(authorized: Request) -> Answer:
            return self.transport.send(authorized, size)

        return self._authorized(request, what, expected, send, is_repeatable=False)

    def _authorized(
        self,
        request: Request,
        what: str,
        expected: Container[int],
        send: Callable[[Request], Answer],
        *,
        is_repeatable: bool,
    ) -> Answer:
        """Call `send` with the request, which says who asks if it is to the registry itself. After
        a 401, ask for another token; with that, a request that is repeatable is sent once more.
        """
        is_own = request.url.origin == self.origin
        try:
            used = self.authorization.header() if is_own else None
            answer = send(_with(request, used))
            is_passing = answer.is_passing
            if answer.status == HTTPStatus.UNAUTHORIZED and is_own:
                is_passing = self.authorization.renew(used, challenges(answer, self.origin))
                if is_passing and is_repeatable:
                    answer = send(_with(request, self.authorization.header()))
                    is_passing = answer.is_passing
        except ConnectionFailure as failure:
            raise self.error(
                request.method, what, failure.reason, is_passing=failure.is_passing
            ) from None
        if answer.status not in expected:
            raise self._refusal(request.method, what, answer, is_passing=is_passing)
        return answer

    def follow(
        self, text: str, answer: Answer, what: str, method: str = "POST", header: str = "Location"
    ) -> URL:
        """Return the URL that a header of an answer to `method` names. Raises RegistryError unless it
        may be followed.
        """
        try:
            return self.transport.trust.follow(text, answer.url)
        except UntrustedURL as wrong:
            raise self.error(method, what, f"the {header} of its answer {wrong}") from None

    def error(
        self,
        method: str,
        what: str,
        reason: str,
        *,
        status: int | None = None,
        is_passing: bool = False,
    ) -> RegistryError:
        """Return the error for a request that failed for `reason`."""
        message = f"{method} {what}: {self.authorization.redact(reason)}"
        return RegistryError(self.name, message, status=status, is_passing=is_passing)

    def _refusal(
        self, method: str, what: str, answer: Answer, *, is_passing: bool
    ) -> RegistryError:
        """Return the error for an answer: what was asked, what it says, and what to do."""
        code, _ = answer.error(self.authorization.redact)
        said = _said(answer, self.authorization.redact)
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and not is_passing:
            said += f"; {describe_origin(self.authorization.origin)}"
        elif hint := _HINTS.get(code) or _HINTS.get(str(answer.status)):
            said += f"; {hint}"
        return RegistryError(
            self.name,
            f"{method} {what}: {said}",
            status=answer.status,
            code=code,
            is_passing=is_passing,
            retry_after=answer.retry_after,
        )


def open_session(name: str, access: Access, scopes: Sequence[str], sleep: Sleep) -> Session:
    """Return the way to the repository `name`, which begins with its registry, after a first
    request to that. Requests are authorized for `scopes`. Raises RegistryError.
    """
    domain, _, repository = name.partition("/")

    helper = Helper()

    def find() -> Credentials | None:
        return find_credentials(domain, repository, access.authfile, helper)

    try:
        origins = [Origin.of_registry(domain, scheme) for scheme in schemes(domain, access)]
    except ValueError:
        raise RegistryError(name, "the port of its registry is above 65535") from None
    retries = Retries()
    while True:
        failure: RegistryError | None = None
        for origin in origins:
            transport = Transport(Trust(registry=origin, access=access), sleep)
            try:
                answer = transport.request(
                    Request(method="GET", url=URL(origin, "/v2/")), is_repeatable=False
                )
            except ConnectionFailure as lost:
                error = RegistryError(
                    name, f"GET {origin}/v2/: {lost.reason}", is_passing=lost.is_passing
                )
                if lost.is_certificate:
                    raise error from None
            else:
                if answer.status in (HTTPStatus.OK, HTTPStatus.UNAUTHORIZED):
                    asked = challenges(answer, origin) if answer.status != HTTPStatus.OK else []
                    authorization = Authorization(transport, name, asked, scopes, find)
                    return Session(
                        name=name, origin=origin, transport=transport,
                        authorization=authorization, helper=helper,
                    )  # fmt: skip
                error = RegistryError(
                    name,
                    f"GET {origin}/v2/: {_said(answer)}",
                    status=answer.status,
                    code=answer.error()[0],
                    is_passing=answer.is_passing,
                    retry_after=answer.retry_after,
                )
            transport.close()
            # 400 is what a server of HTTPS answers to HTTP.
            if failure is None or failure.status == HTTPStatus.BAD_REQUEST:
                failure = error
            if error.status not in (None, HTTPStatus.BAD_REQUEST):
                break
        assert failure is not None
        pause = retries.pause_after(failure)
        if pause is None:
            raise failure
        sleep(pause)


def challenges(answer: Answer, registry: Origin) -> list[Challenge]:
    """Return what the registry asks for in an answer: nothing, if it is that of another host, to
    which the registry redirects and which could name itself as the token service.
    """
    if answer.url.origin != registry:
        return []
    return parse_challenges(answer.headers.getlist("WWW-Authenticate"))


def _with(request: Request, authorization: str | None) -> Request:
    if authorization is None:
        return request
    return replace(request, headers={**request.headers, "Authorization": authorization})


def _said(answer: Answer, redact: Callable[[str], str] = str) -> str:
    """Return an answer in one phrase, without what `redact` removes."""
    code, message = answer.error(redact)
    return ": ".join(filter(None, (f"{answer.status} {code}".rstrip(), message)))
