"""Makes ``tests/data/torch_ops.tar.xz``: one small exported program per operator, with its results.

Run with a Python that has torch: ``python tests/oracle/torch_ops.py tests/data/torch_ops.tar.xz``.
Each case is a function, its operands and, where sizes are dynamic, which of them.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

CASES: list[tuple[str, Any, tuple[Any, ...], Any]] = []
_SEED = torch.Generator().manual_seed(0)


def t(
    *shape: int, low: float = -2.0, high: float = 2.0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return a drawn tensor."""
    wide = torch.rand(shape, generator=_SEED, dtype=torch.float64) * (high - low) + low
    return wide.to(dtype)


def i(*shape: int, low: int = -5, high: int = 6, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Return drawn integers."""
    return torch.randint(low, high, shape, generator=_SEED).to(dtype)


def case(name: str, f: Any, *args: Any, dynamic: Any = None) -> None:
    """Add a case; ``dynamic`` is as for ``torch.export``."""
    CASES.append((name, f, args, dynamic))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *args: Any) -> Any:
        return self.f(*args)


B = {0: Dim("batch", min=1, max=64)}


def _unary() -> None:
    x = torch.cat(
        [t(3, 5).reshape(-1), torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan")])]
    )
    names = [
        "abs",
        "ceil",
        "cos",
        "cosh",
        "erf",
        "exp",
        "expm1",
        "floor",
        "log",
        "log2",
        "log10",
        "log1p",
        "neg",
        "reciprocal",
        "round",
        "rsqrt",
        "sigmoid",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
        "trunc",
        "atan",
        "asinh",
        "exp2",
        "erfc",
        "isnan",
        "isinf",
        "isfinite",
        "square",
        "frac",
        "sgn",
        "relu",
        "nan_to_num",
        "positive",
        "deg2rad",
        "rad2deg",
        "logical_not",
    ]
    for name in names:
        case(name, getattr(torch, name), x)
    for name in ("acos", "asin", "atanh"):
        case(name, getattr(torch, name), t(7, low=-0.99, high=0.99))
    case("acosh", torch.acosh, t(7, low=1, high=5))
    case("logit", torch.logit, t(7, low=0.1, high=0.9))
    case("logit_eps", lambda x: torch.logit(x, 0.2), t(7, low=0, high=1))
    case("expm1_small", torch.expm1, t(20, low=-1e-4, high=1e-4))
    case("log1p_small", torch.log1p, t(20, low=-1e-4, high=1e-4))
    case("sinc", torch.sinc, x)
    case("round_2", lambda x: torch.round(x, decimals=2), t(9))
    case("round_int", torch.round, i(4))
    for name in ("exp", "sqrt", "sin", "sigmoid"):
        case(f"{name}_int", getattr(torch, name), i(4, low=0))
    acts = {
        "relu6": F.relu6,
        "hardtanh": F.hardtanh,
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "celu": F.celu,
        "selu": F.selu,
        "gelu": F.gelu,
        "silu": F.silu,
        "mish": F.mish,
        "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid,
        "softplus": F.softplus,
        "logsigmoid": F.logsigmoid,
        "softsign": F.softsign,
        "hardshrink": F.hardshrink,
        "softshrink": F.softshrink,
        "tanhshrink": F.tanhshrink,
    }
    for name, f in acts.items():
        case(name, f, t(4, 6, low=-8, high=8))
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), t(9))
    case("elu_alpha", lambda x: F.elu(x, 0.3), t(9))
    case("softplus_beta", lambda x: F.softplus(x, 2.0, 3.0), t(9, low=-4, high=4))
    case("leaky_02", lambda x: F.leaky_relu(x, 0.2), t(9))
    case("threshold", lambda x: F.threshold(x, 0.3, 7.0), t(9))
    case("glu", lambda x: F.glu(x, 1), t(3, 6))
    case("prelu", lambda x, w: F.prelu(x, w), t(2, 3, 4), t(3))
    case("prelu_1", lambda x, w: F.prelu(x, w), t(2, 3, 4), t(1))
    case("rrelu", lambda x: F.rrelu(x), t(9))
    case("dropout", lambda x: F.dropout(x, 0.5, False), t(4))


def _binary() -> None:
    x, y = t(3, 4), t(4)
    for name in [
        "add",
        "sub",
        "mul",
        "div",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "atan2",
        "hypot",
        "copysign",
        "fmod",
        "remainder",
        "floor_divide",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    ]:
        case(name, getattr(torch, name), x, y)
    a, b = i(3, 4), i(4, low=1)
    for name in [
        "add",
        "sub",
        "mul",
        "div",
        "maximum",
        "minimum",
        "fmod",
        "remainder",
        "floor_divide",
        "eq",
        "lt",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
    ]:
        case(f"{name}_int", getattr(torch, name), a, b)
    case("floor_divide_neg", torch.floor_divide, a, -b)
    case("remainder_neg", torch.remainder, a, -b)
    case("remainder_neg_float", torch.remainder, t(9), torch.tensor(-0.7))
    case("div_trunc", lambda x, y: torch.div(x, y, rounding_mode="trunc"), a, b)
    case("div_floor", lambda x, y: torch.div(x, y, rounding_mode="floor"), a, b)
    case("div_floor_f", lambda x, y: torch.div(x, y, rounding_mode="floor"), x, y)
    case("div_trunc_f", lambda x, y: torch.div(x, y, rounding_mode="trunc"), x, y)
    case("mixed", lambda x, y: x + y, x, i(4))
    case("mixed_half", lambda x, y: x * y, x.half(), i(4))
    case("mixed_scalar", lambda x: x + 1.5, i(4))
    case("mixed_zero_dim", lambda x, y: x * y, x.half(), torch.tensor(2.5))
    case("mixed_bytes", lambda x, y: x + y, i(4, low=0, dtype=torch.uint8), i(4, dtype=torch.int8))
    case("add_alpha", lambda x, y: torch.add(x, y, alpha=3), x, y)
    case("sub_alpha", lambda x, y: torch.sub(x, y, alpha=2), x, y)
    case("rsub", lambda x: 3 - x, x)
    case("add_bool", lambda x, y: x + y, x > 0, y > 0)
    case("mul_bool", lambda x, y: x * y, x > 0, y > 0)
    case("bool_times", lambda x: (x > 0) * x, x)
    for name in ["logical_and", "logical_or", "logical_xor"]:
        case(name, getattr(torch, name), i(6, low=-1, high=2), i(6, low=-1, high=2))
    case("pow2", lambda x: x**2, x)
    case("pow3", lambda x: x**3, x)
    case("pow_half", lambda x: x**0.5, t(5, low=0, high=3))
    case("pow_neg", lambda x: x**-1.5, t(5, low=0.5, high=3))
    case("pow_tensor", torch.pow, t(3, 4, low=0.1, high=3), y)
    case("pow_base", lambda x: 2.0**x, x)
    case("pow_int", lambda x: x**3, i(5))
    case("clamp", lambda x: x.clamp(-0.5, 1), x)
    case("clamp_min", lambda x: x.clamp(min=0.1), x)
    case("clamp_int", lambda x: x.clamp(-1, 2), i(9))
    case("clamp_float_int", lambda x: x.clamp(-1.5, 2), i(9))
    case("clamp_tensor", lambda x, y: torch.clamp(x, y, y + 1), x, y)
    case("where", lambda x, y: torch.where(x > 0, x, y), x, y)
    case("where_scalar", lambda x: torch.where(x > 0, x, 0.0), x)
    case("masked_fill", lambda x: x.masked_fill(x > 0, -1e9), x)
    case("lerp", lambda x, y: torch.lerp(x, y, 0.3), x, t(3, 4))
    case("lerp_tensor", torch.lerp, x, t(3, 4), t(3, 4))
    case("addcmul", lambda a, b, c: torch.addcmul(a, b, c, value=0.5), x, t(3, 4), y)
    case("addcdiv", lambda a, b, c: torch.addcdiv(a, b, c, value=0.5), x, t(3, 4), y + 4)
    case("xlogy", torch.xlogy, t(6, low=0, high=2), t(6, low=0.1, high=2))
    case(
        "heaviside", torch.heaviside, torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.5, 0.25, 0.5])
    )
    case("isclose", torch.isclose, x, x + 1e-9)
    case("bitwise_not", torch.bitwise_not, i(5))
    case("not_bool", lambda x: ~(x > 0), x)
    case("lshift", lambda x: x << 2, i(5))
    case("rshift", lambda x: x >> 1, i(5))
    for dtype in (torch.float16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool):
        case(f"to_{dtype}".replace("torch.", ""), lambda x, d=dtype: x.to(d), t(6, low=0, high=5))
    case("type_as", lambda x, y: x.type_as(y), x, i(2))


def _reduce() -> None:
    x = t(2, 3, 4)
    for name in ["sum", "mean", "amax", "amin", "prod", "logsumexp"]:
        f = getattr(torch, name)
        case(f"{name}_1", lambda x, f=f: f(x, dim=1), x)
        case(f"{name}_keep", lambda x, f=f: f(x, dim=-1, keepdim=True), x)
        if name != "prod":
            case(f"{name}_02", lambda x, f=f: f(x, dim=(0, 2)), x)
    for name in [
        "sum",
        "mean",
        "prod",
        "max",
        "min",
        "std",
        "var",
        "any",
        "all",
        "argmax",
        "argmin",
        "norm",
        "count_nonzero",
    ]:
        case(f"{name}_all", getattr(torch, name), x)
    for name in ["max", "min"]:
        f = getattr(torch, name)
        case(f"{name}_dim", lambda x, f=f: tuple(f(x, dim=1)), x)
        case(f"{name}_dim_keep", lambda x, f=f: tuple(f(x, dim=0, keepdim=True)), x)
    for name in ["argmax", "argmin"]:
        f = getattr(torch, name)
        case(f"{name}_dim", lambda x, f=f: f(x, dim=1, keepdim=True), x)
    for name in ["any", "all"]:
        f = getattr(torch, name)
        case(f"{name}_dim", lambda x, f=f: f(x > 0, dim=1), x)
        case(f"{name}_bytes", lambda x, f=f: f(x, dim=0), i(3, 4, low=0, high=2, dtype=torch.uint8))
    case("sum_int32", lambda x: x.sum(1), i(2, 3, dtype=torch.int32))
    case("sum_bool", lambda x: (x > 0).sum(), x)
    case("sum_dtype", lambda x: x.sum(0, dtype=torch.float64), x)
    case("sum_empty", lambda x: x.sum(0), torch.zeros(0, 3))
    case("var_0", lambda x: x.var(1, correction=0), x)
    case("std_2", lambda x: x.std((0, 2)), x)
    case("var_mean", lambda x: torch.var_mean(x, 1, keepdim=True), x)
    case("std_mean", lambda x: torch.std_mean(x, (1, 2)), x)
    for p in (0, 1, 2, 3, float("inf"), float("-inf")):
        case(f"norm_{p}", lambda x, p=p: torch.linalg.vector_norm(x, p, 1), x)
    case("norm_dim", lambda x: x.norm(dim=-1, keepdim=True), x)
    case("normalize", lambda x: F.normalize(x, dim=1), x)
    case("softmax", lambda x: x.softmax(1), x)
    case("log_softmax", lambda x: F.log_softmax(x, -1), x)
    case("softmax_half", lambda x: F.softmax(x, -1, dtype=torch.float32), x.half())
    case("cumsum", lambda x: x.cumsum(1), x)
    case("cumsum_bool", lambda x: (x > 0).cumsum(1), x)
    case("cumprod", lambda x: x.cumprod(2), x)
    case("topk", lambda x: tuple(x.topk(2, 1)), x)
    case("topk_small", lambda x: tuple(x.topk(3, largest=False)), x)
    case("sort", lambda x: tuple(x.sort(1, descending=True)), x)
    case("argsort", lambda x: x.argsort(-1), x)
    case("kthvalue", lambda x: tuple(x.kthvalue(2, 1)), x)
    case("sum_dynamic", lambda x: (x.sum(0), x.mean(), x.var(0)), x, dynamic=((B,),))
    case("aminmax", lambda x: tuple(torch.aminmax(x, dim=1)), x)


def _shape() -> None:
    x = t(2, 3, 4)
    case("view", lambda x: x.view(6, 4), x)
    case("view_-1", lambda x: x.view(2, -1), x, dynamic=((B,),))
    case("reshape_dynamic", lambda x: x.reshape(x.shape[0] * 3, 4), x, dynamic=((B,),))
    case("reshape_half", lambda x: x.reshape(x.shape[0], 2, -1), x, dynamic=((B,),))
    case("flatten", lambda x: x.flatten(1), x, dynamic=((B,),))
    case("flatten_01", lambda x: x.flatten(0, 1), x, dynamic=((B,),))
    case("unflatten", lambda x: x.unflatten(2, (2, 2)), x)
    case("permute", lambda x: x.permute(2, 0, 1), x)
    case("transpose", lambda x: x.transpose(-1, 0), x)
    case("t", lambda x: x.t(), t(3, 4))
    case("mT", lambda x: x.mT, x)
    case("T", lambda x: x.T, t(3, 4))
    case("movedim", lambda x: x.movedim((0, 1), (2, 0)), x)
    case("squeeze", lambda x: x.squeeze(), t(1, 3, 1))
    case("squeeze_dim", lambda x: x.squeeze(0), t(1, 3, 1))
    case("unsqueeze", lambda x: x.unsqueeze(-1), x)
    case("expand", lambda x: x.expand(5, -1, 4), t(3, 1))
    case("expand_as", lambda x, y: x.expand_as(y), t(1, 4), x)
    case("repeat", lambda x: x.repeat(2, 1, 1, 2), x)
    case("tile", lambda x: x.tile(2), x)
    case("repeat_interleave", lambda x: x.repeat_interleave(3, 1), x)
    case("cat", lambda x, y: torch.cat((x, y), 1), x, t(2, 2, 4))
    case("cat_mixed", lambda x, y: torch.cat((x, y), -1), x, i(2, 3, 1))
    case("cat_empty", lambda x, y: torch.cat((y, x), 0), x, torch.zeros(0))
    case("stack", lambda x, y: torch.stack((x, y), -1), x, t(2, 3, 4))
    case("hstack", lambda x, y: torch.hstack((x, y)), t(3), t(2))
    case("vstack", lambda x, y: torch.vstack((x, y)), t(3), t(3))
    case("slice", lambda x: x[:, 1:, ::2], x)
    case("slice_neg", lambda x: x[..., -3:-1], x)
    case("slice_dynamic", lambda x: x[1:, :2], x, dynamic=((B,),))
    case("select", lambda x: x[:, -1], x)
    case("narrow", lambda x: x.narrow(2, 1, 2), x)
    case("split", lambda x: x.split(3, 2), x)
    case("split_sizes", lambda x: x.split([1, 2], 1), x)
    case("chunk", lambda x: x.chunk(3, 2), x)
    case("unbind", lambda x: x.unbind(1), x)
    case("tensor_split", lambda x: torch.tensor_split(x, 3, 2), x)
    case("flip", lambda x: x.flip(0, 2), x)
    case("roll", lambda x: x.roll((1, -1), (1, 2)), x)
    case("roll_flat", lambda x: x.roll(3), x)
    case("tril", lambda x: x.tril(), x)
    case("triu_1", lambda x: x.triu(1), x)
    case("diagonal", lambda x: x.diagonal(1, 1, 2), x)
    case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), t(1, 8, 3, 2))
    case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), t(1, 2, 4, 6))
    case("channel_shuffle", lambda x: F.channel_shuffle(x, 2), t(1, 6, 2, 2))
    case("unfold_axis", lambda x: x.unfold(2, 2, 1), x)
    case("unfold", lambda x: F.unfold(x, 2, padding=1, stride=2), t(2, 3, 5, 4))
    case("fold", lambda x: F.fold(x, (4, 5), 2), t(2, 12, 12))
    case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), t(3), t(2))
    case("meshgrid_xy", lambda x, y: torch.meshgrid(x, y, indexing="xy"), t(3), t(2))
    case("pad", lambda x: F.pad(x, (1, 2, 0, 1), value=3.0), x)
    case("pad_neg", lambda x: F.pad(x, (-1, 2)), x)
    for mode in ("reflect", "replicate", "circular"):
        case(f"pad_{mode}", lambda x, m=mode: F.pad(x, (1, 2, 1, 0), mode=m), t(1, 2, 4, 5))
    case(
        "size_arith",
        lambda x: x.new_zeros(x.shape[0] + 1, x.shape[0] // 2) + x.shape[0] * 2,
        x,
        dynamic=((B,),),
    )
    case("arange_dynamic", lambda x: torch.arange(x.shape[0]) + x[:, 0, 0], x, dynamic=((B,),))
    case(
        "expand_dynamic",
        lambda x: torch.ones(1, 2).expand(x.shape[0], 2) * x[:, 0, :2],
        x,
        dynamic=((B,),),
    )
    case("einsum", lambda x, y: torch.einsum("bij,bkj->bik", x, y), x, t(2, 5, 4))


def _index() -> None:
    x = t(4, 5, 3)
    case("embedding", lambda w, j: F.embedding(j, w), t(7, 3), i(2, 4, low=0, high=7))
    case("index_select", lambda x, j: x.index_select(1, j), x, i(3, low=0, high=5))
    case("gather", lambda x, j: x.gather(1, j), x, i(4, 2, 3, low=0, high=5))
    case("gather_cut", lambda x, j: x.gather(1, j), x, i(2, 2, 2, low=0, high=5))
    case("take_along", lambda x, j: torch.take_along_dim(x, j, 1), x, i(4, 2, 3, low=0, high=5))
    case("index_1", lambda x, j: x[j], x, i(2, 2, low=-4, high=4))
    case("index_mid", lambda x, j: x[:, j], x, i(2, 2, low=0, high=5))
    case("index_2", lambda x, j, k: x[j, k], x, i(6, low=0, high=4), i(6, low=0, high=5))
    case("index_02", lambda x, j, k: x[j, :, k], x, i(6, low=0, high=4), i(6, low=0, high=3))
    case("index_12", lambda x, j, k: x[:, j, k], x, i(6, low=0, high=5), i(1, low=0, high=3))
    case("index_mask", lambda x: x[x > 0], x)
    case("masked_select", lambda x: torch.masked_select(x, x > 0), x)
    case("nonzero", lambda x: (x > 0).nonzero(), x)
    case("index_put", lambda x, j, v: x.index_put((j,), v), x, torch.tensor([3, 1]), t(2, 5, 3))
    case(
        "index_put_2",
        lambda x, j, k, v: x.index_put((j, k), v),
        x,
        torch.tensor([3, 1]),
        torch.tensor([0, 4]),
        t(3),
    )
    case(
        "index_put_add",
        lambda x, j, v: x.index_put((j,), v, True),
        x,
        torch.tensor([3, 1, 3]),
        t(3, 5, 3),
    )
    case("index_put_mask", lambda x: torch.index_put(x, (x > 0,), torch.tensor(9.0)), x)
    case(
        "scatter",
        lambda x, j, s: x.scatter(1, j, s),
        x,
        torch.tensor([[[0, 1, 2]], [[3, 4, 0]]]),
        t(4, 5, 3),
    )
    case("scatter_value", lambda x, j: x.scatter(1, j, 7.0), x, i(4, 1, 3, low=0, high=5))
    case(
        "scatter_add",
        lambda x, j, s: x.scatter_add(1, j, s),
        x,
        i(4, 5, 3, low=0, high=5),
        t(4, 5, 3),
    )
    case(
        "scatter_reduce",
        lambda x, j, s: x.scatter_reduce(1, j, s, "amax"),
        x,
        i(4, 5, 3, low=0, high=5),
        t(4, 5, 3),
    )
    case("index_add", lambda x, j, s: x.index_add(1, j, s), x, torch.tensor([0, 0, 3]), t(4, 3, 3))
    case("index_copy", lambda x, j, s: x.index_copy(1, j, s), x, torch.tensor([0, 2]), t(4, 2, 3))
    case("index_fill", lambda x, j: x.index_fill(1, j, 2.0), x, torch.tensor([0, 2]))
    case("masked_scatter", lambda x, s: x.masked_scatter(x > 0, s), t(3, 4), t(20))
    case("bucketize", lambda x, e: torch.bucketize(x, e), t(3, 4), torch.tensor([-1.0, 0.0, 1.0]))
    case(
        "searchsorted",
        lambda e, x: torch.searchsorted(e, x, right=True),
        torch.tensor([-1.0, 0.0, 1.0]),
        t(3, 4),
    )
    case("one_hot", lambda j: F.one_hot(j, 6), i(2, 3, low=0, high=6))
    case("select_scatter", lambda x, s: torch.select_scatter(x, s, 1, -2), x, t(4, 3))
    case("slice_scatter", lambda x, s: torch.slice_scatter(x, s, 1, 1, 5, 2), x, t(4, 2, 3))
    case("unique", lambda x: torch.unique(x, return_inverse=True, return_counts=True), i(3, 4))


def _create() -> None:
    x = t(2, 3)
    case("zeros_like", lambda x: torch.zeros_like(x) + x, x)
    case("ones", lambda x: torch.ones(2, 1) * x, x)
    case("full", lambda x: torch.full((2, 1), 2.5) * x, x)
    case("full_like", lambda x: torch.full_like(x, 3, dtype=torch.int64) + x, x)
    case("new_full", lambda x: x.new_full((3,), 2) + x, x)
    case("arange", lambda x: torch.arange(3) + x, x)
    case("arange_step", lambda x: torch.arange(1, 2.5, 0.5) + x, x)
    case("linspace", lambda x: torch.linspace(0, 1, 3) + x, x)
    case("eye", lambda x: torch.eye(3) + x[:1], x)
    case("tensor", lambda x: torch.tensor([1.0, 2.0, 3.0]) + x, x)
    case("scalar_tensor", lambda x: torch.scalar_tensor(2.0) + x, x)
    case("tril_indices", lambda x: torch.tril_indices(3, 3, -1) + 0 * x.sum().long(), x)
    case("hann", lambda x: torch.hann_window(3) + x, x)
    case("zeros_dynamic", lambda x: torch.zeros(x.shape[0], 4) + x[:, :1], x, dynamic=((B,),))


def _nn() -> None:
    x = t(2, 4, 9, 8)
    conv = {
        "plain": nn.Conv2d(4, 6, 3),
        "pad": nn.Conv2d(4, 6, 3, 2, 1),
        "dilated": nn.Conv2d(4, 6, 3, dilation=2, bias=False),
        "groups": nn.Conv2d(4, 8, 3, groups=2),
        "depthwise": nn.Conv2d(4, 4, (3, 2), padding=(1, 0), groups=4),
        "same": nn.Conv2d(4, 6, (3, 4), padding="same"),
        "reflect": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        "transposed": nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        "transposed_groups": nn.ConvTranspose2d(4, 6, 2, 2, groups=2),
        "bn": nn.BatchNorm2d(4),
        "bn_plain": nn.BatchNorm2d(4, affine=False),
        "gn": nn.GroupNorm(2, 4),
        "in": nn.InstanceNorm2d(4, affine=True),
        "in_plain": nn.InstanceNorm2d(4),
        "ln": nn.LayerNorm((9, 8)),
        "ln_plain": nn.LayerNorm(8, elementwise_affine=False),
        "rms": nn.RMSNorm(8),
        "lrn": nn.LocalResponseNorm(3),
        "max": nn.MaxPool2d(3, 2, 1),
        "max_ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
        "max_dilated": nn.MaxPool2d(2, dilation=2),
        "max_indices": nn.MaxPool2d(2, return_indices=True),
        "avg": nn.AvgPool2d(3, 2, 1),
        "avg_ceil": nn.AvgPool2d(2, 2, ceil_mode=True),
        "avg_exclude": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        "avg_divisor": nn.AvgPool2d(2, divisor_override=3),
        "adaptive_1": nn.AdaptiveAvgPool2d(1),
        "adaptive_34": nn.AdaptiveAvgPool2d((3, 4)),
        "adaptive_max": nn.AdaptiveMaxPool2d(1),
        "adaptive_max_34": nn.AdaptiveMaxPool2d((3, 4)),
        "lp": nn.LPPool2d(2, 2),
        "linear": nn.Linear(8, 5),
        "linear_no": nn.Linear(8, 5, bias=False),
        "up": nn.Upsample(scale_factor=2),
        "up_bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
        "up_corners": nn.Upsample(size=(13, 11), mode="bilinear", align_corners=True),
        "up_bicubic": nn.Upsample(scale_factor=1.5, mode="bicubic"),
        "up_exact": nn.Upsample(size=(5, 6), mode="nearest-exact"),
        "up_size": nn.Upsample(size=(5, 13)),
        "zeropad": nn.ZeroPad2d(1),
        "softmax2d": nn.Softmax2d(),
        "pixel": nn.PixelShuffle(2),
        "fold_bn": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        "spectral": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 2)),
        "upsample_down": nn.Upsample(scale_factor=0.6, mode="bilinear"),
    }
    for name, module in conv.items():
        for p in module.parameters():
            if p.dim() == 1:
                p.data = t(*p.shape, low=0.5, high=1.5)
        for key, value in module.named_buffers():
            if "running" in key:
                value.copy_(t(*value.shape, low=0.5, high=1.5))
        case(f"nn_{name}", module, x)
    for name in ("plain", "bn", "gn", "in", "max", "adaptive_1", "linear", "up", "ln"):
        case(f"nn_{name}_dynamic", conv[name], x, dynamic=(B,))
    case("conv1d", nn.Conv1d(3, 4, 3, padding=1), t(2, 3, 7))
    case("conv1d_unbatched", nn.Conv1d(3, 4, 3, padding=1), t(3, 7))
    case("conv3d", nn.Conv3d(2, 3, 2, stride=2), t(1, 2, 5, 4, 4))
    case("conv_transpose1d", nn.ConvTranspose1d(3, 4, 4, 2, 1), t(2, 3, 7))
    case("max_pool1d", nn.MaxPool1d(2), t(2, 3, 7))
    case("avg_pool1d", nn.AvgPool1d(3, 2, 1), t(2, 3, 7))
    case("adaptive_avg1d", nn.AdaptiveAvgPool1d(3), t(2, 3, 7))
    case("mm", torch.mm, t(3, 4), t(4, 5))
    case("bmm", torch.bmm, t(2, 3, 4), t(2, 4, 5))
    case("matmul_1", torch.matmul, t(2, 3, 4), t(4))
    case("matmul_b", torch.matmul, t(3, 1, 2, 4), t(2, 4, 5))
    case("mv", torch.mv, t(3, 4), t(4))
    case("dot", torch.dot, t(4), t(4))
    case("outer", torch.outer, t(3), t(4))
    case("addmm", lambda a, b, c: torch.addmm(a, b, c, beta=0.5, alpha=2), t(5), t(3, 4), t(4, 5))
    case(
        "baddbmm",
        lambda a, b, c: torch.baddbmm(a, b, c, alpha=0.25),
        t(2, 3, 5),
        t(2, 3, 4),
        t(2, 4, 5),
    )
    case("linear_1d", nn.Linear(4, 3), t(4))
    case("bilinear", nn.Bilinear(3, 4, 2), t(5, 3), t(5, 4))
    q = t(2, 4, 5, 8)
    sdpa = F.scaled_dot_product_attention
    case("sdpa", sdpa, q, t(2, 4, 6, 8), t(2, 4, 6, 8))
    case(
        "sdpa_causal",
        lambda q, k, v: sdpa(q, k, v, is_causal=True),
        q,
        t(2, 4, 5, 8),
        t(2, 4, 5, 8),
    )
    case("sdpa_mask", lambda q, k, v, m: sdpa(q, k, v, m), q, t(2, 4, 6, 8), t(2, 4, 6, 8), t(5, 6))
    case(
        "sdpa_bool",
        lambda q, k, v, m: sdpa(q, k, v, m),
        q,
        t(2, 4, 6, 8),
        t(2, 4, 6, 8),
        i(5, 6, low=0, high=2).bool(),
    )
    case(
        "sdpa_gqa",
        lambda q, k, v: sdpa(q, k, v, enable_gqa=True, scale=0.2),
        q,
        t(2, 2, 6, 8),
        t(2, 2, 6, 8),
    )
    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    case("mha", lambda x: mha(x, x, x)[0], t(2, 5, 8))
    case("encoder", nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), t(2, 5, 8))
    case("cdist", torch.cdist, t(2, 4, 3), t(2, 5, 3))
    case("cosine", F.cosine_similarity, t(3, 4), t(3, 4))
    case(
        "embedding_bag",
        nn.EmbeddingBag(7, 3, mode="sum"),
        i(6, low=0, high=7),
        torch.tensor([0, 2, 5]),
    )
    case(
        "grid_sample",
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        t(1, 2, 4, 5),
        t(1, 3, 3, 2, low=-1.2, high=1.2),
    )
    case(
        "grid_sample_border",
        lambda x, g: F.grid_sample(x, g, "nearest", "border", True),
        t(1, 2, 4, 5),
        t(1, 3, 3, 2, low=-1.2, high=1.2),
    )
    case("affine_grid", lambda th: F.affine_grid(th, (1, 2, 3, 4), align_corners=False), t(1, 2, 3))


class _Last(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, *args: Any) -> Any:
        y, state = self.rnn(*args)
        return (y, *state) if isinstance(state, tuple) else (y, state)


def _rnn() -> None:
    x = t(2, 5, 3)
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        name = kind.__name__.lower()
        case(name, _Last(kind(3, 4, batch_first=True)), x)
        case(f"{name}_deep", _Last(kind(3, 4, 2, bidirectional=True)), x)
        case(f"{name}_nobias", _Last(kind(3, 4, bias=False)), x)
        case(f"{name}_dynamic", _Last(kind(3, 4, batch_first=True)), x, dynamic=((B,),))
    case("rnn_relu", _Last(nn.RNN(3, 4, nonlinearity="relu")), x)
    case("lstm_state", _Last(nn.LSTM(3, 4)), x, (t(1, 5, 4), t(1, 5, 4)))
    case("lstm_unbatched", _Last(nn.LSTM(3, 4)), t(5, 3))
    case("lstm_cell", nn.LSTMCell(3, 4), t(2, 3))
    case("gru_cell", nn.GRUCell(3, 4), t(2, 3))
    case("rnn_cell", nn.RNNCell(3, 4), t(2, 3))


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        self.count[1:] *= 2
        return x + self.count


def _in_place(x: torch.Tensor) -> Any:
    y = x.clone()
    y[:, 1] += 3
    z = y.view(-1)
    z[2:5].mul_(2)
    y[0] = 7
    w = y.t()
    w[1:, 0].zero_()
    y[:, ::2] = y[:, ::2].relu_()
    return y, z, w, x


def _control() -> None:
    x = t(3, 4)
    case("in_place", _in_place, x)
    case(
        "in_place_index",
        lambda x, j: x.clone().index_put_((j,), torch.tensor(1.0)),
        x,
        torch.tensor([0, 2]),
    )
    case("in_place_chunks", lambda x: [c.add_(1) for c in x.clone().chunk(2, 1)], x)
    case("counter", _Counter(), t(3))
    case("cond", lambda x: torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, (x,)), x)
    case("cond_no", lambda x: torch.cond(x.sum() > 1e9, lambda x: x * 2, lambda x: -x, (x,)), x)
    case(
        "while",
        lambda x: torch.while_loop(
            lambda i, y: i < 4, lambda i, y: (i + 1, y * 1.5), (torch.tensor(0), x)
        ),
        x,
    )
    case(
        "while_none",
        lambda x: torch.while_loop(
            lambda i, y: i < 0, lambda i, y: (i + 1, y * 1.5), (torch.tensor(0), x)
        ),
        x,
    )
    from torch._higher_order_ops.scan import scan

    case("scan", lambda x: scan(lambda c, r: (c + r, c * 2 + r), torch.zeros(4), x, dim=0), x)
    case("no_grad", lambda x: _no_grad(x), x)


def _no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x * 2
    return y + 1


def _half() -> None:
    for dtype, name in ((torch.float16, "f16"), (torch.bfloat16, "bf16"), (torch.float64, "f64")):
        x = t(2, 4, 5, 5).to(dtype)
        case(f"conv_{name}", nn.Conv2d(4, 3, 3).to(dtype), x)
        case(f"linear_{name}", nn.Linear(5, 3).to(dtype), x)
        case(f"softmax_{name}", lambda x: x.softmax(-1), x)
        case(f"mean_{name}", lambda x: x.mean((2, 3)), x)
        case(f"scalar_{name}", lambda x: x * 0.3 + 1, x)


for _part in (_unary, _binary, _reduce, _shape, _index, _create, _nn, _rnn, _control, _half):
    _part()


def _flat(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    return [v for item in values for v in _flat(item)] if isinstance(values, (tuple, list)) else []


def _array(x: torch.Tensor) -> np.ndarray:
    return x.detach().to(torch.float32).numpy() if x.dtype is torch.bfloat16 else x.detach().numpy()


def _run(f: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Return what torch computes; buffers keep what they hold."""
    module = copy.deepcopy(f) if isinstance(f, nn.Module) else Call(f)
    with torch.no_grad():
        return _flat(module.eval()(*copy.deepcopy(args)))


def _export(f: Any, args: tuple[Any, ...], dynamic: Any, decomposed: bool) -> bytes:
    module = f if isinstance(f, nn.Module) else Call(f)
    program = torch.export.export(module.eval(), args, dynamic_shapes=dynamic)
    if decomposed:
        program = program.run_decompositions()
    data = io.BytesIO()
    torch.export.save(program, data)
    return _slim(data.getvalue())


def _slim(data: bytes) -> bytes:
    """Drop sample inputs and stack traces, which nobody reads."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            if "sample_inputs" in name:
                continue
            body = old.read(name)
            if name.endswith("model.json"):
                program = json.loads(body)
                for node in program["graph_module"]["graph"]["nodes"]:
                    node["metadata"].pop("stack_trace", None)
                body = json.dumps(program).encode()
            new.writestr(zipfile.ZipInfo(name), body)
    return out.getvalue()


def _put(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def main(path: str, only: list[str]) -> None:
    """Write the archive of archives."""
    failed = 0
    with tarfile.open(path, "w:xz", preset=9) as out:
        for name, f, args, dynamic in CASES:
            if only and name not in only:
                continue
            for decomposed in (False, True):
                label = f"{name}.core" if decomposed else name
                try:
                    data = _export(f, args, dynamic, decomposed)
                    found = _run(f, args)
                except Exception as error:
                    failed += 1
                    print(f"{label}: {type(error).__name__}: {str(error)[:200]}")
                    continue
                _put(out, f"{label}.pt2", data)
                if decomposed:
                    continue  # the same results
                arrays = io.BytesIO()
                flat = {f"in{k}": _array(v) for k, v in enumerate(_flat(args))}
                flat.update({f"out{k}": _array(v) for k, v in enumerate(found)})
                np.savez(arrays, **flat)
                _put(out, f"{label}.npz", arrays.getvalue())
    print(f"{len(CASES)} cases, {failed} not exported")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
