"""The IR's data structures: operations, the functions that hold them, modules.

What functions are made of is in :mod:`lepton_ir.operations`, and imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.operations import AttrRef, Block, Op, Region, Use, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.dims import DimExpr

__all__ = ["AttrRef", "Block", "Function", "Module", "Op", "Region", "Use", "Value"]


class Function:
    """A function: isolated from others, its body ends with ``return``.

    Attributes:
        name: unique in the module (``main`` for the graph; ``domain:name[:overload]`` for local
            functions of an ONNX file).
        output_names: names of the results, in order; they survive every rewrite.
        attr_params: attribute parameters of a local function, name to default or ``None``.
        opsets: opset imports of a local function.
        epoch: counts mutations.
        used_symbols: dim symbols in use, so that fresh ones never collide.
        positive: dims that were tried with 0, and whether the function then fails, so that they
            are at least 1 in every run (:mod:`lepton_ir.positive`).
        overridable: names of inputs that have a default constant (``--keep-overridable``),
            mapped to that tensor.
        meta: doc string, graph name, metadata, quantization annotations.
    """

    __slots__ = (
        "analyses",
        "attr_params",
        "body",
        "epoch",
        "meta",
        "module",
        "name",
        "opsets",
        "output_names",
        "overridable",
        "positive",
        "used_symbols",
    )

    def __init__(self, name: str, module: Module | None = None) -> None:
        self.name = name
        self.module = module
        self.epoch = 0
        self.body = Region(self)
        self.output_names: list[str] = []
        self.attr_params: dict[str, Any] = {}
        self.opsets: dict[str, int] = {}
        self.meta: dict[str, Any] = {}
        self.used_symbols: set[str] = set()
        self.positive: dict[DimExpr, bool] = {}
        self.overridable: dict[str, Any] = {}
        self.analyses: dict[Any, tuple[int, Any]] = {}

    @property
    def block(self) -> Block:
        """The body's block."""
        return self.body.block

    @property
    def inputs(self) -> list[Value]:
        """The function's arguments."""
        return self.body.block.args

    @property
    def outputs(self) -> list[Value | None]:
        """The operands of ``return``."""
        last = self.body.block.terminator
        return [] if last is None else list(last.operands)

    def walk(self) -> Iterator[Op]:
        """Yield every operation, nested ones after the one that holds them."""
        for op in self.body.block.ops:
            if op.regions:
                yield from op.walk()
            else:
                yield op

    def fresh_symbol(self, hint: str) -> str:
        """Return a dim symbol that the function does not use yet; deterministic."""
        name, k = f"_{hint}", 0
        while name in self.used_symbols:
            k += 1
            name = f"_{hint}{k}"
        self.used_symbols.add(name)
        return name

    def __repr__(self) -> str:
        return f"@{self.name}"


class Module:
    """A model: the function ``main`` and the local functions it calls.

    Attributes:
        functions: by name, ``main`` first.
        opsets: opset imports, domain to version (the default ONNX domain is ``""``).
        meta: producer, ir_version, doc string, metadata properties, source path.
    """

    __slots__ = ("functions", "meta", "name", "opsets", "remarks")

    def __init__(self, name: str = "module") -> None:
        self.name = name
        self.functions: dict[str, Function] = {}
        self.opsets: dict[str, int] = {}
        self.meta: dict[str, Any] = {}
        self.remarks: list[Any] = []

    def add_function(self, name: str) -> Function:
        """Add an empty function.

        Raises:
            LeptonError: the name is taken.
        """
        if name in self.functions:
            raise LeptonError(f"function {shorten(name)} is defined twice", code="module")
        function = Function(name, self)
        self.functions[name] = function
        return function

    @property
    def main(self) -> Function:
        """The function that a runtime calls."""
        return self.functions["main"]

    @property
    def epoch(self) -> int:
        """Counts mutations in all functions, and functions removed."""
        return sum(f.epoch for f in self.functions.values()) + len(self.functions)

    def walk(self) -> Iterator[Op]:
        """Yield every operation of every function."""
        for function in list(self.functions.values()):
            yield from function.walk()

    def __repr__(self) -> str:
        return f"module @{self.name} ({len(self.functions)} functions)"
