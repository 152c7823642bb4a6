"""Private names of a library, looked up as the product uses them."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pkgutil import resolve_name
from typing import Any


def check_symbol(symbol: str, takes: tuple[str, ...] | None, *, seen_in: str) -> None:
    """Fails the test where the installed library lacks `symbol`.

    symbol: `module:Class.attribute`; an attribute may also be one that `__init__` sets.
    takes: the names of the first parameters, where the product calls or overrides the symbol.
    seen_in: the library and its version in which the product was seen to work, `ray 2.60.0`.
    """
    library = seen_in.split()[0]
    told = f"{symbol} was seen in {seen_in}; {library} {version(library)} is installed"
    owner, found = _look_up(symbol)
    name = symbol.rpartition(".")[2]
    assert found is not None or _sets(owner, name), f"{told} and lacks it"
    if takes is not None:
        assert found is not None
        parameters = tuple(inspect.signature(found).parameters)
        assert parameters[: len(takes)] == takes, f"{told}, where it takes {parameters}"


def _look_up(symbol: str) -> tuple[Any, Any]:
    """The owner of the last part of `symbol`, and that part; None for each that is not there."""
    outer, separator, name = symbol.rpartition("." if "." in symbol.partition(":")[2] else ":")
    assert separator
    try:
        owner = resolve_name(outer)
    except (ImportError, AttributeError):
        return None, None
    return owner, getattr(owner, name, None)


def _sets(owner: Any, name: str) -> bool:
    """Whether each object of the class `owner` has an attribute of that name."""
    if not inspect.isclass(owner):
        return False
    return name in inspect.get_annotations(owner) or name in owner.__init__.__code__.co_names
