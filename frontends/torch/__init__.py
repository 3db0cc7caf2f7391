"""PyTorch in.

`lepton-opt model.pt2 -o model.onnx` reads an archive of `torch.export.save` (torch 2.8 or later,
schema 8); torch is not needed. `lepton_ir.from_torch(module, example_args)` exports a live module
first, which needs torch.

```python
dynamic = {"x": {0: torch.export.Dim("batch")}}
program = torch.export.export(model.eval(), (example,), dynamic_shapes=dynamic)
torch.export.save(program, "model.pt2")
```

* Export without `run_decompositions()` where you can: linear, layer norm, attention and recurrent
  layers stay whole then. Decomposed programs are read as well.
* Sizes that were exported as dynamic stay symbolic; what the exporter found out about their range
  is used.
* Writing in place is followed, through views too. A buffer that the program writes becomes a
  further result `NAME.out`, and with `--keep-overridable` an input `NAME` as well, so that a caller
  can carry it from run to run.
* `cond`, `while_loop` and `scan` become `if`, `loop` and `scan`. Quantized programs (pt2e) become
  quantize/dequantize pairs.
* Nothing is unpickled. Archives of torch 2.7 and older hold pickled weights: load and save them
  again with a newer torch.

An operator that is not below is refused by name. A row is a function with the operator's own
parameters, in `frontends/torch/ops/`; without an overload it serves all of them, and the operator
that writes in place (`add_`).
"""
