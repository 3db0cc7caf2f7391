from __future__ import annotations

import pytest

from lepton_ir import dtypes
from lepton_ir.diagnostics import VerifyError
from lepton_ir.ir import AttrRef, Module, Use
from lepton_ir.text.parse import parse_module
from lepton_ir.text.print import print_module
from lepton_ir.types import UNKNOWN, tensor
from lepton_ir.verify import verify_module


def make() -> Module:
    return parse_module(
        """
        func @main(%x: f32[N], %c: bool[]) {
          %a = exp(%x)
          %b = neg(%a)
          %z = if(%c) {
            %t = mul(%a, %b)
            yield(%t)
          } {
            yield(%b)
          }
          %w = call(%z) {callee="f"} : ?
          return(%b, %w)
        }
        func @f(%p: ?) { return(%p) }
        """
    )


def ops(module: Module) -> dict:
    return {op.results[0].name: op for op in module.walk() if op.results}


def test_a_good_module_passes_and_is_left_as_it_was() -> None:
    module = make()
    text, epoch = print_module(module), module.epoch
    verify_module(module)
    assert (print_module(module), module.epoch) == (text, epoch)


def order(m: Module) -> None:
    o = ops(m)
    o["a"].detach()
    m.main.block.insert_after(o["a"], o["b"])


def detached(m: Module) -> None:
    ops(m)["a"].detach()


def inner_value(m: Module) -> None:
    ops(m)["w"].set_operand(0, ops(m)["t"].result)


def use_count(m: Module) -> None:
    ops(m)["a"].result.use_count += 1


def extra_use(m: Module) -> None:
    Use(ops(m)["a"].result, ops(m)["b"], 0)


def operand_slot(m: Module) -> None:
    ops(m)["b"].operands[0] = m.main.inputs[0]


def operand_count(m: Module) -> None:
    ops(m)["b"].set_operands([])


def attribute_kind(m: Module) -> None:
    ops(m)["w"].set_attr("callee", 3)


def unknown_attribute(m: Module) -> None:
    ops(m)["b"].set_attr("odd", 3)


def reference(m: Module) -> None:
    ops(m)["w"].set_attr("callee", AttrRef("p", "string"))


def terminator(m: Module) -> None:
    m.main.block.last.erase()


def output_names(m: Module) -> None:
    m.main.output_names.append("more")


def stored_type(m: Module) -> None:
    ops(m)["b"].result.type = tensor(dtypes.I8, 3)


def isolation(m: Module) -> None:
    ops(m)["b"].set_operand(0, m.functions["f"].inputs[0])


def links(m: Module) -> None:
    ops(m)["b"].prev = None


def numbers(m: Module) -> None:
    ops(m)["b"].order = 0


def callee(m: Module) -> None:
    ops(m)["w"].set_attr("callee", "g")


def recursion(m: Module) -> None:
    f = m.functions["f"]
    call = ops(m)["w"]
    call.set_operand(0, m.main.inputs[0])
    from lepton_ir.builder import create

    inner = create("call", f.inputs, {"callee": "f"}, 1)
    f.block.insert_before(inner, f.block.last)


CASES = {
    "V1": (order, detached, inner_value),
    "V2": (use_count, extra_use, operand_slot),
    "V3": (operand_count, attribute_kind, unknown_attribute, reference),
    "V4": (terminator, output_names),
    "V5": (stored_type,),
    "V6": (isolation,),
    "V7": (links, numbers),
    "V8": (callee, recursion),
}


@pytest.mark.parametrize(
    ("code", "breaks"),
    [(code, f) for code, functions in CASES.items() for f in functions],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)
def test_each_broken_constraint_is_named(code: str, breaks) -> None:
    module = make()
    breaks(module)
    with pytest.raises(VerifyError) as caught:
        verify_module(module)
    assert caught.value.code == code


def test_messages_show_the_neighbourhood_and_stay_small() -> None:
    lines = [f"%v{i + 1} = exp(%v{i})" for i in range(10_000)]
    module = parse_module(f"func @main(%v0: f32[N]) {{ {' '.join(lines)} return(%v10000) }}")
    op = ops(module)["v5000"]
    op.result.type = tensor(dtypes.F32, 3, 3)
    op.result.name = "x" * 100_000
    with pytest.raises(VerifyError) as caught:
        verify_module(module)
    shown = caught.value.render()
    assert len(shown.split("\n")) < 40
    assert len(shown) < 5000
    assert len(caught.value.notes) == 11
    assert caught.value.notes[5].startswith("> ")
    assert "%v4995 = exp(%v4994)" in caught.value.notes[0]


def test_a_branch_that_never_runs_may_contradict_the_outside() -> None:
    module = make()
    ops(module)["t"].result.type = tensor(dtypes.I8, 3)
    verify_module(module)
    assert str(ops(module)["t"].result.type) == "i8[3]"


def test_unknown_types_contradict_nothing() -> None:
    module = make()
    for op in module.walk():
        for result in op.results:
            result.type = UNKNOWN
    verify_module(module)
