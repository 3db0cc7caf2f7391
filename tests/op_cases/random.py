"""Sample calls of the random generators; ``expected`` gives the type only."""

from __future__ import annotations

import numpy as np

from lepton_ir import dtypes
from tests.op_cases import Case

X = np.full((2, 3), 0.5, np.float32)

CASES: dict[str, list[Case]] = {
    name: [
        Case((), {"shape": (2, 3)}, expected=(X,)),
        Case((), {"shape": (), "dtype": dtypes.F64}, expected=(np.array(0.5),)),
        Case((), {"shape": (0,), "seed": 1.0}, expected=(X[:0, 0],)),
    ]
    for name in ("random_normal", "random_uniform")
}
CASES |= {
    name: [
        Case((X,), expected=(X,)),
        Case((X,), {"dtype": dtypes.F16, "seed": 2.0}, expected=(X.astype(np.float16),)),
    ]
    for name in ("random_normal_like", "random_uniform_like", "bernoulli")
}
CASES["multinomial"] = [
    Case((X,), expected=(np.zeros((2, 1), np.int32),)),
    Case((X,), {"sample_size": 5, "dtype": dtypes.I64}, expected=(np.zeros((2, 5), np.int64),)),
]
