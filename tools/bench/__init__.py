"""Benchmarks: synthetic models and whole-process comparisons of time, memory and growth."""
