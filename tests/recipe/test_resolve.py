from pathlib import Path

import pytest

from tribin.errors import InputError
from tribin.models import MODELS
from tribin.recipe import RecipeError, load_recipe, shipped_recipes

MINIMAL = """\
model:
  name: resnet_vae
  width: 16
data: {name: digits}
training: {images: 1_000}
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str, name: str = "x.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def faults(source, overrides=()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, overrides)
    heading, *lines = str(caught.value).split("\n  ")
    assert heading == f"{source} has {len(lines)} fault{'s' if len(lines) > 1 else ''}:"
    return lines


def test_a_file_is_read(recipe_file):
    recipe = load_recipe(recipe_file(MINIMAL))
    assert recipe.training.images == 1000
    assert recipe.model.config() == MODELS["resnet_vae"].Config(width=16)


def test_all_faults_of_a_file_are_reported_together(recipe_file):
    text = """\
# A recipe in which everything is wrong.
model:
  name: resnet_vae
  widht: 64
  precision: {weights: 32, activations: 1}
data:
  name: cifar
optimizer:
  learning_rat: 1e-3
  learning_rate: fast
  betas: [0.9, 1]
training:
  images: 2e4
  images: 20_000
  batch_size: 100
  accumulation: 3
  lr: 3
batch_size: 3
tracking:
"""
    known_lr = "images, batch_size, accumulation"
    lines = faults(recipe_file(text))
    expected = [
        "x.yaml:4  model.widht: unknown key; did you mean width?",
        "x.yaml:5  model.precision: precision W32A1 is not implemented",
        "x.yaml:7  data.name: no data set is called 'cifar'; did you mean cifar10?",
        "x.yaml:9  optimizer.learning_rat: unknown key; did you mean learning_rate?",
        "x.yaml:10  optimizer.learning_rate: 'fast' is not a number",
        "x.yaml:11  optimizer.betas.1: 1 is not less than 1",
        "x.yaml:13  training.images: 20000.0 is not an integer (digits, as in 50_000)",
        "x.yaml:14  training.images: duplicate key, first given at x.yaml:13",
        "x.yaml:16  training.accumulation: 3 does not divide training.batch_size (100)",
        f"x.yaml:17  training.lr: unknown key; there are: {known_lr}",
        "x.yaml:18  batch_size: unknown key; did you mean training.batch_size?",
        "x.yaml:19  tracking: null is not a mapping",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("{name: resnet_vea}", "model.name: no model is called 'resnet_vea'; did you mean resnet_"),
        ("{name: gan}", "model.name: no model is called 'gan'; there are: resnet_vae"),
        ("{name: os.system}", "model.name: no model is called 'os.system'"),
        ("{name: [{a: 1}]}", "model.name: [a mapping] is not text"),
        ("{width: 3}", "model.name: required, but missing"),
        ("resnet_vae", "model: 'resnet_vae' is not a mapping"),
    ],
)
def test_a_bad_model_does_not_hide_the_other_faults(recipe_file, model, fault):
    lines = faults(recipe_file(f"model: {model}\ndata: {{name: 3}}\ntraining: {{images: 1}}\n"))
    assert lines[0].startswith(f"x.yaml:1  {fault}")
    assert lines[1:] == ["x.yaml:2  data.name: 3 is not text"]


def test_validation_needs_validation_images(recipe_file):
    lines = faults(recipe_file(MINIMAL + "evaluation:\n  every_images: 5\n"))
    assert len(lines) == 1
    assert lines[0].startswith("x.yaml:7  evaluation.every_images: ")
    assert "data.validation_images" in lines[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "x.yaml:1  the file is empty; a recipe is a mapping"),
        ("# nothing\n", "x.yaml:1  the file is empty"),
        ("- a\n- b\n", "x.yaml:1  the file is not a mapping"),
        ("just text", "x.yaml:1  the file is not a mapping"),
        ("a: [1\n", "x.yaml:2  while parsing a flow sequence"),
        ("a: &a [x]\nb: [*a, *a]\n", "x.yaml:1  anchors and aliases"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_fault(recipe_file, text, fault):
    (line,) = faults(recipe_file(text))
    assert line.startswith(fault)


def test_a_file_that_is_not_text(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet_vae/digit_w1a1", "did you mean resnet_vae/digits_w1a1?"),
        ("digits_w1a1.yaml", "did you mean flowpp/digits_w1a1 or resnet_vae/digits_w1a1?"),
        ("missing.yaml", "neither a file nor a shipped recipe"),
        ("../recipes/resnet_vae/digits_w1a1.yaml", "neither a file"),
        ("", "neither a file nor a shipped recipe"),
        ("x" * 300, "neither a file nor a shipped recipe"),
        ("a\0b", "neither a file nor a shipped recipe"),
    ],
)
def test_no_such_recipe(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_recipe(source)
    assert message in str(caught.value)


def test_a_shipped_recipe_is_found_by_name_with_or_without_its_ending(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "resnet_vae/digits_w1a1"
    assert name in shipped_recipes()
    assert load_recipe(name) == load_recipe(f"{name}.yaml")


# Base recipes


def test_a_base_fills_in_what_the_file_leaves_out(recipe_file):
    recipe_file(MINIMAL + "optimizer: {betas: [0.5, 0.6], decay: 0.9}\nseed: 1\n", name="base.yaml")
    text = "base: base.yaml\nmodel: {free_bits: 0.5}\noptimizer: {betas: [0, 0.1]}\nseed: 2\n"
    recipe = load_recipe(recipe_file(text))
    assert recipe.model.config() == MODELS["resnet_vae"].Config(width=16, free_bits=0.5)
    assert recipe.optimizer.betas == (0.0, 0.1)
    assert recipe.optimizer.decay == 0.9
    assert recipe.seed == 2


def test_a_base_can_be_a_shipped_recipe(recipe_file):
    file = recipe_file("base: resnet_vae/digits_w1a1\nmodel: {precision: {activations: 32}}\n")
    recipe = load_recipe(file)
    assert str(recipe.model.config().precision) == "W1A32"
    assert recipe.training == load_recipe("resnet_vae/digits_w1a1").training


def test_another_model_drops_the_model_of_the_base(recipe_file, monkeypatch):
    monkeypatch.setitem(MODELS, "twin", MODELS["resnet_vae"])
    recipe_file(MINIMAL, name="base.yaml")
    recipe = load_recipe(recipe_file("base: base.yaml\nmodel: {name: twin}\n"))
    assert recipe.model.name == "twin"
    assert recipe.model.config() == MODELS["twin"].Config()


@pytest.mark.parametrize(
    ("base", "fault"),
    [
        ("middle.yaml", "base: middle.yaml has a base of its own"),
        ("x.yaml", "base: x.yaml has a base of its own"),
        ("missing.yaml", "base: no recipe 'missing.yaml'"),
        ("resnet_vae/digit_w1a1", "base: no recipe 'resnet_vae/digit_w1a1': neither a file"),
        ("[a, b]", "base: ['a', 'b'] is not the name or the path of a recipe"),
        ("", "base: null is not the name or the path of a recipe"),
    ],
)
def test_bad_bases(recipe_file, base, fault):
    recipe_file("base: resnet_vae/digits_w1a1\n", name="middle.yaml")
    (line,) = faults(recipe_file(f"seed: 3\nbase: {base}\n"))
    assert line.startswith(f"x.yaml:2  {fault}")


def test_faults_of_base_file_and_overrides_name_their_source(recipe_file):
    recipe_file(MINIMAL + "samples: {count: 0, counts: 1}\n", name="base.yaml")
    file = recipe_file("base: base.yaml\nseed: -1\nsamples: {count: 1}\n")
    assert faults(file, ["training.batch_size=x"]) == [
        "base.yaml:6  samples.counts: unknown key; did you mean count?",
        "override  training.batch_size: 'x' is not an integer (digits, as in 50_000)",
        "x.yaml:2  seed: -1 is not at least 0",
    ]


# Overrides


def test_overrides_are_read_as_yaml_and_the_last_one_wins(recipe_file):
    overrides = [
        "optimizer.learning_rate=1",
        "optimizer.learning_rate=2e-5",
        "optimizer.schedule=constant",
        "training.images=50_000_000",
        "training.ema_decay=null",
        "tracking.entity=",
        "tracking.project=a=b",
        "data.image_shape=[1, 8, 8]",
        "model.precision={weights: 32}",
        "model.precision.activations=32",
    ]
    recipe = load_recipe(recipe_file(MINIMAL), overrides)
    assert recipe.optimizer.learning_rate == 2e-5
    assert recipe.training.images == 50_000_000
    assert recipe.training.ema_decay is None
    assert recipe.tracking.entity is None
    assert recipe.tracking.project == "a=b"
    assert recipe.data.image_shape == (1, 8, 8)
    assert str(recipe.model.config().precision) == "W32A32"


@pytest.mark.parametrize("order", [1, -1])
def test_an_override_can_choose_another_model(recipe_file, monkeypatch, order):
    monkeypatch.setitem(MODELS, "twin", MODELS["resnet_vae"])
    overrides = ["model.free_bits=0.5", "model.name=twin"][::order]
    recipe = load_recipe(recipe_file(MINIMAL), overrides)
    assert recipe.model.name == "twin"
    assert recipe.model.config() == MODELS["twin"].Config(free_bits=0.5)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("training.images", "'training.images' is not of the form key.path=value"),
        ("=3", "'=3' is not of the form key.path=value"),
        ("training..images=3", "'training..images=3' is not of the form"),
        ("a" + ".a" * 2_000 + "=3", "'a.a."),
        ("training.imags=3", "training.imags: unknown key; did you mean images?"),
        ("batch_size=3", "batch_size: unknown key; did you mean training.batch_size?"),
        ("base=x", "base: unknown key"),
        ("training.images.x=3", "training.images: a mapping is not an integer"),
        ("training.images=2e4", "training.images: 20000.0 is not an integer"),
        ("model.residual=no", "model.residual: 'no' is not true or false"),
        ("model.name=gan", "model.name: no model is called 'gan'; there are: resnet_vae"),
        ("model.precision={weights: 1, weights: 32}", "model.precision.weights: duplicate key"),
        ("seed=[", "seed: while parsing a flow node"),
        ("seed=&a 3", "seed: anchors and aliases"),
        ("seed=1\n---\n2", "seed: expected a single document"),
        ("training=", "training: null is not a mapping"),
    ],
)
def test_bad_overrides(recipe_file, override, fault):
    (line,) = faults(recipe_file(MINIMAL), [override])
    assert line.startswith(f"override  {fault}")


def test_what_an_overridden_section_lacks_is_located_in_the_file(recipe_file):
    text = MINIMAL.replace("{images: 1_000}", "{}")
    (line,) = faults(recipe_file(text), ["training.batch_size=8"])
    assert line == "x.yaml:5  training.images: required, but missing"
