"""TensorFlow in.

`lepton-opt saved_model/ -o model.onnx` reads a SavedModel, `lepton-opt frozen.pb` a frozen graph
(`.pb`, or `.pbtxt`); TensorFlow is not needed.
"""
