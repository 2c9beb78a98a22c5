"""The model card of a packed file: what it is, what was measured, and how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tribin.inspection import model_size
from tribin.recipe import dump_recipe

if TYPE_CHECKING:
    from tribin.data import ImageSplits
    from tribin.export import Export

CARD = """\
# {title}

A {model} trained by tribin on {images_seen:,} images of `{data}`. It gives the density of images of
{shape} pixels with {levels} levels, and draws such images.

| | |
|---|---|
{rows}

## Use

```python
import tribin

model = tribin.load("{file}")
images = model.sample(16)  # uint8 [16, {dimensions}]
```

or `tribin sample {file}`, `tribin evaluate {file}` and `tribin info {file}`. The file is
safetensors: nothing in it is code, and every byte is checked when it is read.

## Training

{provenance}

```yaml
{recipe}
```
"""


def model_card(export: Export, data: ImageSplits | None) -> str:
    """Describe an exported model in Markdown.

    Args:
        export: what was written and measured.
        data: what it was measured on; None where it was not.
    """
    packed = export.packed
    model, recipe = packed.model, packed.recipe
    return CARD.format(
        title=f"{recipe.model.name} on {recipe.data.name}",
        model=type(model).__name__,
        images_seen=packed.provenance["images_seen"],
        data=recipe.data.name,
        shape="×".join(map(str, model.image_shape)),
        levels=model.levels,
        rows="\n".join(f"| {name} | {value} |" for name, value in _rows(export, data).items()),
        file=export.file.name,
        dimensions=", ".join(map(str, model.image_shape)),
        provenance="\n".join(f"- {name}: {value}" for name, value in packed.provenance.items()),
        recipe=dump_recipe(recipe).rstrip(),
    )


def _rows(export: Export, data: ImageSplits | None) -> dict[str, str]:
    size = model_size(export.packed.model)
    file_bytes = export.packed.bytes_on_disk
    rows = {
        "test bits/dim": "not measured",
        "data": "" if data is None else data.source,
        "weights and activations of residual layers": _precision(export),
        "parameters": f"{size.parameters:,}, "
        f"{size.binary_parameters / size.parameters:.2%} of them 1 bit",
        "file": f"{file_bytes:,} bytes",
        "as trained, in float32": f"{export.float_bytes:,} bytes",
        "smaller by": f"{1 - file_bytes / export.float_bytes:.2%}",
    }
    if export.evaluation:
        rows["test bits/dim"] = export.evaluation.of_weights(export.packed.weights)
    if export.half_cost is not None:
        rows["of that, by bfloat16"] = f"{export.half_cost:+.4f}"
    return {name: value for name, value in rows.items() if value}


def _precision(export: Export) -> str:
    return str(getattr(export.packed.model.config, "precision", ""))  # not every model has one
