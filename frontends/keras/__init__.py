"""Keras in.

`lepton-opt model.keras -o model.onnx` reads `.keras`, `.h5` and `.hdf5` files of Keras 2 and 3 from
their configuration; neither Keras nor TensorFlow is needed, only h5py
(`pip install lepton-ir[keras]`).

* Functional, Sequential and nested models, shared layers, several inputs and outputs. Inputs have
  the names of their layers, outputs those of the layers that make them.
* Convolutions and pooling stay channels-last where they are.
* Recurrent layers become `lstm`, `gru` and `rnn`. Layers that only act in training are left out.
* Masks of `Embedding` and `Masking` are followed to where they are used.
* `Lambda` layers, pickles and custom objects are never executed: they are refused by name.
  `--custom-layer Name=module:function` lets you say what a layer of yours means.

A layer that is not below is refused by name. A row is a function of the builder, the layer and its
operands, in `frontends/keras/layers/`.
"""
