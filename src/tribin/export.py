"""From a run to a packed file with a model card: written, read again, and measured."""

from dataclasses import dataclass, replace
from pathlib import Path

from tribin.atomic_file import write_atomically
from tribin.data import ImageSplits
from tribin.errors import InputError
from tribin.evaluation import Evaluation
from tribin.inspection import model_size
from tribin.model_card import model_card
from tribin.nn import pack
from tribin.packed import save
from tribin.trained_model import TrainedModel, load_trained_model
from tribin.training.run_folder import default_device


@dataclass(frozen=True)
class Export:
    """A packed file.

    Attributes:
        file: the packed model.
        card: the model card beside it.
        packed: the model as it was read from the file.
        float_bytes: size of the model as it was trained, in float32.
        evaluation: of the packed model; None where it was not asked for.
        half_cost: bits/dim by which bfloat16 is worse, on the same noise; None without it.
    """

    file: Path
    card: Path
    packed: TrainedModel
    float_bytes: int
    evaluation: Evaluation | None
    half_cost: float | None


def export(
    run_dir: Path,
    file: Path | None = None,
    *,
    half: bool | None = None,
    weights: str | None = None,
    data: ImageSplits | None = None,
) -> Export:
    """Write a run's newest checkpoint as a packed file, and a model card beside it.

    Args:
        run_dir: the run's folder.
        file: replaced if it exists; ``packed.safetensors`` in the run's folder by default. The card
            has its name with ``.md``.
        half: round real weights to bfloat16; what the recipe says by default.
        weights: ``"raw"`` or ``"ema"``; the average, where the run keeps one, by default.
        data: the recipe's; what was written is evaluated on the test images, if they are given.

    Raises:
        InputError: if there is no such run, or the file can't be written.
        NonFiniteError: if the density of an image is not finite.
    """
    file = file or run_dir / "packed.safetensors"
    if not run_dir.is_dir():
        raise InputError(f"{run_dir} is no run folder, which is what is exported")
    trained = load_trained_model(run_dir, default_device(), weights, as_trained=True)
    half = trained.recipe.export.half if half is None else half
    recipe = trained.recipe.model_dump(mode="json")
    try:
        save(trained.model, file, half=half, recipe=recipe, provenance=trained.provenance)
        packed = load_trained_model(file, default_device())
        evaluation, half_cost = _measure(trained, packed, half, data)
        float_bytes = model_size(trained.model).float_bytes
        result = Export(file, file.with_suffix(".md"), packed, float_bytes, evaluation, half_cost)
        write_atomically(result.card, model_card(result, data).encode())
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
    return result


def _measure(
    trained: TrainedModel, packed: TrainedModel, half: bool, data: ImageSplits | None
) -> tuple[Evaluation | None, float | None]:
    if data is None:
        return None, None
    evaluation = packed.evaluate(data.test)
    if not half:
        return evaluation, None
    exact = replace(trained, model=pack(trained.model)).evaluate(data.test)
    return evaluation, evaluation.bits_per_dim - exact.bits_per_dim
