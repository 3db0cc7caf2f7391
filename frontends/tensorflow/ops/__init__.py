"""The rows of the table of TensorFlow operators."""
