"""What ONNX, and onnxruntime, can be given: the targets ``onnx`` and ``ort``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.backends.onnx.emit import (
    DEFAULT_OPSET,
    foreign_reason,
    node_plan,
    opset_key,
    opsets_of,
)
from lepton_ir.backends.onnx.kernels import has_kernel
from lepton_ir.backends.onnx.precision import computes, runs
from lepton_ir.frontends.onnx.table import Plan, Unwritable, export_plans, same_value
from lepton_ir.frontends.onnx.table_schema import MAX_OPSET
from lepton_ir.frontends.onnx.table_values import TYPE_NAMES
from lepton_ir.ir import Value
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from lepton_ir.ir import Module, Op
    from lepton_ir.tensors import Tensor

_STRUCTURE = frozenset({"const", "return", "yield", "call"})

_QUANT: dict[str, Any] = {
    "activation_dtype": dtypes.U8,
    "weight_dtype": dtypes.I8,
    "weight_symmetric": True,
    "per_channel": True,
    "format": "qdq",
    "runs": runs,
    "computes": computes,
}


_SLOW = frozenset(("elu", "prelu", "softmax", "log_softmax", "softplus", "swish"))
"""See ``OnnxTarget.slow``; softmax along an axis that is not the last (onnxruntime 1.32)."""


class OnnxTarget:
    """ONNX files in the module's own opset.

    Args:
        name: as given to ``--target``.
        contrib: whether operators of onnxruntime (domain ``com.microsoft``) may be introduced
            into models that do not use them.
    """

    def __init__(self, name: str, contrib: bool) -> None:
        self.name = name
        self.contrib = contrib

    @property
    def slow(self) -> frozenset[str]:
        """Operations that onnxruntime takes longer for than for the arithmetic they stand for.

        Softplus takes 3 to 13 times as long, PRelu 4 to 16, Elu 2.5, Swish 1.7, Softmax along an
        inner axis 1.2 to 17. Where other parts are spelled, such as a Where, they may be faster.
        """
        return _SLOW

    def legal(self, op: Op) -> bool | str:
        """Return ``True``, or the reason why ``op`` cannot be written as one node."""
        if op.definition is None:
            return foreign_reason(op) or True
        if op.name in _STRUCTURE:
            return True
        function = op.function
        if function is None or function.module is None:
            return "the operation is in no module"
        opsets = opsets_of(function.module, function, None)
        try:
            plan, _, inputs = node_plan(op, opset_key(opsets))
        except Unwritable as error:
            return str(error)
        if plan.row.domain and not self.contrib and plan.row.domain not in opsets:
            return f"{op.name} exists only in domain {plan.row.domain}, which the model has not"
        if op.loc.is_source:
            return True
        if plan.contrib and not self.contrib:
            return f"{op.name} exists only in onnxruntime"
        fits = _types_fit(plan, inputs)
        return fits if fits is not True else _is_computed(plan, inputs, opsets[""])

    def has(self, name: str, module: Module, attrs: dict[str, Any]) -> bool:
        """Return whether ``name`` with these attributes exists in ``module``'s opsets."""
        opsets = opsets_of(module, None, None)
        for plan in export_plans(name, opset_key(opsets)):
            if plan.row.domain and not self.contrib and plan.row.domain not in opsets:
                continue
            if plan.contrib and not self.contrib:
                continue
            if all(_can_say(plan, key, value) for key, value in attrs.items()):
                return True
        return False

    def lowest_opset(self, module: Module) -> int | None:
        """Return the first opset, from the usual one on, that has all operations of ``module``.

        ``None`` where none has; what can be taken apart does not count. For models of other
        formats, which have no opset of their own.
        """
        names = {o.name for o in module.walk() if o.definition and o.definition.decompose is None}
        for version in range(DEFAULT_OPSET, MAX_OPSET + 1):
            key = opset_key({**module.opsets, "": version})
            if all(n in _STRUCTURE or export_plans(n, key) for n in names):
                return version
        return None

    def quant(self, key: str) -> Any:
        """Return a preference for quantization, ``None`` if there is none.

        onnxruntime on x86 multiplies uint8 activations with int8 weights.
        """
        return _QUANT.get(key)

    def save(self, module: Module, path: str | os.PathLike[str], **options: Any) -> None:
        """Write ``module`` as an ONNX file."""
        from lepton_ir.backends.onnx.writer import save

        save(module, path, **options)


def _can_say(plan: Plan, name: str, value: Any) -> bool:
    spec = plan.definition.attrs.get(name)
    if spec is None:
        return False
    if name in plan.writable or same_value(value, spec.default):
        return True
    return any(name in c.produces() and _implies(c, name, value) for c in plan.changes)


def _implies(change: Any, name: str, value: Any) -> bool:
    return getattr(change, "attr", None) == name and same_value(change.value, value)


def _types_fit(plan: Plan, inputs: Sequence[Value | Tensor | None]) -> bool | str:
    """Return whether the opset's operator takes operands of these element types."""
    accepted = plan.facts.input_types
    for i, value in enumerate(inputs):
        if not isinstance(value, Value) or not accepted or not isinstance(value.type, TensorType):
            continue
        dtype = value.type.dtype
        types = accepted[min(i, len(accepted) - 1)]
        if dtype is not None and types and TYPE_NAMES[dtype] not in types:
            return f"{plan.row.op_type}-{plan.facts.since} does not take {dtype}"
    return True


def _is_computed(plan: Plan, inputs: Sequence[Value | Tensor | None], opset: int) -> bool | str:
    """Return whether onnxruntime has a kernel for these element types."""
    first = inputs[0] if inputs else None
    dtype = first.dtype if isinstance(first, Value) else None
    if dtype is None or plan.row.domain or has_kernel(plan.row.op_type, opset, dtype):
        return True
    return f"onnxruntime has no {plan.row.op_type} of {dtype} in opset {opset}"


ONNX = OnnxTarget("onnx", contrib=False)
ORT = OnnxTarget("ort", contrib=True)
