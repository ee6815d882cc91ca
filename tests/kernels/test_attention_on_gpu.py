"""What only a GPU can tell of the Triton kernels. The contract itself runs there too: tests/ops takes every backend."""

from __future__ import annotations

import pytest
import torch

from fastbert.ops import attention, attention_varlen, available_backends, philox

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or available_backends("cuda")["triton"] is not None,
    reason="needs a GPU and triton",
)


def gradients(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    generator = torch.Generator(out.device).manual_seed(1)
    dout = torch.randn(out.shape, device=out.device, dtype=out.dtype, generator=generator)
    return list(torch.autograd.grad(out, inputs, dout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [16, 40, 64, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_long_sequences_with_dropout_against_the_reference(seed, dtype, head_dim, causal):
    inputs = [torch.randn(2, 1031, 4, head_dim, device="cuda").to(dtype).requires_grad_() for _ in range(3)]
    options = {"causal": causal, "dropout_p": 0.1, "rng": torch.tensor([7, 3], device="cuda"), "return_lse": True}
    found, wanted = ([*attention(*inputs, **options, backend=name)] for name in ("triton", "reference"))
    found += gradients(found[0], inputs)
    wanted += gradients(wanted[0], inputs)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dropout_masks_are_the_defined_ones(seed, dtype):
    q, k = (torch.randn(2, n, 3, 128, device="cuda").to(dtype) for n in (300, 128))
    v = torch.eye(128, device="cuda", dtype=dtype)[None, :, None].expand(2, -1, 3, -1)
    rng = torch.tensor([-(2**62) - 5, 2**33 + 7], device="cuda")
    out = attention(q, k, v, scale=0.01, dropout_p=0.3, rng=rng, backend="triton")
    defined = philox.attention_bytes_in_torch(rng, 2, 3, 300, 128).transpose(1, 2) >= philox.threshold(0.3)
    assert torch.equal(out != 0, defined)


def test_repeats_are_bitwise_equal(seed):
    inputs = [torch.randn(4, 777, 8, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    rng = torch.tensor([7, 3], device="cuda")

    def run() -> list[torch.Tensor]:
        out = attention(*inputs, causal=True, dropout_p=0.1, rng=rng, backend="triton")
        return [out, *gradients(out, inputs)]

    first = run()
    for _ in range(10):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


def test_more_heads_than_a_second_grid_dimension_holds(seed):
    q = torch.randn(70_000, 3, 1, 8, device="cuda", dtype=torch.float16, requires_grad=True)
    out = attention(q, q, q, backend="triton")
    wanted = attention(q[-5:], q[-5:], q[-5:], backend="reference")
    torch.testing.assert_close(out[-5:], wanted, rtol=3e-3, atol=3e-3)
    assert gradients(out, [q])[0].isfinite().all()


def test_offsets_beyond_32_bits(seed):
    """Rows so far apart that the last one begins behind 2^31 numbers."""
    memory = torch.empty(2**31 + 2**20, device="cuda", dtype=torch.float16)
    x = memory.as_strided((1, 65, 1, 64), (0, 2**25, 0, 1)).normal_()
    torch.testing.assert_close(
        attention(x, x, x, causal=True, backend="triton"),
        attention(*[x.contiguous()] * 3, causal=True, backend="reference"),
        rtol=3e-3,
        atol=3e-3,
    )


def test_a_captured_graph_follows_new_values_and_lengths(seed):
    """Lengths and random numbers are read on the device."""
    x = torch.randn(256, 4, 64, device="cuda", dtype=torch.bfloat16)
    cu = torch.tensor([0, 100, 256], dtype=torch.int32, device="cuda")
    rng = torch.tensor([1, 0], device="cuda")

    def run() -> torch.Tensor:
        lengths = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": 256, "max_seqlen_k": 256}
        return attention_varlen(x, x, x, **lengths, causal=True, dropout_p=0.1, rng=rng, backend="triton")

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    cu.copy_(torch.tensor([0, 37, 200], dtype=torch.int32))
    rng[1] = 5
    x.normal_()
    graph.replay()
    assert torch.equal(out, run())
    assert out[200:].eq(0).all()


def test_compiled_by_inductor(seed):
    x = torch.randn(2, 130, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    compiled = torch.compile(lambda x: attention(x, x, x.sin(), causal=True, backend="triton"), fullgraph=True)
    found, wanted = compiled(x), attention(x, x, x.sin(), causal=True, backend="triton")
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(gradients(found, [x])[0], gradients(wanted, [x])[0], rtol=2e-2, atol=2e-2)
