"""Running plans: the kernel table's loop, frames of values, threads."""
