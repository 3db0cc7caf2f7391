"""A Lepton plugin that recognises ReLU6."""
