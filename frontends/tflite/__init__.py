"""TFLite in and out.

`lepton-opt model.tflite -o model.onnx` reads a TFLite file; `-o model.tflite` writes one. Files are
told by their content. Weights stay in the file, which is mapped, until something needs them.

* Inputs and outputs have the names of the signature where there is one for all of them, else those
  of the tensors. Dims that the file leaves open become symbols. `--signature=KEY` reads another
  signature than that of the first subgraph as the model; otherwise those are functions beside
  `main`, which an ONNX file leaves out with a note.
* Layouts stay: operators on channels-last tensors are operations of their own (`conv_nhwc`), which
  the pass `channels_first` turns for other targets. Padding SAME is spelled out where sizes are
  known.
* Tensors with a scale become pairs: an operator gets dequantized operands, and its result is
  quantized. Biases count in the scales of operand and weights. In ONNX, codes of i8 become u8, for
  which onnxruntime has kernels on x86; inputs and outputs stay i8.
* Floats that meet quantized weights (dynamic range) are computed in floats. LiteRT rounds them to 8
  bits first, so that results differ by a percent or so.
* Weights of f16 stay what they are, behind a cast; sparse ones are made dense when they are read.
* Variables, and the state of LSTM, RNN and SVDF kernels, become one more input and one more output
  `NAME.next` each: a caller carries them from run to run. With `--keep-overridable` the inputs have
  their first contents as a default. Variables inside control flow are refused.
* IF and WHILE become `if` and `loop`. STABLEHLO_COMPOSITE is what its decomposition says.
* Operators that are not below, custom ones, and forms of those below that the IR cannot say stay as
  they are (`tflite.NAME`, `tflite.custom.NAME`). ONNX refuses them by name.
* NaN, integer division, rounding and the like follow LiteRT's kernels: MAXIMUM gives its second
  operand where one is NaN, FLOOR_MOD has the sign of the divisor, negative indices meet nothing in
  ONE_HOT. What ONNX says otherwise is an operation of its own.
"""
