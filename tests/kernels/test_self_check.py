import pytest
import torch

from tribin_kernels import bit_product, self_check
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.launch import record

CPU = torch.device("cpu")


def test_the_small_product_is_exact() -> None:
    actual, wanted = self_check.small_products(CPU)
    assert torch.equal(actual, wanted)
    assert self_check.check_bit_mma(CPU)


def test_a_wrong_product_is_noticed_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    actual, wanted = self_check.small_products(CPU)
    actual[1, 200, 3, 7] += 2
    monkeypatch.setattr(self_check, "small_products", lambda device: (actual, wanted))
    with pytest.warns(
        RuntimeWarning, match="1-bit tensor core of cpu gave a wrong product"
    ) as seen:
        assert not self_check.check_bit_mma(CPU)
    assert len(seen) == 1


@pytest.mark.parametrize(("sound", "kernel"), [(True, "bit_mma"), (False, "int8_mma")])
def test_products_run_on_int8_where_the_check_failed(
    monkeypatch: pytest.MonkeyPatch, sound: bool, kernel: str
) -> None:
    monkeypatch.setattr(bit_product, "w1a1_route", lambda device, shape: "bit_mma")
    monkeypatch.setattr(bit_product, "bit_mma_is_sound", lambda device: sound)
    x, latent_weight = (
        torch.randn(2, 8, 4, 8, device="meta"),
        torch.randn(3, 8, 3, 3, device="meta"),
    )
    shape = Conv2dShape.of(x.shape, latent_weight, [1, 1], [1, 1])
    with record() as launches:
        bit_product.bit_product(x, latent_weight, torch.ones(3, device="meta"), None, shape)
    modules = {launch.kernel.fn.__module__.rpartition(".")[2] for launch in launches}
    assert modules & {"bit_mma", "int8_mma"} == {kernel}
