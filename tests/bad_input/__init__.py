"""Hostile, malformed and odd models, with what `lepton-opt` has to do with each of them."""
