"""Sessions: a module made ready to run, with the habits of onnxruntime's ``InferenceSession``."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.backends.numba.codegen.library import library
from lepton_ir.backends.numba.constants import Constants
from lepton_ir.backends.numba.machine import machine as find_machine
from lepton_ir.backends.numba.regions import BlockPlans, symbol_of
from lepton_ir.backends.numba.runtime.quick import Quick, quick
from lepton_ir.backends.numba.runtime.threads import pool
from lepton_ir.diagnostics import LeptonError, UnsupportedError, shorten
from lepton_ir.infer import describe
from lepton_ir.types import OptionalType, SequenceType, TensorType, Type, dim_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_ir.backends.numba.plan import Segment
    from lepton_ir.backends.numba.profile import Profile
    from lepton_ir.ir import Module, Value

_ORT_NAMES = {"f32": "float", "f64": "double", "f16": "float16", "bf16": "bfloat16"}


PRECISIONS = ("fast", "standard", "high")
"""``fast`` has algorithms that round more than plain sums do, ``high`` plain sums only."""


@dataclass(frozen=True)
class NodeArg:
    """An input or output of a session.

    Attributes:
        name: the tensor's name.
        shape: sizes, names of symbolic dims, ``None`` for unknown sizes; ``None`` for what is no
            tensor or has an unknown rank.
        type: as onnxruntime writes it: ``tensor(float)``.
    """

    name: str
    shape: list[int | str | None] | None
    type: str


class Session:
    """Runs a module on this machine.

    Args:
        module: what to run; it is kept and must not change any more.
        target: the machine: ``host``, ``generic``, ``x86-64-v3``, ...
        threads: threads that run kernels; all cores by default.
        precision: ``fast``, ``standard`` or ``high``; see :func:`lepton_ir.compile`.

    Raises:
        LeptonError: no target or precision has this name.
        UnsupportedError: an operation has no meaning; names it.
    """

    def __init__(
        self,
        module: Module,
        target: str = "host",
        threads: int | None = None,
        precision: str = "standard",
    ) -> None:
        _refuse_unknown(module)
        if precision not in PRECISIONS:
            raise LeptonError(
                f"no precision is called {precision!r}",
                code="precision",
                hint=f"there are {', '.join(PRECISIONS)}",
            )
        self.precision = precision
        self.module = module
        self.machine = find_machine(target)
        self.threads = max(1, threads or self.machine.cores)
        self.library = library(self.machine)
        self.constants = Constants()
        self.profile: Profile | None = None
        self._plans = BlockPlans(self, module.main.block, module.main.inputs)
        self._quick: Quick | None = None
        self._seen: list[tuple[str, tuple[int, ...], Any]] = []
        self.lock = threading.RLock()

    def get_inputs(self) -> list[NodeArg]:
        """Return the inputs, in order."""
        return [_node_arg(v.name or "", v.type) for v in self.module.main.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Return the outputs, in order."""
        main = self.module.main
        types: list[Type] = [
            v.type if v is not None else TensorType(None, None) for v in main.outputs
        ]
        return [_node_arg(n, t) for n, t in zip(main.output_names, types, strict=True)]

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]:
        """Run the module.

        Args:
            output_names: which outputs to return; ``None`` for all, in order.
            input_feed: arrays by input name.

        Returns:
            The outputs as arrays, or lists for sequences.

        Raises:
            LeptonError: a feed is missing or does not fit; or an operation fails on its values.
        """
        chosen = None
        if output_names is not None:
            chosen = _positions(self.module.main.output_names, output_names)
        if self._quick is not None and self.profile is None:
            found = self._quick.run(input_feed)
            if found is not None:
                return found if chosen is None else [found[i] for i in chosen]
        results = self._run(input_feed)
        return results if chosen is None else [results[i] for i in chosen]

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Run the module with feeds that may be anything."""
        arrays = self._accepted(feed)
        if arrays is None:
            arrays = self._check_feeds(feed)
            if all(isinstance(a, np.ndarray) for a in arrays):
                names = [v.name or "" for v in self.module.main.inputs]
                self._seen = [(n, a.shape, a.dtype) for n, a in zip(names, arrays, strict=True)]
        with self.lock:
            results = self._plans.run(arrays)
            latest = self._plans.latest
            assert latest is not None
            if latest.outputs is not None and (
                self._quick is None or self._quick.segment is not latest
            ):
                self._quick = quick(self, latest)
        taken = {id(_root(a)) for a in arrays}
        return [_independent(result, taken) for result in results]

    @property
    def arena_address(self) -> int:
        """Where the intermediates of the main block lie."""
        return self._plans.arena_address

    def share(self, table: int, count: int) -> bool:
        """Run rows of a table of kernel calls with all threads; return whether these were free.

        Results do not depend on the number of threads: they share rows and columns, never a sum.
        """
        return pool(self.library, self.threads).run(table, count)

    def segments(self) -> list[Segment]:
        """Return all segments of the main block that have been planned."""
        found: list[Segment] = []
        pending = list(self._plans.plans.values())
        while pending:
            segment = pending.pop()
            found.append(segment)
            pending += segment.following.values()
        return found

    def _accepted(self, feed: Mapping[str, Any]) -> list[Any] | None:
        """Return the feeds in order if they are like those of the last run, else ``None``."""
        if not self._seen or len(feed) != len(self._seen):
            return None
        arrays = []
        for name, shape, dtype in self._seen:
            array: Any = feed.get(name)
            if array.__class__ is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return None
            if not array.flags.c_contiguous:
                return None
            arrays.append(array)
        return arrays

    def _check_feeds(self, feed: Mapping[str, Any]) -> list[Any]:
        main = self.module.main
        names = [v.name or "" for v in main.inputs]
        unknown = [n for n in feed if n not in names]
        if unknown:
            raise LeptonError(
                f"there is no input {shorten(unknown[0])!r}; the inputs are {_listed(names)}",
                code="feeds",
            )
        env: dict[str, int] = {}
        arrays = []
        for value in main.inputs:
            name = value.name or ""
            if name in feed:
                arrays.append(_checked_feed(value, feed[name], env))
            elif name in main.overridable:
                arrays.append(np.asarray(main.overridable[name].numpy(), order="C"))
            else:
                raise LeptonError(
                    f"no value for input {shorten(name)!r} of type {value.type}", code="feeds"
                )
        return arrays


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shorten(n) for n in names[:12]) + (", ..." if len(names) > 12 else "")


def _refuse_unknown(module: Module) -> None:
    for op in module.main.walk():
        definition = op.definition
        if definition is None or op.name == "call":
            raise UnsupportedError(
                f"the operation {shorten(op.name)} is not known", code="opaque", where=describe(op)
            )
        structural = op.name == "const" or "terminator" in definition.traits
        if definition.meaning is None and not structural:
            raise UnsupportedError(
                f"{shorten(op.name)} has no deterministic meaning",
                code="no-meaning",
                where=describe(op),
            )


def _root(array: Any) -> Any:
    """Return the array whose memory a view shows."""
    while isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _independent(result: Any, taken: set[int]) -> Any:
    """Return a result that shares no memory with feeds, constants and other results."""
    if not isinstance(result, np.ndarray):
        return result
    root = _root(result)
    if id(root) in taken or not root.flags.writeable or not result.flags.c_contiguous:
        return np.array(result, order="C")
    taken.add(id(root))
    return result


def _positions(names: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    if wanted is None:
        return list(range(len(names)))
    positions = []
    for name in wanted:
        if name not in names:
            raise LeptonError(
                f"there is no output {shorten(name)!r}; the outputs are {_listed(names)}",
                code="outputs",
            )
        positions.append(list(names).index(name))
    return positions


def _checked_feed(value: Value, given: Any, env: dict[str, int]) -> Any:
    """Return a feed as it is passed on.

    Raises:
        LeptonError: it does not have the input's type.
    """
    name, type_ = shorten(value.name or ""), value.type
    if isinstance(type_, SequenceType | OptionalType):
        if isinstance(given, list | tuple):
            return [np.asarray(x, order="C") for x in given]
        return given if given is None else np.asarray(given, order="C")
    if not isinstance(type_, TensorType):
        return given if isinstance(given, list) or given is None else np.asarray(given, order="C")
    if isinstance(given, list | tuple) or given is None:
        raise LeptonError(f"input {name!r} takes an array of type {type_}", code="feeds")
    array = np.asarray(given, order="C")
    if type_.dtype is not None:
        array = _with_dtype(name, type_, array)
    if type_.shape is not None:
        _check_shape(name, type_, array.shape, env)
    return array


def _with_dtype(name: str, type_: TensorType, array: Any) -> Any:
    assert type_.dtype is not None
    if type_.dtype is dtypes.STRING:
        return array if array.dtype == object else array.astype(object)
    if array.dtype != type_.dtype.numpy:
        raise LeptonError(
            f"input {name!r} takes {type_.dtype} ({type_.dtype.numpy}), got {array.dtype}",
            code="feeds",
        )
    return array


def _check_shape(name: str, type_: TensorType, shape: tuple[int, ...], env: dict[str, int]) -> None:
    """Compare a feed's shape with an input's type; ``env`` collects the sizes of symbols."""
    assert type_.shape is not None
    if len(shape) != len(type_.shape):
        _refuse_shape(name, type_, shape)
    for dim, size in zip(type_.shape, shape, strict=True):
        if dim is None or dim == size:
            continue
        if isinstance(dim, int):
            _refuse_shape(name, type_, shape)
        symbol = symbol_of(dim)
        if symbol is not None:
            env.setdefault(symbol, size)
        if dims.symbols(dim) <= env.keys() and dims.evaluate(dim, env) != size:
            _refuse_shape(name, type_, shape, f" with {dim} = {dims.evaluate(dim, env)}")


def _refuse_shape(
    name: str, type_: TensorType, shape: tuple[int, ...], known: str = ""
) -> NoReturn:
    assert type_.shape is not None
    expected = "[" + ", ".join(map(dim_text, type_.shape)) + "]"
    raise LeptonError(
        f"input {name!r} takes shape {expected}{known}, got {list(shape)}", code="feeds"
    )


def _node_arg(name: str, type_: Type) -> NodeArg:
    if isinstance(type_, TensorType):
        shape: list[int | str | None] | None = None
        if type_.shape is not None:
            shape = [d if d is None or isinstance(d, int) else str(d) for d in type_.shape]
        return NodeArg(name, shape, f"tensor({_type_name(type_)})")
    if isinstance(type_, SequenceType | OptionalType):
        inner = _node_arg(name, type_.elem).type
        keyword = "seq" if isinstance(type_, SequenceType) else "optional"
        return NodeArg(name, None, f"{keyword}({inner})")
    return NodeArg(name, None, str(type_))


def _type_name(type_: TensorType) -> str:
    if type_.dtype is None:
        return "?"
    short = type_.dtype.name
    return _ORT_NAMES.get(short) or ("string" if short == "str" else type_.dtype.numpy.name)
