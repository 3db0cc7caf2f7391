"""The transforms of Winograd's convolution with windows of 3 by 3: ``A'[(G g G') * (B' d B)]A``.

Those of F(4x4, 3x3) enlarge the rounding errors of the products, by as little as any points allow:
0, 21/32, -21/32, 49/32, -49/32 and infinity are within a percent of the best ones and exact in f32
with all that is made of them (1, -1, 2, -2 have 2.3 times their error). Sums over channels are
therefore shorter than those of direct convolutions. What is left is the error of a direct sum at
inputs whose neighbours are alike, and two to three times that, or five at sparse ones, where they
are independent. F(2x2, 3x3) has the points 0, 1, -1 and infinity, and the error of a direct sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.codegen.emitter import Emitter, Val

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array

P, Q = 21 / 32, 49 / 32
"""The points of F(4x4, 3x3), all exact in f32 with the products below."""

_PP, _QQ, _SUM, _PRODUCT = P * P, Q * Q, P * P + Q * Q, P * P * Q * Q


@dataclass(frozen=True)
class Form:
    """One of the two forms.

    Attributes:
        tile: outputs of a tile along an axis: 4 or 2.
    """

    tile: int

    @property
    def patch(self) -> int:
        """Inputs of a tile along an axis."""
        return self.tile + 2

    @property
    def positions(self) -> int:
        """Products of a tile."""
        return self.patch**2

    def weights(self) -> Array:
        """Return ``G``: the values of a polynomial with 3 coefficients at the points, scaled."""
        if self.tile == 2:
            return np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
        p = 1 / (2 * _PP * (_PP - _QQ))
        q = 1 / (2 * _QQ * (_QQ - _PP))
        return np.array(
            [
                [1 / _PRODUCT, 0, 0],
                [p, p * P, p * _PP],
                [p, -p * P, p * _PP],
                [q, q * Q, q * _QQ],
                [q, -q * Q, q * _QQ],
                [0, 0, 1],
            ]
        )

    def inputs(self, e: Emitter, d: Sequence[Val]) -> list[Val]:
        """Return ``B' d`` of a patch's vectors along an axis."""
        if self.tile == 2:
            b = e.b
            return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[3], d[1])]
        return _inputs_of_four(e, d)

    def outputs(self, e: Emitter, m: Sequence[Val]) -> list[Val]:
        """Return ``A' m`` of products along an axis."""
        if self.tile == 2:
            b = e.b
            return [b.fadd(m[0], b.fadd(m[1], m[2])), b.fadd(m[3], b.fsub(m[1], m[2]))]
        return _outputs_of_four(e, m)


def _inputs_of_four(e: Emitter, d: Sequence[Val]) -> list[Val]:
    """Return ``B' d`` of six vectors."""

    def scaled(factor: float, x: Val, y: Val) -> Val:
        return e.fma(e.const(factor, x.type), x, y)

    found = [scaled(-_SUM, d[2], scaled(_PRODUCT, d[0], d[4]))]
    for point, other in ((P, _QQ), (Q, _PP)):
        even, odd = scaled(-other, d[2], d[4]), scaled(-other, d[1], d[3])
        found += [scaled(point, odd, even), scaled(-point, odd, even)]
    return [*found, scaled(-_SUM, d[3], scaled(_PRODUCT, d[1], d[5]))]


def _outputs_of_four(e: Emitter, m: Sequence[Val]) -> list[Val]:
    """Return ``A' m`` of six vectors."""
    b = e.b

    def weighed(p: float, x: Val, q: float, y: Val) -> Val:
        return e.fma(e.const(p, x.type), x, b.fmul(e.const(q, y.type), y))

    even = [b.fadd(m[1], m[2]), b.fadd(m[3], m[4])]
    odd = [b.fsub(m[1], m[2]), b.fsub(m[3], m[4])]
    return [
        b.fadd(m[0], b.fadd(*even)),
        weighed(P, odd[0], Q, odd[1]),
        weighed(_PP, even[0], _QQ, even[1]),
        b.fadd(m[5], weighed(P * _PP, odd[0], Q * _QQ, odd[1])),
    ]
