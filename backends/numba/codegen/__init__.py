"""Code generation: an LLVM builder for vector kernels, compiled by llvmlite to cached objects."""
