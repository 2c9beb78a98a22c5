"""Every test of the kernels runs them in the mended interpreter."""

from tests.kernels import interpreter

interpreter.install()
