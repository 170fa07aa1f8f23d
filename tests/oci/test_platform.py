"""Which of several images fits a platform."""

import pytest

from stream.oci.platform import Platform

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
ARM = Platform(os="linux", architecture="arm")


def variant(platform: Platform, name: str) -> Platform:
    """Return the platform with a variant."""
    return Platform(os=platform.os, architecture=platform.architecture, variant=name)


@pytest.mark.parametrize(
    ("wanted", "image", "distance"),
    [
        (AMD64, AMD64, 0),
        (AMD64, variant(AMD64, "v1"), 0),
        (AMD64, variant(AMD64, "v3"), None),
        (variant(AMD64, "v3"), variant(AMD64, "v2"), 1),
        (variant(AMD64, "v3"), AMD64, 2),
        (AMD64, Platform(os="windows", architecture="amd64"), None),
        (AMD64, ARM64, None),
        (AMD64, Platform(os="linux", architecture="x86_64"), 0),
        (ARM64, variant(ARM64, "v8"), 0),
        (ARM64, variant(ARM64, "v9"), None),
        (ARM64, variant(ARM, "v7"), None),
        (ARM, variant(ARM, "v7"), 0),
        (ARM, variant(ARM, "7"), 0),
        (ARM, variant(ARM, "v6"), 1),
        (ARM, variant(ARM, "v8"), None),
        (variant(ARM, "odd"), variant(ARM, "odd"), 0),
        (variant(ARM, "odd"), ARM, None),
        (Platform(os="linux", architecture="riscv64"), Platform(os="linux"), 1000),
        (AMD64, Platform(), 1000),
    ],
)
def test_fit(wanted: Platform, image: Platform, distance: int | None) -> None:
    """Without it an image for another system or processor could become a base."""
    assert wanted.distance(image) == distance


def test_values_that_are_no_strings() -> None:
    """Without it a config with numbers in it would be an internal error."""
    platform = Platform.parse({"os": 1, "architecture": None, "variant": ["v7"]})
    assert platform == Platform()
    assert str(platform) == "unknown/unknown"
    assert str(variant(ARM, "v6")) == "linux/arm/v6"


def test_closest() -> None:
    """Without it an index of several variants could give the wrong one, or the last of equals."""
    images = [Platform(), variant(ARM, "v5"), variant(ARM, "v6"), AMD64, variant(ARM, "v6")]
    assert variant(ARM, "v7").closest(images) == 2
    assert variant(ARM, "v5").closest(images) == 1
    assert ARM64.closest(images) == 0
    assert ARM64.closest(images[1:]) is None
    assert ARM64.closest([]) is None
