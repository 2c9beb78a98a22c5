import subprocess
import sys

import pytest

from tribin.data import DATASETS, image_format
from tribin.errors import InputError


def test_importing_the_registry_loads_no_heavy_library() -> None:
    program = (
        "import sys, tribin.data; "
        "print(sorted({'torch', 'datasets', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0)


@pytest.mark.parametrize(
    ("name", "shape", "levels"),
    [
        ("digits", (1, 8, 8), 17),
        ("cifar10", (3, 32, 32), 256),
        ("fashion_mnist", (1, 28, 28), 256),
        ("imagenet32", (3, 32, 32), 256),
        ("imagenet32_repack", (3, 32, 32), 256),
        ("imagenet32_old", (3, 32, 32), 256),
    ],
)
def test_known_formats(name: str, shape: tuple[int, int, int], levels: int) -> None:
    known = image_format(name)
    assert (known.shape, known.levels) == (shape, levels)
    assert image_format(name, image_shape=list(shape), levels=levels) == known


def test_folder_takes_the_declared_format() -> None:
    assert image_format("folder", (1, 5, 7)).levels == 256
    declared = image_format("folder", [3, 5, 7], levels=16)
    assert (declared.channels, declared.height, declared.width, declared.levels) == (3, 5, 7, 16)


@pytest.mark.parametrize(
    ("name", "image_shape", "levels", "message"),
    [
        ("cifar", None, None, "data.name: 'cifar' is unknown; known are digits, cifar10"),
        ("folder", None, None, "data.image_shape: missing"),
        ("folder", (3, 32), None, r"data.image_shape: \[3, 32\] is not"),
        ("folder", (2, 8, 8), None, r"data.image_shape: \[2, 8, 8\] is not"),
        ("folder", (1, 0, 8), None, r"data.image_shape: \[1, 0, 8\] is not"),
        ("folder", (1, 8, 8), 257, "data.levels: 257 is not within 2 to 256"),
        ("folder", (1, 8, 8), 1, "data.levels: 1 is not within 2 to 256"),
        ("folder", (1, 8, 8), 0, "data.levels: 0 is not within 2 to 256"),
        ("digits", (1, 28, 28), None, r"data.image_shape: \(1, 28, 28\) contradicts .*\(1, 8, 8\)"),
        ("digits", None, 256, "data.levels: 256 contradicts data.name 'digits', which has 17"),
    ],
)
def test_bad_formats(
    name: str, image_shape: tuple[int, ...] | None, levels: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        image_format(name, image_shape, levels)


def test_the_versions_of_imagenet() -> None:
    needing_path = {name for name, source in DATASETS.items() if source.needs_path}
    assert needing_path == {"imagenet32", "imagenet32_old", "folder"}
    assert DATASETS["imagenet32"].counts == (1_281_167, 50_000)
    assert DATASETS["imagenet32_old"].counts == (1_281_149, 49_999)
