"""The cases: the kernels' calls in a ResNet VAE, in Flow++ and in linear layers."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from tribin_kernels import bit_mma, int8_mma
from tribin_kernels.adam_step import AdamStep
from tribin_kernels.border_table import border_table
from tribin_kernels.finish_weight_gradient import finish_weight_gradient
from tribin_kernels.inspect.case import Case
from tribin_kernels.inspect.operands import Operands
from tribin_kernels.pack_activations import PackActivationsConfig, pack_activations, pack_rows
from tribin_kernels.pack_weights import Layout, pack_weights
from tribin_kernels.packed_conv2d import packed_conv2d
from tribin_kernels.popcount import PopcountConfig, linear_w1a1
from tribin_kernels.real_mma import RealMmaConfig, conv2d_w1a16
from tribin_kernels.real_product import mma_operand
from tribin_kernels.reference import AdamSettings, AdamTensors
from tribin_kernels.scale_gradient import scale_gradient, split_float32
from tribin_kernels.unpack_rows import unpack_rows
from tribin_kernels.weight_gradient import WeightGradientConfig, product_gradient

Call = Callable[..., Any]


def _bit_mma(operands: Operands, epilogue: str) -> Call:
    shape, dtype = operands.shape, operands.dtype
    tiles = shape.in_full_tiles()
    size = (tiles.height, tiles.width)
    _, _, paired = pack_activations(operands.input(), paired_size=size)
    assert paired is not None
    fragments = pack_weights(operands.latent_weight(), "fragments", gate=epilogue == "gate")
    table, gain, bias = border_table(fragments, tiles), operands.gain(), operands.gain()
    then = operands.epilogue(epilogue)
    return lambda config: bit_mma.conv2d_w1a1(
        paired, fragments, table, gain, shape.gain_factor, bias, tiles,
        rows=None if tiles is shape else shape.pixels, epilogue=then, dtype=dtype, config=config,
    )  # fmt: skip


def _int8_mma(operands: Operands, epilogue: str) -> Call:
    shape, dtype = operands.shape, operands.dtype
    signs, _, _ = pack_activations(operands.input())
    weights = pack_weights(operands.latent_weight(), "rows")
    gain, bias, then = operands.gain(), operands.gain(), operands.epilogue(epilogue)
    return lambda config: int8_mma.conv2d_w1a1(
        signs, weights, gain, shape.gain_factor, bias, shape,
        epilogue=then, dtype=dtype, config=config,
    )  # fmt: skip


def _popcount(operands: Operands, _: str) -> Call:
    shape, dtype = operands.shape, operands.dtype
    signs, _mask, _paired = pack_activations(operands.input())
    rows, weights = signs.flatten(0, 2), pack_weights(operands.latent_weight(), "rows").flatten(1)
    gain, bias = operands.gain(), operands.gain()
    return lambda config: linear_w1a1(
        rows, weights, gain, shape.gain_factor, bias, shape.channels, dtype=dtype, config=config
    )


def _real_mma(operands: Operands, epilogue: str) -> Call:
    shape, dtype = operands.shape, operands.dtype
    x, quads = mma_operand(operands.input()), pack_weights(operands.latent_weight(), "quads")
    gain, bias, then = operands.gain(), operands.gain(), operands.epilogue(epilogue)
    return lambda config: conv2d_w1a16(
        x, quads, gain, shape.gain_factor, bias, shape, epilogue=then, dtype=dtype, config=config
    )


def _input_gradient(operands: Operands, _: str) -> Call:
    shape, dtype = operands.shape, operands.dtype
    _signs, mask, _paired = pack_activations(operands.input())
    quads = pack_weights(operands.latent_weight(), "quads", transposed=True)
    grad_y = mma_operand(operands.output())
    return lambda config: conv2d_w1a16(
        grad_y, quads, None, shape.gain_factor, None, shape,
        transposed=True, mask=mask, dtype=dtype, config=config,
    )  # fmt: skip


def _packed_conv2d(operands: Operands, option: str) -> Call:
    """The option is what goes in, real x, its signs or bits, and what follows the product."""
    shape, (goes_in, *then) = operands.shape, option.split()
    gain, bias, x, residual = operands.gain(), operands.gain(), operands.input(), operands.output()
    results = shape.outputs // 2 if "gate" in then else shape.outputs
    if goes_in == "bits":
        x, _mask, _paired = pack_activations(x, mask=False)
    weight_bits = pack_weights(operands.latent_weight(), "rows").unflatten(1, shape.kernel)

    def call() -> Tensor:
        return packed_conv2d(
            x, weight_bits, gain, bias, None, residual[:, :results] if "residual" in then else None,
            shape.channels, list(shape.stride), list(shape.padding), goes_in == "signs",
            "gate" in then, False, "bits" in then,
        )  # fmt: skip

    call()  # makes what is made once
    return call


def _weight_gradient(operands: Operands, _: str) -> Call:
    shape, latent, gain = operands.shape, operands.latent_weight(), operands.gain()
    signs, _mask, _paired = pack_activations(operands.input())
    grad_y = mma_operand(operands.output())

    def call(config: WeightGradientConfig) -> Any:
        partial_sums = product_gradient(grad_y, signs, shape, config)
        return finish_weight_gradient(partial_sums, latent, gain, shape.gain_factor)

    return call


def _pack_activations(operands: Operands, option: str) -> Call:
    x, shape = operands.input(), operands.shape
    size = (shape.height, shape.width) if option == "paired" else None
    return lambda config: pack_activations(x, paired_size=size, config=config)


def _unpack_rows(operands: Operands, _: str) -> Call:
    length, dtype = operands.shape.channels, operands.dtype
    bits = pack_rows(operands.input().permute(0, 2, 3, 1))
    return lambda: unpack_rows(bits, length, dtype)


def _pack_weights(operands: Operands, option: str) -> Call:
    latent, layout = operands.latent_weight(), cast(Layout, option.split()[-1])
    return lambda: pack_weights(latent, layout, transposed="transposed" in option)


def _scale_gradient(operands: Operands, _: str) -> Call:
    grad_y, gain, dtype = operands.output(), operands.gain(), operands.dtype
    terms = dtype == torch.float32
    return lambda: scale_gradient(grad_y, gain, 1.0, dtype=dtype, terms=terms)


def _split_float32(operands: Operands, _: str) -> Call:
    x = operands.input()
    return lambda: split_float32(x)


def _border_table(operands: Operands, _: str) -> Call:
    fragments = pack_weights(operands.latent_weight(), "fragments")
    return lambda: border_table(fragments, operands.shape)


def _adam_step(operands: Operands, option: str) -> Call:
    """A latent weight and its gain; the option is whether they are averaged."""
    device, averages = operands.device, option == "average"
    parameters = {"latent": operands.latent_weight(), "gain": operands.gain()}
    tensors = [
        AdamTensors(
            parameter,
            gradient=torch.zeros_like(parameter),
            exp_avg=torch.zeros_like(parameter),
            exp_avg_sq=torch.zeros_like(parameter),
            step=torch.zeros((), device=device),
            average=parameter.clone() if averages else None,
            latent=name == "latent",
        )
        for name, parameter in parameters.items()
    ]
    gradient_norm, finite = (torch.ones((), dtype=x, device=device) for x in (None, torch.bool))
    averaged_steps = torch.ones((), dtype=torch.int64, device=device) if averages else None
    settings, step = AdamSettings(1e-3, (0.9, 0.999), 1e-8, 1.0, 0.999), AdamStep()
    return lambda: step(tensors, gradient_norm, finite, averaged_steps, settings)


def _cases(
    kernel: str, call: Callable[[Operands, str], Call], config_class: type | None, *names: str
) -> list[Case]:
    return [Case(kernel, call, config_class, name) for name in names]


CASES = [
    *_cases(
        "bit_mma", _bit_mma, bit_mma.BitMmaConfig,
        "resnet 3x3, bf16",
        "resnet 3x3, bf16, residual",
        "resnet 3x3, bf16, slope and residual",
        "resnet 5x5, bf16",
        "flow++ 3x3, fp16, elu",
        "flow++ 1x1, fp32, gate",
        "linear 8192, bf16",
    ),
    *_cases(
        "int8_mma", _int8_mma, int8_mma.Int8MmaConfig,
        "resnet 3x3, bf16",
        "resnet 3x3, bf16, residual",
        "resnet 3x3, bf16, slope and residual",
        "flow++ 3x3, fp16, elu",
        "flow++ 1x1, fp32, gate",
        "linear 8192, bf16",
    ),
    *_cases("popcount", _popcount, PopcountConfig, "vector 8192, bf16"),
    *_cases(
        "real_mma", _real_mma, RealMmaConfig,
        "resnet 3x3, bf16",
        "resnet 3x3, bf16, residual",
        "resnet 3x3, fp32",
        "flow++ 3x3, fp16, elu",
        "flow++ 1x1, bf16, gate",
        "linear 4096, bf16",
        "linear 64, bf16",
        "vector 8192, bf16",
    ),
    *_cases(
        "real_mma", _input_gradient, RealMmaConfig,
        "resnet 5x5, bf16, input gradient",
    ),
    *_cases(
        "packed_conv2d", _packed_conv2d, None,
        "resnet 3x3, bf16, signs to bits",
        "resnet 3x3, bf16, bits and residual",
        "flow++ 1x1, fp32, signs with gate and residual",
        "flow++ 1x1, bf16, real with gate and residual",
    ),
    *_cases(
        "weight_gradient", _weight_gradient, WeightGradientConfig,
        "resnet 3x3, bf16",
        "resnet 5x5, fp32",
        "flow++ input, fp16",
        "linear 4096, bf16",
    ),
    *_cases(
        "pack_activations", _pack_activations, PackActivationsConfig,
        "resnet 3x3, bf16, paired",
        "flow++ 1x1, fp16",
        "linear 8192, fp32",
    ),
    *_cases("unpack_rows", _unpack_rows, None, "linear 8192, bf16"),
    *_cases(
        "pack_weights", _pack_weights, None,
        "flow++ 3x3, fp32, rows",
        "resnet 3x3, fp32, fragments",
        "resnet 3x3, fp32, quads",
        "resnet 3x3, fp32, transposed quads",
    ),
    *_cases("scale_gradient", _scale_gradient, None, "resnet 3x3, bf16", "flow++ 3x3, fp32"),
    *_cases("scale_gradient", _split_float32, None, "resnet 3x3, fp32, split"),
    *_cases("border_table", _border_table, None, "resnet 5x5, bf16"),
    *_cases("adam_step", _adam_step, None, "resnet 3x3, fp32", "resnet 3x3, fp32, average"),
]  # fmt: skip
