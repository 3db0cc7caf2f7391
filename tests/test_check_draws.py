"""The sizes of symbolic dims with which the check tries a source."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lepton_ir.check import Checker
from lepton_ir.check_draws import groups, symbols


def _inputs(*shapes: tuple[object, ...]) -> list[tuple[str, str, list[object]]]:
    return [(f"x{i}", "float32", list(s)) for i, s in enumerate(shapes)]


def test_dims_without_a_name_are_called_after_their_place() -> None:
    assert symbols(_inputs(("N", 3, None), (4, "N", -1))) == ["N", "0.2", "1.2"]


def test_small_different_sizes_come_first_and_fixed_ones_stay() -> None:
    found = list(groups(["N", "M"], 2, {"M": 9}))
    assert found[0] == [{"N": 2, "M": 9}]
    assert {"N": 224, "M": 9} in found[-4]
    assert all(plan["M"] == 9 for group in found for plan in group)


def test_one_dim_is_tried_as_the_sum_of_two_others() -> None:
    plans = [p for g in groups(["b", "s", "total", "past"], 2, {}) for p in g]
    assert any(len(set(p.values())) > 1 and p["total"] == p["s"] + p["past"] for p in plans)


def test_a_name_that_is_an_expression_follows_the_others() -> None:
    for group in groups(["past", "past + 1", "N"], 2, {}):
        assert all(p["past + 1"] == p["past"] + 1 for p in group)


@pytest.mark.parametrize("name", ["a b", "x.1", "N + 1"])
def test_odd_names_are_symbols(name: str) -> None:
    assert [p[name] for p in next(groups([name], 2, {}))] == [2]


def test_a_model_without_symbols_has_one_plan() -> None:
    assert list(groups([], 2, {})) == [[{}]]


def test_a_cache_and_what_prolongs_it_can_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "cache.onnx"
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["past", "new"], ["all"], axis=1),
            helper.make_node("Add", ["all", "mask"], ["y"]),
        ],
        "g",
        [
            tensor("new", TensorProto.FLOAT, ["batch", "length"]),
            tensor("mask", TensorProto.FLOAT, ["batch", "total"]),
            tensor("past", TensorProto.FLOAT, ["batch", "before"]),
        ],
        [tensor("y", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    with Checker("reference") as checker:
        checker.start()
        checker.open(str(path))
        found = checker.compare(str(path))
    assert (found["status"], found["draws"]) == ("equal", 2), found
