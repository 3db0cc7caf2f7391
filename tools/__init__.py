"""The command line and its siblings; the one folder that may reach everything."""

if __name__ != "lepton_ir.tools":
    raise ImportError(f"import this package as lepton_ir.tools, not {__name__}")
