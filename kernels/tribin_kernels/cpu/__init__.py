"""Inference from row bits on a CPU: a native kernel, and what stands in where none can be built."""
