"""The io_type pass: inputs and outputs of a quantized model as integers, or as floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import LeptonError
from lepton_ir.infer import const_array, infer_block
from lepton_ir.pipeline import Pass
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Function, Module, Op, Value

META_KEY = "io_type"
"""Where a module keeps which ends are of another type than the source's, and how both encode."""

TYPES = {"float32": dtypes.F32, "int8": dtypes.I8, "uint8": dtypes.U8}

_SHIFTS = {dtypes.I8: 0, dtypes.U8: 128}
_MOVES = frozenset(("transpose", "reshape", "squeeze", "unsqueeze", "flatten"))


@dataclass(frozen=True)
class _Code:
    """Scale and zero point of an end, the zero point as i8 has it."""

    scale: float
    zero: int

    def parameters(self, dtype: DType) -> tuple[np.float32, np.ndarray[Any, Any]]:
        zero = self.zero + _SHIFTS[dtype]
        return np.float32(self.scale), np.asarray(zero, dtype.numpy)

    def encoding(self, dtype: DType | None) -> list[Any]:
        if dtype not in _SHIFTS:
            return ["float32", 1.0, 0]
        return [np.dtype(dtype.numpy).name, self.scale, self.zero + _SHIFTS[dtype]]


@dataclass(frozen=True)
class IoType(Pass, name="io_type"):
    """Give the main function inputs and outputs of a type, where pairs stand behind them.

    An input of floats that is only quantized (behind what moves its elements) becomes the integers
    themselves, an output of floats that is dequantized likewise; integers of the other type are
    shifted by 128, and floats get a pair. Notes say which ends changed, and how they encode.

    Attributes:
        type: ``float32``, ``int8`` or ``uint8``.
    """

    type: str = "float32"

    needs = "shapes"
    rule_names = ("io_type_input", "io_type_output")

    def run(self, module: Module, ctx: PassContext) -> None:
        """Change the ends of the main function.

        Raises:
            LeptonError: there is no such type.
        """
        wanted = TYPES.get(self.type)
        if wanted is None:
            known = ", ".join(TYPES)
            raise LeptonError(f"{self.type} is none of {known}", code="option", where="io_type")
        main = module.main
        found: dict[str, dict[str, Any]] = {"inputs": {}, "outputs": {}}
        for value in main.inputs:
            code = _change_input(main, value, wanted, ctx)
            if code is not None:
                found["inputs"][value.name or ""] = code
        for i, name in enumerate(main.output_names):
            code = _change_output(main, i, wanted, ctx)
            if code is not None:
                found["outputs"][name] = code
        if found["inputs"] or found["outputs"]:
            module.meta[META_KEY] = found
            infer_block(main.block)


def _code(op: Op) -> _Code | None:
    """Return how a half of a pair per tensor encodes 8 bits."""
    integers = op.results[0] if op.name == "quantize_linear" else op.operands[0]
    scale = const_array(op.operands[1])
    point = op.operands[2] if len(op.operands) > 2 else None
    zero = None if point is None else const_array(point)
    dtype = None if integers is None else integers.dtype
    if scale is None or scale.size != 1 or dtype not in _SHIFTS or op.attr("block_size"):
        return None
    if point is not None and zero is None:
        return None
    number = 0 if zero is None else int(zero.reshape(-1)[0])
    return _Code(float(scale.reshape(-1)[0]), number - _SHIFTS[dtype])


def _moved(value: Value) -> list[Value]:
    """Return a value and what only moves its elements, as long as that is its only reader."""
    chain = [value]
    while chain[-1].use_count == 1:
        (user,) = chain[-1].users
        if user.name not in _MOVES or user.operands[0] is not chain[-1]:
            break
        chain.append(user.results[0])
    return chain


def _change_input(
    main: Function, value: Value, wanted: DType, ctx: PassContext
) -> dict[str, Any] | None:
    """Change one input; returns how source and result encode it, ``None`` if it stays."""
    if value.dtype is wanted or not isinstance(value.type, TensorType):
        return None
    chain = _moved(value)
    name = "quantize_linear" if value.dtype is dtypes.F32 else "dequantize_linear"
    readers = chain[-1].users
    codes = {_code(u) if u.name == name and u.operands[0] is chain[-1] else None for u in readers}
    code = codes.pop() if len(codes) == 1 else None
    if code is None or not ctx.allow("io_type_input", readers[0]):
        return None
    before = value.dtype
    _retype(chain, wanted)
    for reader in readers:
        b, result = Builder(main.block, reader, reader.loc), reader.results[0]
        result.replace_all_uses(_read(b, chain[-1], code, wanted, before, result.dtype))
        reader.erase()
    ctx.remark(
        "note",
        f"input {value.name}",
        "is {} now: scale {}, zero point {}",
        wanted,
        *(code.encoding(wanted if wanted in _SHIFTS else before)[1:]),
    )
    return {"source": code.encoding(before), "result": code.encoding(wanted)}


def _read(
    b: Builder, value: Value, code: _Code, given: DType, before: DType | None, wanted: DType | None
) -> Value:
    """Return what a reader gave, of an input that is of type ``given`` and was ``before``."""
    if given is wanted:
        return value
    found: Any = value
    if given is dtypes.F32:
        assert before is not None
        found = b.quantize_linear(found, *code.parameters(before))
        return b.dequantize_linear(found, *code.parameters(before))  # type: ignore[no-any-return]
    found = b.dequantize_linear(found, *code.parameters(given))
    if wanted in _SHIFTS:
        found = b.quantize_linear(found, *code.parameters(wanted))
    return found  # type: ignore[no-any-return]


def _retype(chain: list[Value], dtype: DType) -> None:
    for value in chain:
        if isinstance(value.type, TensorType):
            value.type = TensorType(dtype, value.type.shape)
        if isinstance(value.declared, TensorType):
            value.declared = TensorType(dtype, value.declared.shape)


def _change_output(
    main: Function, index: int, wanted: DType, ctx: PassContext
) -> dict[str, Any] | None:
    """Change one output; returns how source and result encode it, ``None`` if it stays."""
    end = main.block.terminator
    value = None if end is None else end.operands[index]
    if end is None or value is None or value.dtype is wanted:
        return None
    before, moves, at = value.dtype, [], value
    while at.op is not None and at.op.name in _MOVES and at.op.operands[0] is not None:
        moves.append(at.op)
        at = at.op.operands[0]
    half = at.op
    name = "dequantize_linear" if before is dtypes.F32 else "quantize_linear"
    code = _code(half) if half is not None and half.name == name else None
    if half is None or code is None or not ctx.allow("io_type_output", half):
        return None
    b = Builder(main.block, end, half.loc)
    made: Any = half.operands[0] if before is dtypes.F32 else half.results[0]
    kind = made.dtype
    if kind is not wanted:
        made = b.dequantize_linear(made, *code.parameters(kind))
        if wanted is not dtypes.F32:
            made = b.quantize_linear(made, *code.parameters(wanted))
    for op in reversed(moves):
        made = b.build(op.name, made, *op.operands[1:], **op.attrs).result
    old, made.name = value.name, value.name
    value.name = None if value.first_use is not None else old
    end.set_operand(index, made)
    for op in (*moves, half):
        if all(v.first_use is None for v in op.results):
            op.erase()
    place = f"output {main.output_names[index]}"
    shown = code.encoding(wanted if wanted in _SHIFTS else before)[1:]
    ctx.remark("note", place, "is {} now: scale {}, zero point {}", wanted, *shown)
    return {"source": code.encoding(before), "result": code.encoding(wanted)}
