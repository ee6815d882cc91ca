"""scaled_dot_product_attention in place of torch's: equal numbers for equal arguments."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from problems import BACKENDS, QKV
from torch import Tensor
from torch.nn import functional

from fastbert.ops import attention, scaled_dot_product_attention, torch_signature

SHAPES = [((2, 4, 5, 8), (2, 4, 7, 8)), ((5, 8), (7, 8)), ((3, 5, 8), (3, 7, 8)), ((2, 3, 4, 5, 8), (2, 3, 4, 7, 8))]


def _qkv(shape_q: tuple[int, ...], shape_k: tuple[int, ...]) -> QKV:
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in (shape_q, shape_k, shape_k))
    return q, k, v


def _same(inputs: QKV, backend: str | None = None, **arguments: Any) -> None:
    found = scaled_dot_product_attention(*inputs, backend=backend, **arguments)
    wanted = functional.scaled_dot_product_attention(*inputs, **arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    dout = torch.randn_like(wanted)
    for a, b in zip(*(torch.autograd.grad(y, inputs, dout) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("shape_q", "shape_k"), SHAPES)
def test_batch_dimensions_and_causal(
    seed: int, backend: str, shape_q: tuple[int, ...], shape_k: tuple[int, ...], is_causal: bool
) -> None:
    """Causal is top-left aligned, with queries and keys of different lengths both ways."""
    _same(_qkv(shape_q, shape_k), backend, is_causal=is_causal)
    _same(_qkv(shape_k, shape_q), backend, is_causal=is_causal, scale=0.3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_grouped_queries(seed: int, backend: str) -> None:
    _same(_qkv((2, 6, 5, 8), (2, 2, 7, 8)), backend, enable_gqa=True, is_causal=True)


MASK = torch.arange(7) < torch.tensor([[7], [3]])
KEY_MASKS = {
    "size one": MASK[:, None, None],
    "expanded over queries": MASK[:, None, None].expand(2, 1, 5, 7),
    "expanded over heads and queries": MASK[:, None, None].expand(2, 4, 5, 7),
    "one for all": MASK[1:],
    "one for all, expanded": MASK[1:].expand(4, 5, 7),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KEY_MASKS)
def test_key_masks(seed: int, backend: str, name: str) -> None:
    _same(_qkv((2, 4, 5, 8), (2, 4, 7, 8)), backend, attn_mask=KEY_MASKS[name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 3, 1, 1, 7), (3, 1, 1, 7), (2, 1, 1, 1, 7), (1, 1, 1, 1, 1)])
def test_key_masks_over_two_batch_dimensions(seed: int, backend: str, shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape) > 0.3
    mask[..., 0] = True
    _same(_qkv((2, 3, 4, 5, 8), (2, 3, 4, 7, 8)), backend, attn_mask=mask)


OTHER_MASKS = {
    "bias": torch.randn(5, 7),
    "of queries": torch.ones(5, 7, dtype=torch.bool).tril(),
    "of heads": torch.rand(2, 4, 1, 7) > 0.5,
    "equal rows that nobody promised": MASK[:, None, None].repeat(1, 1, 5, 1),
}


@pytest.mark.parametrize("name", OTHER_MASKS)
def test_other_masks_are_torch_s(seed: int, name: str) -> None:
    inputs = _qkv((2, 4, 5, 8), (2, 4, 7, 8))
    _same(inputs, attn_mask=OTHER_MASKS[name])
    _same(inputs, "sdpa", attn_mask=OTHER_MASKS[name])
    with pytest.raises(ValueError, match="backend 'reference' cannot serve this call: attn_mask is not a boolean"):
        scaled_dot_product_attention(*inputs, attn_mask=OTHER_MASKS[name], backend="reference")


# torch 2.11's kernel for CPUs divides by the number of heads, which ends the process.
TORCH_TAKES_NO_HEADS = pytest.mark.skipif(
    torch.torch_version.TorchVersion(torch.__version__) < "2.13", reason="torch's own attention crashes without heads"
)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6)), "value has head_dim 6 and query 8"),
        (((2, 4, 5, 300), (2, 4, 7, 300), (2, 4, 7, 300)), "head_dim 300 is above 256"),
        (((2, 4, 5, 0), (2, 4, 7, 0), (2, 4, 7, 0)), "head_dim is 0"),
        (((2, 4, 5, 8), (1, 4, 7, 8), (1, 4, 7, 8)), "batch dimensions that broadcast"),
        (((1, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8)), "batch dimensions that broadcast"),
        (((2, 4, 5, 8), (4, 7, 8), (4, 7, 8)), "batch dimensions that broadcast"),
        (((2, 1, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8)), "head dimensions that broadcast"),
        (((5, 8), (3, 7, 8), (3, 7, 8)), "head dimensions that broadcast"),
        pytest.param(((2, 0, 5, 8), (2, 0, 7, 8), (2, 0, 7, 8)), "no heads", marks=TORCH_TAKES_NO_HEADS),
    ],
)
def test_what_the_contract_does_not_cover_is_torch_s(
    seed: int, shapes: tuple[tuple[int, ...], ...], reason: str
) -> None:
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
    inputs = q, k, v
    _same(inputs)
    with pytest.raises(ValueError, match=reason):
        scaled_dot_product_attention(*inputs, backend="reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shapes", [((2, 4, 5, 8), (2, 1, 7, 8)), ((3, 5, 8), (1, 7, 8)), ((3, 5, 8), (7, 8))])
def test_one_key_head_broadcasts(seed: int, backend: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    _same(_qkv(*shapes), backend)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_past_the_causal_diagonal_reach_nothing(seed: int, backend: str, poison: float) -> None:
    q, k, v = _qkv((1, 2, 3, 8), (1, 2, 9, 8))
    clean = scaled_dot_product_attention(q, k, v, is_causal=True, backend=backend)
    with torch.no_grad():
        k[..., 3:, :] = poison
        v[..., 3:, :] = poison
    out = scaled_dot_product_attention(q, k, v, is_causal=True, backend=backend)
    torch.testing.assert_close(out, clean)
    for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
        assert gradient.isfinite().all()


@pytest.fixture
def fresh_warnings() -> Iterator[None]:
    torch_signature._warn_of_other_masks.cache_clear()
    yield
    torch_signature._warn_of_other_masks.cache_clear()


def test_dropout_of_torch_is_warned_of_once_and_refuses_an_rng(seed: int, fresh_warnings: None) -> None:
    x, bias = torch.randn(1, 2, 6, 8), torch.randn(6, 6)
    with pytest.warns(RuntimeWarning, match="its dropout draws other masks: attn_mask is not a boolean"):
        scaled_dot_product_attention(x, x, x, bias, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled_dot_product_attention(x, x, x, bias, 0.5)
        scaled_dot_product_attention(x, x, x, bias)
    with pytest.raises(ValueError, match="rng is given, but torch serves this call and draws masks of its own"):
        scaled_dot_product_attention(x, x, x, bias, 0.5, rng=torch.tensor([1, 2]))


def test_rows_that_see_no_key_are_zero() -> None:
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 4, 8)
    for backend in BACKENDS:
        mask = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
        assert scaled_dot_product_attention(q, k, k, mask, backend=backend).eq(0).all()


def test_dropout_is_ours() -> None:
    x, rng = torch.randn(1, 2, 6, 8), torch.tensor([3, 4])
    found = scaled_dot_product_attention(x, x, x, dropout_p=0.5, rng=rng, backend="reference")
    rows = x.transpose(1, 2)
    wanted = attention(rows, rows, rows, dropout_p=0.5, rng=rng, backend="reference")
    assert torch.equal(found, wanted.transpose(1, 2))


def test_autocast() -> None:
    x = torch.randn(1, 2, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert scaled_dot_product_attention(x, x, x).dtype == torch.bfloat16


def test_compiles_whole() -> None:
    x = torch.randn(2, 2, 6, 8)

    def step(x: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(x, x, x, mask) + scaled_dot_product_attention(x, x, x, is_causal=True)

    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(x, mask), step(x, mask))


X = torch.randn(1, 2, 6, 8)
KEYS = torch.ones(1, 1, 1, 6, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query": X.double()}, TypeError, "query is torch.float64"),
        ({"query": [1.0]}, ValueError, "query must be a tensor"),
        ({"attn_mask": torch.ones(6, dtype=torch.bool), "is_causal": True}, ValueError, "give one of them"),
        (
            {"query": X.repeat(1, 3, 1, 1)},
            ValueError,
            "query has 6 heads and key 2; they must be equal unless",
        ),
        (
            {"attn_mask": KEYS.expand(1, 1, 9, 6)},
            ValueError,
            r"shape \(1, 1, 9, 6\); its dimension -2 must be 1 or seq",
        ),
        ({"attn_mask": KEYS.expand(1, 3, 6, 6)}, ValueError, r"dimension -3 must be 1 or heads = 2"),
        ({"attn_mask": torch.ones(6, dtype=torch.bool)}, ValueError, "attn_mask must be a tensor"),
        ({"attn_mask": torch.ones(1, 5, dtype=torch.bool)}, ValueError, r"attn_mask has shape \(1, 5\)"),
        ({"attn_mask": torch.ones(3, 1, 1, 6, dtype=torch.bool)}, ValueError, r"attn_mask has shape \(3, 1, 1, 6\)"),
        ({"key": X.half()}, TypeError, "of one type"),
        ({"dropout_p": 2.0}, ValueError, "probability is 2.0"),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        scaled_dot_product_attention(**{"query": X, "key": X, "value": X} | arguments)
