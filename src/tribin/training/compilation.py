"""torch.compile of a model's forward and backward pass, or a word on why not."""

import warnings
from collections.abc import Callable

from tribin.models import GenerativeModel


def compile_or_tell(
    model: GenerativeModel, trial: Callable[[], object], report: Callable[[str], None]
) -> None:
    """Have `model(images)` run compiled from now on; eagerly, as before, if the trial fails.

    Only the call itself is compiled: `log_weight`, `sample` and the like stay eager, and the names
    of the state stay the same. Random numbers are those of the eager model.

    Args:
        model: in the mode in which it will be called.
        trial: calls the model as training will; what it adds to gradients and buffers is undone.
        report: is told in one line where the model can't be compiled.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on speed
            model.compile(options={"fallback_random": True})
            trial()
    except Exception as error:  # a compiler of four parts fails in as many ways
        model._compiled_call_impl = None
        report(f"warning: the model runs without torch.compile: {_in_one_line(error)}")
    finally:
        model.zero_grad()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _in_one_line(error: Exception) -> str:
    """Its class and first words; the backend's name and its error are two lines of torch's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([f"{type(error).__name__}:", *lines[:2]])
