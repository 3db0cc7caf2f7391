"""What integer operators read and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_array

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.parameters import Params
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

Array = np.ndarray[Any, Any]


class Unfit(Exception):
    """An operation cannot be one on integers; the message says why, if anybody should know."""


@dataclass
class Read:
    """One operand: a tensor, the elements of a constant, or a constant as it is stored.

    Attributes:
        params: its parameters.
        source: the integer value that is read.
        wanted: other parameters that it gets first.
        array: the integers of a constant.
        held: a constant that stays where it lies, and may be rearranged.
        name: of the constant.
    """

    params: Params
    source: Value | None = None
    wanted: Params | None = None
    array: Array | None = None
    held: Value | None = None
    name: str = "const"


@dataclass
class Made:
    """One result.

    Attributes:
        value: of the operation, or of the activation behind it.
        params: that it should have.
        ops: what quantizes it.
        made: parameters that the kernel gives it, where they are others.
        dtype: element type that the kernel gives.
    """

    value: Value
    params: Params
    ops: list[Op]
    made: Params | None = None
    dtype: DType = field(default=dtypes.I8)


def constant_of(value: Value) -> Array | None:
    """Return the elements of a small constant of floats."""
    return const_array(value)


def is_splat(array: Array) -> bool:
    """Return whether all elements are the same, of which there is one."""
    return array.size > 0 and bool((array == array.reshape(-1)[0]).all())
