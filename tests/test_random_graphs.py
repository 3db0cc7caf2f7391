"""Random models: valid, deterministic, and equal before and after the pipelines."""

from __future__ import annotations

import onnx
import pytest

pytest.importorskip("onnxruntime")

from lepton_ir.tools import fuzz
from lepton_ir.tools.fuzz_reduce import reduce_model
from lepton_ir.tools.worker_pool import run_isolated

QUICK = range(60)
FULL = range(2000)


def failures(check, seeds) -> str:
    lines = []
    for outcome in run_isolated(check, seeds, jobs=2):
        finding = outcome.value
        if not isinstance(finding, fuzz.Finding):
            lines.append(f"seed {seeds[outcome.index]}: {outcome.status} {finding}")
        elif finding.verdict != "ok":
            lines.append(
                f"seed {finding.seed}: {finding.verdict} {finding.passes} {finding.reason}"
            )
    return "\n".join(lines)


def test_a_seed_always_gives_the_same_model():
    for seed in (0, 1, 2):
        first, second = fuzz.random_model(seed), fuzz.random_model(seed)
        assert first.SerializeToString() == second.SerializeToString()


def test_models_are_valid_and_have_one_answer():
    assert not failures(fuzz.check_source, QUICK)


def test_models_vary():
    models = [fuzz.random_model(seed) for seed in QUICK]
    ops = {node.op_type for model in models for node in model.graph.node}
    assert ops >= {
        "If",
        "Loop",
        "Conv",
        "MatMul",
        "Reshape",
        "Transpose",
        "Where",
        "QuantizeLinear",
    }
    assert len({model.opset_import[0].version for model in models}) >= 8
    assert any(0 in draw.values() for model in models for draw in fuzz.draws_of(model))


def test_a_wrong_result_is_found(monkeypatch):
    def break_it(model: onnx.ModelProto, passes: str) -> onnx.ModelProto:
        result = onnx.ModelProto.FromString(model.SerializeToString())
        for node in result.graph.node:
            if node.op_type == "Add":
                node.op_type = "Sub"
        return result

    monkeypatch.setattr(fuzz, "optimize", break_it)
    verdicts = {fuzz.check_seed(seed, ["O1"]).verdict for seed in QUICK}
    assert "wrong" in verdicts
    assert verdicts <= {"ok", "wrong"}


def test_pipelines_keep_the_outputs():
    assert not failures(fuzz.check_seed, QUICK)


@pytest.mark.slow
def test_pipelines_keep_the_outputs_of_all_seeds():
    assert not failures(fuzz.check_seed, FULL)


def test_a_failing_model_is_reduced_to_the_node_at_fault():
    model = next(
        model
        for model in map(fuzz.random_model, range(500))
        if sum(node.op_type == "Softmax" for node in model.graph.node) == 1
    )
    feeds = fuzz.random_feeds(model, 0, fuzz.draws_of(model)[0])

    def fails(candidate: onnx.ModelProto, given: dict) -> bool:
        fuzz.Session(candidate).run(given)
        return any(node.op_type == "Softmax" for node in candidate.graph.node)

    small, given = reduce_model(model, feeds, fails)
    kinds = [node.op_type for node in small.graph.node if node.op_type != "Constant"]
    assert kinds == ["Softmax"]
    assert fails(small, given)
