"""Random generators: typed, but without a meaning, and never merged or folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dims, dtypes
from lepton_ir.opdef import op
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.infer import InferContext

_SEED: dict[str, tuple[str, Any]] = {"seed": ("float", None)}
_NORMAL: dict[str, tuple[str, Any]] = {"mean": ("float", 0.0), "scale": ("float", 1.0), **_SEED}
_UNIFORM: dict[str, tuple[str, Any]] = {"low": ("float", 0.0), "high": ("float", 1.0), **_SEED}
_SHAPED: dict[str, tuple[str, Any]] = {"shape": ("ints", None), "dtype": ("dtype", dtypes.F32)}
_LIKE: dict[str, tuple[str, Any]] = {"dtype": ("dtype", None)}


def _infer_shaped(ctx: InferContext) -> TensorType:
    shape = ctx.attrs["shape"]
    if shape is None or any(d < 0 for d in shape):
        ctx.fail("C1", "shape is missing" if shape is None else f"shape is {list(shape)}")
    return TensorType(ctx.attrs["dtype"], shape)


def _infer_like(ctx: InferContext) -> TensorType:
    return TensorType(ctx.attrs["dtype"] or ctx.dtype("x"), ctx.shape("x"))


def _infer_multinomial(ctx: InferContext) -> TensorType:
    shape, count = ctx.shape("x"), ctx.attrs["sample_size"]
    if shape is not None and len(shape) != 2:
        ctx.fail("C1", f"x has rank {len(shape)}")
    if count < 0:
        ctx.fail("C2", f"sample_size is {count}")
    batch: dims.Dim | None = None if shape is None else shape[0]
    return TensorType(ctx.attrs["dtype"], (batch, count))


_REQUIRED = "\n\nC1  shape is given and has no negative dim\n"

op(
    "random_normal()",
    _infer_shaped,
    traits="random",
    attrs={**_SHAPED, **_NORMAL},
    doc="Normally distributed numbers of the given shape (ONNX RandomNormal-22)." + _REQUIRED,
    opaque=True,
)
op(
    "random_uniform()",
    _infer_shaped,
    traits="random",
    attrs={**_SHAPED, **_UNIFORM},
    doc="Uniform numbers in [low, high) of the given shape (ONNX RandomUniform-22)." + _REQUIRED,
    opaque=True,
)
op(
    "random_normal_like(x)",
    _infer_like,
    traits="random",
    attrs={**_LIKE, **_NORMAL},
    doc="Normally distributed numbers in the shape of ``x`` (ONNX RandomNormalLike-22).",
    opaque=True,
)
op(
    "random_uniform_like(x)",
    _infer_like,
    traits="random",
    attrs={**_LIKE, **_UNIFORM},
    doc="Uniform numbers in [low, high) in the shape of ``x`` (ONNX RandomUniformLike-22).",
    opaque=True,
)
op(
    "bernoulli(x)",
    _infer_like,
    traits="random",
    attrs={**_LIKE, **_SEED},
    doc="1 with the probability in ``x``, else 0 (ONNX Bernoulli-22).",
    opaque=True,
)
op(
    "multinomial(x)",
    _infer_multinomial,
    traits="random",
    attrs={"dtype": ("dtype", dtypes.I32), "sample_size": ("int", 1), **_SEED},
    doc="""Classes drawn from unnormalised log probabilities (ONNX Multinomial-22).

C1  x is [batch, classes]
C2  sample_size >= 0
""",
    opaque=True,
)
