"""Writers of model files and code generators, one folder a target."""

if __name__ != "lepton_ir.backends":
    raise ImportError(f"import this package as lepton_ir.backends, not {__name__}")

# Backend name -> "module:attribute" of its target; "runner-NAME" -> a runner for the check.
# Strings, so that listing them imports nothing.
TABLE: dict[str, str] = {
    "lir": "lepton_ir.backends.lir:target",
    "onnx": "lepton_ir.backends.onnx.target:ONNX",
    "ort": "lepton_ir.backends.onnx.target:ORT",
    "numba": "lepton_ir.backends.numba.target:NUMBA",
    "lepton": "lepton_ir.backends.numba.target:NUMBA",
    "tflite": "lepton_ir.backends.tflite.target:TFLITE",
    "plan": "lepton_ir.backends.numba.outline:PLAN",
    "runner-litert": "lepton_ir.backends.tflite.runner:LiteRtRunner",
    "runner-onnxruntime": "lepton_ir.backends.onnx.runner:OrtRunner",
}
