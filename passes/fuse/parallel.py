"""Matrix products that share their left side: one product, then a split."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import available, readable, sole_user
from lepton_ir.passes.fuse._weights import constant
from lepton_ir.rewrite import RewritePass, is_dead, rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_SEARCH = 48
_MOST = 16
_WEIGHT_LIMIT = 1 << 28


@dataclass(frozen=True)
class MergeParallel(RewritePass, name="merge_parallel"):
    """Merge matrix products of one input with constant weights (Q, K and V) where nodes go away.

    Left alone before a softmax over masked scores: there runtimes look for the separate products
    to fuse them into attention. To be run when everything else is fused.
    """

    needs = "shapes,fold,canonicalize,cse,fuse"
    clean_up = "dce"
    rule_modules: ClassVar[tuple[str, ...]] = ("lepton_ir.passes.fuse.parallel",)


@dataclass
class _Branch:
    """One product, its weight of [k, n], and the bias added right after it, if any."""

    product: Op
    weight: Value
    columns: int
    end: Op
    bias: Value | None


def _branch(product: Op) -> _Branch | None:
    x, w = product.operands[:2]
    if (
        is_dead(product)
        or product.has_attr_refs
        or x is None
        or w is None
        or not readable(w)
        or not x.rank
    ):
        return None
    shape = w.shape
    if shape is None or len(shape) != 2 or x.rank < 2 or w.use_count != 1:
        return None
    rows, columns = shape
    if not isinstance(columns, int) or not isinstance(rows, int) or not rows * columns:
        return None
    found = _Branch(product, w, columns, product, None)
    users = product.result.users
    if sole_user(product.result) and users[0].name == "add" and users[0].block is product.block:
        add = users[0]
        other = add.operands[1] if add.operands[0] is product.result else add.operands[0]
        if other is not None and readable(other) and other.shape == (columns,):
            found.end, found.bias = add, other
    return None if is_dead(found.end) else found


def _siblings(root: Op) -> list[_Branch]:
    """Return the products of the operand of ``root``, the first of which is ``root``."""
    x = root.operands[0]
    if x is None or x.use_count > _SEARCH:
        return []
    products = [u for u in x.users if u.name == "matmul" and u.block is root.block]
    found = [b for u in products if u.operands[0] is x and (b := _branch(u)) is not None]
    if root.block is not None:
        root.block.ensure_order()
    found.sort(key=lambda b: b.product.order)
    dtypes = {b.weight.dtype for b in found}
    if not found or found[0].product is not root or len(found) > _MOST or len(dtypes) != 1:
        return []
    return found


def _saved(branches: list[_Branch]) -> int:
    biased = sum(b.bias is not None for b in branches)
    return len(branches) + biased - 2 - (biased > 0)


def _rows_of_attention(value: Value) -> bool:
    """Whether all that read ``value`` are attentions, which take separate rows faster."""
    return all(user.name in ("ms_multi_head_attention", "attention") for user in value.users)


def _masked_scores(value: Value) -> bool:
    """Whether ``value`` goes into a softmax through one product and then a mask.

    A mask is an addition or a choice behind the product of queries and keys.
    """
    queue = deque([(value, 0, False)])
    seen: set[Op] = set()
    while queue and len(seen) < _SEARCH:
        current, products, masked = queue.popleft()
        for user in current.users:
            if user.name in ("softmax", "ms_attention", "attention"):
                if masked:
                    return True
                continue
            if user in seen or len(user.results) != 1:
                continue
            seen.add(user)
            passed = products + (user.name in ("matmul", "gemm"))
            if passed <= 1:
                mask = bool(passed) and user.name in ("where", "add")
                queue.append((user.result, passed, masked or mask))
    return False


@rewrite("matmul")
def merge_parallel_matmuls(m: Match, rw: Rewriter) -> bool:
    """Products x @ a + p, x @ b + q, x @ c + r => split(x @ [a b c] + [p q r]).

    All but x are constants. Only where fewer nodes remain: three products, or two with biases. A
    branch without a bias gets zeros when others have one.
    """
    branches = _siblings(m.root)
    if len(branches) < 2 or _saved(branches) <= 0:
        return rw.fail("no products beside it that one could stand for")
    if sum(t.nbytes for b in branches if (t := const_tensor(b.weight))) > _WEIGHT_LIMIT:
        return rw.fail("the weights are too large to copy")
    if any(_masked_scores(b.end.result) for b in branches):
        return rw.fail("runtimes fuse masked attention from separate products")
    if all(_rows_of_attention(b.end.result) for b in branches):
        return rw.fail("attention takes the rows of separate products")
    if not available(rw, "split"):
        return rw.fail("the opset has no such Split")
    rw.also(*(b.product for b in branches), *(b.end for b in branches if b.bias is not None))
    dtype = branches[0].weight.dtype
    weights = [constant(b.weight) for b in branches]
    w = rw.const(np.concatenate(weights, axis=1), dtype)
    y = rw.matmul(m.root.operands[0], w)
    if any(b.bias is not None for b in branches):
        shift = [
            np.zeros(b.columns, weights[0].dtype) if b.bias is None else constant(b.bias)
            for b in branches
        ]
        y = rw.add(y, rw.const(np.concatenate(shift), dtype))
    sizes = rw.const(np.asarray([b.columns for b in branches], np.int64))
    parts = rw.build("split", y, sizes, results=len(branches), axis=-1)
    for branch, part in zip(branches, parts.results, strict=True):
        rw.replace(branch.end.result, part)
    return True
