"""The native library: ``xnor.cpp``, compiled for this machine when it is first needed."""

import ctypes
import hashlib
import os
import subprocess
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

SOURCE = Path(__file__).with_name("xnor.cpp")
# Without contraction a residual is added after rounding, as torch adds it.
FLAGS = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC", "-shared"]


@cache
def native_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None, after one warning, where they can't be compiled.

    The compiler is ``CXX`` (``c++`` by default), with the options of ``CXXFLAGS`` added. Its work
    takes seconds and is kept in the user's cache folder.
    """
    try:
        return ctypes.CDLL(str(compiled(SOURCE)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            "tribin can't compile its CPU kernels and runs packed layers on torch's int8 ones, "
            f"several times slower: {reason.strip()[-500:]}",
            stacklevel=2,
        )
        return None


def compiled(source: Path) -> Path:
    """The library of a C++ file that may use ATen, from the cache where it is there.

    Raises:
        OSError: if there is no compiler, or the cache folder is not writable.
        subprocess.CalledProcessError: if the compiler fails.
    """
    command = _command(source)
    key = " ".join([*command, torch.__version__, _instruction_sets(), source.read_text()])
    name = f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    library = _cache_folder() / name
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=library.parent) as folder:
            output = Path(folder) / name
            subprocess.run([*command, "-o", output], check=True, capture_output=True, text=True)
            os.replace(output, library)  # nobody loads half a library
    return library


def _command(source: Path) -> list[str]:
    torch_folder = Path(torch.__file__).parent
    return [
        *os.environ.get("CXX", "c++").split(),
        *FLAGS,
        *os.environ.get("CXXFLAGS", "").split(),
        f"-I{torch_folder / 'include'}",
        str(source),
        f"-L{torch_folder / 'lib'}",
        "-lc10",
        "-ltorch_cpu",
    ]


def _instruction_sets() -> str:
    """What -march=native stands for, where the system says."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tribin"
