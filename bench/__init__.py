"""Benchmarks of `stream`: the contenders, the inputs, and the measuring."""
