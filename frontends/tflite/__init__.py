"""TFLite in."""
