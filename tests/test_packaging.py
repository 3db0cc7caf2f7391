"""The package as it is installed: what is in it, what it imports, what may import what."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import lepton_ir

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PACKAGE_DIR: dict[str, str] = SETUPTOOLS["package-dir"]
PACKAGES: list[str] = SETUPTOOLS["packages"]

HEAVY = {
    "numpy",
    "flatbuffers",
    "onnx",
    "onnxruntime",
    "networkx",
    "numba",
    "lark",
    "google.protobuf",
}


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(part) for part in command],
        text=True,
        capture_output=True,
        timeout=240,
        **options,  # type: ignore[call-overload]
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


# ----- the list of packages


def packages_on_disk() -> set[str]:
    found = set()
    for package, folder in PACKAGE_DIR.items():
        top = ROOT / folder
        for init in top.rglob("__init__.py"):
            inside = init.parent.relative_to(top).parts
            found.add(".".join((package, *inside)))
    return found


def test_package_list_equals_disk():
    assert sorted(PACKAGES) == sorted(packages_on_disk())


def test_version_is_one():
    assert lepton_ir.__version__ == PROJECT["project"]["version"]


def test_every_folder_registers_itself():
    points = PROJECT["project"]["entry-points"]
    for group in ("passes", "frontends", "backends", "ops"):
        assert points[f"lepton_ir.{group}"] == {"builtin": f"lepton_ir.{group}:TABLE"}


# ----- the public names


def public_names() -> list[str]:
    return [name for name in lepton_ir.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", public_names())
def test_public_name_exists(name):
    assert getattr(lepton_ir, name) is not None
    assert name in dir(lepton_ir)


def test_public_names_are_no_modules():
    modules = {info.name for info in pkgutil.iter_modules(lepton_ir.__path__[:1])}
    assert not modules & set(public_names())


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        lepton_ir.nonsense  # noqa: B018


@pytest.mark.parametrize("folder", ["passes", "frontends", "backends", "tools"])
def test_folder_is_imported_only_as_a_subpackage(folder):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=60
    )
    assert f"import this package as lepton_ir.{folder}, not {folder}" in result.stderr


# ----- who may import whom

TABLE_ONLY = "lepton_ir.frontends.onnx.table"


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_backend_reads_only_the_table_of_the_onnx_frontend():
    foreign = [
        (path.name, name)
        for path in (ROOT / "backends" / "onnx").rglob("*.py")
        for name in imports(path)
        if name.startswith("lepton_ir.frontends") and not name.startswith(TABLE_ONLY)
    ]
    assert not foreign


@pytest.mark.parametrize(
    ("place", "statement", "rule"),
    [
        ("lepton_ir", "import onnx.helper", "TID251"),
        ("lepton_ir", "import onnxruntime", "TID251"),
        ("lepton_ir", "from lepton_ir.passes.fold import Fold", "TID251"),
        ("lepton_ir", "from lepton_ir import frontends", "TID251"),
        ("lepton_ir", "import lepton_ir.backends.onnx", "TID251"),
        ("lepton_ir", "import lepton_ir.tools", "TID251"),
        ("lepton_ir/text", "import onnx", "TID251"),
        ("lepton_ir/text", "from . import parse", "TID252"),
        ("passes", "import onnx", "TID251"),
        ("passes", "import onnxruntime", "TID251"),
        ("passes", "from lepton_ir.frontends.onnx import table", "TID251"),
        ("passes", "from lepton_ir.backends import onnx", "TID251"),
        ("passes", "from lepton_ir.tools import demo", "TID251"),
        ("passes", "from .fold import Fold", "TID252"),
        ("frontends/onnx", "import lepton_ir.passes", "TID251"),
        ("frontends/onnx", "import lepton_ir.backends", "TID251"),
        ("frontends/onnx", "import lepton_ir.tools", "TID251"),
        ("backends", "from lepton_ir.frontends.onnx.table import ROWS", "TID251"),
        ("backends/onnx", "import lepton_ir.passes", "TID251"),
        ("backends/onnx", "import lepton_ir.tools", "TID251"),
        ("backends/onnx", "from lepton_ir.frontends.onnx.table import ROWS", None),
        ("frontends/onnx", "import onnx", None),
        ("tools", "import lepton_ir.passes, lepton_ir.backends, onnx", None),
    ],
)
def test_import_rule(place, statement, rule):
    name = str(ROOT / place / "throwaway.py")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    command += ["--select=TID", "--stdin-filename", name, "-"]
    result = subprocess.run(command, input=statement, capture_output=True, text=True, timeout=60)
    assert not result.stderr
    assert (rule in result.stdout) if rule else result.returncode == 0, result.stdout


# ----- what importing costs


def modules_after(code: str) -> set[str]:
    dump = "\nimport sys; print('\\n' + ' '.join(sys.modules))"
    return set(run(sys.executable, "-c", code + dump).stdout.splitlines()[-1].split())


def test_import_loads_nothing_heavy():
    loaded = modules_after("import lepton_ir")
    assert not loaded & HEAVY


def test_listing_plugins_loads_nothing_heavy():
    loaded = modules_after(
        "from lepton_ir import plugins\nfor group in plugins.GROUPS: plugins.names(group)"
    )
    assert not loaded & HEAVY


def test_help_loads_nothing_heavy():
    loaded = modules_after(
        "import sys\n"
        "from lepton_ir.tools.lepton_opt import main\n"
        "sys.argv = ['lepton-opt', '--help']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code"
    )
    assert not loaded & HEAVY


# ----- doctests


def every_module() -> list[str]:
    names = []
    for package in PACKAGES:
        names.append(package)
        # Only its own folder: in a checkout the bridge makes the whole root a part of lepton_ir.
        path = list(importlib.import_module(package).__path__)[:1]
        names += [i.name for i in pkgutil.iter_modules(path, package + ".") if not i.ispkg]
    return names


def source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in every_module() if ">>> " in source(name)])
def test_doctests(name):
    module: ModuleType = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


# ----- the wheel, in an environment of its own, beside a user's own `passes` and `backends`


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # Built from a copy: setuptools leaves build/ behind, and a stale one would leak into the wheel.
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in PACKAGE_DIR.values():
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    out = copy / "dist"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The ``bin`` folder of a fresh environment that has the wheel."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "-q", "--no-deps", "--no-index", wheel)
    # The dependencies come from the environment that runs the tests. A path file adds the folder
    # but not the path files in it, so an editable installation there stays out of sight.
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (Path(purelib.stdout.strip()) / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return home / "bin"


@pytest.fixture
def users_folder(tmp_path, monkeypatch) -> Path:
    for name in ("passes", "frontends", "backends", "tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the user\\'s {name}')\n")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_wheel_holds_exactly_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"lepton_ir", f"lepton_ir-{lepton_ir.__version__}.dist-info"}
    assert "lepton_ir/py.typed" in names
    grammars = [path.name for path in (ROOT / "lepton_ir" / "text").glob("*.lark")]
    assert {f"lepton_ir/text/{name}" for name in grammars} <= set(names)


def test_wheel_imports_beside_a_users_own_folders(installed, users_folder):
    code = (
        "import lepton_ir, lepton_ir.passes, lepton_ir.frontends.onnx, lepton_ir.backends, "
        "lepton_ir.tools\n"
        "from lepton_ir import plugins\n"
        "print(lepton_ir.__file__)\n"
        "print(*lepton_ir.__path__)\n"
        "for group in plugins.GROUPS: plugins.names(group)"
    )
    file, path = run(installed / "python", "-c", code).stdout.splitlines()
    home = str(installed.parent)
    assert file.startswith(home)
    assert path == os.path.dirname(file)


def test_wheel_shows_help(installed, users_folder):
    for command in ([installed / "lepton-opt"], [installed / "python", "-m", "lepton_ir"]):
        assert "--passes" in run(*command, "--help").stdout


def test_wheel_optimizes_a_model(installed, users_folder):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Identity", ["x"], ["i"]),
            helper.make_node("Mul", ["i", "c"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(np.array([k, 2.0], np.float32), k_name)
            for k, k_name in ((1.0, "a"), (3.0, "b"))
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "tiny.onnx")
    before = Path("tiny.onnx").read_bytes()

    run(installed / "lepton-opt", "--passes=O2", "tiny.onnx")

    assert Path("tiny.onnx").read_bytes() == before
    after = onnx.load("tiny.opt.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node] == ["Mul"]
    assert after.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
