"""Rewrites of the IR, one module a pass."""

if __name__ != "lepton_ir.passes":
    raise ImportError(f"import this package as lepton_ir.passes, not {__name__}")

# Pass name (or named pipeline) -> "module:attribute" of its class (or its text).
# Strings, so that listing them imports nothing.
TABLE: dict[str, str] = {
    "adapt": "lepton_ir.passes.adapt:Adapt",
    "canonicalize": "lepton_ir.passes.canonicalize:Canonicalize",
    "channels_first": "lepton_ir.passes.layout:ChannelsFirst",
    "channels_last": "lepton_ir.passes.layout:ChannelsLast",
    "convert": "lepton_ir.passes.convert:Convert",
    "cse": "lepton_ir.passes.cse:Cse",
    "dce": "lepton_ir.passes.dce:Dce",
    "decompose": "lepton_ir.passes.decompose:Decompose",
    "fold": "lepton_ir.passes.fold:Fold",
    "fuse": "lepton_ir.passes.fuse:Fuse",
    "fuse_attention": "lepton_ir.passes.fuse.attention:FuseAttention",
    "fuse_ort": "lepton_ir.passes.fuse.ort:FuseOrt",
    "fuse_products": "lepton_ir.passes.fuse.tflite:FuseProducts",
    "fuse_tflite": "lepton_ir.passes.fuse.tflite:FuseTflite",
    "group": "lepton_ir.passes.group:Group",
    "inline": "lepton_ir.passes.inline:Inline",
    "integers": "lepton_ir.passes.integers:Integers",
    "io_layout": "lepton_ir.passes.layout.ends:IoLayout",
    "io_type": "lepton_ir.passes.quant.io_type:IoType",
    "layout": "lepton_ir.passes.layout:Layout",
    "legalize": "lepton_ir.passes.legalize:Legalize",
    "merge_parallel": "lepton_ir.passes.fuse.parallel:MergeParallel",
    "quant": "lepton_ir.passes.quant:Quant",
    "shapes": "lepton_ir.passes.shapes:Shapes",
    "strip": "lepton_ir.passes.strip:Strip",
    "O1": "lepton_ir.passes.pipelines:O1",
    "O2": "lepton_ir.passes.pipelines:O2",
    "O3": "lepton_ir.passes.pipelines:O3",
    "tflite": "lepton_ir.passes.pipelines:TFLITE",
}
