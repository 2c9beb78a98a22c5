"""Profiling: kernels, whole models and training steps, against the machine's limits.

What measures needs torch, triton and einops alone; pictures need matplotlib.
"""
