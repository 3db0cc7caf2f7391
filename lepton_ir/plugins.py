"""Extensions: where passes, frontends, backends and ops come from.

The only module that knows the names of extensions. It is cheap to import, and listing imports
nothing heavy.

An extension reaches Lepton in one of three ways:

* as a row of a built-in table, ``lepton_ir.passes.TABLE`` and its like;
* through an entry point of an installed package, in the group ``lepton_ir.passes``,
  ``lepton_ir.frontends``, ``lepton_ir.backends`` or ``lepton_ir.ops``. It names the object itself
  (``relu6 = "lepton_relu6:Relu6"``) or a whole table, which must then be called ``TABLE``
  (``acme = "lepton_acme:TABLE"``): only so can the two be told apart without importing anything;
* from a single file, ``lepton-opt --plugin FILE`` (`load_file`).

A table is a ``dict[str, str]`` from the name to ``"module:attribute"`` (or ``"module"`` alone),
resolved when the extension is first loaded. Lepton's own tables come through entry points too; a
checkout that is not installed has none, and then they are read directly.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from lepton_ir.diagnostics import LeptonError

GROUPS = ("passes", "frontends", "backends", "ops")
"""The kinds of extension. Functions take the entry-point group, ``lepton_ir.passes``, as well."""

_TABLE = "TABLE"
_OWN = "lepton-ir"
_FILE_MODULE = "lepton_plugin_"


class PluginError(LeptonError):
    """An extension that is unknown, offered twice, or cannot be imported.

    Attributes:
        matches: for an unknown name, the closest known ones.
    """

    def __init__(self, message: str, *, where: str = "", matches: tuple[str, ...] = ()) -> None:
        hint = f"did you mean {' or '.join(matches)}?" if matches else ""
        super().__init__(message, code="plugin", where=where, hint=hint)
        self.matches = matches


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: what it is called, who brings it, and where it lives.

    Attributes:
        group: one of `GROUPS`.
        name: what a user types.
        provider: the distribution or the file that brings it.
        target: ``"module:attribute"`` or ``"module"``, to be imported by `load`.
    """

    group: str
    name: str
    provider: str
    target: str

    @property
    def origin(self) -> str:
        """The provider and, unless it is a single file, the object that it names."""
        in_file = self.target.startswith(_FILE_MODULE)
        return self.provider if in_file else f"{self.provider} ({self.target})"


_found: dict[str, dict[str, Extension]] = {}  # by group: the result of the scan
_from_files: dict[str, list[Extension]] = {}  # by real path


def extensions(group: str) -> list[Extension]:
    """All extensions of a group, by name.

    Raises:
        PluginError: if two providers offer the same name, or a table cannot be read.
        ValueError: if there is no such group.
    """
    return [extension for _, extension in sorted(_index(group).items())]


def names(group: str) -> list[str]:
    """The names of all extensions of a group, sorted. Imports none of them.

    >>> names("no such group")
    Traceback (most recent call last):
    ...
    ValueError: no group 'no such group' (there are passes, frontends, backends, ops)
    """
    return sorted(_index(group))


def load(group: str, name: str) -> object:
    """Import one extension and return it.

    Raises:
        PluginError: if the name is unknown (the message and ``matches`` give the closest ones), or
            its provider cannot be imported.
        ValueError: if there is no such group.
    """
    group = group.removeprefix("lepton_ir.")
    if group in GROUPS and group not in _found:
        own = _own(group).get(name)
        if own is not None:
            return _resolve(own)  # looking for plugins takes longer than most of what follows
    index = _index(group)
    if name not in index:
        import difflib

        matches = tuple(difflib.get_close_matches(name, index, n=3))
        raise PluginError(f"no {_singular(group)} is called {name!r}", matches=matches)
    return _resolve(index[name])


def is_own(group: str, name: str) -> bool:
    """Whether Lepton itself brings the extension; looks for no others."""
    return name in _own(group)


def load_file(path: str | os.PathLike[str]) -> list[Extension]:
    """Import a Python file and register what it defines; return that.

    Loading the same file again does nothing.

    Registered are every class that the file defines and names as a pass (it carries its own
    ``__lepton_pass__: str``), and the entries of module-level dicts ``LEPTON_PASSES``,
    ``LEPTON_FRONTENDS``, ``LEPTON_BACKENDS`` and ``LEPTON_OPS``, from the name to the object. Ops
    defined with ``@op`` register themselves when the file is imported.

    Raises:
        PluginError: if the file is missing or fails, or a name is already taken.
    """
    real = os.path.realpath(path)
    if real in _from_files:
        return _from_files[real]
    module = _import_file(real, os.fspath(path))
    provider = os.fspath(path)
    added: list[Extension] = []
    try:
        for extension in _defined_in(module, provider):
            _add(_index(extension.group), extension)
            added.append(extension)
    except PluginError:
        for extension in added:
            del _found[extension.group][extension.name]
        del sys.modules[module.__name__]
        raise
    _from_files[real] = added
    return added


def _index(group: str) -> dict[str, Extension]:
    group = group.removeprefix("lepton_ir.")
    if group not in GROUPS:
        raise ValueError(f"no group {group!r} (there are {', '.join(GROUPS)})")
    index = _found.get(group)
    if index is None:
        index = {}
        for extension in _scan(group):
            _add(index, extension)
        _found[group] = index
    return index


def _add(index: dict[str, Extension], new: Extension) -> None:
    old = index.get(new.name)
    if old is not None:
        raise PluginError(
            f"two {new.group} are called {new.name!r}: one from {old.origin}, one from {new.origin}"
        )
    index[new.name] = new


def _scan(group: str) -> Iterator[Extension]:
    from importlib.metadata import entry_points  # costs as much as the rest of the start-up

    own = _own_table(group)
    seen_own = False
    for point in entry_points(group=f"lepton_ir.{group}"):
        provider = point.dist.name if point.dist is not None else point.value
        seen_own = seen_own or point.value == own
        if point.attr == _TABLE:
            yield from _rows(group, provider, point.value)
        else:
            yield Extension(group, point.name, provider, point.value)
    if not seen_own:
        yield from _rows(group, _OWN, own)


def _own(group: str) -> dict[str, Extension]:
    return {e.name: e for e in _rows(group, _OWN, _own_table(group))}


def _own_table(group: str) -> str:
    return f"lepton_ir.{group}:{_TABLE}"


def _rows(group: str, provider: str, target: str) -> Iterator[Extension]:
    table = _resolve(Extension(group, _TABLE, provider, target))
    if not isinstance(table, dict):
        raise PluginError(f"{target} from {provider} is no table of {group}: it should be a dict")
    for name, row in table.items():
        if not isinstance(name, str) or not isinstance(row, str):
            raise PluginError(f'{target} from {provider}: {name!r} should be a "module:attribute"')
        yield Extension(group, name, provider, row)


def _resolve(extension: Extension) -> object:
    module_name, _, attributes = extension.target.partition(":")
    whose = f"{_singular(extension.group)} {extension.name!r} from {extension.provider}"
    try:
        found: object = importlib.import_module(module_name.strip())
    except ImportError as error:
        raise PluginError(f"cannot import {whose}: {error}") from error
    except Exception as error:
        if extension.provider == _OWN:
            raise
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"cannot import {whose}: {reason}") from error
    for attribute in filter(None, attributes.strip().split(".")):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise PluginError(f"cannot import {whose}: {error}") from error
    return found


def _import_file(real: str, shown: str) -> ModuleType:
    if not os.path.isfile(real):
        raise PluginError("no such file", where=shown)
    stem = os.path.splitext(os.path.basename(real))[0]
    stem = "".join(c if c.isalnum() else "_" for c in stem)
    # Dataclasses and pickle look the module up in sys.modules, where two files of one name must
    # not meet.
    name = f"{_FILE_MODULE}{len(_from_files)}_{stem}"
    spec = importlib.util.spec_from_file_location(name, real)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file (its name should end in .py)", where=shown)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        where = f"{shown}:{line}" if (line := _line_in(real, error)) else shown
        raise PluginError(f"{type(error).__name__}: {error}", where=where) from error
    return module


def _line_in(path: str, error: Exception) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    return lines[-1] if lines else None


def _defined_in(module: ModuleType, provider: str) -> Iterator[Extension]:
    listed: set[int] = set()
    for group in GROUPS:
        variable = f"LEPTON_{group.upper()}"
        entries = getattr(module, variable, {})
        if not isinstance(entries, dict):
            raise PluginError(f"{variable} should be a dict from name to object", where=provider)
        for name, found in entries.items():
            listed.add(id(found))
            yield _in_module(module, group, str(name), provider, found)
    for found in list(vars(module).values()):
        if not isinstance(found, type) or found.__module__ != module.__name__:
            continue
        pass_name = vars(found).get("__lepton_pass__")  # its own: a nameless base class is no pass
        if isinstance(pass_name, str) and id(found) not in listed:
            listed.add(id(found))
            yield _in_module(module, "passes", pass_name, provider, found)


def _in_module(
    module: ModuleType, group: str, name: str, provider: str, found: object
) -> Extension:
    # The object is reached as every other extension is, through a module and an attribute.
    registered = vars(module).setdefault("__lepton_registered__", _Registered())
    attribute = f"{group}_{len(vars(registered))}"
    setattr(registered, attribute, found)
    return Extension(group, name, provider, f"{module.__name__}:__lepton_registered__.{attribute}")


class _Registered:
    """What a plugin file registered, as attributes."""


def _singular(group: str) -> str:
    group = group.removeprefix("lepton_ir.")
    return {"passes": "pass"}.get(group, group.removesuffix("s"))
