from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from lepton_ir import plugins
from lepton_ir.plugins import PluginError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(plugins, "_found", {})
    monkeypatch.setattr(plugins, "_from_files", {})


@pytest.fixture
def entry_points(monkeypatch):
    """Replaces what is installed: name -> target, per group."""

    def install(group: str, **points: str) -> None:
        def find(group: str) -> list[EntryPoint]:
            return found if group == wanted else []

        wanted = f"lepton_ir.{group}"
        found = [EntryPoint(name, target, wanted) for name, target in points.items()]
        monkeypatch.setattr("importlib.metadata.entry_points", find)

    return install


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A stranger's importable module."""
    (tmp_path / "stranger.py").write_text(
        "class Relu6: ...\n"
        "TABLE = {'swish': 'stranger:Relu6', 'broken': 'stranger:nothing', 'gone': 'absent:x'}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("stranger", None)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_checkout_without_installation_has_the_built_in_tables(entry_points):
    from lepton_ir.passes import TABLE

    entry_points("passes")
    assert plugins.names("passes") == sorted(TABLE)


def test_installed_built_ins_are_read_once(entry_points):
    from lepton_ir.passes import TABLE

    entry_points("passes", builtin="lepton_ir.passes:TABLE")
    assert plugins.names("passes") == sorted(TABLE)


def test_entry_point_names_an_object(entry_points, stranger):
    entry_points("passes", relu6="stranger:Relu6")
    assert "relu6" in plugins.names("passes")
    assert "stranger" not in sys.modules
    assert plugins.load("passes", "relu6").__name__ == "Relu6"


def test_entry_point_names_a_table(entry_points, stranger):
    entry_points("passes", acme="stranger:TABLE")
    assert {"swish", "broken"} <= set(plugins.names("passes"))
    assert "acme" not in plugins.names("passes")
    assert plugins.load("passes", "swish").__name__ == "Relu6"


def test_row_that_leads_nowhere_names_its_provider(entry_points, stranger):
    entry_points("passes", acme="stranger:TABLE")
    with pytest.raises(PluginError, match="cannot import pass 'broken' from stranger:TABLE: "):
        plugins.load("passes", "broken")
    with pytest.raises(PluginError, match=r"cannot import pass 'gone' .* No module named"):
        plugins.load("passes", "gone")


def test_groups_go_by_either_name():
    assert plugins.names("lepton_ir.passes") == plugins.names("passes")
    with pytest.raises(PluginError, match="no backend is called 'nonsense'"):
        plugins.load("lepton_ir.backends", "nonsense")


def test_unknown_name_gets_the_closest_ones(entry_points, stranger):
    entry_points("passes", acme="stranger:TABLE")
    with pytest.raises(
        PluginError, match=r"no pass is called 'swich'\n.*did you mean swish"
    ) as error:
        plugins.load("passes", "swich")
    assert error.value.matches == ("swish",)


def test_one_name_from_two_providers(entry_points, stranger):
    entry_points("passes", swish="stranger:Relu6", acme="stranger:TABLE")
    with pytest.raises(
        PluginError, match=r"called 'swish': .*\(stranger:Relu6\), .*\(stranger:Relu6\)"
    ):
        plugins.names("passes")


def test_file_registers_its_passes_and_dicts(tmp_path):
    path = write(
        tmp_path / "my-pass.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "class Base: ...\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Base):\n"
        "    __lepton_pass__ = 'mine'\n"
        "    level: int = 1\n"
        "class Nameless(Mine): ...\n"
        "LEPTON_PASSES = {'tidy': 'fold,dce'}\n"
        "LEPTON_OPS = {'acme': 3}\n",
    )
    added = plugins.load_file(path)
    assert {(extension.group, extension.name) for extension in added} == {
        ("passes", "mine"),
        ("passes", "tidy"),
        ("ops", "acme"),
    }
    assert plugins.load("passes", "mine")().level == 1
    assert plugins.load("passes", "tidy") == "fold,dce"
    assert plugins.load("ops", "acme") == 3
    assert plugins.load_file(path) is added


def test_two_files_of_one_name(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        path = write(tmp_path / folder / "p.py", f"LEPTON_OPS = {{'{folder}': {value}}}")
        plugins.load_file(path)
    assert (plugins.load("ops", "a"), plugins.load("ops", "b")) == (1, 2)


def test_name_taken_by_another_file_registers_nothing(tmp_path):
    first = write(tmp_path / "first.py", "LEPTON_OPS = {'acme': 1}")
    second = write(
        tmp_path / "second.py", "LEPTON_PASSES = {'new': 'dce'}\nLEPTON_OPS = {'acme': 2}"
    )
    plugins.load_file(first)
    with pytest.raises(PluginError, match=r"'acme': one from .*first\.py, one from .*second\.py"):
        plugins.load_file(second)
    assert "new" not in plugins.names("passes")
    assert plugins.load("ops", "acme") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport no_such_module\n", r"p\.py:2: ModuleNotFoundError: No module named"),
        ("x = 1\n\n1/0\n", r"p\.py:3: ZeroDivisionError: division by zero"),
        ("x = (\n", r"p\.py:1: SyntaxError: '\(' was never closed"),
        ("LEPTON_PASSES = ['fold']\n", r"p\.py: LEPTON_PASSES should be a dict"),
    ],
)
def test_bad_file_is_one_clear_error(tmp_path, text, message):
    before = set(sys.modules)
    with pytest.raises(PluginError, match=message):
        plugins.load_file(write(tmp_path / "p.py", text))
    assert not [name for name in set(sys.modules) - before if name.startswith("lepton_plugin_")]


def test_missing_and_odd_files(tmp_path):
    with pytest.raises(PluginError, match="no such file"):
        plugins.load_file(tmp_path / "missing.py")
    with pytest.raises(PluginError, match="no such file"):
        plugins.load_file(tmp_path)
    with pytest.raises(PluginError, match=r"not a Python file"):
        plugins.load_file(write(tmp_path / "plugin.txt", ""))
