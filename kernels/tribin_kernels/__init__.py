"""The kernels of tribin: tensors, bits, tiles and launches, without autograd or modules.

`tribin_kernels.reference` says in plain torch what each kernel computes.
"""
