"""Malformed and hostile TFLite files: cut, flipped, and well-formed with contents that lie."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bad_input.case import Case
from lepton_ir.formats.tflite.node import Node
from tests.tflite_models import Array, Maker, T, const, one_operator, variable

GROUP = "tflite"
TRUNCATIONS = 16
FLIPS = 24
BIG = 2**31 - 1

Build = Callable[[], bytes]


def _case(name: str, build: Build, *says: str, expect: Any = "refuse", **how: Any) -> Case:
    return Case(
        GROUP,
        name,
        expect,
        lambda _: build(),
        filename="model.tflite",
        says=says,
        judge="none",
        **how,
    )


def _net() -> bytes:
    """A convolution, a pool and a product: the base of truncation and of bit flips."""
    rng = np.random.default_rng(7)
    m = Maker()
    tensors = [
        T((1, 6, 6, 2)),
        const(rng.standard_normal((4, 3, 3, 2))),
        const(rng.standard_normal(4)),
        T((1, 6, 6, 4)),
        T((1, 3, 3, 4)),
        const(rng.integers(-127, 128, (5, 36)), "int8", scale=0.1),
        T((1, 5)),
    ]
    pool = {"stride_h": 2, "stride_w": 2, "filter_height": 2, "filter_width": 2}
    operators = [
        m.operator("CONV_2D", [0, 1, 2], [3], stride_h=1, stride_w=1),
        m.operator("MAX_POOL_2D", [3], [4], **pool),
        m.operator("FULLY_CONNECTED", [4, 5, -1], [6]),
    ]
    m.graph(tensors, [0], [6], operators)
    return m.model()


def damaged() -> Iterator[Case]:
    """A sound model, cut and with flipped bits."""
    for part in range(TRUNCATIONS):
        yield _case(
            f"truncated-{part:02d}", lambda p=part: _net()[: len(_net()) * p // TRUNCATIONS]
        )

    def flipped(seed: int) -> bytes:
        rng, data = random.Random(seed), bytearray(_net())
        for _ in range(1 + seed % 5):
            data[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    for seed in range(FLIPS):
        yield _case(f"flipped-{seed:02d}", lambda s=seed: flipped(s), expect="either")
    yield _case("identifier-alone", lambda: b"\x08\x00\x00\x00TFL3")
    yield _case("other-flatbuffer", lambda: _net()[:4] + b"TFL2" + _net()[8:])


# -- operators whose parts do not fit --------------------------------------------------------------


def _ones(*shape: int) -> T:
    return const(np.ones(shape))


def _i(*values: int) -> T:
    return const(values, "int32")


def _operator(
    name: str, operands: list[T | None], shape: tuple[int, ...] = (2, 3), **o: Any
) -> Build:
    return lambda: one_operator(name, operands, [T(shape)], **o)


_X = T((2, 3))
_IMAGE = T((1, 5, 5, 2))
_POOL = {"stride_h": 2, "stride_w": 2, "filter_height": 2, "filter_width": 2}

WRONG: dict[str, tuple[Build, tuple[str, ...]]] = {
    "conv-channels": (
        _operator("CONV_2D", [_IMAGE, _ones(4, 3, 3, 3)], stride_h=1, stride_w=1),
        (),
    ),
    "conv-bias": (
        _operator("CONV_2D", [_IMAGE, _ones(4, 3, 3, 2), _ones(5)], stride_h=1, stride_w=1),
        ("CONV_2D", "bias|b"),
    ),
    "conv-rank": (_operator("CONV_2D", [_X, _ones(4, 3, 3, 2)], stride_h=1, stride_w=1), ()),
    "conv-window-too-large": (
        _operator("CONV_2D", [_IMAGE, _ones(4, 9, 9, 2)], padding=1, stride_h=1, stride_w=1),
        ("CONV_2D",),
    ),
    "dense-columns": (
        _operator("FULLY_CONNECTED", [_X, _ones(4, 5)], keep_num_dims=True),
        ("FULLY_CONNECTED",),
    ),
    "concat-axis": (_operator("CONCATENATION", [_X, _X], axis=7), ("CONCATENATION", "axis")),
    "concat-shapes": (_operator("CONCATENATION", [_X, T((3, 3))], axis=1), ("CONCATENATION",)),
    "add-shapes": (_operator("ADD", [_X, T((4, 5))]), ("ADD",)),
    "reshape-count": (_operator("RESHAPE", [_X, _i(5, 5)]), ("RESHAPE",)),
    "reshape-two-rests": (_operator("RESHAPE", [_X, _i(-1, -1)]), ("RESHAPE",)),
    "transpose-twice": (_operator("TRANSPOSE", [_X, _i(0, 0)]), ("TRANSPOSE",)),
    "transpose-rank": (_operator("TRANSPOSE", [_X, _i(0, 1, 2)]), ("TRANSPOSE",)),
    "squeeze-dim": (_operator("SQUEEZE", [_X], squeeze_dims=[1]), ("SQUEEZE",)),
    "expand-dims-axis": (_operator("EXPAND_DIMS", [_X, _i(9)]), ("EXPAND_DIMS",)),
    "reduce-axis": (_operator("MEAN", [_X, _i(5)]), ("MEAN",)),
    "arg-max-axis": (_operator("ARG_MAX", [_X, _i(4)]), ("ARG_MAX",)),
    "arg-max-no-axis": (_operator("ARG_MAX", [_X, const([], "int32")]), ("ARG_MAX",)),
    "gather-axis": (_operator("GATHER", [_X, _i(0)], axis=3), ("GATHER",)),
    "gather-nd-depth": (_operator("GATHER_ND", [_X, const([[0, 0, 0]], "int32")]), ("GATHER_ND",)),
    "pack-shapes": (_operator("PACK", [_X, T((3, 3))]), ("PACK",)),
    "pack-axis": (_operator("PACK", [_X, _X], axis=5), ("PACK",)),
    "unpack-count": (_operator("UNPACK", [_X], axis=0), ("UNPACK",)),
    "split-no-axis": (_operator("SPLIT", [const([], "int32"), _X]), ("SPLIT",)),
    "split-v-sizes": (_operator("SPLIT_V", [_X, _i(9), _i(0)]), ("SPLIT_V",)),
    "pad-rank": (_operator("PAD", [_X, const([[1, 1]], "int32")]), ("PAD",)),
    "mirror-pad-rank": (_operator("MIRROR_PAD", [_X, const([[1, 1]] * 3, "int32")], mode=1), ()),
    "slice-rank": (_operator("SLICE", [_X, _i(0), _i(1)]), ("SLICE",)),
    "strided-slice-lengths": (
        _operator("STRIDED_SLICE", [_X, _i(0), _i(1), _i(1, 1)]),
        ("STRIDED_SLICE",),
    ),
    "strided-slice-too-many": (
        _operator("STRIDED_SLICE", [_X, _i(0, 0, 0), _i(1, 1, 1), _i(1, 1, 1)]),
        ("STRIDED_SLICE",),
    ),
    "tile-rank": (_operator("TILE", [_X, _i(1)]), ("TILE",)),
    "depth-to-space-block": (
        _operator("DEPTH_TO_SPACE", [_IMAGE], block_size=0),
        ("DEPTH_TO_SPACE",),
    ),
    "space-to-depth-block": (
        _operator("SPACE_TO_DEPTH", [_IMAGE], block_size=3),
        ("SPACE_TO_DEPTH",),
    ),
    "space-to-batch-block": (
        _operator("SPACE_TO_BATCH_ND", [_IMAGE, _i(0, 2), const([[0, 0]] * 2, "int32")]),
        ("SPACE_TO_BATCH_ND",),
    ),
    "batch-to-space-batch": (
        _operator("BATCH_TO_SPACE_ND", [_IMAGE, _i(2, 2), const([[0, 0]] * 2, "int32")]),
        ("BATCH_TO_SPACE_ND",),
    ),
    "batch-matmul": (_operator("BATCH_MATMUL", [_X, T((4, 5))]), ("BATCH_MATMUL",)),
    "one-hot-axis": (
        _operator("ONE_HOT", [T((2,), "int32"), _i(3), _ones(), _ones()], axis=5),
        ("ONE_HOT",),
    ),
    "top-k": (_operator("TOPK_V2", [_X, _i(9)]), ("TOPK_V2",)),
    "lstm-weights": (
        _operator(
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            [
                *(T((1, 2, 3)), *[_ones(4, 9)] * 4, *[_ones(4, 4)] * 4, *[None] * 9),
                *(variable((1, 4)), variable((1, 4))),
            ],
            (1, 2, 4),
            fused_activation_function=4,
        ),
        (),
    ),
    "resize-sizes": (_operator("RESIZE_BILINEAR", [_IMAGE, _i(4)]), ("RESIZE_BILINEAR",)),
    "undefined-operand": (
        lambda: _undefined(),
        ("nothing makes it",),
    ),
    "resource-input": (
        _operator("READ_VARIABLE", [T((), "int32", kind="RESOURCE")]),
        ("resource",),
    ),
    "texts-offsets": (
        lambda: _with_buffer(b"\x01\0\0\0\x0c\0\0\0\xff\0\0\0", (1,), "STRING"),
        (),
    ),
    "texts-count": (lambda: _with_buffer(b"\xff\xff\xff\x7f\0\0\0\0", (1,), "STRING"), ()),
}
"""Models of one operator that cannot run, and what the refusal says of it."""


def _undefined() -> bytes:
    m = Maker()
    x = T((2, 3))
    m.graph([x, x, x], [0], [2], [m.operator("ADD", [0, 1], [2])])
    return m.model()


def _with_buffer(data: bytes, shape: tuple[int, ...], kind: str) -> bytes:
    m = Maker()
    tensor = T(shape, "uint8", np.frombuffer(data, np.uint8), kind=kind)
    m.graph([tensor, T(())], [], [0], [])
    return m.model()


# -- quantization and sparsity ---------------------------------------------------------------------


def _quantized(**values: Any) -> Build:
    def build() -> bytes:
        m = Maker()
        x = T((2, 3), "int8", extra={"quantization": Node("QuantizationParameters", **values)})
        m.graph([x, T((2, 3))], [0], [1], [m.operator("DEQUANTIZE", [0], [1])])
        return m.model()

    return build


def _sparse(
    data: Array, shape: tuple[int, ...], order: list[int], levels: list[Node], **more: Any
) -> Build:
    def build() -> bytes:
        m = Maker()
        sparsity = Node("SparsityParameters", traversal_order=order, dim_metadata=levels, **more)
        x = T(shape, "float32", data, extra={"sparsity": sparsity})
        m.graph([x, T(shape), T(shape)], [1], [2], [m.operator("ADD", [0, 1], [2])])
        return m.model()

    return build


def _dense(size: int) -> Node:
    return Node("DimensionMetadata", dense_size=size)


def _csr(segments: list[int], indices: list[int]) -> Node:
    vectors = [Node("Int32Vector", values=np.asarray(v, np.int32)) for v in (segments, indices)]
    return Node("DimensionMetadata", format=1, array_segments=vectors[0], array_indices=vectors[1])


def _values(count: int) -> Array:
    return np.ones(count, np.float32)


LIES: dict[str, tuple[Build, tuple[str, ...]]] = {
    "scales-and-zero-points": (_quantized(scale=[1.0], zero_point=[1, 2, 3]), ("3 zero points",)),
    "scales-of-an-axis": (_quantized(scale=[1.0] * 7, quantized_dimension=1), ("7 scales",)),
    "quantized-axis": (_quantized(scale=[1.0] * 2, quantized_dimension=5), ("dimension is 5",)),
    "scale-nan": (_quantized(scale=[float("nan")], zero_point=[0]), ("scale",)),
    "scale-negative": (_quantized(scale=[-1.0], zero_point=[0]), ("scale",)),
    "scale-infinite": (_quantized(scale=[float("inf")], zero_point=[0]), ("scale",)),
    "zero-point-range": (_quantized(scale=[1.0], zero_point=[1000]), ("zero point",)),
    "sparse-segments-end": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(2), _csr([0, 2, 9], [0, 1, 2])]),
        ("segments",),
    ),
    "sparse-segments-fall": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(2), _csr([0, 3, 1], [0, 1, 2])]),
        ("segments",),
    ),
    "sparse-segments-count": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(2), _csr([0, 3], [0, 1, 2])]),
        ("segments",),
    ),
    "sparse-index": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(2), _csr([0, 1, 3], [0, 1, 99])]),
        ("index",),
    ),
    "sparse-index-negative": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(2), _csr([0, 1, 3], [0, -1, 2])]),
        ("index",),
    ),
    "sparse-twice": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(2), _csr([0, 1, 3], [0, 1, 1])]),
        ("one place",),
    ),
    "sparse-dense-size": (
        _sparse(_values(3), (2, 4), [0, 1], [_dense(5), _csr([0, 1, 3], [0, 1, 2])]),
        ("dense level of 5",),
    ),
    "sparse-values": (
        _sparse(_values(9), (2, 4), [0, 1], [_dense(2), _csr([0, 1, 3], [0, 1, 2])]),
        ("values",),
    ),
    "sparse-bomb": (
        _sparse(_values(1), (30000, 30000), [0, 1], [_dense(30000), _csr([0] * 30000 + [1], [0])]),
        ("sparse tensor of shape",),
    ),
    "sparse-block-size": (
        _sparse(
            *(_values(4), (2, 4), [0, 1, 2], [_dense(2), _csr([0, 1, 1], [0]), _dense(3)]),
            block_map=[1],
        ),
        ("blocks",),
    ),
    "sparse-block-zero": (
        _sparse(
            *(_values(4), (2, 4), [0, 1, 2], [_dense(2), _csr([0, 1, 1], [0]), _dense(0)]),
            block_map=[1],
        ),
        ("block",),
    ),
}
"""Quantization and sparsity that contradict their tensor."""


# -- subgraphs -------------------------------------------------------------------------------------


def _branches(depth: int) -> bytes:
    """Every subgraph runs the next one in both branches: 2 to the power of ``depth``."""
    m = Maker()
    x, c = T((2,)), T((), "bool")
    for i in range(depth):
        name = {"then_subgraph_index": i + 1, "else_subgraph_index": i + 1}
        m.graph([c, x, x], [0, 1], [2], [m.operator("IF", [0, 0, 1], [2], **name)], f"g{i}")
    m.graph([c, x, x], [0, 1], [2], [m.operator("ADD", [1, 1], [2])], "last")
    return m.model()


def _composites(depth: int, width: int) -> bytes:
    m = Maker()
    x = T((2,))
    for i in range(depth):
        operators = [
            m.operator(
                "STABLEHLO_COMPOSITE",
                [j],
                [j + 1],
                name="c",
                decomposition_subgraph_index=i + 1,
                composite_attributes=b"\0",
            )
            for j in range(width)
        ]
        m.graph([x] * (width + 1), [0], [width], operators, f"g{i}")
    m.graph([x, x], [0], [1], [m.operator("ADD", [0, 0], [1])], "last")
    return m.model()


def _loop(cond: Callable[[Maker], None], body: Callable[[Maker], None]) -> bytes:
    m = Maker()
    x = T((2,))
    how = {"cond_subgraph_index": 1, "body_subgraph_index": 2}
    m.graph([x, x], [0], [1], [m.operator("WHILE", [0], [1], **how)])
    cond(m)
    body(m)
    return m.model()


def _plain(m: Maker) -> None:
    x = T((2,))
    m.graph([x, x], [0], [1], [m.operator("ADD", [0, 0], [1])])


def _nothing(m: Maker) -> None:
    m.graph([T((2,))], [0], [], [])


def _two_inputs(m: Maker) -> None:
    x = T((2,))
    m.graph([x, x], [0, 1], [0], [])


def _truth(m: Maker) -> None:
    m.graph([T((2,)), const(True, "bool")], [0], [1], [])


def _variables(inside: bool) -> bytes:
    """A variable that a loop reads, or one whose first contents are an input."""
    m = Maker()
    x, r = T((2,)), T((), "int32", kind="RESOURCE")
    names = {"shared_name": "v"}
    if not inside:
        m.graph([x], [0], [0], [m.operator("CALL_ONCE", [], [], init_subgraph_index=1)])
        m.graph([r, x], [1], [], [
            m.operator("VAR_HANDLE", [], [0], **names), m.operator("ASSIGN_VARIABLE", [0, 1], []),
        ])  # fmt: skip
        return m.model()
    how = {"cond_subgraph_index": 1, "body_subgraph_index": 2}
    m.graph([x, x], [0], [1], [m.operator("WHILE", [0], [1], **how)])
    _truth(m)
    m.graph([x, r, x, x], [0], [3], [
        m.operator("VAR_HANDLE", [], [1], **names),
        m.operator("READ_VARIABLE", [1], [2]), m.operator("ADD", [0, 2], [3]),
    ])  # fmt: skip
    return m.model()


def _inputs_twice() -> bytes:
    m = Maker()
    x = T((2,))
    m.graph([x, x], [0, 0], [1], [m.operator("ADD", [0, 0], [1])])
    return m.model()


SUBGRAPHS: dict[str, tuple[Build, tuple[str, ...]]] = {
    "branches-explode": (lambda: _branches(60), ("deep|operators in all",)),
    "branches-explode-flat": (lambda: _composites(12, 9), ("operators in all",)),
    "composites-deep": (lambda: _composites(40, 1), ("deep",)),
    "loop-without-condition": (lambda: _loop(_nothing, _plain), ("WHILE",)),
    "loop-condition-of-floats": (lambda: _loop(_plain, _plain), ("WHILE",)),
    "loop-body-inputs": (lambda: _loop(_truth, _two_inputs), ("WHILE", "2 inputs")),
    "loop-body-outputs": (lambda: _loop(_truth, _nothing), ("WHILE",)),
    "variable-inside-a-loop": (lambda: _variables(inside=True), ("variable",)),
    "once-with-inputs": (lambda: _variables(inside=False), ("inputs",)),
    "input-twice": (_inputs_twice, ("twice",)),
}
"""Subgraphs that run each other as they must not."""


# -- sizes -----------------------------------------------------------------------------------------


def _many_operators(count: int) -> bytes:
    m = Maker()
    x = T((2,))
    m.graph(
        [x] * (count + 1), [0], [count], [m.operator("ADD", [i, i], [i + 1]) for i in range(count)]
    )
    return m.model()


def _named(name: str) -> bytes:
    m = Maker()
    x = T((2,))
    m.graph([T((2,), extra={"name": name}), x], [0], [1], [m.operator("ADD", [0, 0], [1])])
    return m.model()


SIZES: dict[str, Build] = {
    "input-of-huge-shape": _operator("ADD", [T((BIG, BIG, BIG)), _ones(1)], (BIG, BIG, BIG)),
    "fill": _operator("FILL", [_i(BIG, BIG), _ones()]),
    "broadcast": _operator("BROADCAST_TO", [_ones(1), _i(BIG, 100)]),
    "tile": _operator("TILE", [_ones(2, 3), _i(100000, 100000)]),
    "range": _operator("RANGE", [const(0, "int32"), const(BIG, "int32"), const(1, "int32")]),
    "one-hot": _operator("ONE_HOT", [_i(1, 2), const(BIG, "int32"), _ones(), _ones()]),
    "pad": _operator("PAD", [_ones(2, 3), const([[0, BIG], [0, BIG]], "int32")]),
    "mirror-pad": _operator("MIRROR_PAD", [_X, const([[0, BIG], [0, 3]], "int32")], mode=1),
    "resize": _operator("RESIZE_BILINEAR", [_IMAGE, _i(BIG, BIG)]),
    "matrix-diag": _operator("MATRIX_DIAG", [T((3, 10_000_000))]),
    "matrix-set-diag": _operator("MATRIX_SET_DIAG", [T((2_000_000, 3_000_000)), T((2_000_000,))]),
    "update-slice": _operator(
        "DYNAMIC_UPDATE_SLICE", [T((100_000, 100_000)), T((90_000, 90_000)), _i(0, 0)]
    ),
    "zeros-like": _operator("ZEROS_LIKE", [T((BIG, BIG))]),
    "transpose-conv": _operator(
        "TRANSPOSE_CONV", [_i(1, BIG, BIG, 4), _ones(4, 3, 3, 2), _IMAGE], stride_h=2, stride_w=2
    ),
    "strides": _operator(
        "CONV_2D", [_IMAGE, _ones(4, 3, 3, 2)], stride_h=BIG, stride_w=BIG, dilation_h_factor=BIG
    ),
    "stride-zero": _operator("CONV_2D", [_IMAGE, _ones(4, 3, 3, 2)]),
    "pool-zero": _operator("MAX_POOL_2D", [_IMAGE]),
    "pool-window": _operator("MAX_POOL_2D", [_IMAGE], **{**_POOL, "filter_height": BIG}),
    "radius": _operator("LOCAL_RESPONSE_NORMALIZATION", [_IMAGE], radius=BIG),
    "svdf-rank": _operator(
        "SVDF", [T((2, 3)), _ones(4, 3), _ones(4, 5), None, variable((2, 20))], rank=0
    ),
    "broadcast-args": _operator("BROADCAST_ARGS", [T((BIG,), "int32"), T((2,), "int32")], (2,)),
    "boundaries": _operator("BUCKETIZE", [_X], boundaries=[float("nan")] * 10),
    "activation": _operator("ADD", [_X, _X], fused_activation_function=77),
    "padding": _operator("CONV_2D", [_IMAGE, _ones(4, 3, 3, 2)], padding=9, stride_h=1, stride_w=1),
    "quantized-sizes": _operator("RESHAPE", [_X, const([2, 3], "int64")]),
    "name-of-a-megabyte": lambda: _named("n" * 1_000_000),
    "name-with-controls": lambda: _named("a\x00\x1b[31m\n\t\udcffb"),
    "many-operators": lambda: _many_operators(3000),
}
"""Models that are large, or read as opaque operators, or fine: never a crash, never memory."""


def cases() -> Iterator[Case]:
    """Every case of this module."""
    yield from damaged()
    for name, (build, says) in (WRONG | LIES | SUBGRAPHS).items():
        yield _case(name, build, *says)
    for name, build in SIZES.items():
        yield _case(name, build, expect="either")
