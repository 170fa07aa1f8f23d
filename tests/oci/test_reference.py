"""References: the grammar of `name:tag`, and the part that is wrong."""

import pytest

from stream.oci.reference import BadReference, Location, Part, Reference, qualified, split

SHA = "0123456789abcdef" * 4
GOOD_TAGS = [
    "a:1", "a:A", "a:_", "a:1.2-3_4", "a:" + "t" * 128, "a/b:1", "a/b/c/d:1", "a.b:1", "a_b:1",
    "a__b:1", "a-b:1", "a---b:1", "0:0", "localhost/a:1", "localhost:5000/a:1", "example.com/a:1",
    "EXAMPLE.com/a:1", "Host/a:1", "127.0.0.1:80/a:1", "[::1]/a:1", "[2001:db8::1]:5000/a/b:1",
    "a-b.c-d/e:1", "x" * 255 + ":1", "example.com/" + "a" * 243 + ":1", "xn--n3h.com/a:1",
]  # fmt: skip
BAD_TAGS = [
    "", "a", "a:", ":1", "A:1", "a/B:1", "a:1:2", "a/b", "localhost:5000/a", "a@sha256:" + SHA,
    "a:" + "t" * 129, "a:.1", "a:-1", "a:ü", "ü:1", "a:1\n", "\na:1", "a b:1", "a:1 ", "a: 1",
    "-a:1", "a-:1", "a.:1", ".a:1", "a..b:1", "a___b:1", "a._b:1", "/a:1", "a/:1", "a//b:1",
    "-host.com/a:1", "host-.com/a:1", "host..com/a:1", "host:port/a:1", "host:/a:1", "[::g]/a:1",
    "http://a/b:1", "x" * 256 + ":1", "a:\u0661", "a+b:1", "a:1+2", "a\\b:1", "a:\udcff", "a:1/b",
]  # fmt: skip


@pytest.mark.parametrize("tag", GOOD_TAGS)
def test_good_tags(tag: str) -> None:
    """Every reference valid in the grammar of distribution/reference is accepted."""
    assert str(Reference.parse(tag)) == tag


@pytest.mark.parametrize("tag", BAD_TAGS, ids=ascii)
def test_bad_tags(tag: str) -> None:
    """A reference that a daemon would refuse after the last byte is refused before the first."""
    with pytest.raises(BadReference) as caught:
        Reference.parse(tag)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    ["a" * 100_000 + "!:1", "a-" * 50_000 + ":1", "a." * 50_000 + "/:1", "a/" * 50_000 + ":1"],
)
def test_tags_take_no_time(tag: str) -> None:
    """Matching must not backtrack so that a malicious conf could take forever."""
    with pytest.raises(BadReference):
        Reference.parse(tag)


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        ("a", Part.NO_TAG, "'a' has no tag; write name:tag"),
        ("localhost:5000/a", Part.NO_TAG, "'localhost:5000/a' has no tag; write name:tag"),
        ("http://a/b", Part.NO_TAG, "'http://a/b' has no tag; write name:tag"),
        ("x:bad has no tag", Part.TAG, "'bad has no tag' is not a tag: letters"),
        ("x:v1/b", Part.TAG, "'v1/b' is not a tag: letters"),
        ("host:5000/x:v1/b", Part.TAG, "'v1/b' is not a tag: letters"),
        ("x is not a tag:1", Part.NAME, "'x is not a tag' is not a repository name: letters"),
        ("docker://x:1", Part.NAME, "'docker://x' is not a repository name: leave out docker://"),
        ("X:1", Part.NAME, "'X' is not a repository name: a repository name is lower-case"),
        (
            "x" * 256 + ":1",
            Part.NAME,
            f"'{'x' * 40}…' has 256 characters; a repository name has at most 255",
        ),
    ],
)
def test_which_part_is_wrong(text: str, part: Part, message: str) -> None:
    """Callers rely on the part: no text in a name or tag may be mistaken for another fault."""
    with pytest.raises(BadReference) as caught:
        Reference.parse(text)
    assert caught.value.part is part
    assert str(caught.value).startswith(message)


def test_parts() -> None:
    """The tag follows the last colon; the colon before a port belongs to the name."""
    assert Reference.parse("h:5000/a/b:v1") == Reference(name="h:5000/a/b", tag="v1")
    assert split("h:5000/a/b:v1") == ("h:5000/a/b", "v1")
    assert split("h:5000/a") == ("h:5000/a", "latest")
    assert qualified("a") == "docker.io/library/a:latest"


DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "name", "tag", "digest", "written"),
    [
        ("a", "a", None, None, "a:latest"),
        ("h:5000/a:1", "h:5000/a", "1", None, "h:5000/a:1"),
        (f"a@{DIGEST}", "a", None, DIGEST, f"a@{DIGEST}"),
        (f"h:5000/a:1@{DIGEST}", "h:5000/a", "1", DIGEST, f"h:5000/a@{DIGEST}"),
    ],
)
def test_locations(text: str, name: str, tag: str | None, digest: str | None, written: str) -> None:
    """Skopeo refuses a tag beside a digest, and a port must not be taken for a tag."""
    location = Location.parse(text)
    assert (location.name, location.tag, location.digest) == (name, tag, digest)
    assert str(location) == written


@pytest.mark.parametrize(
    "digest", ["", "sha256:0", f"SHA256:{'0' * 64}", f"{DIGEST}0", f"{DIGEST} x"]
)
def test_bad_digests(digest: str) -> None:
    """Without it skopeo would report them, in words of its own."""
    with pytest.raises(BadReference) as caught:
        Location.parse(f"a@{digest}")
    assert caught.value.part is Part.DIGEST
