"""TFLite out: what its kernels take, lowering to it, and writing the file."""
