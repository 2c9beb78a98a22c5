"""Kernels, timed beside their baselines."""
