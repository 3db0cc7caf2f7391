"""The Numba backend: runs a module on this CPU with kernels generated through llvmlite."""
