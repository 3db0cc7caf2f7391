"""TensorFlow in.

`lepton-opt saved_model/ -o model.onnx` reads a SavedModel, `lepton-opt frozen.pb` a frozen graph
(`.pb`, or its text form `.pbtxt`); TensorFlow is not needed.

* Inputs and outputs of a SavedModel are those of a signature, `serving_default` unless
  `--signature` names another. Those of a frozen graph are its placeholders, and the nodes whose
  results nobody reads.
* Variables are constants: of the checkpoint in the folder, whose weights stay in their files until
  they are used, as large constants of a frozen graph do. A variable that a signature writes becomes
  a further result `NAME.out`, and with `--keep-overridable` an input `NAME` as well, so that a
  caller can carry it from run to run.
* Functions are inlined. `If`, `Case` and `While` become `if` and `loop`; a loop that only counts
  becomes one with a number of rounds. Lists of tensors and TensorArrays become tensors.
* Layouts stay: convolutions in `NHWC` are operations of that layout until a target is chosen.
  Complex numbers are pairs of real ones in a last axis of two.
* Lookup tables, strings, sources of data and Python functions are refused by name, and so is every
  operator that is not below.

A row is a function of the node and its operands, in `frontends/tensorflow/ops/`; see
`frontends/tensorflow/table.py`.
"""
