"""Readers of model files, one folder a format."""

if __name__ != "lepton_ir.frontends":
    raise ImportError(f"import this package as lepton_ir.frontends, not {__name__}")

# Format name -> "module:attribute" of its reader.
# Strings, so that listing them imports nothing.
TABLE: dict[str, str] = {
    "lir": "lepton_ir.frontends.lir:load",
    "tflite": "lepton_ir.frontends.tflite.reader:load",
    "onnx": "lepton_ir.frontends.onnx.reader:load",
}
