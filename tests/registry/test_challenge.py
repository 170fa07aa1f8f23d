"""Challenges are read as RFC 9110 has them, in all forms that registries use."""

import pytest

from stream.registry.challenge import parse_challenges


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['Basic realm="r"'], [("basic", {"realm": "r"})]),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"'],
            [
                (
                    "bearer",
                    {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"},
                )
            ],
        ),
        (
            ['BEARER  Realm = "a" ,\tService=s , error="invalid_token"'],
            [("bearer", {"realm": "a", "service": "s", "error": "invalid_token"})],
        ),
        (
            ['Basic realm="a, Bearer realm=b", Bearer realm="c"'],
            [("basic", {"realm": "a, Bearer realm=b"}), ("bearer", {"realm": "c"})],
        ),
        (
            ["Negotiate", 'Basic realm="a"', "Bearer realm=b"],
            [("negotiate", {}), ("basic", {"realm": "a"}), ("bearer", {"realm": "b"})],
        ),
        ([r'Basic realm="a \"quoted\" \\ one"'], [("basic", {"realm": r'a "quoted" \ one'})]),
        (["Bearer realm=a,realm=b"], [("bearer", {"realm": "a"})]),
        (["Bearer"], [("bearer", {})]),
        ([""], []),
        ([], []),
        (['realm="a"'], []),
        (['Bearer realm="a'], [("bearer", {})]),
        (["\u00fc"], []),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    """A parameter that is taken from the wrong challenge sends the password elsewhere."""
    found = parse_challenges(values)
    assert [(one.scheme, one.parameters) for one in found] == expected
