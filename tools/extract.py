"""Cutting a subgraph out of a model: ``lepton-opt extract MODEL --inputs a --outputs b``."""

from __future__ import annotations

import argparse
import difflib
import os
from typing import TYPE_CHECKING

from lepton_ir import dims
from lepton_ir.clone import clone_function, clone_op
from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.infer import infer_function, reset_block
from lepton_ir.ir import Function, Module, Op, Value
from lepton_ir.types import UNKNOWN, SequenceType, TensorType, Type, TypeMismatchError, meet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.opdef import OpDef

_SHOWN = 8
"""Tensors named in one message."""


def extract(module: Module, inputs: Sequence[str] | None, outputs: Sequence[str]) -> Module:
    """Return the part of ``module`` that computes ``outputs`` from ``inputs``.

    Args:
        module: the model; not changed. Payloads of constants are shared.
        inputs: tensors of the main graph, inner ones too, in the order of the result's inputs;
            the model's own inputs that the outputs need when ``None``.
        outputs: tensors of the main graph, in the order of the result's outputs.

    Raises:
        LeptonError: a name that is no tensor of the main graph, an input whose element type is
            unknown, or a cut that is not closed; the message names what is missing.
    """
    known = tensors(module)
    results = [_find(known, name, "--outputs") for name in _unique(outputs, "--outputs")]
    if not results:
        raise LeptonError("names no tensor", code="extract", where="--outputs")
    given = _unique(inputs or (), "--inputs")
    starts = [_find(known, name, "--inputs") for name in given]
    both = next((n for n in given if n in outputs), None)
    if both is not None:
        raise LeptonError(
            f"{shorten(both)} is an input and an output of the cut",
            code="extract",
            where="--inputs",
        )
    ops, open_ends = needed(module.main, results, set(starts))
    if inputs is None:
        starts = [v for v in module.main.inputs if v in open_ends]
    elif open_ends:
        raise _not_closed(open_ends, starts, results)
    return build(module, ops, starts, list(zip(results, outputs, strict=True)))


def extract_ops(module: Module, chosen: Iterable[Op]) -> Module:
    """Return a module of just these operations of the main graph.

    What they read from others becomes an input, what others read from them an output; constants
    come along.

    Raises:
        LeptonError: the type of what they read is unknown, or nothing would be left.
    """
    main = module.main
    keep = set(chosen)
    inner = {o for op in keep for o in op.walk()}
    starts: dict[Value, None] = {}
    constants: set[Op] = set()
    for op in main.block.ops:
        if op not in keep:
            continue
        for value in _reads(op):
            source = value.op
            if source is not None and source.name == "const" and source.block is main.block:
                constants.add(source)
            elif source is None or source not in keep:
                starts[value] = None
    results = [
        (r, r.name or f"result_{op.order}_{r.index}")
        for op in main.block.ops
        if op in keep
        for r in op.results
        if any(use.op not in inner for use in r.uses)
    ]
    if not results:
        raise LeptonError("nothing is computed", code="extract")
    return build(module, keep | constants, list(starts), results)


def tensors(module: Module) -> dict[str, Value]:
    """Return the named tensors of the main graph: inputs, constants, results, outputs."""
    main = module.main
    found: dict[str, Value] = {}
    for value in main.inputs:
        found.setdefault(value.name or "", value)
    for op in main.block.ops:
        for value in op.results:
            found.setdefault(value.name or "", value)
    named = zip(main.output_names, main.outputs, strict=True)
    found.update({name: output for name, output in named if output is not None})
    found.pop("", None)
    return found


def build(
    module: Module, ops: set[Op], starts: Sequence[Value], results: Sequence[tuple[Value, str]]
) -> Module:
    """Return a module with copies of ``ops``, whose inputs stand for ``starts``.

    Args:
        module: where they come from; not changed.
        ops: operations of the main graph, closed but for ``starts``.
        starts: values that become inputs.
        results: values that become outputs, with their names.

    Raises:
        LeptonError: the element type of an input is unknown.
    """
    old = module.main
    made = Module(module.name)
    made.opsets = dict(module.opsets)
    made.meta = dict(module.meta)
    main = made.add_function("main")
    _copy_meta(old, main, [name for _, name in results])
    values: dict[Value, Value] = {}
    names = _DimNames(old)
    for value in starts:
        arg = main.block.add_arg(names.contract(value), value.name)
        arg.meta = value.meta if value in old.inputs else None
        values[value] = arg
        if value.name in old.overridable:
            main.overridable[value.name] = old.overridable[value.name]
    main.used_symbols |= names.used
    for op in old.block.ops:
        if op in ops:
            # Results that are inputs now are read from there, also by later copies.
            kept = {r: values[r] for r in op.results if r in values}
            main.block.append(clone_op(op, values))
            values.update(kept)
    main.block.append(Op("return", _return_row(), [values[v] for v, _ in results], {}, 0))
    main.output_names = [name for _, name in results]
    _copy_callees(module, made)
    reset_block(main.block)
    infer_function(main)
    return made


def _return_row() -> OpDef | None:
    from lepton_ir.opdef import lookup

    return lookup("return")


def _copy_meta(old: Function, new: Function, names: list[str]) -> None:
    """Copy what the file says about the graph; of outputs only where all before are the same."""
    new.opsets = dict(old.opsets)
    new.used_symbols = set(old.used_symbols)
    new.meta = {k: v for k, v in old.meta.items() if k != "outputs"}
    declared = old.meta.get("outputs", ())
    same = 0
    for name, before in zip(names, old.output_names, strict=False):
        if name != before:
            break
        same += 1
    if same == len(names) and declared:
        new.meta["outputs"] = list(declared[:same])


def _copy_callees(module: Module, made: Module) -> None:
    """Copy the local functions that are called, in the order of the module."""
    wanted: set[str] = set()
    queue: list[Function] = [made.main]
    while queue:
        for op in queue.pop().walk():
            callee = op.attrs.get("callee") if op.name == "call" else None
            if callee in module.functions and callee not in wanted:
                wanted.add(callee)
                queue.append(module.functions[callee])
    for name, function in module.functions.items():
        if name in wanted:
            clone_function(function, made)


class _DimNames:
    """Types of new inputs: a dim that is no plain symbol of the source gets a name of its own."""

    def __init__(self, function: Function) -> None:
        self.used = set(function.used_symbols)
        self._public = set(function.meta.get("unnamed", ()))
        self._inputs = set(function.inputs)
        self._named: dict[Dim, Dim] = {}

    def contract(self, value: Value) -> Type:
        """Return the type of the input that stands for ``value``."""
        type_ = value.type
        if value.declared is not None:
            try:
                type_ = meet(type_, value.declared)
            except TypeMismatchError:
                type_ = value.declared if type_ is UNKNOWN else type_
        inner = type_
        while isinstance(inner, SequenceType):
            inner = inner.elem
        if type_ is UNKNOWN or (isinstance(inner, TensorType) and inner.dtype is None):
            raise LeptonError(
                f"the element type of {shorten(value.name or '')} is unknown",
                code="extract",
                where="--inputs",
                hint="cut behind the operation that makes it, or declare its type in the model",
            )
        if value in self._inputs or not isinstance(type_, TensorType) or type_.shape is None:
            return type_
        return type_.with_shape(self._dim(d) for d in type_.shape)

    def _dim(self, dim: Dim | None) -> Dim | None:
        if dim is None or isinstance(dim, int):
            return dim
        text = str(dim)
        if dims.symbols(dim) == {text} and (not text.startswith("_") or text in self._public):
            return dim
        if dim not in self._named:
            number = 0
            while f"dim{number}" in self.used:
                number += 1
            self.used.add(f"dim{number}")
            self._named[dim] = dims.sym(f"dim{number}")
        return self._named[dim]


def _reads(op: Op) -> list[Value]:
    """Return the values that ``op`` and what is inside it read from outside of it."""
    if not op.regions:
        return [v for v in op.operands if v is not None]
    own: set[Value] = set()
    read: list[Value] = []
    for inner in op.walk():
        own.update(inner.results)
        for region in inner.regions:
            own.update(region.block.args)
        read += [v for v in inner.operands if v is not None]
    return [v for v in read if v not in own]


def needed(
    main: Function, results: list[Value], starts: set[Value]
) -> tuple[set[Op], dict[Value, None]]:
    """Return the operations behind ``results`` up to ``starts``, and inputs reached otherwise."""
    ops: set[Op] = set()
    open_ends: dict[Value, None] = {}
    queue = list(reversed(results))
    while queue:
        value = queue.pop()
        if value in starts:
            continue
        if value.op is None:
            open_ends[value] = None
        elif value.op not in ops:
            ops.add(value.op)
            queue += _reads(value.op)
    return ops, {v: None for v in main.inputs if v in open_ends}


def _not_closed(
    open_ends: dict[Value, None], starts: list[Value], results: list[Value]
) -> LeptonError:
    missing = ", ".join(shorten(v.name or "?", 40) for v in list(open_ends)[:_SHOWN])
    more = f" and {len(open_ends) - _SHOWN} more" if len(open_ends) > _SHOWN else ""
    wanted = ", ".join(shorten(v.name or "?", 40) for v in results[:_SHOWN])
    return LeptonError(
        f"the cut is not closed: {wanted} also depends on {missing}{more}",
        code="extract",
        where="--inputs",
        hint=f"add {missing} to --inputs, or a tensor on the way from there"
        if starts
        else f"--inputs={missing}",
    )


def _unique(names: Sequence[str], option: str) -> list[str]:
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise LeptonError(f"{shorten(twice)} is named twice", code="extract", where=option)
    return list(names)


def _find(known: dict[str, Value], name: str, option: str) -> Value:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3)
    raise LeptonError(
        f"no tensor of the main graph is called {shorten(name)!r}",
        code="extract",
        where=option,
        hint=f"did you mean {' or '.join(shorten(c, 60) for c in close)}?"
        if close
        else "tensors inside the bodies of If, Loop and Scan cannot be cut at",
    )


# ----- the command line


def split_names(given: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the names in options such as ``a,b``; a tensor's name may have commas itself.

    >>> split_names(["a,b", "c,d"], ["a", "b", "c,d"])
    ['a', 'b', 'c,d']
    """
    names = set(known)
    return [
        part
        for text in given
        for part in ([text] if text in names else filter(None, text.split(",")))
    ]


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of the subcommand."""
    p = argparse.ArgumentParser(
        prog="lepton-opt extract",
        description="Cut a part out of a model by the names of its tensors.",
        allow_abbrev=False,
    )
    p.add_argument("model", metavar="MODEL", help="the model (.onnx, .lir)")
    p.add_argument(
        "--inputs",
        action="append",
        metavar="A,B",
        help="tensors where the part begins, inner ones too (the model's inputs it needs)",
    )
    p.add_argument(
        "--outputs",
        action="append",
        metavar="C,D",
        help="tensors where it ends (the model's outputs)",
    )
    p.add_argument("-o", "--output", metavar="OUT", help="output file (MODEL.part.onnx)")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load operations")
    return p


def run(args: argparse.Namespace) -> int:
    """Cut, write, and say what was written."""
    from lepton_ir import api
    from lepton_ir.pipeline import count_ops
    from lepton_ir.tools.places import write_model

    module = api.load(args.model)
    known = tensors(module)
    outputs = split_names(args.outputs or (), known) or list(module.main.output_names)
    inputs = None if args.inputs is None else split_names(args.inputs, known)
    part = extract(module, inputs, outputs)
    suffix = ".lir" if args.model.endswith(".lir") else ".onnx"
    path = args.output or f"{os.path.splitext(args.model)[0]}.part{suffix}"
    write_model(part, path, args.model, module)
    print(f"{count_ops(part):,} of {count_ops(module):,} nodes")
    for value in part.main.inputs:
        print(f"  input   {shorten(value.name or '', 40)}: {value.type}")
    for name, output in zip(part.main.output_names, part.main.outputs, strict=True):
        print(f"  output  {shorten(name, 40)}: {'' if output is None else output.type}")
    ends = [*part.main.inputs, *(v for v in part.main.outputs if v is not None)]
    vague = [v for v in ends if isinstance(v.type, TensorType) and v.type.shape is None]
    if vague:
        names = ", ".join(dict.fromkeys(shorten(v.name or "?", 40) for v in vague[:_SHOWN]))
        print(f"  note: of unknown rank, which ONNX's own checker refuses: {names}")
    print(f"  wrote {path}")
    return 0
