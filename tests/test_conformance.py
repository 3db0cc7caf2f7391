"""ONNX's own backend tests: an even sample in every run, all of them when marked slow."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from lepton_ir.tools import conformance

EXPECTED = Path(__file__).parent / "data" / "onnx_backend_expected.txt"
SAMPLE = 13
"""Every 13th case: 157 of 2,033."""


@pytest.fixture(scope="module")
def cases() -> list[conformance.Case]:
    return conformance.load_cases()


@pytest.fixture(scope="module")
def runners() -> dict[str, str]:
    return conformance.load_expected(EXPECTED)


def failures(results: list[conformance.Result], *accepted: str) -> str:
    bad = [r for r in results if r.verdict not in {"ok", *accepted}]
    return "\n".join(f"{r.verdict} {r.name}: {r.reason}" for r in bad)


def test_the_list_covers_the_cases_of_the_installed_onnx(cases, runners):
    assert {case.name for case in cases} == set(runners)
    assert len(runners) == 2033
    assert sum(runner != "-" for runner in runners.values()) == 2015


def test_a_sample_of_the_sources_gives_the_expected_outputs(cases, runners):
    results = conformance.measure("source", cases[::SAMPLE], runners)
    assert not failures(results)


@pytest.mark.parametrize("passes", ["O1", "O2"])
def test_a_sample_keeps_its_outputs_through_the_pipelines(cases, runners, passes):
    results = conformance.measure("o2", cases[::SAMPLE], runners, passes=passes)
    assert not failures(results)


def test_a_sample_round_trips(cases, runners):
    results = conformance.measure("roundtrip", cases[::SAMPLE], runners)
    assert not failures(results)


def test_a_sample_passes_in_the_reference_interpreter(cases, runners):
    results = conformance.measure("interp", cases[::SAMPLE], runners)
    assert not failures(results, "unsupported")


@pytest.mark.parametrize("mode", ["numba", "numba-generic"])
def test_a_sample_passes_in_the_numba_backend(cases, runners, mode):
    results = conformance.measure(mode, cases[::SAMPLE], runners)
    assert not failures(results, "unsupported")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["numba", "numba-generic"])
def test_all_that_have_a_meaning_pass_in_the_numba_backend(cases, runners, mode):
    results = conformance.measure(mode, cases, runners)
    assert not failures(results, "unsupported")
    assert sum(result.verdict == "ok" for result in results) >= 1951


def test_a_sample_runs_as_tflite_or_is_refused(cases, runners):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    results = conformance.measure("tflite", cases[::SAMPLE], runners)
    assert not failures(results, "unsupported", "refused")


@pytest.mark.slow
def test_all_that_tflite_can_express_run_in_litert(cases, runners):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    results = conformance.measure("tflite", cases, runners)
    assert not failures(results, "unsupported", "refused")
    assert sum(result.verdict == "ok" for result in results) >= 1440


@pytest.mark.slow
def test_all_keep_their_outputs_through_o2(cases, runners):
    results = conformance.measure("o2", cases, runners)
    assert not failures(results)
    assert len(results) == 2015


@pytest.mark.slow
def test_all_round_trip(cases, runners):
    assert not failures(conformance.measure("roundtrip", cases, runners))


@pytest.mark.slow
def test_the_reference_interpreter_passes_all_that_have_a_meaning(cases, runners):
    results = conformance.measure("interp", cases, runners)
    assert not failures(results, "unsupported")
    assert sum(result.verdict == "ok" for result in results) >= 1800
