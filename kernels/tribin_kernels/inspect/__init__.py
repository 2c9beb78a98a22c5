"""What the compiler makes of the kernels, for GPUs that need not be there.

`cases` lists real calls of the kernels, `compile` compiles what they launch, and `budget` says how
many registers and how much shared memory they may take, and which instructions they must have.
"""
