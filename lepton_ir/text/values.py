"""From literals to attribute values and constants."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import LeptonError
from lepton_ir.foreign import Foreign
from lepton_ir.ir import AttrRef
from lepton_ir.tensors import DenseTensor, ElidedTensor, RawTensor, SplatTensor, Tensor
from lepton_ir.text import generators
from lepton_ir.text.literals import ComplexParts, NanBits, element_value, nan_from_bits
from lepton_ir.text.syntax import (
    CallLiteral,
    DictLiteral,
    ListLiteral,
    Problem,
    TensorLiteral,
    TupleLiteral,
    symbol_text,
)
from lepton_ir.type_text import parse_type
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lark import Token

    from lepton_ir.dtypes import DType
    from lepton_ir.text.blobs import Archives


def type_at(token: Token) -> Type:
    """Return the type a token spells."""
    try:
        return parse_type(token)
    except ValueError as error:
        raise Problem(f"bad type: {error}", token) from error


class Values:
    """Turns literals into values; knows the file's blobs."""

    def __init__(self, blobs: dict[str, CallLiteral], archives: Archives) -> None:
        self.blobs = blobs
        self.archives = archives
        self._made: dict[tuple[str, Type], Tensor] = {}

    def value(self, item: Any, where: Token | None, *, meta: bool = False) -> Any:
        """Return an attribute value (lists become tuples), or metadata (lists stay lists)."""
        kind = item.__class__
        if kind is ListLiteral:
            items = [self.value(i, where, meta=meta) for i in item]
            return items if meta else tuple(items)
        if kind is TupleLiteral:
            return tuple(self.value(i, where, meta=meta) for i in item)
        if kind is DictLiteral:
            return {k: self.value(v, where, meta=meta) for k, v in item.items()}
        if kind is TensorLiteral:
            return self.tensor(item, None, where)
        if kind is NanBits:
            try:
                return nan_from_bits(item.bits)
            except ValueError as error:
                raise Problem(str(error), where) from error
        if kind is CallLiteral:
            if item.name == "foreign":
                return _foreign(item)
            raise Problem(f"{item.name}(...) needs a tensor type before it", item.token)
        if kind is ComplexParts:
            raise Problem("complex(...) is an element of a tensor", where)
        return self._token(item) if hasattr(item, "type") and isinstance(item, str) else item

    def _token(self, token: Any) -> Any:
        if token.type == "TYPE":
            return type_at(token)
        if token.type == "HANDLE":
            raise Problem(f"{token!s:.60} needs a tensor type before it", token)
        name, _, kind = token.rpartition(":")
        return AttrRef(symbol_text(token.update(value=name)), kind)

    def tensor(self, item: Any, type_: Type | None, where: Token | None) -> Tensor:
        """Return the constant that a literal spells.

        Args:
            item: a literal, with or without its type.
            type_: the type where the context gives it; else it follows from the literal.
            where: for messages.
        """
        token = where
        if item.__class__ is TensorLiteral:
            token = item.type
            item, type_ = item.payload, type_at(item.type)
        try:
            if type_ is None:
                return _untyped(item)
            shape = type_.static_shape if isinstance(type_, TensorType) else None
            if not isinstance(type_, TensorType) or shape is None or type_.dtype is None:
                raise ValueError(f"a constant needs a static tensor type, not {type_!s:.60}")
            return self._typed(item, type_.dtype, shape)
        except (ValueError, OverflowError, TypeError) as error:
            raise Problem(str(error), token) from error
        except LeptonError as error:
            raise Problem(error.message, token) from error

    def _typed(self, item: Any, dtype: DType, shape: tuple[int, ...]) -> Tensor:
        if item.__class__ is CallLiteral:
            return _formula(item, dtype, shape)
        if getattr(item, "type", None) == "HANDLE":
            return self._blob(item, dtype, shape)
        elements, found = _flatten(item)
        if found != shape and (len(found) > 1 or len(elements) != _size(shape) or not shape):
            raise ValueError(f"{list(found)} elements are given for the shape {list(shape)}")
        return _dense(elements, dtype, shape)

    def _blob(self, token: Token, dtype: DType, shape: tuple[int, ...]) -> Tensor:
        name = symbol_text(token)
        key = (name, TensorType(dtype, shape))
        made = self._made.get(key)
        if made is None:
            call = self.blobs.get(name)
            if call is None:
                raise ValueError(f"no blob is called #{name:.60}")
            made = self._made[key] = self._read(name, call, dtype, shape)
        return made

    def _read(self, name: str, call: CallLiteral, dtype: DType, shape: tuple[int, ...]) -> Tensor:
        args = call.args
        if call.name == "elided" and _are(args, int, str):
            if args[0] != _size(shape):
                raise Problem(f"{args[0]} elements elided, {_size(shape)} expected", call.token)
            return ElidedTensor(name, dtype, shape, args[1])
        if call.name == "npz" and _are(args, str, str):
            return self.archives.tensor(args[0], args[1], dtype, shape)
        if call.name == "base64" and _are(args, str):
            return RawTensor(_base64(args[0], call), dtype, shape)
        if call.name == "list":
            if len(args) != _size(shape):
                raise Problem(f"{len(args)} elements, {_size(shape)} expected", call.token)
            return _dense(args, dtype, shape)
        raise Problem(
            'a blob is elided(count, "hash"), npz("file", "key"), base64("data") or list(...)',
            call.token,
        )


def _are(args: list[Any], *kinds: type) -> bool:
    return len(args) == len(kinds) and all(
        a.__class__ is k for a, k in zip(args, kinds, strict=True)
    )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for d in shape:
        size *= d
    return size


def _base64(text: str, call: CallLiteral) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(f"bad base64: {error}", call.token) from error


def _foreign(call: CallLiteral) -> Foreign:
    if not _are(call.args, str, str):
        raise Problem('expected foreign("kind", "base64")', call.token)
    return Foreign(call.args[0], _base64(call.args[1], call))


def _formula(call: CallLiteral, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    args = call.args
    if call.name == "splat" and len(args) == 1:
        value = element_value(args[0], dtype)
        made = SplatTensor(0 if dtype is dtypes.STRING else value, dtype, shape)
        made.value = value
        return made
    if call.name == "rand" and (_are(args, int) or _are(args, int, int) or _are(args, int, float)):
        return generators.rand(dtype, shape, *args)
    if call.name == "arange" and not args:
        return generators.arange(dtype, shape)
    raise Problem("data is a list, splat(v), rand(seed), arange() or a #blob", call.token)


def _flatten(item: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Return elements in row-major order and the shape of a scalar or nested lists."""
    level = [item]
    shape: list[int] = []
    while level and level[0].__class__ is ListLiteral:
        if any(i.__class__ is not ListLiteral or len(i) != len(level[0]) for i in level):
            raise ValueError("the nested lists have different lengths")
        shape.append(len(level[0]))
        level = [i for inner in level for i in inner]
    return level, tuple(shape)


def _dense(elements: list[Any], dtype: DType, shape: tuple[int, ...]) -> Tensor:
    array = np.empty(len(elements), dtype.numpy)
    for i, item in enumerate(elements):
        array[i] = element_value(item, dtype)
    return DenseTensor(array.reshape(shape), dtype)


def _untyped(item: Any) -> Tensor:
    elements, shape = _flatten(item)
    kinds = {i.__class__ for i in elements}
    if kinds <= {int}:
        dtype = dtypes.I64
    elif kinds <= {int, float, NanBits}:
        dtype = dtypes.F32
    elif kinds == {bool}:
        dtype = dtypes.BOOL
    elif kinds <= {str, bytes}:
        dtype = dtypes.STRING
    else:
        raise ValueError("this needs a type, such as f32[2,3]")
    return _dense(elements, dtype, shape)
