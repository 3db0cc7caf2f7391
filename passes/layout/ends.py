"""The io_layout pass: inputs and outputs of the model whose channels go last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.ops.channels_last import channels_first, channels_last
from lepton_ir.passes.layout.order import Order, inverse, perm_of
from lepton_ir.pipeline import Pass
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Function, Module, Value

META_KEY = "io_layout"
"""Where a module keeps which ends have another layout than the source's."""

_LEAST_RANK = 3


@dataclass(frozen=True)
class IoLayout(Pass, name="io_layout"):
    """Give the model inputs and outputs whose channels go last, where transposes make them first.

    An input changes when all that reads it is transposes to channels last, an output when it is a
    transpose from there. The caller then gives and gets other shapes: notes say which.
    """

    needs = "shapes"
    rule_names = ("channels_last_input", "channels_last_output")

    def run(self, module: Module, ctx: PassContext) -> None:
        """Change the ends of the main function."""
        main = module.main
        inputs = [v.name or "" for v in main.inputs if _change_input(v, ctx)]
        outputs = [n for i, n in enumerate(main.output_names) if _change_output(main, i, ctx)]
        known = module.meta.get(META_KEY, {"inputs": [], "outputs": []})
        if inputs or outputs:
            module.meta[META_KEY] = {
                "inputs": [*known["inputs"], *inputs],
                "outputs": [*known["outputs"], *outputs],
            }


def _moved(given: Type | None, order: Order) -> Type | None:
    if isinstance(given, TensorType) and given.shape is not None:
        return given.with_shape([given.shape[a] for a in order])
    return given


def _change_input(value: Value, ctx: PassContext) -> bool:
    """Give an input the order that all its readers transpose it to."""
    rank = value.rank
    if rank is None or rank < _LEAST_RANK:
        return False
    order = channels_last(rank)
    readers = list(value.users)
    if not readers or any(u.name != "transpose" or perm_of(u) != order for u in readers):
        return False
    if not ctx.allow("channels_last_input", readers[0]):
        return False
    type_ = _moved(value.type, order)
    assert type_ is not None
    value.type, value.declared = type_, _moved(value.declared, order)
    for reader in readers:
        reader.result.replace_all_uses(value)
        reader.erase()
    ctx.remark("note", f"input {value.name}", "its channels go last now: {}", value.type)
    return True


def _change_output(main: Function, index: int, ctx: PassContext) -> bool:
    """Return what a transpose to channels first makes an output from."""
    end = main.block.terminator
    value = None if end is None else end.operands[index]
    op = None if value is None else value.op
    if end is None or value is None or op is None or op.name != "transpose":
        return False
    x = op.operands[0]
    rank = value.rank
    if x is None or rank is None or rank < _LEAST_RANK or perm_of(op) != channels_first(rank):
        return False
    if x.op is None or x.op.name == "const" or not ctx.allow("channels_last_output", op):
        return False
    end.set_operand(index, x)
    x.declared = x.declared or _moved(value.declared, inverse(channels_first(rank)))
    if value.first_use is None:
        op.erase()
    place = f"output {main.output_names[index]}"
    ctx.remark("note", place, "its channels go last now: {}", x.type)
    return True
