"""`lepton-opt` as a user sees it: files, exit codes, messages, reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_ir.tools.lepton_opt import main

WRONG = '''
"""A pass whose rule is wrong on purpose."""
from __future__ import annotations

from dataclasses import dataclass

from lepton_ir import P, RewritePass, const, var
from lepton_ir.rewrite import rewrite


@dataclass(frozen=True)
class Wrong(RewritePass, name="wrong"):
    """Turn additions of constants into subtractions."""

    @rewrite(P.add(var("x"), const("c")))
    def add_is_sub(self, m, rw):
        """add(x, c) => sub(x, c), which it is not."""
        return rw.replace(m.root, rw.sub(m.x, m.c.value))
'''


def tiny_model(opset: int = 17) -> onnx.ModelProto:
    """x[N,4] -> Identity -> MatMul -> Add -> Relu -> Mul by one -> y, and an unused Exp."""
    weights = np.arange(16, dtype=np.float32).reshape(4, 4) / 16 - 0.4
    bias = np.array([0.5, -0.25, 1.0, 0.125], np.float32)
    nodes = [
        helper.make_node("Identity", ["x"], ["i"], name="/Identity"),
        helper.make_node("MatMul", ["i", "w"], ["m"], name="/MatMul"),
        helper.make_node("Add", ["m", "b"], ["a"], name="/Add"),
        helper.make_node("Relu", ["a"], ["r"], name="/Relu"),
        helper.make_node("Exp", ["a"], ["unused"], name="/Exp"),
        helper.make_node("Mul", ["r", "one"], ["y"], name="/Mul"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(bias, "b"),
            numpy_helper.from_array(np.ones((), np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(), path)
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong_pass.py"
    path.write_text(WRONG, encoding="utf-8")
    return path


@pytest.fixture
def opt(capsys):
    """Run `lepton-opt` in this process; returns (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def shell(*arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `lepton-opt` in a process of its own, where plugins leave no trace."""
    return subprocess.run(
        [sys.executable, "-m", "lepton_ir.tools.lepton_opt", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **extra},
    )


def op_types(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ----- files and exit codes


def test_result_lies_beside_the_model_and_is_checked(opt, model):
    before = model.read_bytes()
    code, out, err = opt(model)
    assert (code, err) == (0, "")
    result = model.with_name("tiny.opt.onnx")
    assert files(model.parent) == ["tiny.onnx", "tiny.opt.onnx"]
    assert model.read_bytes() == before
    onnx.checker.check_model(result, full_check=True)
    assert len(op_types(result)) < len(op_types(model))
    assert "Exp" not in op_types(result)
    assert "check: equal on 2 inputs" in out
    assert f"wrote {result}" in " ".join(out.split())


def test_interface_is_kept(opt, model):
    opt(model, "--check=off")
    before, after = onnx.load(model).graph, onnx.load(model.with_name("tiny.opt.onnx")).graph
    assert list(after.input) == list(before.input)
    assert [o.name for o in after.output] == ["y"]


def test_output_is_never_the_model(opt, model):
    before = model.read_bytes()
    link = model.with_name("link.onnx")
    link.symlink_to(model)
    for output in (model, model.parent / "." / "tiny.onnx", link):
        code, out, err = opt(model, "-o", output)
        assert (code, out) == (1, "")
        assert "the output would overwrite the model" in err
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("output", "message"), [("missing/x.onnx", "folder"), (".", "is a folder")]
)
def test_output_that_cannot_be(opt, model, output, message):
    code, _, err = opt(model, "-o", model.parent / output)
    assert code == 1
    assert message in err
    assert files(model.parent) == ["tiny.onnx"]


def test_errors_are_short_and_leave_no_file(opt, model):
    broken = model.with_name("broken.onnx")
    broken.write_bytes(model.read_bytes()[:-40])
    for path in (broken, model.with_name("missing.onnx"), model.parent):
        code, out, err = opt(path)
        assert (code, out) == (1, "")
        assert err.startswith("error")
        assert "Traceback" not in err
        assert err.count("\n") <= 3
    assert files(model.parent) == ["broken.onnx", "tiny.onnx"]


def test_no_model_is_an_error(opt):
    code, _, err = opt()
    assert code == 1
    assert "no model given" in err


def test_unknown_pass_gets_a_caret_and_the_closest_name(opt, model):
    code, _, err = opt(model, "--passes=shapes,canonicalise")
    assert code == 1
    lines = err.splitlines()
    assert lines[1].index("shapes,canonicalise") + len("shapes,") == lines[2].index("^")
    assert "did you mean canonicalize?" in err


def test_unknown_option_of_a_pass(opt, model):
    code, _, err = opt(model, "--passes=fold{size=3}")
    assert code == 1
    assert "fold has no option 'size'; it has: exact, limit, total" in err


def test_version_and_help():
    assert shell("--version").stdout.startswith("lepton-opt ")
    shown = shell("--help")
    assert shown.returncode == 0
    for option in ("--passes", "--check-inputs", "--exclude-rewrite", "--run-reproducer"):
        assert option in shown.stdout
    assert all(len(line) <= 100 for line in shown.stdout.splitlines())


def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib\n"
        "from lepton_ir.tools.lepton_opt import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'networkx', 'numba', 'lark', 'rich'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


# ----- what comes out


def test_emit_none_writes_nothing(opt, model):
    code, out, _ = opt(model, "--emit=none")
    assert code == 0
    assert "check: equal" in out
    assert files(model.parent) == ["tiny.onnx"]


def test_text_form_comes_back(opt, model):
    code, _, err = opt(model, "--emit=lir")
    assert (code, err) == (0, "")
    text = model.with_name("tiny.opt.lir")
    assert "matmul" in text.read_text(encoding="utf-8") or "gemm" in text.read_text("utf-8")
    again = model.with_name("again.onnx")
    code, out, err = opt(text, "-o", again)
    assert (code, err) == (0, "")
    assert "check: equal" in out
    onnx.checker.check_model(again, full_check=True)


def test_dim_fixes_a_symbol(opt, model):
    code, out, _ = opt(model, "--dim", "N=3")
    assert code == 0
    assert "check: equal" in out
    shape = onnx.load(model.with_name("tiny.opt.onnx")).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [("M=3", "no input has a dim called 'M'"), ("N", "NAME=SIZE"), ("N=-1", "NAME=SIZE")],
)
def test_bad_dim(opt, model, given, message):
    code, _, err = opt(model, "--dim", given)
    assert code == 1
    assert message in err


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_opset_up_and_down(opt, model, opset):
    code, out, err = opt(model, "--opset", opset)
    assert (code, err) == (0, "")
    assert "check: equal" in out
    result = onnx.load(model.with_name("tiny.opt.onnx"))
    assert [o.version for o in result.opset_import if not o.domain] == [opset]
    onnx.checker.check_model(result, full_check=True)


def test_opset_that_lacks_a_node_says_which(opt, tmp_path):
    nodes = [helper.make_node("GridSample", ["x", "grid"], ["y"], name="/sample/GridSample")]
    graph = helper.make_graph(
        nodes,
        "grid",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4]),
            helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, 3, 3, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3, 3])],
    )
    path = tmp_path / "grid.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)])
    model.ir_version = 8
    onnx.save(model, path)
    code, _, err = opt(path, "--opset", 11)
    assert code == 1
    assert "/sample/GridSample" in err
    assert "11" in err
    assert files(tmp_path) == ["grid.onnx"]


# ----- reports


def test_report_fits_eighty_columns(opt, model):
    _, out, _ = opt(model, "--timing", "--stats", "-o", model.with_name("o.onnx"))
    table = [line for line in out.splitlines() if str(model.parent) not in line]
    assert len(table) > 8
    assert max(map(len, table)) <= 80


def test_report_json(opt, model):
    code, out, err = opt(model, "--report=json", "--remarks")
    assert (code, err) == (0, "")
    found = json.loads(out, parse_constant=pytest.fail)
    assert set(found) >= {
        *("source", "result", "passes", "rules", "check", "lossy", "layers", "excluded"),
        *("remarks", "seconds"),
    }
    assert found["source"]["nodes"] == 6
    assert found["source"]["bytes"] == model.stat().st_size
    result = model.with_name("tiny.opt.onnx")
    assert found["result"]["path"] == str(result)
    assert found["result"]["bytes"] == result.stat().st_size
    assert found["result"]["nodes"] == len(op_types(result))
    assert found["check"]["status"] == "equal"
    assert found["check"]["draws"] == 2
    assert {"text", "number", "seconds", "changed", "rewrites", "ops", "implied"} <= set(
        found["passes"][0]
    )
    assert any(rule.endswith("/drop_identity") for rule in found["rules"])


def test_error_as_json(opt, model):
    code, out, _ = opt(model.with_name("missing.onnx"), "--json")
    assert code == 1
    assert json.loads(out)["error"]["severity"] == "error"


def test_timing_shows_passes_that_did_nothing(opt, model):
    _, short, _ = opt(model, "--check=off", "--passes=shapes,dce,dce")
    _, long, _ = opt(model, "--check=off", "--passes=shapes,dce,dce", "--timing")
    assert long.count("dce") > short.count("dce")


def test_stats_count_rules(opt, model):
    _, out, _ = opt(model, "--check=off", "--stats", "--passes=canonicalize")
    assert "canonicalize/drop_identity" in out
    assert "canonicalize/times_one" in out


def test_changes_are_attributed_to_passes_and_rules(opt, model):
    _, out, _ = opt(model, "--check=off", "--json", "--passes=canonicalize,cse,dce")
    found = json.loads(out)
    rules, passes = found["attribution"], found["passes"]
    assert rules["canonicalize/drop_identity"] == {"applied": 1, "nodes": -1, "bytes": 0}
    # The constant dies of the rule that made it useless.
    assert rules["canonicalize/times_one"] == {"applied": 1, "nodes": -1, "bytes": -4}
    assert rules["canonicalize/(unused)"]["nodes"] == -1
    for kind, delta in (("nodes", "nodes_delta"), ("bytes", "bytes_delta")):
        for row in passes:
            made = [r[kind] for n, r in rules.items() if n.split("/")[0] == row["text"]]
            if sum(p["text"] == row["text"] for p in passes) == 1:
                assert sum(made) == row[delta], row
    changed = found["result"]["nodes"] - found["source"]["nodes"]
    assert sum(p["nodes_delta"] for p in passes) == changed


def test_missed_remarks_are_counted_first(opt, model):
    _, out, _ = opt(model, "--check=off", "--remarks=missed")
    lines = out.splitlines()
    if any(line.startswith("remark[") for line in lines):
        assert lines[0].split() == ["missed", "why"]
    assert all(len(line) <= 80 or "remark[" in line or str(model.parent) in line for line in lines)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--keep-node=/Rel", "did you mean /Relu"),
        ("--exclude-rule=drop_identiti", "did you mean drop_identity"),
        ("--exclude-rule=cse/nothing", "--exclude-rule"),
        ("--exclude-rule=frobnicate", "docs/rules.md"),
        ("--remarks=canonicalise", "did you mean canonicalize"),
        ("--remarks=O2", "--list-passes"),
    ],
)
def test_unknown_names_are_errors(opt, model, option, message):
    code, out, err = opt(model, option, "--check=off")
    assert (code, out) == (1, "")
    assert message in err
    assert files(model.parent) == ["tiny.onnx"]


@pytest.mark.parametrize(
    "option",
    ["--exclude-rule=merge", "--exclude-rule=cse/merge", "--exclude-rule=f16-matmul"],
)
def test_names_of_rules_outside_patterns_are_known(opt, model, option):
    assert opt(model, option, "--check=off")[0] == 0


def test_remarks_say_what_was_done_and_what_not(opt, model):
    _, out, _ = opt(model, "--check=off", "--remarks=canonicalize")
    assert "remark[canonicalize]: drop_identity applied" in out
    _, quiet, _ = opt(model, "--check=off")
    assert "remark[" not in quiet


def test_print_after_change(opt, model):
    code, _, err = opt(model, "--check=off", "--print-after-change", "--passes=canonicalize,dce")
    assert code == 0
    assert "// ----- after canonicalize (#" in err
    assert "module @" in err


def test_lists(opt):
    code, out, _ = opt("--list-passes")
    assert code == 0
    assert "O2" in out
    assert "canonicalize" in out
    code, out, _ = opt("--list-ops")
    assert code == 0
    assert "conv(x, w, b?)" in out


def test_report_can_be_off(opt, model):
    assert opt(model, "--report=none") == (0, "", "")
    assert model.with_name("tiny.opt.onnx").is_file()


# ----- control over rewrites


def test_stop_after_counts_rewrites(opt, model):
    counts = []
    for n in (0, 1, 1000):
        _, out, _ = opt(
            model, "--check=off", "--json", "--passes=canonicalize", f"--stop-after={n}"
        )
        counts.append(sum(json.loads(out)["rules"].values()))
    assert counts[:2] == [0, 1]
    assert counts[2] >= 2


def test_exclude_rule(opt, model):
    result = model.with_name("tiny.opt.onnx")
    opt(model, "--check=off", "--passes=canonicalize", "--exclude-rule=drop_identity")
    assert "Identity" in op_types(result)
    assert "Mul" not in op_types(result)
    opt(model, "--check=off", "--passes=canonicalize", "--exclude-rule=canonicalize/times_one")
    assert "Identity" not in op_types(result)
    assert "Mul" in op_types(result)


def test_exclude_rewrite(opt, model):
    key = "canonicalize/times_one@/Mul"
    opt(model, "--check=off", "--passes=canonicalize", "--exclude-rewrite", key)
    assert "Mul" in op_types(model.with_name("tiny.opt.onnx"))


def test_keep_node(opt, model):
    opt(model, "--check=off", "--keep-node=/Identity", "--keep-node=/Exp")
    kept = [n.name for n in onnx.load(model.with_name("tiny.opt.onnx")).graph.node]
    assert "/Identity" in kept
    assert "/Exp" in kept


# ----- the check


def test_check_can_be_off(opt, model):
    _, out, _ = opt(model, "--check=off")
    assert "\n  check" not in out


def test_check_full_draws_more(opt, model):
    _, out, _ = opt(model, "--check=full")
    assert "check: equal on 5 inputs" in out


def test_check_with_given_inputs(opt, model):
    feeds = model.with_name("feeds.npz")
    np.savez(feeds, x=np.ones((7, 4), np.float32))
    code, out, _ = opt(model, "--check-inputs", feeds)
    assert code == 0
    assert "check: equal on 1 input (" in out


def test_check_and_verify_after_every_pass(opt, model):
    code, out, err = opt(model, "--check-each", "--verify-each")
    assert (code, err) == (0, "")
    assert "check: equal" in out


def test_generators_with_the_same_seed_in_each_session_are_random(opt, tmp_path):
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Identity", ["i"], ["j"]),
        helper.make_node("RandomUniformLike", ["j"], ["r"], name="/Random"),
        helper.make_node("Add", ["x", "r"], ["y"], name="/Add"),
    ]
    graph = helper.make_graph(
        nodes,
        "noise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
    )
    path = tmp_path / "noise.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    code, out, _ = opt(path)
    assert code == 0
    assert "inconclusive: the source gives other results each time" in " ".join(out.split())


def test_source_that_does_not_run_is_inconclusive(opt, tmp_path):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], name="/Gather")]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.zeros(0, np.float32), "table")],
    )
    path = tmp_path / "lookup.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    code, out, _ = opt(path)
    assert code == 0
    assert "check: inconclusive: the source fails on drawn inputs" in " ".join(out.split())
    assert "lookup.opt.onnx" in files(tmp_path)


def test_wrong_rewrite_is_found_named_and_kept_from_the_output(model, wrong):
    result = shell(model, "--plugin", wrong, "--passes=canonicalize,wrong,dce")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "the result is wrong" in result.stderr
    assert "wrong/add_is_sub@/Add" in result.stderr
    assert "Traceback" not in result.stderr
    assert not model.with_name("tiny.opt.onnx").exists()
    assert [f for f in files(model.parent) if f.startswith(".")] == []


def test_reproducer_reproduces(model, wrong):
    first = shell(model, "--plugin", wrong, "--passes=canonicalize,wrong,dce")
    reproducer = model.with_name("tiny.opt.repro.lir")
    assert reproducer.name in first.stderr
    text = reproducer.read_text(encoding="utf-8")
    assert "// RUN: " in text
    assert "--stop-after=" in text
    again = shell("--plugin", wrong, "--run-reproducer", reproducer)
    assert again.returncode == 1
    assert "wrong/add_is_sub@/Add" in again.stderr
    excluded = shell(
        *("--plugin", wrong, "--run-reproducer", reproducer, "--exclude-rule=add_is_sub")
    )
    assert excluded.returncode == 0, excluded.stderr
    assert "check: equal" in excluded.stdout


def test_keep_going_leaves_the_wrong_rewrite_out(model, wrong):
    result = shell(model, "--plugin", wrong, "--passes=canonicalize,wrong,dce", "--keep-going")
    assert result.returncode == 0, result.stderr
    assert "left out, because it made the result wrong: wrong/add_is_sub@/Add" in " ".join(
        result.stdout.split()
    )
    assert "check: equal" in result.stdout
    kinds = op_types(model.with_name("tiny.opt.onnx"))
    assert "Add" in kinds
    assert "Sub" not in kinds
    assert "Identity" not in kinds


def test_wrong_pass_is_named_by_check_each(model, wrong):
    result = shell(model, "--plugin", wrong, "--passes=canonicalize,wrong,dce", "--check-each")
    assert result.returncode == 1
    assert "wrong after this pass" in result.stderr
    assert "pass wrong (#" in result.stderr


def test_reproducer_repeats_the_options_that_choose_rewrites(model, wrong):
    proto = onnx.load(model)
    next(n for n in proto.graph.node if n.name == "/Exp").name = "/a b"
    onnx.save(proto, model)
    options = ("--exclude-rule=times_one", "--keep-node=/a b", "--target=ort")
    shell(model, "--plugin", wrong, "--passes=canonicalize,wrong,dce", *options)
    reproducer = model.with_name("tiny.opt.repro.lir")
    run = next(
        line for line in reproducer.read_text("utf-8").splitlines() if line.startswith("// RUN: ")
    )
    assert "--exclude-rule=times_one" in run
    assert "'--keep-node=/a b'" in run
    again = shell("--plugin", wrong, "--run-reproducer", reproducer, "--json")
    assert again.returncode == 1
    assert "wrong/add_is_sub@/Add" in json.loads(again.stdout)["error"]["notes"][0]


def test_lossy_pipeline_is_judged_before_the_lossy_pass(model, wrong):
    result = shell(model, "--plugin", wrong, "--passes=wrong,quant{min_bytes=0}")
    assert result.returncode == 1
    assert "wrong/add_is_sub@/Add" in result.stderr
    assert not model.with_name("tiny.opt.onnx").exists()
    result = shell(model, "--plugin", wrong, "--passes=wrong,quant{min_bytes=0}", "--keep-going")
    assert result.returncode == 0, result.stderr
    assert "check before the lossy pass: equal" in result.stdout
    assert "signal to noise: y" in result.stdout


def test_no_reproducer_is_an_error(opt, model):
    text = model.with_name("plain.lir")
    text.write_text("module @m {}\n", encoding="utf-8")
    code, _, err = opt("--run-reproducer", text)
    assert code == 1
    assert "// RUN:" in err


# ----- plugins


def test_broken_plugin_is_one_clear_error(opt, model):
    plugin = model.with_name("broken.py")
    plugin.write_text("import nothing_like_it\n", encoding="utf-8")
    code, _, err = opt(model, "--plugin", plugin)
    assert code == 1
    assert "broken.py:1: ModuleNotFoundError" in err


NEAR_MISSES = """
func @main(%x: f32[N,3,4,4], %w: f32[8,3,1,1], %z: f32[N,4,6,5]) {
  %v = const() {value=rand(1)} : f32[8,3,1,1]
  %s = const() {value=splat(2.0)} : f32[8]
  %a = conv(%x, %v)
  %b = batch_normalization(%a, %s, %s, %s, %s)
  %c = exp(%a)
  %d = conv(%x, %w)
  %e = batch_normalization(%d, %s, %s, %s, %s)
  %axis = const() {value=[1, 2]} : i64[2]
  %two = const() {value=2.0} : f32[]
  %eps = const() {value=1.0e-5} : f32[]
  %m = reduce_mean(%z, %axis)
  %f = sub(%z, %m)
  %q = pow(%f, %two)
  %var = reduce_mean(%q, %axis)
  %g = add(%var, %eps)
  %r = sqrt(%g)
  %n = div(%f, %r)
  %i = identity(%n)
  %j = identity(%i)
  return(%b, %c, %e, %j)
}
"""


def test_near_misses_name_the_extra_user_the_missing_constant_and_the_axis(opt, tmp_path):
    path = tmp_path / "near.lir"
    path.write_text(NEAR_MISSES, encoding="utf-8")
    code, out, _ = opt(
        path, "--check=off", "--emit=none", "--remarks=missed", "--opset=17", "--json"
    )
    assert code == 0
    reasons = [row["reason"] for row in json.loads(out)["missed"]]
    for rule, reason in (
        ("bn_into_conv", "users"),
        ("bn_into_conv", "not a constant"),
        ("fuse_layer_norm", "axes"),
    ):
        assert any(r.startswith(f"{rule}: ") and reason in r for r in reasons), reasons


def test_what_another_rule_took_is_not_missed(opt, tmp_path):
    path = tmp_path / "taken.lir"
    path.write_text(
        "func @main(%x: f32[N,3,4,4]) {\n"
        "  %v = const() {value=rand(1)} : f32[8,3,1,1]\n"
        "  %a = conv(%x, %v)\n"
        "  %t = transpose(%a) {perm=[0, 2, 3, 1]}\n"
        "  %u = transpose(%t) {perm=[0, 3, 1, 2]}\n"
        "  %y = transpose(%a)\n"
        "  return(%u, %y)\n}\n",
        encoding="utf-8",
    )
    options = ("--check=off", "--emit=none", "--remarks=missed", "--json")
    _, out, _ = opt(path, *options, "--passes=layout")
    missed = json.loads(out)["missed"]
    assert [row["where"] for row in missed if "push_transposes" in row["reason"]] == [
        'transpose -> "y"'
    ]
