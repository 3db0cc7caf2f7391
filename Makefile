# Needs Python 3.11 or newer with pip; everything else is installed into .venv.
#   make test PYTHON=/usr/bin/python3.12 JOBS=4

PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13 python3.14,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check docs unit golden rules tflite-again bench conformance oracle clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## optimize a small model and print the report
	OPENBLAS_NUM_THREADS=1 $(PY) -m lepton_ir.tools.demo

test: check unit ## everything CI runs: check, then the tests

docs: $(STAMP) ## write docs/passes.md, rules.md and ops.md from the code
	$(PY) -m lepton_ir.tools.docgen

check: $(STAMP) ## format, lint, import rules and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(PY) -m lepton_ir.tools.typecheck

unit: $(STAMP) ## the tests only
	$(PY) -m pytest -n $(JOBS) -m "not slow"

golden: $(STAMP) ## rewrite the expected results in tests/golden
	$(PY) -m pytest tests --update-golden -k golden

tflite-again: $(STAMP) ## write TFLite files again and compare; MODELS='DIR ...'
	$(PY) -m lepton_ir.tools.bench.tflite_again $(if $(MODELS),$(MODELS),../shared/models/real)

rules: $(STAMP) ## say where each rewrite rule is shown to work; MODELS='DIR ...'
	$(PY) -m lepton_ir.tools.rules $(if $(MODELS),--models $(MODELS)) --jobs $(JOBS)

bench: $(STAMP) ## measure speed, memory and start-up; MODELS='DIR ...' PEERS=onnxruntime,openvino
	$(PY) -m lepton_ir.tools.bench
	$(PY) -m lepton_ir.tools.bench.kernels
	$(if $(MODELS),$(PY) -m lepton_ir.tools.bench.engine $(MODELS) $(if $(PEERS),--peers=$(PEERS)) \
		$(if $(MANIFEST),--manifest=$(MANIFEST)))

conformance: $(STAMP) ## the exhaustive, slow runs
	$(PY) -m pytest -n $(JOBS) -m slow

oracle: $(STAMP) ## build environments of PyTorch and TensorFlow and compare with them (gigabytes); ZOO=make_zoo.py
	for name in torch tf; do test -d .cache/oracle/$$name || $(PYTHON) -m venv .cache/oracle/$$name; done
	.cache/oracle/torch/bin/pip install -q numpy torch==2.13.0 $(if $(ZOO),transformers onnx pillow sympy pyyaml huggingface_hub safetensors)
	$(if $(ZOO),.cache/oracle/torch/bin/pip install -q --no-deps timm)
	.cache/oracle/tf/bin/pip install -q tensorflow-cpu==2.21.0
	.cache/oracle/torch/bin/python tests/oracle/torch_ops.py .cache/oracle/torch_ops.tar.xz
	.cache/oracle/tf/bin/python tests/oracle/keras_layers.py .cache/oracle/keras_layers.tar.xz
	.cache/oracle/tf/bin/python tests/oracle/tf_ops.py .cache/oracle/tf_ops.tar.xz
	.cache/oracle/tf/bin/python tests/oracle/tf_graphs.py .cache/oracle/tf_graphs.tar.xz
	$(if $(ZOO),.cache/oracle/torch/bin/python tests/oracle/torch_nets.py $(ZOO) .cache/oracle/nets)
	LEPTON_ORACLE=.cache/oracle LEPTON_TORCH_NETS=.cache/oracle/nets $(PY) -m pytest -n $(JOBS) -m "slow or not slow" \
		tests/test_torch.py tests/test_keras.py tests/test_tf_ops.py tests/test_tensorflow.py

clean: ## remove the environment, builds and caches
	rm -rf $(VENV) build dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Some distributions ship Python without ensurepip: then this Python's own pip fills the new environment.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Lepton needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { \
		rm -rf $(VENV); \
		$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
			rm -rf $(VENV); \
			$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip -q --python $(PY) install pip; }; }
	$(PY) -m pip install -q --disable-pip-version-check -e '.[test]'
	$(PY) -m compileall -q lepton_ir passes frontends backends tools
	@touch $@
