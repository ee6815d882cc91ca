"""bfloat16 as the tensor cores have it: the kernels' own sm_80 code, executed, against float64 from the definition."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from definition import Call as Definition
from definition import dense_attention, varlen_attention
from ptx_emulator.toolchain import triton_version

pytestmark = pytest.mark.skipif(
    not triton_version() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton (the extra [triton]), and not its interpreter, to compile the kernels",
)


def inputs(shape_q: tuple[int, ...], shape_k: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(20180611)
    return [torch.randn(s).bfloat16().float() for s in (shape_q, shape_k, shape_k, shape_q)]


def compare(found: dict[str, np.ndarray], exact: dict[str, torch.Tensor]) -> None:
    """To a few roundings of bfloat16 (2^-9 each) of what is summed."""
    for name, wanted in exact.items():
        expected = wanted.detach().numpy()
        if name == "lse":
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
            continue
        error = np.abs(found[name] - expected)
        assert np.isfinite(error).all(), name
        assert error.max() <= 2.0**-6 * max(1.0, np.abs(expected).max()), f"{name}: {error.max():.3g}"
        assert np.sqrt((error**2).mean()) <= 2.0**-8 * max(1.0, np.sqrt((expected**2).mean())), name


def test_dense_causal_with_dropout_and_grouped_heads():
    from emulated import Call, attention

    q, k, v, dout = inputs((1, 70, 2, 40), (1, 75, 1, 40))
    features = ("causal", "dropout")
    call = Call(2, 1, 70, 75, 0.2, features, seed=-987654321, offset=12, threshold=51)
    found = attention(*(x.numpy() for x in (q, k, v, dout)), call)
    exact_inputs = [x.double().requires_grad_() for x in (q, k, v)]
    definition = Definition(causal=True, scale=0.2, dropout_p=0.2, rng=torch.tensor([-987654321, 12]))
    out, lse = dense_attention(*exact_inputs, definition)
    gradients = torch.autograd.grad(out, exact_inputs, dout.double())
    compare(found, dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *gradients), strict=True)))


def test_packed_window():
    from emulated import Call, attention

    lengths_q, lengths_k, beyond = [33, 0, 5], [40, 7, 5], 3
    q, k, v, dout = inputs((sum(lengths_q) + beyond, 2, 64), (sum(lengths_k) + beyond, 2, 64))
    for x, n in ((q, sum(lengths_q)), (k, sum(lengths_k)), (v, sum(lengths_k)), (dout, sum(lengths_q))):
        x[n:] = torch.nan
    cu_q, cu_k = (tuple(np.cumsum([0, *x]).tolist()) for x in (lengths_q, lengths_k))
    call = Call(2, 2, 36, 40, 0.125, ("packed", "window"), window=(9, 2), cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
    found = attention(*(x.numpy() for x in (q, k, v, dout)), call)
    exact_inputs = [x.nan_to_num().double().requires_grad_() for x in (q, k, v)]
    out, lse = varlen_attention(*exact_inputs, Definition(window=(9, 2), scale=0.125), lengths_q, lengths_k)
    gradients = torch.autograd.grad(out, exact_inputs, dout.nan_to_num().double())
    compare(found, dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *gradients), strict=True)))


def test_a_row_that_sees_one_key_returns_its_value_and_has_no_gradient():
    from emulated import Call, attention

    q, k, v, dout = inputs((1, 20, 1, 64), (1, 20, 1, 64))
    found = attention(*(x.numpy() for x in (q, k, v, dout)), Call(1, 1, 20, 20, 0.125, ("window",), window=(0, 0)))
    assert np.array_equal(found["out"], v.numpy())
    assert np.array_equal(found["dv"], dout.numpy())
    assert not found["dq"].any()
    assert not found["dk"].any()
