"""Signal processing: Fourier transforms, windows, mel filter banks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.opdef import Bool, DTypeAttr, op
from lepton_ir.ops._support import Array, normalized, scalar, widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value


def _one(ctx: InferContext, name: str) -> Dim | None:
    """Return the single element of a size operand, where known and not negative."""
    found = ctx.content(name)
    if found is None or len(found) != 1 or (isinstance(found[0], int) and found[0] < 0):
        return None
    return found[0]


def _half(length: Dim | None) -> Dim | None:
    return None if length is None else dims.add(dims.floordiv(length, 2), 1)


def _infer_dft(ctx: InferContext) -> TensorType:
    x, dtype = ctx.shape("x"), ctx.dtype("x")
    if x is None:
        return TensorType(dtype, None)
    rank = len(x)
    if rank < 2:
        ctx.fail("C1", f"x has rank {rank}")
    if isinstance(x[-1], int) and x[-1] not in (1, 2):
        ctx.fail("C2", f"x.shape[-1] is {x[-1]}")
    back = ctx.attrs["inverse"] and ctx.attrs["onesided"]
    last = 1 if back else 2
    axis = -2
    if ctx.has("axis"):
        given = ctx.ints("axis")
        if given is None or len(given) != 1:
            return TensorType(dtype, (*(None,) * (rank - 1), last))
        axis = given[0]
    if not -rank <= axis < rank or axis in (-1, rank - 1):
        ctx.fail("C3", f"axis is {axis}, rank is {rank}")
    length = _one(ctx, "dft_length")
    old = x[axis]
    if not ctx.has("dft_length") and old is not None:
        length = dims.mul(2, dims.sub(old, 1)) if back else old
    if ctx.attrs["onesided"] and not ctx.attrs["inverse"]:
        length = _half(length)
    shape = list(x)
    shape[axis] = None if isinstance(length, int) and length < 0 else length
    shape[-1] = last
    return TensorType(dtype, shape)


def _complex(x: Array) -> Array:
    """Return (..., 1) or (..., 2) as real or complex numbers without the last dim, f32 or wider."""
    wide = widen(x)
    return (
        wide[..., 0] if x.shape[-1] == 1 else wide[..., 0] + wide.dtype.type(1) * 1j * wide[..., 1]
    )


def _pairs(x: Array) -> Array:
    return np.stack([x.real, x.imag], axis=-1)


@op("dft(x, dft_length?, axis?)", infer=_infer_dft)
def dft(
    x: Array,
    dft_length: Array | None = None,
    axis: Array | None = None,
    *,
    inverse: Bool = False,
    onesided: Bool = False,
) -> Array:
    """Discrete Fourier transform; the last dim holds real and imaginary parts (ONNX DFT-20).

    ``onesided`` returns the first half of a real signal's spectrum; with ``inverse`` it takes
    such a half and returns the real signal.

    C1  rank(x) >= 2
    C2  x.shape[-1] is 1 (real) or 2 (complex)
    C3  -rank(x) <= axis < rank(x), and not the last dim
    """
    if x.ndim < 2 or x.shape[-1] not in (1, 2):
        raise ValueError(f"dft needs shape (..., 1) or (..., 2), got {x.shape}")
    at = normalized(-2 if axis is None else scalar(axis, "axis"), x.ndim)
    if at == x.ndim - 1:
        raise ValueError("dft: the last dim is no signal axis")
    default = 2 * (x.shape[at] - 1) if inverse and onesided else x.shape[at]
    length = default if dft_length is None else scalar(dft_length, "dft_length")
    signal = _complex(x)
    if inverse and onesided:
        return np.fft.irfft(signal, length, axis=at)[..., None].astype(x.dtype)
    if onesided and signal.dtype.kind == "c":
        raise ValueError("a onesided dft needs a real signal")
    if onesided:
        return _pairs(np.fft.rfft(signal, length, axis=at)).astype(x.dtype)
    transform = np.fft.ifft if inverse else np.fft.fft
    return _pairs(transform(signal, length, axis=at)).astype(x.dtype)


def _infer_stft(ctx: InferContext) -> TensorType:
    x, dtype = ctx.shape("signal"), ctx.dtype("signal")
    if x is not None and len(x) != 3:
        ctx.fail("C1", f"signal has rank {len(x)}")
    window = ctx.shape("window")
    length: Dim | None = _one(ctx, "frame_length")
    if length is None and ctx.has("window"):
        length = window[0] if window else None
    elif not ctx.has("frame_length") and not ctx.has("window"):
        length = x[1] if x else None
    step = _one(ctx, "frame_step")
    frames: Dim | None = None
    if step == 0:
        ctx.fail("C2", "frame_step is 0")
    if x and x[1] is not None and length is not None and step is not None:
        low = dims.bounds(step)[0]
        if low is not None and low > 0 and dims.prove_ge(x[1], length) is True:
            frames = dims.add(dims.floordiv(dims.sub(x[1], length), step), 1)
    bins = _half(length) if ctx.attrs["onesided"] else length
    return TensorType(dtype, (x[0] if x else None, frames, bins, 2))


@op("stft(signal, frame_step, window?, frame_length?)", infer=_infer_stft)
def stft(
    signal: Array,
    frame_step: Array,
    window: Array | None = None,
    frame_length: Array | None = None,
    *,
    onesided: Bool = True,
) -> Array:
    """Short-time Fourier transform of (batch, length, 1 or 2) (ONNX STFT-17).

    C1  rank(signal) == 3
    C2  frame_step > 0
    """
    if signal.ndim != 3 or signal.shape[-1] not in (1, 2):
        raise ValueError(f"stft needs shape (batch, length, 1 or 2), got {signal.shape}")
    step = scalar(frame_step, "frame_step")
    length = signal.shape[1] if window is None else len(window)
    if frame_length is not None:
        length = scalar(frame_length, "frame_length")
    if window is not None and len(window) != length:
        raise ValueError(f"the window has {len(window)} elements but frames have {length}")
    if step <= 0 or not 0 < length <= signal.shape[1]:
        raise ValueError(f"stft: step {step}, frame {length}, signal {signal.shape[1]}")
    x = _complex(signal)
    if onesided and x.dtype.kind == "c":
        raise ValueError("a onesided stft needs a real signal")
    frames = np.lib.stride_tricks.sliding_window_view(x, length, axis=1)[:, ::step]
    if window is not None:
        frames = frames * widen(window)
    return _pairs((np.fft.rfft if onesided else np.fft.fft)(frames, axis=-1)).astype(signal.dtype)


def _infer_window(ctx: InferContext) -> TensorType:
    return TensorType(ctx.attrs["output_datatype"], (_one(ctx, "size"),))


def _cosine_sum(size: Array, periodic: bool, dtype: Any, terms: tuple[float, ...]) -> Array:
    """Return ``sum(terms[k] * cos(2 pi k n / N))`` with N the size, less 1 unless periodic."""
    count = scalar(size, "size")
    if count < 0:
        raise ValueError(f"a window cannot have {count} elements")
    n = np.arange(count, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        angle = 2 * np.pi * n / (count if periodic else count - 1)
        values = sum(a * np.cos(k * angle) for k, a in enumerate(terms))
        return np.asarray(values).astype(dtype.numpy)


def _decompose_window(terms: tuple[float, ...]) -> Callable[[Builder, Op], list[Value]]:
    def decompose(b: Builder, op: Op) -> list[Value]:
        size = op.operands[0]
        assert size is not None
        if size.dtype is None:
            raise ValueError("the element type of size is unknown")
        if size.rank != 0:
            raise ValueError("size is not known to be a scalar")
        zero, one = (b.const(np.array(i), size.dtype) for i in (0, 1))
        steps = b.cast(b.range(zero, size, one), to=dtypes.F64)
        period = b.cast(size if op.attr("periodic") else b.sub(size, one), to=dtypes.F64)
        angle = b.div(b.mul(steps, 2 * np.pi), period)
        total = None
        for k, a in enumerate(terms):
            wave = b.mul(b.cos(b.mul(angle, float(k))), a)
            total = wave if total is None else b.add(total, wave)
        return [b.cast(total, to=op.attr("output_datatype"))]

    return decompose


HANN = (0.5, -0.5)
HAMMING = (25 / 46, -21 / 46)
BLACKMAN = (0.42, -0.5, 0.08)


@op("hann_window(size)", infer=_infer_window, traits="composite", decompose=_decompose_window(HANN))
def hann_window(
    size: Array, *, output_datatype: DTypeAttr = dtypes.F32, periodic: Bool = True
) -> Array:
    """Hann window, ``sin(pi n / N)**2`` (ONNX HannWindow-17)."""
    return _cosine_sum(size, periodic, output_datatype, HANN)


@op(
    "hamming_window(size)",
    infer=_infer_window,
    traits="composite",
    decompose=_decompose_window(HAMMING),
)
def hamming_window(
    size: Array, *, output_datatype: DTypeAttr = dtypes.F32, periodic: Bool = True
) -> Array:
    """Hamming window with alpha 25/46 (ONNX HammingWindow-17)."""
    return _cosine_sum(size, periodic, output_datatype, HAMMING)


@op(
    "blackman_window(size)",
    infer=_infer_window,
    traits="composite",
    decompose=_decompose_window(BLACKMAN),
)
def blackman_window(
    size: Array, *, output_datatype: DTypeAttr = dtypes.F32, periodic: Bool = True
) -> Array:
    """Blackman window with alpha 0.16 (ONNX BlackmanWindow-17)."""
    return _cosine_sum(size, periodic, output_datatype, BLACKMAN)


def _infer_mel(ctx: InferContext) -> TensorType:
    shape = (_half(_one(ctx, "dft_length")), _one(ctx, "num_mel_bins"))
    return TensorType(ctx.attrs["output_datatype"], shape)


@op(
    "mel_weight_matrix(num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz)",
    infer=_infer_mel,
)
def mel_weight_matrix(
    num_mel_bins: Array,
    dft_length: Array,
    sample_rate: Array,
    lower_edge_hertz: Array,
    upper_edge_hertz: Array,
    *,
    output_datatype: DTypeAttr = dtypes.F32,
) -> Array:
    """Triangular mel filters (dft_length // 2 + 1, num_mel_bins) (ONNX MelWeightMatrix-17)."""
    bins, length = scalar(num_mel_bins, "num_mel_bins"), scalar(dft_length, "dft_length")
    rate = scalar(sample_rate, "sample_rate")
    low, high = (
        2595 * np.log10(1 + float(np.asarray(edge).reshape(-1)[0]) / 700)
        for edge in (lower_edge_hertz, upper_edge_hertz)
    )
    mel = low + np.arange(bins + 2) * ((high - low) / (bins + 2))
    edges = np.floor((length + 1) * (700 * (10 ** (mel / 2595) - 1)) / rate).astype(np.int64)
    rows = length // 2 + 1
    if bins and not (edges[0] >= 0 and edges[-1] <= rows and edges[-2] < rows):
        raise ValueError("the mel range exceeds the spectrogram's bins")
    result = np.zeros((rows, bins))
    for i, (left, center, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = np.arange(left, center + 1), np.arange(center, right)
        if left == center:
            result[center, i] = 1
        else:
            result[rising, i] = (rising - left) / (center - left)
        if right > center:
            result[falling, i] = (right - falling) / (right - center)
    return result.astype(output_datatype.numpy)
