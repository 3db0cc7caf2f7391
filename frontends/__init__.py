"""Readers of model files, one folder a format."""

if __name__ != "lepton_ir.frontends":
    raise ImportError(f"import this package as lepton_ir.frontends, not {__name__}")

# Format name -> "module:attribute" of its reader; "live-NAME" -> what makes a module of an object.
# Strings, so that listing them imports nothing.
TABLE: dict[str, str] = {
    "lir": "lepton_ir.frontends.lir:load",
    "tflite": "lepton_ir.frontends.tflite.reader:load",
    "saved_model": "lepton_ir.frontends.tensorflow.reader:load",
    "pb": "lepton_ir.frontends.tensorflow.reader:load",
    "pbtxt": "lepton_ir.frontends.tensorflow.reader:load",
    "keras": "lepton_ir.frontends.keras.reader:load",
    "h5": "lepton_ir.frontends.keras.reader:load",
    "hdf5": "lepton_ir.frontends.keras.reader:load",
    "pt2": "lepton_ir.frontends.torch.reader:load",
    "live-torch": "lepton_ir.frontends.torch.live:export",
    "onnx": "lepton_ir.frontends.onnx.reader:load",
}
