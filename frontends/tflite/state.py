"""What a TFLite model keeps from one run to the next, as inputs and outputs of its function.

Resource variables and variable tensors (the state of LSTM and SVDF kernels) become one more input
and one more output each, behind those of the model: feeding an output back is what the runtime
does. ``function.meta["states"]`` says what they were, so that a TFLite file gets its variables
back: a list of dicts with ``name``, ``kind`` (``resource`` or ``tensor``), ``container``, the
names of ``input`` and ``output``, and the ``initial`` contents (absent: all 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.foreign import Foreign
from lepton_ir.tensors import SplatTensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_ir.frontends.tflite.tensors import TensorInfo
    from lepton_ir.ir import Function, Value
    from lepton_ir.tensors import Tensor

META = "states"

StateKey = tuple[str, str, str]
"""Kind, container and name."""


def state_key(info: TensorInfo) -> StateKey:
    """Return the key of a variable tensor."""
    return "tensor", "", info.name


@dataclass
class _State:
    key: StateKey
    input: Value | None = None
    current: Value | None = None


class States:
    """The state of one function while it is read.

    Args:
        function: gets the inputs.
        initial: first contents by key, where they are not 0.
    """

    def __init__(self, function: Function, initial: Mapping[StateKey, Tensor]) -> None:
        self._function = function
        self._initial = dict(initial)
        self._states: dict[StateKey, _State] = {}

    def declare(self, key: StateKey) -> None:
        """Say that a variable exists."""
        self._states.setdefault(key, _State(key))

    def read(self, key: StateKey, type_: TensorType) -> Value:
        """Return what a variable holds now."""
        state = self._states.setdefault(key, _State(key))
        if state.current is None:
            state.input = self._function.block.add_arg(type_)
            state.current = state.input
        return state.current

    def assign(self, key: StateKey, value: Value) -> None:
        """Say what a variable holds from here on."""
        self._states.setdefault(key, _State(key)).current = value

    def assigned(self) -> list[tuple[StateKey, Value]]:
        """Return what was assigned, in order."""
        found = [(s.key, s.current) for s in self._states.values()]
        return [(key, value) for key, value in found if value is not None]

    def variable(self, info: TensorInfo) -> Value:
        """Return what a variable tensor holds now; at first it stands for 0."""
        key = state_key(info)
        params = info.quantization
        if params is not None and info.dtype is not None and params.zero_point[0] != 0:
            shape = info.type.static_shape or ()
            self._initial.setdefault(key, SplatTensor(params.zero_point[0], info.dtype, shape))
        return self.read(key, info.type)

    def defaults(self) -> dict[str, Tensor]:
        """Return the first contents of every state that is read, by the name of its input."""
        found: dict[str, Tensor] = {}
        for state in self._states.values():
            value = state.input
            if value is None or not isinstance(value.type, TensorType) or not value.name:
                continue
            dtype, shape = value.type.dtype, value.type.static_shape
            if dtype is not None and shape is not None:
                zeros = SplatTensor(0, dtype, shape)
                found[value.name] = self._initial.get(state.key, zeros)
        return found

    def finish(self, taken: set[str]) -> list[tuple[str, Value]]:
        """Name the inputs; return the outputs to append, by name.

        Args:
            taken: names of inputs and outputs that exist already.
        """
        outputs: list[tuple[str, Value]] = []
        described: list[dict[str, Any]] = []
        for state in self._states.values():
            if state.current is None:
                continue
            kind, container, name = state.key
            entry: dict[str, Any] = {"name": name, "kind": kind}
            if container:
                entry["container"] = container
            if state.input is not None:
                state.input.name = entry["input"] = _free(name or "state", taken)
            entry["output"] = _free(f"{name or 'state'}.next", taken)
            outputs.append((entry["output"], state.current))
            initial = self._initial.get(state.key)
            if initial is not None:
                described_as = _initial(initial)
                if described_as is not None:
                    entry["initial"] = described_as
            described.append(entry)
        if described:
            self._function.meta[META] = described
        return outputs


def _free(name: str, taken: set[str]) -> str:
    found, k = name, 0
    while found in taken:
        k += 1
        found = f"{name}_{k}"
    taken.add(found)
    return found


def _initial(tensor: Tensor) -> int | float | Foreign | None:
    """Return the one number that a tensor holds throughout, else its bytes; ``None`` for 0."""
    array = tensor.numpy().reshape(-1)
    if array.size and bool(np.all(array == array[0])):
        number: int | float = array[0].item()
        return number or None
    return Foreign("tflite.initial", b"".join(bytes(c) for c in tensor.chunks()))
