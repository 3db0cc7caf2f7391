"""PyTorch's archives: one exported program per operator, with what torch computed.

``tests/oracle/torch_ops.py`` makes the cases; see there.
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ir import load, run_passes, save
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.frontends.torch import table
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from tests.oracle_cases import Cases, assert_same, feeds_of, run_as_onnx

CASES = Cases("torch_ops.tar.xz")
NETS = Path(os.environ.get("LEPTON_TORCH_NETS", "nowhere"))
_NEWER = ("cumprod",)
"""Operators of opsets that onnxruntime has no kernels for."""


def read(name: str, folder: Path) -> Module:
    return load(CASES.write(f"{name}.pt2", folder))


def names() -> list[str]:
    return [n.removesuffix(".pt2") for n in CASES.models()]


@pytest.mark.parametrize("name", names())
def test_meaning_is_torchs(name: str, tmp_path: Path) -> None:
    given, expected = CASES.given(f"{name}.pt2")
    module = read(name, tmp_path)
    assert_same(run_list(module, feeds_of(module, given)), expected)


@pytest.mark.parametrize("name", [n for n in names() if not n.startswith(_NEWER)])
def test_onnx_of_it_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    given, expected = CASES.given(f"{name}.pt2")
    module = read(name, tmp_path)
    feeds = feeds_of(module, given)
    if "16" in name or "f64" in name:
        pytest.skip("the CPU has no kernels of this type for all of it")
    assert_same(run_as_onnx(module, feeds, tmp_path), expected)


def test_every_row_has_a_name_of_pytorch() -> None:
    rows = table.load()
    assert len(rows) > 300
    assert all(key.split(".")[0] for key in rows)


# -- structure -------------------------------------------------------------------------------------


def test_recurrent_layers_stay_whole(tmp_path: Path) -> None:
    for name in ("lstm", "gru", "rnn"):
        assert [o.name for o in read(name, tmp_path).walk()].count(name) == 1


def test_sizes_stay_symbolic(tmp_path: Path) -> None:
    module = read("flatten", tmp_path)
    (value,) = module.main.outputs
    assert value is not None
    assert value.shape is not None
    assert str(value.shape[0]).startswith("s")
    assert value.shape[1] == 12


def test_written_buffers_are_results(tmp_path: Path) -> None:
    module = read("counter", tmp_path)
    assert module.main.output_names == ["add", "count.out"]
    assert [v.name for v in module.main.inputs] == ["x"]
    kept = load(tmp_path / "case.pt2", keep_overridable=True)
    assert [v.name for v in kept.main.inputs] == ["x", "count"]
    feeds = {"x": np.zeros(3, np.float32), "count": np.full(3, 5, np.float32)}
    np.testing.assert_array_equal(run_list(kept, feeds)[1], [6, 12, 12])


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    module = read("nn_plain", tmp_path)
    stored = [o.attrs["value"] for o in module.walk() if o.name == "const"]
    assert any(type(t).__name__ == "FileTensor" for t in stored)


def test_live_modules_need_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import lepton_ir

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(LeptonError, match="torch is not installed"):
        lepton_ir.from_torch(object())


# -- bad input -------------------------------------------------------------------------------------


def entries(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(CASES.files()[f"{name}.pt2"])) as archive:
        return {n: archive.read(n) for n in archive.namelist()}


def pack(files: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def edited(name: str, change: Any) -> bytes:
    """Return an archive with ``model.json`` changed."""
    files = entries(name)
    (key,) = [n for n in files if n.endswith("models/model.json")]
    program = json.loads(files[key])
    change(program)
    files[key] = json.dumps(program).encode()
    return pack(files)


def _config(name: str, change: Any) -> bytes:
    files = entries(name)
    (key,) = [n for n in files if n.endswith("model_weights_config.json")]
    config = json.loads(files[key])
    change(next(iter(config["config"].values())))
    files[key] = json.dumps(config).encode()
    return pack(files)


def _graph(program: Any) -> Any:
    return program["graph_module"]["graph"]


def _set(path: str, value: Any) -> Any:
    def change(node: Any) -> None:
        *keys, last = path.split("/")
        for key in keys:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[int(last) if isinstance(node, list) else last] = value

    return change


_N = "graph_module/graph"
_HUGE = [{"as_int": 1 << 40}, {"as_int": 1 << 40}]


def _nested(program: Any) -> None:
    graph = {"inputs": [], "outputs": [], "nodes": [], "tensor_values": {}}
    empty = {"as_graph": {"name": "e", "graph": dict(graph)}}
    for _ in range(60):
        arg = {"as_graph": {"name": "g", "graph": graph}}
        node = {"target": "torch.ops.higher_order.cond", "outputs": [], "metadata": {}}
        args = [{"as_bool": True}, arg, empty, {"as_tensors": []}]
        node["inputs"] = [{"name": "", "arg": a} for a in args]
        graph = {"inputs": [], "outputs": [], "nodes": [node], "tensor_values": {}}
    _graph(program)["nodes"] = graph["nodes"]


def bad_archives() -> Iterator[tuple[str, bytes]]:
    good = CASES.files()["nn_plain.pt2"]
    for cut in (0, 1, 30, 100, len(good) // 2, len(good) - 30):
        yield f"cut {cut}", good[:cut]
    for place in range(0, len(good), max(len(good) // 24, 1)):
        yield f"flipped {place}", good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
    yield "no json", pack({"a/models/model.json": b"\xff{"})
    yield "json list", pack({"a/models/model.json": b"[]"})
    yield "deep json", pack({"a/models/model.json": b"[" * 100000})
    yield "empty", pack({})
    yield "text", b"hello"
    yield "compressed", pack(entries("nn_plain"), zipfile.ZIP_DEFLATED)
    yield "pickle", pack({"a/data.pkl": b"cos\nsystem\n(S'true'\ntR.", "a/version": b"3"})
    yield "old", pack({"serialized_exported_program.json": b"{}"})
    yield "two models", pack({"a/models/model.json": b"{}", "b/models/model.json": b"{}"})
    yield "traversal", _config("nn_plain", _set("path_name", "../../../../etc/passwd"))
    yield "absolute", _config("nn_plain", _set("path_name", "/etc/passwd"))
    yield "pickled weight", _config("nn_plain", _set("use_pickle", True))
    yield "huge weight", _config("nn_plain", _set("tensor_meta/sizes", _HUGE))
    yield "negative size", _config("nn_plain", _set("tensor_meta/sizes/0/as_int", -3))
    yield "strides", _config("nn_plain", _set("tensor_meta/strides", []))
    yield "stride 0", _config("nn_plain", _set("tensor_meta/strides/0/as_int", 0))
    yield "offset", _config("nn_plain", _set("tensor_meta/storage_offset", {"as_int": 1 << 50}))
    yield "weight type", _config("nn_plain", _set("tensor_meta/dtype", 99))
    yield "complex", _config("nn_plain", _set("tensor_meta/dtype", 10))
    yield "sparse", _config("nn_plain", _set("tensor_meta/layout", 1))
    changes = {
        "version": _set("schema_version/major", 7),
        "no version": _set("schema_version", None),
        "unknown operator": _set(f"{_N}/nodes/0/target", "torch.ops.acme.boom.default"),
        "operator no text": _set(f"{_N}/nodes/0/target", 5),
        "python": _set(f"{_N}/nodes/0/target", "builtins.eval"),
        "nodes": _set(f"{_N}/nodes", {}),
        "node": _set(f"{_N}/nodes/0", 1),
        "inputs": _set(f"{_N}/nodes/0/inputs", None),
        "argument": _set(f"{_N}/nodes/0/inputs/0/arg", {"as_int": "x"}),
        "two kinds": _set(f"{_N}/nodes/0/inputs/0/arg", {"as_int": 1, "as_float": 2.0}),
        "custom object": _set(f"{_N}/nodes/0/inputs/0/arg", {"as_custom_obj": {"name": "x"}}),
        "undefined": _set(f"{_N}/nodes/0/inputs/0/arg/as_tensor/name", "nowhere"),
        "outputs": _set(f"{_N}/outputs", [{"as_tensor": {"name": "nowhere"}}]),
        "output count": _set(f"{_N}/outputs", []),
        "no types": _set(f"{_N}/tensor_values", {}),
        "rank": _set(f"{_N}/tensor_values/conv2d/sizes", []),
        "type": _set(f"{_N}/tensor_values/conv2d/dtype", 5),
        "symbol": _set(
            f"{_N}/tensor_values/input/sizes/0", {"as_expr": {"expr_str": "().__class__"}}
        ),
        "symbol call": _set(
            f"{_N}/tensor_values/input/sizes/0",
            {"as_expr": {"expr_str": "__import__('os').system('true')"}},
        ),
        "symbol power": _set(
            f"{_N}/tensor_values/input/sizes/0", {"as_expr": {"expr_str": "9" * 5000}}
        ),
        "nested": _nested,
        "spec": _set("graph_module/signature/input_specs/0", {"custom_obj": {}}),
        "spec list": _set("graph_module/signature/input_specs", []),
        "missing weight": _set(
            "graph_module/signature/input_specs/0/parameter/parameter_name", "nothing"
        ),
        "stride argument": _set(
            f"{_N}/nodes/0/inputs", [{"name": "input", "arg": {"as_none": True}}]
        ),
    }
    for label, change in changes.items():
        try:
            yield label, edited("nn_plain", change)
        except (KeyError, IndexError) as error:
            raise AssertionError(f"{label}: {error}") from error


BAD = dict(bad_archives())


@pytest.mark.parametrize("label", BAD)
def test_bad_archives_get_one_line(label: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(BAD[label])
    error: LeptonError | None = None
    try:
        load(path)
    except LeptonError as found:
        error = found
    if error is None:
        # A flipped byte may lie in data that nobody can check.
        assert label.startswith("flipped"), "was read"
        return
    assert "bad.pt2" in str(error)
    assert "Traceback" not in str(error)


def test_operators_without_a_row_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(
        edited("nn_plain", _set(f"{_N}/nodes/0/target", "torch.ops.acme.boom.default"))
    )
    with pytest.raises(UnsupportedError, match=r"acme\.boom"):
        load(path)


# -- networks --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NETS.glob("*.pt2")), ids=lambda p: p.stem)
def test_networks_err_no_more_than_torch(path: Path, tmp_path: Path) -> None:
    """``LEPTON_TORCH_NETS`` is a folder that ``tests/oracle/torch_nets.py`` wrote."""
    ort = pytest.importorskip("onnxruntime")
    data = np.load(path.parent / f"{path.stem.removesuffix('.core')}.npz")
    given = [data[k] for k in data if k.startswith("in")]
    wide = [data[k] for k in data if k.startswith("wide")]
    narrow = [data[k] for k in data if k.startswith("out")]
    module = load(path)
    feeds = feeds_of(module, given)
    run_passes(module, "O2,legalize")
    save(module, tmp_path / "net.onnx")
    session = ort.InferenceSession(str(tmp_path / "net.onnx"))
    found = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    for got, own, exact in zip(found, narrow, wide, strict=False):
        scale = np.abs(exact).max(initial=1e-30)
        error = np.abs(got - exact).max(initial=0) / scale
        # Below a few roundings of the largest element, who errs less is luck.
        assert error <= max(2 * np.abs(own - exact).max(initial=0) / scale, 2e-6)
