"""What an option file may say: keys with their types, defaults and meanings, and what is wrong with what it does say.

A :class:`Key` is declared once, beside what reads it; the declaration serves the check before a run and the reference
page (docs/options.md). Arguments of networks, losses and metrics are checked against their signatures.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()
"""The default of a key that has none."""


@dataclass(frozen=True)
class Key:
    """One key of a section of an option file.

    Attributes:
        name: the key; ``*`` stands for any text, as in ``*_opt``.
        kind: its type as in a type hint: ``float``, ``int | None``, ``Literal["bf16", "fp16"] | None``, ``Mapping``.
        default: what it is where it is left out; :data:`REQUIRED` where it must be given.
        about: what it means.
    """

    name: str
    kind: Any
    default: Any
    about: str

    @property
    def required(self) -> bool:
        """Whether the key must be given."""
        return self.default is REQUIRED

    def fits(self, name: str) -> bool:
        """Whether this is the declaration of the key ``name``."""
        return fnmatchcase(name, self.name)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """``; did you mean `NAME`?`` for the nearest known name, else an empty text."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a value read from YAML is of a kind as :class:`Key` has them; of a kind not known here, any is."""
    if kind is Any or kind is inspect.Parameter.empty:
        return True
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of_kind(value, part) for part in typing.get_args(kind))
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind))
    if kind is type(None) or kind is None:
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if _is_class(origin or kind, Mapping):
        return isinstance(value, Mapping)
    if _is_class(origin or kind, Sequence):
        return isinstance(value, (list, tuple)) and _items_fit(value, kind)
    return True


def _is_class(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _items_fit(values: Sequence[Any], kind: Any) -> bool:
    arguments = typing.get_args(kind)
    if not arguments:
        return True
    if typing.get_origin(kind) is tuple and Ellipsis not in arguments:
        return len(values) == len(arguments) and all(map(is_of_kind, values, arguments))
    return all(is_of_kind(value, arguments[0]) for value in values)


_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "~"}


def describe(kind: Any) -> str:
    """Say a kind in words: ``a number``, ``bf16, fp16 or ~``."""
    words = list(dict.fromkeys(_words(kind)))
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _words(kind: Any) -> list[str]:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return [word for part in typing.get_args(kind) for word in _words(part)]
    if origin is typing.Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    if kind in _WORDS:
        return [_WORDS[kind]]
    if _is_class(origin or kind, Mapping):
        return ["a mapping"]
    if _is_class(origin or kind, Sequence):
        return ["a list"]
    return ["any value"]


def value_fault(label: str, value: Any, kind: Any) -> list[str]:
    """The fault of a value that is not of its kind, if it is one."""
    return [] if is_of_kind(value, kind) else [f"{label}: {value!r} is not {describe(kind)}"]


def section_faults(section: str, options: Mapping[str, Any], keys: Sequence[Key]) -> list[str]:
    """What is wrong with a section: unknown keys, values of another kind, required keys that are missing.

    Args:
        section: its name, for the messages; empty for the top level of an option file.
        options: its content. A key without a value (``~``) counts as left out.
        keys: what it may have.
    """
    prefix = f"{section}: " if section else ""
    faults = []
    for name, value in options.items():
        key = next((key for key in keys if key.fits(str(name))), None)
        if key is None:
            known = [key.name for key in keys]
            hint = did_you_mean(name, known) or f"; known keys: {', '.join(known)}"
            faults.append(f"{prefix}{name} is unknown{hint}")
        elif value is not None:
            faults += value_fault(f"{prefix}{name}", value, key.kind)
    for key in keys:
        if key.required and options.get(key.name) is None:
            lacks = f"{section}: {key.name} is missing" if section else f"the option file lacks the key `{key.name}:`"
            faults.append(f"{lacks}: {key.about}")
    return faults


def call_faults(
    label: str,
    called: Callable[..., Any],
    arguments: Mapping[str, Any],
    filled: Iterable[str] = (),
    strict: bool = False,
) -> list[str]:
    """What is wrong with arguments that an option file gives a class: unknown, missing, or of another type.

    Args:
        label: the options' place, for the messages.
        called: the class or function.
        arguments: what it is to be called with; ``type`` is left out of account.
        filled: parameters that are given by others where the option file does not.
        strict: refuse unknown arguments even of what takes any, to throw them away.
    """
    parameters = dict(inspect.signature(called).parameters)
    hints = _hints(called)
    faults = []
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name, value in arguments.items():
        if name == "type":
            continue
        if name in known:
            faults += value_fault(f"{label}: {name}", value, hints.get(name, _kind_of(parameters[name].default)))
        elif strict or not anything:
            hint = did_you_mean(name, known) or f"; {called.__name__} takes {', '.join(known) or 'nothing'}"
            faults.append(f"{label}: {name} is unknown{hint}")
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments and name not in filled:
            faults.append(f"{label}: {name} is missing, which {called.__name__} needs")
    return faults


def _kind_of(default: Any) -> Any:
    """What a parameter without a type takes, by its default: numbers are numbers, whole or not."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, (int, float)):
        return float
    return str if isinstance(default, str) else Any


def _hints(called: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called.__init__ if isinstance(called, type) else called)  # type: ignore[misc]
    except NameError:  # a type that is imported for type checkers alone
        return {}
