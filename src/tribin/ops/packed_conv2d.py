"""Inference from row bits: packed convolutions and linear layers, without a float weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tribin.ops.checks import check_floating, check_per_output, check_same_device
from tribin.ops.conv2d_size import as_pair, check_conv2d_size, output_size
from tribin.ops.registration import register_op
from tribin_kernels import reference
from tribin_kernels.cpu import packed_conv2d as cpu
from tribin_kernels.reference.packed_conv2d import result_format

Form = Sequence[int | str]


@torch.no_grad()
def packed_conv2d(
    x: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    channels: int | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    binary_input: bool = False,
    slope: Tensor | None = None,
    gate: bool = False,
    residual: Tensor | None = None,
    elu: bool = False,
    to_bits: bool = False,
) -> Tensor:
    """y = elu(gate(prelu(conv2d(x, W)·scale + bias)) + residual), each where asked; no gradient.

    Args:
        x: [N, C, H, W], floating point, or the row bits of its signs, int32 [N, H, W, ceil(C/32)].
        weight_bits: W as row bits along the channels of each tap, int32
            [out, kh, kw, ceil(C/32)]: `pack_signs` of a channels-last weight.
        scale: [out], g/√n.
        bias: [out].
        channels: C, needed where x is bits.
        stride: vertical and horizontal.
        padding: rows and columns of zeros on each side, with binary input too.
        binary_input: take the signs of x; bits always are.
        slope: [out]: z where z > 0, else slope·z (He et al., 2015).
        gate: a·sigmoid(b) of the two halves of the outputs; y has half as many channels.
        residual: floating point, of y's shape.
        elu: the exponential linear unit.
        to_bits: return the row bits of y's signs, the input of a layer that follows.

    Returns:
        y, [N, results, H', W'], of x's dtype, or of scale's where x is bits; channels-last where x
        is, or is bits. With `to_bits`, int32 [N, H', W', ceil(results/32)].

    Raises:
        TypeError: where a tensor has a dtype that its place doesn't take.
        ValueError: where shapes, stride or padding don't fit, `channels` is missing, or tensors are
            on different devices.
    """
    op = "packed_conv2d"
    _check_operands(op, x, weight_bits, scale, bias, slope, residual, gate)
    channels = _row_length(op, "channels", channels, x, ("N",), ("H", "W"))
    words = reference.words_per_row(channels)
    _check_form(op, "weight_bits", weight_bits, ("out", "kh", "kw", words))
    image, kernel = _image_size(x), weight_bits.shape[1:3]
    strides, paddings = as_pair(stride), as_pair(padding)
    check_conv2d_size(op, image, kernel, strides, paddings)
    if residual is not None:
        size = output_size(image, kernel, strides, paddings)
        _check_form(op, "residual", residual, (x.shape[0], _results(weight_bits, gate), *size))
    y: Tensor = _packed_conv2d(
        x, weight_bits, scale, bias, slope, residual, channels, strides, paddings,
        binary_input, gate, elu, to_bits,
    )  # fmt: skip
    return y


@torch.no_grad()
def packed_linear(
    x: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    in_features: int | None = None,
    binary_input: bool = False,
    slope: Tensor | None = None,
    gate: bool = False,
    residual: Tensor | None = None,
    elu: bool = False,
    to_bits: bool = False,
) -> Tensor:
    """y = elu(gate(prelu(x·Wᵀ·scale + bias)) + residual), each step where asked; no gradient.

    Args:
        x: [..., K], floating point, or the row bits of its signs, int32 [..., ceil(K/32)].
        weight_bits: W as row bits, int32 [out, ceil(K/32)].
        in_features: K, needed where x is bits.
        scale, bias, binary_input, slope, gate, residual, elu, to_bits: as in `packed_conv2d`; the
            residual is [..., results].

    Returns:
        [..., results], of x's dtype, or of scale's where x is bits. With `to_bits`, int32
        [..., ceil(results/32)].

    Raises:
        TypeError, ValueError: as `packed_conv2d`, of which it is the case of one pixel and tap.
    """
    op = "packed_linear"
    _check_operands(op, x, weight_bits, scale, bias, slope, residual, gate)
    rows = x.shape[:-1]
    length = _row_length(op, "in_features", in_features, x, rows, ())
    words = reference.words_per_row(length)
    _check_form(op, "weight_bits", weight_bits, ("out", words))
    if residual is not None:
        _check_form(op, "residual", residual, (*rows, _results(weight_bits, gate)))
        residual = residual.reshape(-1, residual.shape[-1], 1, 1)
    x = x.reshape((-1, 1, 1, words) if x.dtype == torch.int32 else (-1, length, 1, 1))
    y: Tensor = _packed_conv2d(
        x, weight_bits[:, None, None], scale, bias, slope, residual, length, [1, 1], [0, 0],
        binary_input, gate, elu, to_bits,
    )  # fmt: skip
    return y.reshape(*rows, y.shape[-1] if to_bits else y.shape[1])


def _check_operands(
    op: str,
    x: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    gate: bool,
) -> None:
    """Everything but the shapes of x, weight_bits and residual."""
    if weight_bits.dtype != torch.int32:
        raise TypeError(f"{op}: weight_bits is {weight_bits.dtype}, row bits are torch.int32")
    if x.dtype != torch.int32 and not x.is_floating_point():
        raise TypeError(f"{op}: x is {x.dtype}, it must be floating point, or row bits in int32")
    per_output = {"scale": scale, "bias": bias, "slope": slope}
    check_floating(op, **per_output, residual=residual)
    check_same_device(op, x, weight_bits=weight_bits, **per_output, residual=residual)
    check_per_output(op, "weight_bits", weight_bits, **per_output)
    if gate and len(weight_bits) % 2:
        raise ValueError(f"{op}: a gate takes an even number of outputs, not {len(weight_bits)}")


def _row_length(op: str, name: str, given: int | None, x: Tensor, before: Form, after: Form) -> int:
    """C, given or found in x: [before, C, after], or, in bits, [before, after, ceil(C/32)]."""
    if x.dtype != torch.int32:
        _check_form(op, "x", x, (*before, name if given is None else given, *after))
        return x.shape[len(before)]
    if given is None:
        raise ValueError(f"{op}: x is row bits, so {name}, how many they are of, is needed")
    _check_form(op, "x", x, (*before, *after, reference.words_per_row(given)))
    return given


def _check_form(op: str, name: str, tensor: Tensor, form: Form) -> None:
    """Raise a ValueError unless the tensor's shape is `form`, where a word stands for any size."""
    sizes = zip(tensor.shape, form, strict=False)
    fits = all(isinstance(wanted, str) or size == wanted for size, wanted in sizes)
    if tensor.ndim != len(form) or not fits:
        wanted = ", ".join(map(str, form))
        raise ValueError(f"{op}: {name} is {list(tensor.shape)}, it must be [{wanted}]")


def _image_size(x: Tensor) -> Sequence[int]:
    return x.shape[1:3] if x.dtype == torch.int32 else x.shape[2:]


def _results(weight_bits: Tensor, gate: bool) -> int:
    return len(weight_bits) // 2 if gate else len(weight_bits)


def _fake(
    x: Tensor,
    weight_bits: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    residual: Tensor | None,
    channels: int,
    stride: list[int],
    padding: list[int],
    binary_input: bool,
    gate: bool,
    elu: bool,
    to_bits: bool,
) -> Tensor:
    size = output_size(_image_size(x), weight_bits.shape[1:3], stride, padding)
    results = _results(weight_bits, gate)
    if to_bits:
        words = reference.words_per_row(results)
        return x.new_empty((x.shape[0], *size, words), dtype=torch.int32)
    dtype, form = result_format(x, scale)
    y = x.new_empty((x.shape[0], results, *size), dtype=dtype)
    return y.contiguous(memory_format=form)


_packed_conv2d = register_op(
    "packed_conv2d(Tensor x, Tensor weight_bits, Tensor scale, Tensor? bias, Tensor? slope, "
    "Tensor? residual, SymInt channels, SymInt[2] stride, SymInt[2] padding, bool binary_input, "
    "bool gate, bool elu, bool to_bits) -> Tensor",
    cpu.packed_conv2d,
    _fake,
    kernels="tribin_kernels.packed_conv2d",
)
