"""Cases: recurrent kernels."""

from __future__ import annotations

from tests.tflite_cases import case, rand
from tests.tflite_models import T, const, variable

_I, _U = 3, 4


def _gates(*shape: int, seed: int, count: int = 4) -> list[T | None]:
    return [const(rand(*shape, seed=seed + i) * 0.5) for i in range(count)]


def _lstm(
    seed: int,
    *,
    cifg: bool = False,
    peephole: bool = False,
    projection: int = 0,
    norm: bool = False,
) -> tuple[list[T | None], list[T | None]]:
    """Return operands of a direction, and its scales of normalization."""
    units = projection or _U
    w, r = _gates(_U, _I, seed=seed), _gates(_U, units, seed=seed + 10)
    p = _gates(_U, seed=seed + 20, count=3) if peephole else [None] * 3
    b = _gates(_U, seed=seed + 30)
    if cifg:
        w[0] = r[0] = p[0] = b[0] = None
    proj = [const(rand(units, _U, seed=seed + 40)), const(rand(units, seed=seed + 41))]
    n: list[T | None] = _gates(_U, seed=seed + 50)
    if cifg:
        n[0] = None
    return [*w, *r, *p, *b, *(proj if projection else [None, None])], n if norm else []


for _label, _how, _options in (
    ("plain", {}, {}),
    ("clip", {}, {"cell_clip": 0.3}),
    ("major", {}, {"time_major": True}),
    ("peephole", {"peephole": True}, {}),
    ("cifg", {"cifg": True}, {}),
    ("projection", {"projection": 2}, {"proj_clip": 0.5}),
    ("norm", {"norm": True}, {}),
):
    _parts, _norms = _lstm(3, **_how)  # type: ignore[arg-type]
    _units = _how.get("projection", _U)
    _dims = (5, 2) if "time_major" in _options else (2, 5)
    case(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        [T((*_dims, _I)), *_parts, variable((2, _units)), variable((2, _U)), *_norms],
        [T((*_dims, _units))],
        label=_label,
        runs=3,
        fused_activation_function=4,
        **_options,
    )
_parts, _ = _lstm(3)
_more, _ = _lstm(80)
for _merge in (True, False):
    # LiteRT 2.3 reads memory that nothing wrote for all sequences of a batch but the first.
    case(
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        [T((1, 5, _I)), *_parts, *_more, *(variable((1, _U)) for _ in range(4)), *[None] * 9],
        [T((1, 5, 2 * _U))] if _merge else [T((1, 5, _U))] * 2,
        label="merged" if _merge else "apart",
        runs=2,
        fused_activation_function=4,
        merge_outputs=_merge,
        time_major=False,
    )
for _act in (1, 4):
    _cell = [const(rand(_U, _I)), const(rand(_U, _U, seed=1) * 0.5), const(rand(_U, seed=2))]
    case(
        "RNN",
        [T((2, _I)), *_cell, variable((2, _U))],
        [T((2, _U))],
        label=f"{_act}",
        runs=3,
        fused_activation_function=_act,
    )
    for _major in (False, True):
        case(
            "UNIDIRECTIONAL_SEQUENCE_RNN",
            [T((2, 5, _I)), *_cell, variable((5 if _major else 2, _U))],
            [T((2, 5, _U))],
            label=f"{_act}{_major:d}",
            runs=2,
            fused_activation_function=_act,
            time_major=_major,
        )
case(
    "BIDIRECTIONAL_SEQUENCE_RNN",
    [T((2, 5, _I)), *_cell, variable((2, _U)), *_cell, variable((2, _U)), *[None] * 3],
    [T((2, 5, 2 * _U))],
    runs=2,
    fused_activation_function=4,
    merge_outputs=True,
)
case(
    "SVDF",
    [T((2, _I)), const(rand(6, _I)), const(rand(6, 5)), const(rand(3)), variable((2, 30))],
    [T((2, 3))],
    runs=4,
    rank=2,
    fused_activation_function=1,
)
case(
    "SVDF",
    [T((2, _I)), const(rand(4, _I)), const(rand(4, 5)), None, variable((2, 20))],
    [T((2, 4))],
    label="rank1",
    runs=3,
    rank=1,
)
