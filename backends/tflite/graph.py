"""One subgraph while it is written: its tensors, constants and operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.parameters import params_of
from lepton_ir.backends.tflite.sparse import sparse_form
from lepton_ir.backends.tflite.versions import Signature, version_of
from lepton_ir.backends.tflite.weights import TYPES
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.dtypes import DType
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import enums, options, tables
from lepton_ir.infer import const_tensor
from lepton_ir.interp import call_meaning
from lepton_ir.ir import Op, Value
from lepton_ir.tensors import DenseTensor, Tensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lepton_ir.backends.tflite.emit import Emitter
    from lepton_ir.backends.tflite.parameters import Params
    from lepton_ir.backends.tflite.reads import Read
    from lepton_ir.ir import Block
    from lepton_ir.types import Shape

MOVING = frozenset(("TRANSPOSE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "STRIDED_SLICE", "PAD"))
"""Operators whose results hold elements of their first operand."""

ABSENT = -1
"""The index of an operand that is left out."""


def enum(name: str, member: str) -> int:
    """Return the number of an enum's member."""
    return enums()[name].members[member]


def type_number(dtype: DType) -> int:
    """Return the number of an element type in the file."""
    return enum("TensorType", TYPES[dtype])


class TensorInfo:
    """What an operator's version hangs on, for each tensor."""

    __slots__ = ("dtype", "quantization", "shape")

    def __init__(self, dtype: str, shape: Shape, quantization: Node | None) -> None:
        self.dtype = dtype
        self.shape = shape
        self.quantization = quantization


class Graph:
    """A subgraph under construction.

    Args:
        emitter: of the whole model.
        name: of the subgraph.

    Attributes:
        index: the tensor of each value that has one; a caller may put values of its own here.
        views: tensors that are read in place of values with the same elements.
        parameters: element type and quantization of values whose integers stand for numbers.
        alias: tensors that the operator being written reads and gives in place of some values.
        held: likewise constants of integers, with their parameters, that it may rearrange.
        extra: options that it gets besides.
        reference: what the operators that are added next came from.
    """

    def __init__(self, emitter: Emitter, name: str = "") -> None:
        self.emitter = emitter
        self.buffers = emitter.buffers
        self.name = name
        self.tensors: list[Node] = []
        self.info: list[TensorInfo] = []
        self.operators: list[Node] = []
        self.references: list[str] = []
        self.runtimes: list[tuple[str, int]] = []
        self.index: dict[Value, int] = {}
        self.fused: dict[Op, tuple[str, Value]] = {}
        self.views: dict[Value, Value] = {}
        self.parameters: dict[Value, tuple[DType, Node]] = {}
        self.alias: dict[Value, int] = {}
        self.held: dict[Value, tuple[Value, Params]] = {}
        self.extra: dict[str, Any] = {}
        self.zero_bias: Read | None = None
        self.reference = ""
        self.wanted: dict[Value, str] = {}
        self.place = 0
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes, Params | None], int] = {}
        self._meant: dict[tuple[Value, Params], int] = {}
        self._narrow: dict[tuple[Value, bool], int] = {}

    # -- tensors -----------------------------------------------------------------------------------

    def value(self, value: Value | None) -> int:
        """Return the tensor of a value, which is made when it is first asked for."""
        if value is None:
            return ABSENT
        if value in self.alias:
            return self.alias[value]
        if value in self.held:
            return self.stored(*self.held[value])
        value = self.views.get(value, value)
        found = self.index.get(value)
        if found is None:
            payload = const_tensor(value)
            if payload is not None:
                found = self._densified(payload, value.name) or self.constant(payload, value.name)
            elif value.op is not None and widens(value.op):
                found = self._widened(value, value.op)
            else:
                found = self.make(value)
            self.index[value] = found
        return found

    def _densified(self, payload: Tensor, name: str | None) -> int | None:
        """Return a constant that is stored as its elements which are not zeros, if it should be."""
        found = sparse_form(payload) if self.emitter.sparse else None
        if found is None:
            return None
        sparsity, values = found
        buffer = self.buffers.add(values.tobytes())
        label = self._unique(name or "const")
        shape = list(payload.shape)
        held = self._tensor(payload.dtype, shape, buffer, label, None, sparsity=sparsity)
        made = self.temporary(payload.dtype, payload.shape, f"{label}_dense")
        self.add("DENSIFY", [held], [made])
        return made

    def _widened(self, value: Value, op: Op) -> int:
        """Return the floats of a constant that is stored in fewer bits: an operator makes them.

        That it is made when it is asked for leaves it out where all that read it take the constant
        as it is. Integers of 32 bits, which no kernel takes, become a constant of floats.
        """
        source, params = op.operands[0], params_of(op)
        payload = const_tensor(source)
        assert source is not None
        assert payload is not None
        if payload.dtype is dtypes.I32:
            arrays = [None if p is None else p.numpy() for p in map(const_tensor, op.operands)]
            (array,) = call_meaning(op, arrays, op.all_attrs())
            return self.array(np.asarray(array), value.name or "const")
        held = self.value(source) if params is None else self.stored(source, params)
        made = self.make(value)
        self.add("DEQUANTIZE", [held], [made])
        return made

    def make(self, value: Value) -> int:
        """Add the tensor of a value that an operator or a caller gives."""
        type_ = value.type
        assert isinstance(type_, TensorType)
        assert type_.dtype is not None
        assert type_.shape is not None
        dtype, quantization = self.parameters.get(value, (type_.dtype, None))
        name = self.wanted.get(value) or self._unique(value.name or self._made(value))
        return self._dynamic(dtype, type_.shape, name, quantization)

    def temporary(
        self,
        dtype: DType,
        shape: Shape,
        name: str = "tensor",
        quantization: Node | None = None,
    ) -> int:
        """Add a tensor that no value stands for."""
        return self._dynamic(dtype, shape, self._unique(name), quantization)

    def _dynamic(self, dtype: DType, shape: Shape, name: str, quantization: Node | None) -> int:
        static = [d if isinstance(d, int) and d >= 0 else 1 for d in shape]
        signature = [d if isinstance(d, int) and d >= 0 else -1 for d in shape]
        return self._tensor(
            dtype,
            static,
            0,
            name,
            quantization,
            shape_signature=signature if signature != static else None,
        )

    def constant(
        self, payload: Tensor, name: str | None = None, quantization: Node | None = None
    ) -> int:
        """Add a constant, whose bytes stay where they are.

        Raises:
            UnsupportedError: it has no elements, so that a runtime would wait for a value.
        """
        if not payload.size:
            raise UnsupportedError("a constant without elements is none in a TFLite file")
        buffer = self.buffers.of(payload)
        if buffer is None:
            buffer = self.buffers.keep(
                payload, "", self.buffers.add(self.buffers.mapped.bytes_of(payload))
            )
        name = self._unique(name or "const")
        return self._tensor(payload.dtype, list(payload.shape), buffer, name, quantization)

    def array(
        self, array: np.ndarray[Any, Any], name: str = "const", params: Params | None = None
    ) -> int:
        """Add a constant of our own; equal ones are one tensor.

        Args:
            array: its elements.
            name: of the tensor.
            params: which numbers its integers stand for.
        """
        dtype = dtypes.from_numpy(array.dtype)
        data = np.ascontiguousarray(array).tobytes()
        key = (dtype.name, array.shape, data, params)
        if key not in self._known:
            buffer = self.buffers.add(data)
            name = self._unique(name)
            node = None if params is None else params.node
            self._known[key] = self._tensor(dtype, list(array.shape), buffer, name, node)
        return self._known[key]

    def stored(self, value: Value, params: Params) -> int:
        """Return a constant of integers that stand for numbers; one tensor for each meaning."""
        key = (value, params)
        if key not in self._meant:
            payload = const_tensor(value)
            assert payload is not None
            self._meant[key] = self.constant(payload, value.name, params.node)
        return self._meant[key]

    def no_bias(self, count: int) -> int:
        """Return a bias of zeros, for kernels that want one."""
        if self.zero_bias is not None:
            read = self.zero_bias
            assert read.array is not None
            return self.array(np.repeat(read.array, count), read.name, read.params)
        return self.array(np.zeros(count, np.float32), "no_bias")

    def ints(self, numbers: Iterable[int] | int) -> int:
        """Add a constant of i32: a vector, or a scalar of one number."""
        return self.array(np.asarray(numbers, np.int32))

    def changed(
        self,
        value: Value,
        form: str,
        change: Any,
        name: str | None = None,
        params: Params | None = None,
    ) -> tuple[int, Tensor]:
        """Return a constant in another form (``form`` names it), which is made once.

        Args:
            value: the constant.
            form: name of the form.
            change: function of the array to the array that is written.
            name: of the tensor.
            params: which numbers its integers stand for, in the other form.
        """
        payload = const_tensor(value)
        assert payload is not None
        array = change(self.buffers.mapped.array_of(payload))
        made = DenseTensor(np.ascontiguousarray(array), payload.dtype)
        buffer = self.buffers.of(payload, form)
        if buffer is None:
            data = self.buffers.mapped.bytes_of(made)
            buffer = self.buffers.keep(payload, form, self.buffers.add(data))
        name = self._unique(name or value.name or "const")
        node = None if params is None else params.node
        return self._tensor(made.dtype, list(made.shape), buffer, name, node), made

    def permuted(self, value: Value, perm: tuple[int, ...]) -> int:
        """Return a tensor with the axes of ``value`` permuted; constants are rewritten.

        So are those of integers or halves that the operator reads as they are, or that become
        floats first.
        """
        form = f"transpose{perm}"

        def change(array: Any) -> Any:
            return array.transpose(perm)

        if value in self.held:
            held, params = self.held[value]
            return self.changed(held, form, change, params=params.permuted(perm))[0]
        if const_tensor(value) is not None:
            return self.changed(value, form, change)[0]
        maker = value.op
        if maker is not None and widens(maker):
            source = maker.operands[0]
            assert source is not None
            found = params_of(maker)
            moved = None if found is None else found.permuted(perm)
            inner = self.changed(source, form, change, params=moved)[0]
            return self._turned(value, perm, "DEQUANTIZE", [inner])
        return self._turned(value, perm, "TRANSPOSE", [self.value(value), self.ints(perm)])

    def _turned(
        self, value: Value, perm: tuple[int, ...], builtin: str, inputs: Sequence[int]
    ) -> int:
        assert value.shape is not None
        assert value.dtype is not None
        shape = tuple(value.shape[i] for i in perm)
        made = self.temporary(value.dtype, shape, f"{value.name or 'const'}_permuted")
        self.add(builtin, inputs, [made])
        return made

    def narrow(self, value: Value, *, clamped: bool = False) -> int:
        """Return a tensor of i32 with the elements of an integer value: sizes, axes and the like.

        A runtime's sizes are of 32 bits themselves, so that what does not fit is an error anyway,
        but for bounds that mean "to the end" (``clamped``), which stay so.
        """
        if value.dtype is dtypes.I32:
            return self.value(value)
        payload = const_tensor(value)
        if payload is not None:
            info = np.iinfo(np.int32)
            return self.array(np.clip(payload.numpy(), info.min, info.max).astype(np.int32))
        if (value, clamped) not in self._narrow:
            assert value.shape is not None
            name = value.name or "sizes"
            made = self.temporary(dtypes.I32, value.shape, f"{name}_i32")
            wide = self.value(value)
            if clamped:
                wide = self._bounded(wide, value, name)
            kinds = (type_number(value.dtype or dtypes.I64), type_number(dtypes.I32))
            self.add("CAST", [wide], [made], in_data_type=kinds[0], out_data_type=kinds[1])
            self._narrow[value, clamped] = made
        return self._narrow[value, clamped]

    def _bounded(self, wide: int, value: Value, name: str) -> int:
        assert value.shape is not None
        info = np.iinfo(np.int32)
        for builtin, limit in (("MINIMUM", info.max), ("MAXIMUM", info.min)):
            made = self.temporary(dtypes.I64, value.shape, f"{name}_bounded")
            self.add(builtin, [wide, self.array(np.asarray([limit], np.int64))], [made])
            wide = made
        return wide

    def result(self, op: Op, index: int = 0) -> int:
        """Return the tensor of an operation's result, behind the activation it is fused with."""
        fused = self.fused.get(op)
        return self.value(op.results[index] if fused is None or index else fused[1])

    def activation(self, op: Op) -> int:
        """Return the activation function that an operation is fused with."""
        fused = self.fused.get(op)
        return enum("ActivationFunctionType", "NONE" if fused is None else fused[0])

    def shrunk(self, op: Op) -> int:
        """Return the mask of the axes that a slice drops, as the squeeze behind it says."""
        fused = self.fused.get(op)
        squeeze = None if fused is None else fused[1].op
        if squeeze is None or squeeze.name != "squeeze":
            return 0
        axes = const_tensor(squeeze.operands[1])
        rank = op.results[0].rank or 1
        return 0 if axes is None else sum({1 << int(a) % rank for a in axes.numpy().reshape(-1)})

    # -- operators ---------------------------------------------------------------------------------

    def add(
        self,
        builtin: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *words: str,
        **fields: Any,
    ) -> None:
        """Add an operator.

        Args:
            builtin: its name.
            inputs: tensors.
            outputs: tensors.
            words: what its version hangs on besides, see ``Signature.words``.
            fields: of its table of options.
        """
        if builtin in MOVING:
            inputs = self._matched(inputs, outputs)
        table = options().get(builtin)
        if table is not None and self.extra:
            known = tables()[table].fields
            fields |= {k: v for k, v in self.extra.items() if k in known}
        chosen = None if table is None else Node(table, **fields)
        version = version_of(self._signature(builtin, inputs, outputs, chosen, words))
        second = table is not None and table in enums()["BuiltinOptions2"].members
        self.operators.append(
            Node(
                "Operator",
                opcode_index=self.buffers.code(builtin, version),
                inputs=list(inputs),
                outputs=list(outputs),
                **{"builtin_options_2" if second else "builtin_options": chosen},
            )
        )
        self.references.append(self.reference)
        self.runtimes.append((builtin, version))

    def _matched(self, inputs: Sequence[int], outputs: Sequence[int]) -> Sequence[int]:
        """Let codes that only move have the parameters they had: kernels refuse them otherwise."""
        source, made = self.info[inputs[0]], self.info[outputs[0]]
        if source.dtype not in ("i8", "u8") or made.dtype != source.dtype:
            return inputs
        if source.quantization is not None and made.quantization is None:
            made.quantization = source.quantization
            tensor = self.tensors[outputs[0]]
            self.tensors[outputs[0]] = tensor.replace(quantization=source.quantization)
        elif source.quantization is None and made.quantization is not None:
            old = self.tensors[inputs[0]]
            name = self._unique(f"{old.name}_codes")
            self.tensors.append(old.replace(name=name, buffer=0, quantization=made.quantization))
            self.info.append(TensorInfo(source.dtype, source.shape, made.quantization))
            copy = len(self.tensors) - 1
            kinds = {"in_data_type": old.type, "out_data_type": old.type}
            self.add("CAST", [inputs[0]], [copy], **kinds)
            return [copy, *inputs[1:]]
        return inputs

    def node(self, inputs: Sequence[int], outputs: Sequence[int]) -> Node:
        """Return the subgraph."""
        return Node(
            "SubGraph",
            tensors=self.tensors,
            inputs=list(inputs),
            outputs=list(outputs),
            operators=self.operators,
            name=self.name or None,
        )

    def _signature(
        self,
        builtin: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        chosen: Node | None,
        words: Sequence[str],
    ) -> Signature:
        known = [None if i == ABSENT else self.info[i] for i in inputs]
        found = set(words)
        shapes = [x.shape for x in known[:2] if x is not None]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            found.add("broadcast")
        if known and known[0] is not None and known[0].quantization is None:
            found.add("plain")
        scales = [x.quantization.scale for x in known if x and x.quantization]
        if any(s is not None and len(s) > 1 for s in scales):
            found.add("per_channel")
        if builtin == "MUL" and len(scales) == 2 and outputs:
            made = self.info[outputs[0]].quantization
            if made is not None and scales[0][0] * scales[1][0] >= made.scale[0]:
                found.add("rescaled")
        return Signature(
            builtin,
            tuple("" if x is None else x.dtype for x in known),
            tuple(self.info[i].dtype for i in outputs),
            tuple(0 if x is None else len(x.shape) for x in known),
            frozenset(chosen.values) if chosen is not None else frozenset(),
            frozenset(found),
        )

    # -- subgraphs ---------------------------------------------------------------------------------

    def nested(self, name: str) -> Graph:
        """Return another subgraph of the model, which an operator of this one runs."""
        inner = Graph(self.emitter, name)
        inner.fused, inner.parameters = self.fused, self.parameters
        inner.views = self.views
        inner.reference = self.reference
        inner.place = self.emitter.reserve()
        return inner

    def given_rank(self, value: Value) -> int:
        """Return the tensor of a value whose rank nobody may know, as in what was read."""
        if value.shape is not None or value in self.index:
            return self.value(value)
        assert value.dtype is not None
        known = self.parameters.get(value)
        name = self.wanted.get(value) or self._unique(value.name or "tensor")
        index = self._tensor(value.dtype, [], 0, name, None if known is None else known[1])
        self.tensors[index] = self.tensors[index].replace(has_rank=None)
        self.index[value] = index
        return index

    def given(self, value: Value) -> int:
        """Return the tensor of a value that the caller gives."""
        self.index[value] = self.make(value)
        return self.index[value]

    def block(self, block: Block) -> None:
        """Write the operations of a block."""
        self.emitter.operators(block, self)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        """Put the subgraph into the model; return its index."""
        self.emitter.finish(self, inputs, outputs)
        return self.place

    def is_constant(self, index: int) -> bool:
        """Return whether a tensor is a constant."""
        return bool(self.tensors[index].buffer)

    def copy(self, value: Value, index: int, name: str | None = None) -> int:
        """Return a copy of a tensor that is an output twice, or no result of an operator."""
        dtype, shape = value.dtype, value.shape
        assert dtype is not None
        assert shape is not None
        if 0 in shape:
            raise UnsupportedError("LiteRT cannot copy tensors without elements")
        copy = self.temporary(dtype, shape, name or value.name or "copy")
        if shape and all(isinstance(d, int) for d in shape):
            sizes = [int(d) for d in shape]  # type: ignore[arg-type]
            self.add("RESHAPE", [index, self.ints(sizes)], [copy], new_shape=sizes)
        else:
            kind = type_number(dtype)
            self.add("CAST", [index], [copy], in_data_type=kind, out_data_type=kind)
        return copy

    def separate(self, value: Value) -> None:
        """Let a value be read from a copy from now on; a view would share its memory."""
        assert value.dtype is not None
        assert value.shape is not None
        copy = self.temporary(value.dtype, value.shape, f"{value.name or 'view'}_copy")
        kind = type_number(value.dtype)
        self.add("CAST", [self.value(value)], [copy], in_data_type=kind, out_data_type=kind)
        self.index[value] = copy

    # -- pieces ------------------------------------------------------------------------------------

    def _tensor(
        self,
        dtype: DType,
        shape: list[int],
        buffer: int,
        name: str,
        quantization: Node | None,
        **more: Any,
    ) -> int:
        self.tensors.append(
            Node(
                "Tensor",
                shape=shape,
                type=type_number(dtype),
                buffer=buffer,
                name=name,
                quantization=quantization,
                has_rank=True,
                **more,
            )
        )
        self.info.append(
            TensorInfo(dtype.name, tuple(more.get("shape_signature") or shape), quantization)
        )
        return len(self.tensors) - 1

    def _made(self, value: Value) -> str:
        op = value.op
        return "tensor" if op is None else op.node_name or op.name

    def want(self, names: dict[Value, str]) -> None:
        """Keep names for the tensors of these values."""
        self.wanted.update(names)
        self._names.update(names.values())

    def _unique(self, name: str) -> str:
        found, number = name, self._numbers.get(name, 0)
        while found in self._names:
            number += 1
            found = f"{name}_{number}"
        self._numbers[name] = number
        self._names.add(found)
        return found


def widens(op: Op) -> bool:
    """Return whether an operation makes floats of what a constant stores in fewer bits."""
    x = op.operands[0] if op.name in ("dequantize_linear", "cast") else None
    if x is None or const_tensor(x) is None:
        return False
    if op.name == "dequantize_linear":
        return params_of(op) is not None
    return x.dtype is dtypes.F16 and op.results[0].dtype is dtypes.F32
