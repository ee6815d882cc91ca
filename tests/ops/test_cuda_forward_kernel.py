"""The forward's CUDA kernel by itself: its memory accesses, and the running base of its softmax."""

from __future__ import annotations

import pytest
import torch
from definition import Call, plain_attention
from emulated_cuda import Emulation, emulate_forward, needs_nvcc
from problems import assert_close, assert_lse_close, doubles
from ptx_emulator import Options
from torch import Tensor

pytestmark = needs_nvcc

HEAD_DIMS = (32, 64, 96, 128, 256)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_memory_is_served_in_as_few_passes_as_its_bytes_need(seed: int, head_dim: int) -> None:
    """No bank conflict, results in whole sectors, and inputs too, but that they begin in mid-sector here.

    A thread's neighbours copy at least 64 bytes of a row, which are two sectors, or parts of three.
    """
    q, k, v = (torch.randn(1, 66, 1, head_dim).bfloat16() for _ in range(3))
    how = Emulation(options=Options(counters=True))
    emulate_forward(q, k, v, how, causal=True, dropout_p=0.1)
    ((_, report),) = how.reports
    assert report.bank_conflicts == 0
    copies = [site for site in report.sites if site.space == "global" and site.text.startswith("cp.async")]
    stores = [site for site in report.sites if site.space == "global" and "st.global.v4" in site.text]
    assert copies
    assert all(site.passes <= 1.5 * site.ideal for site in copies)
    assert stores
    assert all(site.passes == site.ideal for site in stores)


def scored(scores: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of one head of 32 numbers whose scores, at scale 1, are these of shape (seq_q, seq_k), the least at 0.

    Scores are products with one-hot queries, so there are at most 32 queries.
    """
    seq_q, seq_k = scores.shape
    q, k = torch.eye(seq_q, 32), torch.zeros(seq_k, 32)
    k[:, :seq_q] = scores.t()
    v = torch.randn(seq_k, 32)
    return q.to(dtype)[None, :, None], k.to(dtype)[None, :, None], v.to(dtype)[None, :, None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("step", [0.5, 4.0, 5.75, 12.0, -6.0])
def test_scores_that_grow_from_tile_to_tile(seed: int, dtype: torch.dtype, step: float) -> None:
    """The base follows 8 log2 units late (5.5 in natural ones): below that, at it, beyond it, and downwards."""
    scores = step * (torch.arange(300) // 64) + torch.rand(16, 300)
    scores += torch.arange(16)[:, None] / 4 * step  # rows do not follow together
    inputs = scored(scores.to(dtype).float(), dtype)
    call = Call(scale=1.0)
    out, lse = emulate_forward(*inputs, scale=1.0)
    exact, exact_lse = plain_attention(*doubles(inputs), call)
    plain, _ = plain_attention(*inputs, call)
    assert_close("out", out, exact, plain)
    assert_lse_close(lse, exact_lse)


def test_a_row_does_not_depend_on_its_neighbours(seed: int) -> None:
    """One warp moves the bases of 32 rows in one branch; those that need not move stay where they are, bit for bit."""
    scores = torch.rand(8, 200) * 6
    grown = scores.clone()
    grown[1::2, 64:] += 40
    v = torch.randn(1, 200, 1, 32).bfloat16()
    results = []
    for x in (scores, grown):
        q, k, _ = scored(x, torch.bfloat16)
        results.append(emulate_forward(q, k, v, scale=1.0))
    assert torch.equal(results[0][0][:, ::2], results[1][0][:, ::2])
    assert torch.equal(results[0][1][:, :, ::2], results[1][1][:, :, ::2])
    assert not torch.equal(results[0][0][:, 1::2], results[1][0][:, 1::2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_row_that_sees_one_key_has_its_value(seed: int, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, 130, 2, 64).to(dtype) for _ in range(3))
    out, lse = emulate_forward(q, k, v, window=(0, 0), scale=-10.0)
    assert torch.equal(out, v)
    assert_lse_close(lse, -10 * (q.double() * k.double()).sum(-1).transpose(1, 2))
