"""Keras files: one small model per layer, with what Keras computed.

``tests/oracle/keras_layers.py`` makes the cases; see there.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton_ir import load, run_passes
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.frontends.keras import table
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from tests.oracle_cases import Cases, assert_same, feeds_of, run_as_onnx

h5py = pytest.importorskip("h5py")

CASES = Cases("keras_layers.tar.xz")


def names() -> list[str]:
    return CASES.models()


def read(name: str, folder: Path) -> Module:
    return load(CASES.write(name, folder))


@pytest.mark.parametrize("name", names())
def test_meaning_is_keras(name: str, tmp_path: Path) -> None:
    given, expected = CASES.given(name)
    module = read(name, tmp_path)
    assert_same(run_list(module, feeds_of(module, given)), expected)


@pytest.mark.parametrize("name", [n for n in names() if n.endswith(".keras")])
def test_onnx_of_it_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    given, expected = CASES.given(name)
    module = read(name, tmp_path)
    feeds = feeds_of(module, given)
    assert_same(run_as_onnx(module, feeds, tmp_path), expected)


def test_rows() -> None:
    assert len(table.load()) >= 80
    assert len(table.OPERATIONS) >= 80


# -- structure -------------------------------------------------------------------------------------


def test_recurrent_layers_stay_whole(tmp_path: Path) -> None:
    for name in ("lstm", "gru"):
        module = read(f"{name}_seq.keras", tmp_path)
        assert [o.name for o in module.walk()].count(name) == 1


def test_convolutions_stay_channels_last(tmp_path: Path) -> None:
    ops = [o.name for o in read("cnn.keras", tmp_path).walk()]
    assert "conv_nhwc" in ops
    assert "transpose" not in ops


def test_a_convolutional_net_has_transposes_at_its_ends_only(tmp_path: Path) -> None:
    module = read("cnn.keras", tmp_path)
    run_passes(module, "O2")
    assert [o.name for o in module.walk()].count("transpose") <= 2


def test_names(tmp_path: Path) -> None:
    module = read("add.keras", tmp_path)
    assert [str(v.name) for v in module.main.inputs] == ["input_layer", "input_layer_1"]
    assert module.main.output_names == ["add"]
    assert str(module.main.inputs[0].type) == "f32[batch,3,4]"


# -- bad input -------------------------------------------------------------------------------------


def _entries(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(CASES.files()[name])) as archive:
        return {n: archive.read(n) for n in archive.namelist()}


def _pack(files: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def _edited(change: Callable[[Any], None]) -> bytes:
    files = _entries("cnn.keras")
    config = json.loads(files["config.json"])
    change(config)
    return _pack({**files, "config.json": json.dumps(config).encode()})


def _layer(config: Any, index: int) -> Any:
    return config["config"]["layers"][index]


def _set(index: int, **entries: Any) -> Callable[[Any], None]:
    return lambda config: _layer(config, index).update(entries)


def _configure(index: int, **entries: Any) -> Callable[[Any], None]:
    return lambda config: _layer(config, index)["config"].update(entries)


def _cycle(config: Any) -> None:
    first, second = _layer(config, 2), _layer(config, 3)
    first["inbound_nodes"] = [
        {
            "args": [
                {
                    "class_name": "__keras_tensor__",
                    "config": {"keras_history": [second["name"], 0, 0]},
                }
            ],
            "kwargs": {},
        }
    ]


def _deep(config: Any) -> None:
    inner: Any = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}
    for k in range(200):
        inner = {"class_name": "Sequential", "config": {"name": f"s{k}", "layers": [inner]}}
    config.clear()
    config.update(inner)


def _h5(change: Callable[[Any], None], tmp: Path) -> bytes:
    path = tmp / "edit.h5"
    path.write_bytes(CASES.files()["cnn.h5"])
    with h5py.File(path, "a") as file:
        change(file)
    return path.read_bytes()


def _link(file: Any) -> None:
    group = file["model_weights"]
    name = next(n for n in group if n.startswith("conv2d"))
    del group[name]
    group[name] = h5py.ExternalLink("/etc/hostname", "/x")


def _bad(tmp: Path) -> Iterator[tuple[str, bytes]]:
    good = CASES.files()["cnn.keras"]
    for cut in (0, 4, 100, len(good) // 2, len(good) - 10):
        yield "keras", good[:cut]
    for place in range(0, len(good), max(len(good) // 16, 1)):
        yield "flip.keras", good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
    whole = CASES.files()["cnn.h5"]
    for cut in (0, 8, 100, len(whole) // 2, len(whole) - 10):
        yield "flip.h5", whole[:cut]
    for place in range(0, len(whole), max(len(whole) // 16, 1)):
        yield "flip.h5", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
    yield "keras", _pack(_entries("cnn.keras"), zipfile.ZIP_DEFLATED)
    yield "keras", _pack({"config.json": b"{"})
    yield "keras", _pack({**_entries("cnn.keras"), "config.json": b"[" * 100_000})
    yield "keras", _pack({**_entries("cnn.keras"), "model.weights.h5": b"no hdf5"})
    for change in (
        _set(2, class_name="Lambda", config={"name": "x", "function": ["code", None, None]}),
        _set(2, class_name="Mine", module="my.code", registered_name="my>Mine"),
        _set(2, class_name="Nothing"),
        _set(2, class_name=7),
        _set(2, name=None, config={}),
        _set(2, inbound_nodes="x"),
        _set(2, inbound_nodes=[{"args": [{"class_name": "__keras_tensor__", "config": {}}]}]),
        _set(2, inbound_nodes=[]),
        _configure(0, batch_shape=[None, -4, 16, 3]),
        _configure(0, batch_shape="x"),
        _configure(0, dtype="float99"),
        _configure(2, strides=[0, 0]),
        _configure(2, strides="x"),
        _configure(2, padding="odd"),
        _configure(2, activation="evil"),
        _configure(2, activation={"class_name": "PReLU", "config": {}}),
        _configure(2, groups=7),
        _configure(2, data_format="channels_first"),
        _configure(0, batch_shape=[None, 1 << 50, 1 << 50, 3]),
        _cycle,
        _deep,
        lambda c: c.update(class_name="MyModel"),
        lambda c: c.update(config=None),
        lambda c: c["config"].update(layers={}),
        lambda c: c["config"].update(output_layers=[["nowhere", 0, 0]]),
        lambda c: c["config"].update(output_layers=None),
        lambda c: c["config"].update(input_layers=[["nowhere", 0, 0]]),
        lambda c: c["config"].update(layers=c["config"]["layers"] * 2),
    ):
        yield "keras", _edited(change)
    for edit in (
        _link,
        lambda f: f.attrs.__delitem__("model_config"),
        lambda f: f.attrs.__setitem__("model_config", "{"),
        lambda f: f.__delitem__("model_weights"),
        lambda f: f["model_weights"].__delitem__("conv2d"),
    ):
        yield "h5", _h5(edit, tmp)


def test_bad_files_get_one_line(tmp_path: Path) -> None:
    for number, (kind, data) in enumerate(_bad(tmp_path)):
        path = tmp_path / f"bad{number}.{kind.rsplit('.', 1)[-1]}"
        path.write_bytes(data)
        try:
            module = load(path)
            for op in module.walk():
                if op.name == "const":
                    op.attrs["value"].numpy()
        except LeptonError as error:
            text = str(error)
            assert "Traceback" not in text
            continue
        # A flipped byte may lie in data that nobody can check.
        if not kind.startswith("flip") and 1 << 50 not in (module.main.inputs[0].shape or ()):
            raise AssertionError(f"case {number} was read")


def test_lambda_layers_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    path.write_bytes(_edited(_set(2, class_name="Lambda")))
    with pytest.raises(UnsupportedError, match="never executed"):
        load(path)


def test_custom_layers(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    path.write_bytes(_edited(_set(5, class_name="Mine", module="my.code", registered_name="my>M")))
    with pytest.raises(UnsupportedError, match="--custom-layer Mine="):
        load(path)
    module = load(path, custom_layers={"Mine": lambda b, layer, x: b.relu(x)})
    assert "relu" in [o.name for o in module.walk()]


def test_content_tells_the_format(tmp_path: Path) -> None:
    for name in ("dense.keras", "dense.h5"):
        read(name, tmp_path)
        plain = tmp_path / "model"
        shutil.copy(tmp_path / f"case.{name[6:]}", plain)
        assert load(plain).main.inputs
