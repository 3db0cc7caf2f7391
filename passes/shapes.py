"""Symbolic shape inference to a fixpoint; binding of symbols; check of what the file declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir import dims
from lepton_ir.diagnostics import LeptonError
from lepton_ir.infer import infer_function, mark_types_current, types_are_current
from lepton_ir.pipeline import Pass
from lepton_ir.positive import learn_positive
from lepton_ir.types import TensorType, TypeMismatchError, meet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Function, Module, Value

_MAX_ROUNDS = 4


@dataclass(frozen=True)
class Shapes(Pass, name="shapes"):
    """Infer types and shapes; report declared shapes that contradict what is proven.

    Attributes:
        dim: symbols to fix, ``shapes{dim=N=4:M=2}``; the command line's ``--dim`` sets it.
    """

    dim: tuple[str, ...] = ()

    def run(self, module: Module, ctx: PassContext) -> None:
        """Infer every function until nothing changes.

        Raises:
            LeptonError: a bad ``dim`` option.
        """
        if self.dim:
            bind_dims(module, parse_bindings(self.dim))
        for function in module.functions.values():
            if not types_are_current(function):
                _infer(function)
                mark_types_current(function)
            if learn_positive(function):
                _infer(function)
                mark_types_current(function)
            _report_contradictions(function, ctx)


def _infer(function: Function) -> None:
    for _ in range(_MAX_ROUNDS):
        if not infer_function(function):
            break


def parse_bindings(items: tuple[str, ...] | list[str]) -> dict[str, int]:
    """Parse ``["N=4"]``.

    Raises:
        LeptonError: not of the form NAME=NUMBER, or a negative number.
    """
    out: dict[str, int] = {}
    for item in items:
        name, _, number = item.rpartition("=")
        fits = number.isdecimal() and len(number) < 20 and int(number) < 1 << 63
        if not name or not fits:
            raise LeptonError(
                f"cannot read {item!r} as NAME=SIZE", code="dim", where="--dim", hint="--dim N=4"
            )
        out[name] = int(number)
    return out


def bind_dims(module: Module, sizes: Mapping[str, int]) -> None:
    """Fix symbolic dims of the main function's inputs (and everything inferred from them).

    Raises:
        LeptonError: no input has such a symbol.
    """
    main = module.main
    known = sorted({s for v in main.inputs for s in _symbols(v)})
    for name in sizes:
        if name not in known:
            raise LeptonError(
                f"no input has a dim called {name!r}",
                code="dim",
                where="--dim",
                hint=f"the inputs have: {', '.join(known) or 'no symbolic dims'}",
            )
    for value in _all_values(main):
        t = value.type
        if isinstance(t, TensorType) and t.shape is not None:
            value.type = t.with_shape(
                None if d is None else dims.substitute(d, sizes) for d in t.shape
            )
        if value.content is not None:
            value.content = tuple(
                None if d is None else dims.substitute(d, sizes) for d in value.content
            )
        declared = value.declared
        if isinstance(declared, TensorType) and declared.shape is not None:
            value.declared = declared.with_shape(
                None if d is None else dims.substitute(d, sizes) for d in declared.shape
            )
    main.epoch += 1


def _all_values(function: Function) -> list[Value]:
    values = list(function.inputs)
    for op in function.walk():
        values += op.results
        for region in op.regions:
            values += region.block.args
    return values


def _symbols(value: Value) -> set[str]:
    t = value.type
    if not isinstance(t, TensorType) or t.shape is None:
        return set()
    return {s for d in t.shape if d is not None and not isinstance(d, int) for s in dims.symbols(d)}


def _report_contradictions(function: Function, ctx: PassContext) -> None:
    for value in _all_values(function):
        declared = value.declared
        if declared is None or declared is value.type:
            continue
        try:
            meet(value.type, declared)
        except TypeMismatchError:
            where = f'value "{value.name}"' if value.name else ""
            ctx.remark(
                "note",
                where,
                "the file declares {}, but it is {}; the declaration is not trusted",
                declared,
                value.type,
            )
            value.declared = value.type
