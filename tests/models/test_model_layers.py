"""The layers that go by a kernel where there is one: the same numbers, and no way round an adapter or a hook."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastbert.models.config import TransformerConfig
from fastbert.models.layers import ACTIVATIONS, DropoutSite, LayerNorm, activate, add
from fastbert.models.transformer import MLP
from fastbert.ops import dropout


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activate_is_linear_then_activation(seed: int, activation: str, dtype: torch.dtype) -> None:
    linear, x = nn.Linear(12, 20).to(dtype), torch.randn(7, 12, dtype=dtype, requires_grad=True)
    inputs = (x, linear.weight, linear.bias)
    found, expected = activate(linear, activation, x), ACTIVATIONS[activation](linear(x))
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_activate_has_the_type_that_autocast_gives(seed: int) -> None:
    linear, x = nn.Linear(12, 20), torch.randn(7, 12)
    with torch.autocast("cpu", torch.bfloat16):
        out = activate(linear, "gelu", x)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out, ACTIVATIONS["gelu"](linear(x)), rtol=2e-2, atol=2e-2)


def test_low_precision_parameters(seed: int) -> None:
    linear, x = nn.Linear(12, 20).bfloat16(), torch.randn(7, 12).bfloat16()
    assert torch.equal(activate(linear, "gelu", x), ACTIVATIONS["gelu"](linear(x)))


def test_hooks_and_adapters_get_their_call(seed: int) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    adapter, linear, x = Doubled(12, 20), nn.Linear(12, 20), torch.randn(7, 12)
    torch.testing.assert_close(activate(adapter, "gelu", x), ACTIVATIONS["gelu"](adapter(x)))
    seen: list[Any] = []
    linear.register_forward_hook(lambda module, inputs, output: seen.append(output))
    activate(linear, "gelu", x)
    assert len(seen) == 1


@pytest.mark.parametrize("rng", [None, torch.tensor([5, 1])])
def test_layer_norm_of_a_residual_sum(seed: int, rng: Tensor | None) -> None:
    norm, x, residual = LayerNorm(24, eps=1e-12), torch.randn(7, 24), torch.randn(7, 24)
    nn.init.normal_(norm.weight)
    site = DropoutSite.MLP_OUTPUT
    total = residual + (x if rng is None else dropout(x, 0.5, rng=rng, site=int(site)))
    torch.testing.assert_close(norm(x, residual, (0.5, rng, site)), norm(total))
    out, found = norm(x, residual, (0.5, rng, site), return_sum=True)
    torch.testing.assert_close(out, norm(total))
    assert torch.equal(found, total)
    assert torch.equal(add(x, residual, 0.5, rng, site), total)


def test_float64_has_no_kernel_and_needs_none(seed: int) -> None:
    norm, x = LayerNorm(24).double(), torch.randn(7, 24, dtype=torch.float64)
    expected = nn.functional.layer_norm(2 * x, (24,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(norm(x, x, (0.5, None, DropoutSite.MLP_OUTPUT)), expected)


def test_the_mlp_compiles_whole(seed: int) -> None:
    config = TransformerConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32)
    mlp, x = MLP(config), torch.randn(5, 16)
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), mlp(x))


def test_a_backward_hook_gets_its_call() -> None:
    linear, calls = nn.Linear(5, 7), []
    linear.register_full_backward_hook(lambda *_: calls.append(1))
    activate(linear, "gelu", torch.randn(2, 5, requires_grad=True)).sum().backward()
    assert calls == [1]


def test_a_forward_replaced_on_the_instance_is_called() -> None:
    linear = nn.Linear(5, 7)
    linear.forward = lambda x: x.new_zeros(2, 7)  # type: ignore[method-assign]
    assert activate(linear, "gelu", torch.randn(2, 5)).eq(0).all()


def test_a_linear_without_bias() -> None:
    linear, x = nn.Linear(5, 7, bias=False), torch.randn(2, 5)
    torch.testing.assert_close(activate(linear, "gelu", x), F.gelu(x @ linear.weight.T))
