"""Our dataclasses, compared with those that the standard library makes of the same classes."""

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import stream
from stream import model, values


def _classes() -> Iterator[type[Any]]:
    """Yield all dataclasses of the package."""
    for found in pkgutil.walk_packages(stream.__path__, "stream."):
        module = importlib.import_module(found.name)
        for one in filter(inspect.isclass, vars(module).values()):
            if one.__module__ == found.name and "__value_fields__" in vars(one):
                yield one


def _standard(cls: type[Any]) -> type[Any]:
    """Return what the standard library makes of the fields of `cls`."""
    fields = [(one.name, one.type, _again(one)) for one in dataclasses.fields(cls)]
    made = dataclasses.make_dataclass(
        cls.__qualname__,
        fields,
        frozen="__setattr__" in vars(cls),
        kw_only=not cls.__match_args__,
        slots=True,
    )
    made.__qualname__ = cls.__qualname__
    return made


def _again(one: Any) -> Any:
    return dataclasses.field(
        default=one.default, default_factory=one.default_factory, repr=one.repr, compare=one.compare
    )


def test_each_like_the_standard_library_makes_it() -> None:
    """A field that is dropped, reordered or shared between instances changes an image."""
    found = [*_classes()]
    assert len(found) > 100
    for ours in found:
        theirs = _standard(ours)
        needed = {
            one.name: object()
            for one in dataclasses.fields(theirs)
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        }
        made, expected = ours(**needed), theirs(**needed)
        names = [one.name for one in dataclasses.fields(theirs)]
        assert [one.name for one in dataclasses.fields(ours)] == names
        for name in names:
            value, other = getattr(made, name), getattr(expected, name)
            assert value == other or (name not in needed and type(value) is type(other))
        if ours.__repr__.__module__ == "stream.values" and needed.keys() == {*names}:
            assert repr(made) == repr(expected)
        assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
        assert ours.__match_args__ == theirs.__match_args__
        assert not hasattr(made, "__dict__")
        with pytest.raises(TypeError):
            ours(**needed, unheard_of=1)
        if needed:
            with pytest.raises(TypeError):
                ours()


def test_equality_and_hash() -> None:
    """Two equal layers that differ, or hash apart, are written twice."""
    key = model.LayerKey(value="a")
    assert key == model.LayerKey(value="a", recordable=True)
    assert hash(key) == hash(model.LayerKey(value="a"))
    assert key != model.LayerKey(value="b")
    assert key != object()
    with pytest.raises(TypeError):
        hash(_Changeable())


def test_a_frozen_value_stays() -> None:
    """A value that changes after it was checked is one that was not checked."""
    owner = model.Owner(uid=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        owner.uid = 4  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del owner.uid
    assert owner.uid == 3


def test_replaced_here_and_by_the_standard_library() -> None:
    """Whoever uses the library replaces members of a conf as of any dataclass."""
    owner = model.Owner(uid=3)
    assert values.replace(owner, gid=4) == dataclasses.replace(owner, gid=4)
    assert dataclasses.asdict(owner)["uid"] == 3
    with pytest.raises(TypeError):
        values.replace(owner, unheard_of=1)  # type: ignore[call-arg]


def test_copied_and_pickled() -> None:
    """A test, or a program, that hands values to another process."""
    owner = model.Owner(uid=3)
    assert copy.deepcopy(owner) == owner == pickle.loads(pickle.dumps(owner))


@values.dataclass(slots=True)
class _Changeable:
    names: list[str] = values.field(default_factory=list)


def test_defaults_are_not_shared() -> None:
    """A list that two instances share mixes two images."""
    one = _Changeable()
    one.names.append("a")
    assert _Changeable().names == []
