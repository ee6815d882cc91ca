"""The README's table from flash_attn: each of its forms by ours, against the definition in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert import attention, attention_varlen


def definition(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """out (batch, seq, heads, head_dim) and lse (batch, heads, seq); visible broadcasts over (seq, seq)."""
    scores = torch.einsum("bihd,bjhd->bhij", q.double(), k.double()) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible, -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v.double()), scores.logsumexp(-1)


def test_qkvpacked(seed: int) -> None:
    """No copy on the way in; one gradient, of the packed tensor, on the way out."""
    qkv = torch.randn(2, 5, 3, 2, 8, requires_grad=True)
    q, k, v = qkv.unbind(2)
    assert all(x.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr() for x in (q, k, v))
    out, lse = attention(q, k, v, causal=True, return_lse=True)
    wanted, wanted_lse = definition(q, k, v, torch.ones(5, 5, dtype=torch.bool).tril())
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)
    dout = torch.randn_like(out)
    gradients = [torch.autograd.grad(x, qkv, dout.to(x.dtype), retain_graph=True)[0] for x in (out, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_varlen_qkvpacked(seed: int) -> None:
    qkv = torch.randn(9, 3, 2, 8)
    cu_seqlens = torch.tensor([0, 4, 9], dtype=torch.int32)
    out = attention_varlen(
        *qkv.unbind(1), cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, max_seqlen_q=5, max_seqlen_k=5
    )
    for rows in (slice(0, 4), slice(4, 9)):
        wanted, _ = definition(*qkv[None, rows].unbind(2), torch.ones((), dtype=torch.bool))
        torch.testing.assert_close(out[None, rows].double(), wanted, rtol=1e-5, atol=1e-5)


def test_kvpacked_with_a_window_bounded_on_the_left_alone(seed: int) -> None:
    """window_size=(1, -1) there. Query i stands at key i + 2, for the ends are aligned."""
    q, kv = torch.randn(1, 3, 2, 8), torch.randn(1, 5, 2, 2, 8)
    visible = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
    k, v = kv.unbind(2)
    wanted, _ = definition(q, k, v, visible)
    torch.testing.assert_close(attention(q, k, v, window=(1, None)).double(), wanted, rtol=1e-5, atol=1e-5)
