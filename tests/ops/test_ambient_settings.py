"""What a user sets globally in torch does not reach into the kernels' buffers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastbert.ops import attention, cross_entropy, dropout, dropout_add_layer_norm


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def test_default_dtype(seed: int, default_dtype: torch.dtype) -> None:
    logits, targets = torch.randn(3, 5, dtype=torch.float32), torch.tensor([1, 2, 3])
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, targets, reduction="none"), wanted)

    x = torch.randn(40, 5, dtype=torch.float32, requires_grad=True)
    weight, bias = torch.ones(5, dtype=torch.float32), torch.zeros(5, dtype=torch.float32)
    normalised = dropout_add_layer_norm(x, x, weight, bias, eps=1e-5)
    torch.testing.assert_close(normalised, torch.nn.functional.layer_norm(2 * x, (5,), eps=1e-5), rtol=1e-5, atol=1e-5)

    q = torch.randn(1, 4, 2, 8, dtype=torch.float32)
    out, lse = attention(q, q, q, return_lse=True)
    torch.testing.assert_close(out, attention(q, q, q, backend="reference"), rtol=1e-5, atol=1e-5)
    assert lse.dtype == torch.float32


def test_default_device() -> None:
    q = torch.randn(1, 4, 2, 8, requires_grad=True)
    x = torch.randn(4, 16)
    rng = torch.tensor([1, 2])
    with torch.device("meta"):
        out = attention(q, q, q, dropout_p=0.5, rng=rng)
        dropped = dropout(x, 0.5, rng=rng, site=0)
    out.sum().backward()
    assert out.device == dropped.device == q.device
