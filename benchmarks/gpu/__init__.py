"""Kernels on a GPU: against float64 references, and against the clock."""
