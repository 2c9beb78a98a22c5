import pytest
from hypothesis import given
from hypothesis import strategies as st

from tribin.models import MODELS
from tribin.recipe import Recipe, diff_recipes, dump_recipe, load_recipe
from tribin.recipe.schema import recipe_class

positive = st.integers(1, 2**40)
recipes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "model": st.fixed_dictionaries(
            {
                "name": st.just("resnet_vae"),
                "width": st.integers(1, 2**16),
                "free_bits": st.floats(0, 1e300),
            }
        ),
        "data": st.fixed_dictionaries(
            {
                "name": st.just("folder"),
                "path": st.none() | st.text(),
                "image_shape": st.none() | st.tuples(positive, positive, positive),
            }
        ),
        "optimizer": st.fixed_dictionaries(
            {
                "learning_rate": st.floats(0, 1e300, exclude_min=True),
                "betas": st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
                "schedule": st.just("constant"),
                "gradient_clip": st.none() | positive,
            }
        ),
        "training": st.fixed_dictionaries({"images": positive, "accumulation": st.just(1)}),
        "tracking": st.fixed_dictionaries({"project": st.text(), "entity": st.none() | st.text()}),
    }
).map(recipe_class("resnet_vae").model_validate)


@given(recipe=recipes)
def test_a_dumped_recipe_loads_back_equal(recipe: Recipe, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe


def test_a_dump_spells_out_every_field():
    lines = dump_recipe(load_recipe("resnet_vae/digits_w1a1")).splitlines()
    assert "  name: resnet_vae" in lines
    assert "    weights: 1" in lines
    assert "  betas: [0.9, 0.999]" in lines
    assert "  entity: null" in lines


def test_diff_lists_exactly_the_fields_that_differ():
    a = load_recipe("resnet_vae/digits_w1a1")
    overrides = ["seed=7", "model.precision.activations=32", "data.image_shape=[1, 8, 8]"]
    b = load_recipe("resnet_vae/digits_w1a1", overrides)
    assert diff_recipes(a, a) == []
    assert diff_recipes(a, b) == [
        ("seed", 0, 7),
        ("model.precision.activations", 1, 32),
        ("data.image_shape", None, (1, 8, 8)),
    ]
    assert diff_recipes(b, a) == [(path, right, left) for path, left, right in diff_recipes(a, b)]


def test_diff_shows_the_fields_of_another_model(monkeypatch):
    config = type(MODELS["resnet_vae"].Config().precision)
    monkeypatch.setitem(MODELS, "bare", type("Bare", (), {"Config": config}))
    a = load_recipe("resnet_vae/digits_w1a1")
    b = load_recipe("resnet_vae/digits_w1a1", ["model.name=bare"])
    rows = {path: (left, right) for path, left, right in diff_recipes(a, b)}
    assert rows["model.name"] == ("resnet_vae", "bare")
    assert rows["model.width"] == (64, None)
    assert rows["model.weights"] == (None, 1)


@pytest.mark.parametrize("name", ["resnet_vae/digits_w1a1", "resnet_vae/cifar10_w1a32"])
def test_equal_recipes_compare_equal(name):
    assert load_recipe(name) == load_recipe(name)
    assert hash(load_recipe(name)) == hash(load_recipe(name))
