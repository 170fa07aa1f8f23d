"""`dataclass`, `field` and `replace` as in the standard library's `dataclasses`, without what that
costs at every start.

The standard decorator imports `inspect` and compiles six functions for each class as its module is
imported: a quarter of the time of a short command. Here classes share their methods, and `__init__`
is compiled when a class has its first instance. Type checkers see the standard library; so does
whoever calls `dataclasses.fields` or `dataclasses.replace`. Supports what this package uses, and
always makes slots. Knows nothing of the rest of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace

__all__ = ["dataclass", "field", "replace"]

_NONE: Any = object()


class _Field(NamedTuple):
    default: Any = _NONE
    default_factory: Any = _NONE
    repr: bool = True
    compare: bool = True

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not _NONE}


if not TYPE_CHECKING:

    def dataclass(*, slots: bool, frozen: bool = False, kw_only: bool = False) -> Any:
        """Return a decorator that makes a class a dataclass. See `dataclasses.dataclass`."""
        assert slots, "all are made so"
        return lambda cls: _make(cls, frozen=frozen, kw_only=kw_only)

    def field(**options: Any) -> Any:
        """Return a field's options. See `dataclasses.field`."""
        return _Field(**options)

    def replace(value: Any, /, **changes: Any) -> Any:
        """Return a copy of `value` with `changes`. See `dataclasses.replace`."""
        for name in value.__value_fields__:
            if name not in changes:
                changes[name] = getattr(value, name)
        return value.__class__(**changes)


def _make(cls: type[Any], *, frozen: bool, kw_only: bool) -> type[Any]:
    members = dict(cls.__dict__)
    own = {}
    for name in members.get("__annotations__", ()):
        default = members.pop(name, _NONE)
        own[name] = default if isinstance(default, _Field) else _Field(default)
    for name in ("__dict__", "__weakref__"):
        members.pop(name, None)
    fields = {**getattr(cls, "__value_fields__", {}), **own}
    shared: dict[str, Any] = {
        "__slots__": tuple(own),
        "__value_fields__": fields,
        "__dataclass_fields__": _FIELDS,
        "__signature__": _SIGNATURE,
        "__match_args__": () if kw_only else tuple(fields),
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": _hash if frozen else None,
        "__replace__": replace,
    }
    if frozen:
        shared |= {"__setattr__": _refuse, "__delattr__": _refuse}
        shared |= {"__getstate__": _state, "__setstate__": _set_state}
    metaclass: Any = type(cls)
    made: type[Any] = metaclass(cls.__name__, cls.__bases__, shared | members)
    made.__qualname__ = cls.__qualname__
    if "__init__" not in members:
        made.__init__ = _first_init(made, fields, frozen=frozen, kw_only=kw_only)
    return made


def _first_init(
    cls: type[Any], fields: dict[str, _Field], *, frozen: bool, kw_only: bool
) -> Callable[..., None]:
    """Return an `__init__` that compiles the one that takes its place."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 — shown in messages
        if cls.__init__ is __init__:
            cls.__init__ = _compile_init(cls, fields, frozen=frozen, kw_only=kw_only)
        cls.__init__(self, *args, **kwargs)

    return __init__


def _compile_init(
    cls: type[Any], fields: dict[str, _Field], *, frozen: bool, kw_only: bool
) -> Callable[..., None]:
    names: dict[str, Any] = {
        "__name__": cls.__module__, "_NONE": _NONE, "_set": object.__setattr__,
    }  # fmt: skip
    parameters = ["self", *(["*"] if kw_only and fields else [])]
    body = ["pass"]
    for name, one in fields.items():
        value = name
        if one.default_factory is not _NONE:
            names[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_NONE")
            value = f"_make_{name}() if {name} is _NONE else {name}"
        elif one.default is not _NONE:
            names[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    text = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body)
    exec(text, names)  # noqa: S102 — as the standard library does
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _standard(cls: type[Any]) -> type[Any]:
    """Return the dataclass that the standard library makes of the fields of `cls`."""
    import dataclasses

    types: dict[str, Any] = {}
    for one in reversed(cls.__mro__):
        types |= getattr(one, "__annotations__", {})
    fields = [
        (name, types[name], dataclasses.field(**one.given()))
        for name, one in cls.__value_fields__.items()
    ]
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=not cls.__match_args__)


class _Fields:
    """`__dataclass_fields__`, made for those who ask for it."""

    def __get__(self, _instance: object, owner: type[Any]) -> dict[str, Any]:
        import dataclasses

        return {one.name: one for one in dataclasses.fields(_standard(owner))}


class _Signature:
    """`__signature__`, likewise."""

    def __get__(self, _instance: object, owner: type[Any]) -> Any:
        import inspect

        return inspect.signature(_standard(owner))


_FIELDS, _SIGNATURE = _Fields(), _Signature()


def _repr(self: Any) -> str:
    shown = (
        f"{name}={getattr(self, name)!r}" for name, one in self.__value_fields__.items() if one.repr
    )
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name, one in self.__value_fields__.items() if one.compare)


def _eq(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _refuse(_self: Any, name: str, *_value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__value_fields__]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__value_fields__, state, strict=True):
        object.__setattr__(self, name, value)
