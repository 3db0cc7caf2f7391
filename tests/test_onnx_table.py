"""The operator table against every schema that ONNX publishes: nothing is left unmapped."""

from __future__ import annotations

from collections.abc import Iterator

import onnx.defs
import pytest

from lepton_ir import opdef
from lepton_ir.frontends.onnx.table import Plan, plan, rows, same_value
from lepton_ir.frontends.onnx.table_rows import CHANGES, OPAQUE, SINCE, snake_case
from lepton_ir.frontends.onnx.table_schema import MAX_OPSET, MIN_OPSET, NO_DEFAULT

# Attributes that came after opset 7 and whose default is what older opsets always meant.
NEUTRAL = {
    "arg_max": {"select_last_index"},
    "arg_min": {"select_last_index"},
    "attention": {"left_window_size", "right_window_size"},
    "average_pool": {"ceil_mode", "dilations"},
    "cast": {"round_mode", "saturate"},
    "cast_like": {"round_mode", "saturate"},
    "depth_to_space": {"mode"},
    "dequantize_linear": {"axis", "block_size", "output_dtype"},
    "gather_nd": {"batch_dims"},
    "group_normalization": {"per_group", "stash_type"},
    "gru": {"layout"},
    "hardmax": {"coerce_2d"},
    "log_softmax": {"coerce_2d"},
    "lp_pool": {"ceil_mode", "dilations"},
    "lstm": {"layout"},
    "max_pool": {"ceil_mode", "dilations", "storage_order"},
    "quantize_linear": {"axis", "block_size", "output_dtype", "precision", "saturate"},
    "range": {"stash_type"},
    "reduce_l1": {"noop_with_empty_axes"},
    "reduce_l2": {"noop_with_empty_axes"},
    "reduce_log_sum": {"noop_with_empty_axes"},
    "reduce_log_sum_exp": {"noop_with_empty_axes"},
    "reduce_max": {"noop_with_empty_axes"},
    "reduce_mean": {"noop_with_empty_axes"},
    "reduce_min": {"noop_with_empty_axes"},
    "reduce_prod": {"noop_with_empty_axes"},
    "reduce_sum": {"noop_with_empty_axes"},
    "reduce_sum_square": {"noop_with_empty_axes"},
    "reshape": {"allowzero"},
    "resize": {"antialias", "axes", "exclude_outside", "keep_aspect_ratio_policy"},
    "rnn": {"layout"},
    "scatter_elements": {"reduction"},
    "scatter_nd": {"reduction"},
    "shape": {"end", "start"},
    "softmax": {"coerce_2d"},
    "space_to_depth": {"mode"},
    "top_k": {"largest", "sorted"},
}


def schemas() -> Iterator[tuple[str, int]]:
    """Yield (operator, opset) once per schema version in force at opset 7 or later."""
    seen = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            for version in range(MIN_OPSET, MAX_OPSET + 1):
                try:
                    found = onnx.defs.get_schema(schema.name, version, "")
                except onnx.defs.SchemaError:
                    continue
                if (found.name, found.since_version) not in seen:
                    seen.add((found.name, found.since_version))
                    yield found.name, version


ALL = sorted(schemas())
TABLED = [(n, v) for n, v in ALL if n not in OPAQUE and v >= SINCE.get(n, 0)]


def _plan(name: str, version: int) -> Plan:
    found = plan("", name, version)
    assert found is not None, f"{name}-{version} has no row or no definition"
    return found


def test_every_operator_has_a_row_or_a_reason_to_be_opaque():
    assert len({n for n, _ in ALL}) >= 200
    for name, _ in ALL:
        assert (name in OPAQUE) != (("", name) in rows()[0]), name
    assert set(OPAQUE) <= {n for n, _ in ALL}
    assert set(CHANGES) <= {n for n, _ in ALL}


@pytest.mark.parametrize(("name", "version"), TABLED)
def test_inputs_attributes_and_defaults_are_mapped(name: str, version: int):
    p = _plan(name, version)
    definition = p.definition
    schema = onnx.defs.get_schema(name, version, "")
    consumed = {a for c in p.changes for a in c.consumes()}
    produced = {a for c in p.changes for a in c.produces()}

    for i, formal in enumerate(schema.inputs):
        if f"#{i}" in produced:
            continue
        assert i < len(definition.operands), f"input {formal.name} has no operand"
        operand = definition.operands[i]
        variadic = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        assert operand.variadic == variadic, formal.name
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            assert operand.optional, f"input {formal.name} is optional"
    for i, operand in enumerate(definition.operands[len(schema.inputs) :], len(schema.inputs)):
        assert operand.optional or f"#{i}" in produced, f"operand {operand.name} is never given"

    for attr, facts in p.facts.attrs.items():
        if attr in consumed or attr in definition.regions:
            continue
        spec = definition.attrs.get(attr)
        assert spec is not None, f"attribute {attr} has no place"
        if facts.required:
            assert spec.required or spec.optional or attr in produced, f"{attr} is required"
        elif facts.default is NO_DEFAULT:
            assert not spec.required, f"{attr} is optional"
        else:
            default = p.writable[attr][2]
            assert attr in p.fill or same_value(default, spec.default), attr

    later = set(definition.attrs) - set(p.facts.attrs) - produced
    for attr in later:
        assert not definition.attrs[attr].required, f"{attr} is required but new"


def later_attributes() -> dict[str, set[str]]:
    """Return the IR attributes that some opset lacks and no change of the table explains."""
    found: dict[str, set[str]] = {}
    for name, version in TABLED:
        p = _plan(name, version)
        produced = {a for c in p.changes for a in c.produces()}
        missing = set(p.definition.attrs) - set(p.facts.attrs) - produced
        if missing:
            found.setdefault(p.row.name, set()).update(missing)
    return found


def test_attributes_that_came_later_are_neutral_by_default():
    assert later_attributes() == NEUTRAL


def test_names_are_derived():
    assert snake_case("BatchNormalization") == "batch_normalization"
    assert snake_case("QLinearMatMul") == "qlinear_matmul"
    assert snake_case("GatherND") == "gather_nd"
    assert snake_case("ReduceL1") == "reduce_l1"
    assert snake_case("LSTM") == "lstm"
    assert {r.name for r in rows()[0].values()} <= set(opdef.load_all())
