"""Stacking: exactly undone, only where lists are complete and alike, and safe to undo."""

import re
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tribin.packed.stacking import MAX_TENSORS, stack, unstack


def numbered(*names: str, shape: tuple[int, ...] = (2,)) -> dict[str, Tensor]:
    """Tensors that differ from each other."""
    return {name: torch.full(shape, float(i)) for i, name in enumerate(names)}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor)  # False where shapes differ


def test_a_list_becomes_one_tensor_in_the_order_of_its_indices() -> None:
    tensors = numbered(*(f"layers.{i}.up.weight" for i in (3, 11, *range(3), *range(4, 11))))
    stacked = stack(tensors)
    assert list(stacked) == ["layers.*.up.weight"]
    assert stacked["layers.*.up.weight"].shape == (12, 2)
    for i in range(12):
        assert torch.equal(stacked["layers.*.up.weight"][i], tensors[f"layers.{i}.up.weight"])


def test_a_list_in_a_list_gives_two_dimensions_from_left_to_right() -> None:
    tensors = numbered(*(f"a.{i}.b.{j}" for j in range(3) for i in range(2)), shape=())
    stacked = stack(tensors)
    assert stacked.keys() == {"a.*.b.*"}
    assert stacked["a.*.b.*"].shape == (2, 3)
    assert all(stacked["a.*.b.*"][i, j] == tensors[f"a.{i}.b.{j}"] for i in (0, 1) for j in (0, 1))


@pytest.mark.parametrize(
    "names",
    [
        ("a.1", "a.2"),
        ("a.0", "a.2"),
        ("a.0.b.0", "a.0.b.1", "a.1.b.0"),
        ("a.00", "a.01"),
        ("a.٠", "a.١"),  # digits, but not ours
        ("a.-0", "a.+1", "a.1e0", "a.", "", "."),
        ("a0", "a1", "a_0.b", "a_1.b"),
        ("a.99999999999999999999", "a.1234567"),
        ("a.{}.{0}", "a.%d"),
    ],
)
def test_names_that_are_no_complete_lists_stay(names: tuple[str, ...]) -> None:
    tensors = numbered(*names)
    assert_same(stack(tensors), tensors)
    assert_same(unstack(stack(tensors)), tensors)


@pytest.mark.parametrize("other", [torch.zeros(3), torch.zeros(1, 2), torch.zeros(2).bfloat16()])
def test_members_of_other_shape_or_dtype_keep_a_list_apart(other: Tensor) -> None:
    tensors = {"a.0": torch.zeros(2), "a.1": other}
    assert_same(stack(tensors), tensors)


def test_braces_in_a_stacked_name_are_ordinary_characters() -> None:
    tensors = numbered("{}.0.{0}", "{}.1.{0}")
    assert stack(tensors).keys() == {"{}.*.{0}"}
    assert_same(unstack(stack(tensors)), tensors)


names = st.lists(st.sampled_from(["0", "1", "2", "00", "a", "b", ""]), min_size=1, max_size=4)
kinds = st.sampled_from(
    [((), torch.float32), ((2,), torch.int32), ((0, 3), torch.float32), ((2,), torch.bfloat16)]
)


@given(st.dictionaries(names.map(".".join), kinds, max_size=20))
def test_unstack_undoes_stack(kind_of: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    tensors = {
        name: torch.full(shape, i, dtype=dtype)
        for i, (name, (shape, dtype)) in enumerate(kind_of.items())
    }
    assert_same(unstack(stack(tensors)), tensors)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(0, 3), max_size=2))
def test_unstacked_tensors_are_contiguous_views(lengths: list[int], shape: list[int]) -> None:
    stacked = torch.arange(prod(lengths + shape)).view(lengths + shape)
    name = ".".join("*" * len(lengths))
    members = unstack({name: stacked})
    assert len(members) == prod(lengths)
    assert all(list(member.shape) == shape for member in members.values())
    assert all(member.is_contiguous() for member in members.values())
    storage = stacked.untyped_storage().data_ptr()
    assert all(member.untyped_storage().data_ptr() == storage for member in members.values())


@pytest.mark.parametrize("name", ["*", "a.*.b", "a*"])
def test_a_star_in_a_name_to_stack_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(repr(name))} holds a '\*'"):
        stack({name: torch.zeros(2)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.*", ()),
        ("*.*.*", (2, 2)),
        ("a.*", (0,)),
        ("*.*", (2, 0, 5)),
        ("a*", (2,)),
        ("a.*.b**", (2, 2, 2)),
    ],
)
def test_what_cannot_have_been_stacked_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(repr(name))} of shape .* stacks no tensors"):
        unstack({name: torch.zeros(shape)})


def test_names_that_unstack_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two tensors 'a\.1'"):
        unstack({"a.*": torch.zeros(2), "a.1": torch.zeros(())})
    with pytest.raises(ValueError, match=r"two tensors 'a\.1\.0'"):
        unstack({"a.*.0": torch.zeros(2), "a.1.*": torch.zeros(2)})


def test_billions_of_empty_tensors_are_refused_before_any_is_named() -> None:
    huge = torch.empty(2**31, 2**31, 0)  # no bytes at all
    with pytest.raises(ValueError, match="more than 65536 tensors"):
        unstack({"*.*": huge})


def test_the_limit_counts_all_tensors_together() -> None:
    most = {"*": torch.empty(MAX_TENSORS - 1, 0), "a": torch.empty(0)}
    assert len(unstack(most)) == MAX_TENSORS
    with pytest.raises(ValueError, match="more than 65536 tensors"):
        unstack(most | {"b": torch.empty(0)})
