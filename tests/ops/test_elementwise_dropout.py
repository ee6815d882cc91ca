"""Element-wise dropout: the definition, its gradient, and its registration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from definition import elementwise_byte

from fastbert.ops import draw_rng, dropout

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _rng(seed: int = -3, offset: int = 2) -> torch.Tensor:
    return torch.tensor([seed, offset])


def _kept(rows: int, columns: int, site: int, t: int) -> torch.Tensor:
    found = elementwise_byte(-3, 2, site, np.arange(rows)[:, None], np.arange(columns)[None, :])
    return torch.from_numpy(found >= t)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("p", "t"), [(0.1, 26), (0.5, 128)])
def test_definition(seed: int, dtype: torch.dtype, p: float, t: int) -> None:
    x = torch.randn(9, 37).to(dtype)
    out = dropout(x, p, rng=_rng(), site=5)
    kept = _kept(9, 37, 5, t)
    assert out.dtype == dtype
    assert torch.equal(out != 0, kept)
    torch.testing.assert_close(
        out.double(), torch.where(kept, x.double() * 256 / (256 - t), 0), rtol=torch.finfo(dtype).eps, atol=0
    )


def test_gradient_has_the_same_mask(seed: int) -> None:
    x = torch.randn(9, 37, requires_grad=True)
    dout = torch.randn(9, 37)
    (dx,) = torch.autograd.grad(dropout(x, 0.5, rng=_rng(), site=1), x, dout)
    assert torch.equal(dx, torch.where(_kept(9, 37, 1, 128), dout * 2, 0))


def test_second_derivative(seed: int) -> None:
    x = torch.randn(4, 8, requires_grad=True)
    y = dropout(x * x, 0.5, rng=_rng(), site=1)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    assert torch.equal(ddx, torch.where(_kept(4, 8, 1, 128), 4.0, 0.0))


def test_zero_is_off_and_one_drops_everything() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    assert dropout(x, 0.0, rng=None, site=0) is x
    out = dropout(x * torch.inf, 1.0, rng=None, site=0)
    assert out.eq(0).all()
    (dx,) = torch.autograd.grad(dropout(x, 1.0, rng=None, site=0).sum(), x)
    assert dx.eq(0).all()


def test_a_dropped_nan_is_gone() -> None:
    x = torch.full((4, 16), torch.nan)
    out = dropout(x, 0.5, rng=_rng(), site=0)
    assert torch.equal(out.isnan(), _kept(4, 16, 0, 128))


def test_sites_and_offsets_are_independent() -> None:
    x = torch.ones(64, 64)
    masks = [dropout(x, 0.5, rng=_rng(1, o), site=s) != 0 for o, s in ((0, 0), (0, 1), (1, 0))]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert 0.4 < (a == b).double().mean() < 0.6


def test_drawn_rng_obeys_manual_seed() -> None:
    x = torch.ones(8, 8)
    torch.manual_seed(3)
    first = dropout(x, 0.5, rng=None, site=0)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, rng=None, site=0), first)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, rng=draw_rng("cpu"), site=0), first)


def test_strides_and_empty_tensors() -> None:
    x = torch.randn(12, 7)
    assert torch.equal(dropout(x.t(), 0.5, rng=_rng(), site=0), dropout(x.t().contiguous(), 0.5, rng=_rng(), site=0))
    assert dropout(torch.randn(0, 4), 0.5, rng=_rng(), site=0).shape == (0, 4)


def test_autocast_leaves_the_type_alone() -> None:
    x = torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dropout(x, 0.5, rng=_rng(), site=0), dropout(x, 0.5, rng=_rng(), site=0).float())


def test_registration() -> None:
    x = torch.randn(5, 20, requires_grad=True)
    torch.library.opcheck(torch.ops.fastbert.dropout.default, (x, _rng(), 1, 26))


def test_compiles_whole() -> None:
    def step(x: torch.Tensor, rng: torch.Tensor) -> torch.Tensor:
        return dropout(torch.relu(x), 0.25, rng=rng, site=2)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for rows in (3, 5, 9):
        x = torch.randn(rows, 16, requires_grad=True)
        out = compiled(x, _rng())
        assert torch.equal(out, step(x, _rng()))
        assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (out, step(x, _rng()))))


@pytest.mark.parametrize(
    ("x", "p", "rng", "site", "error", "message"),
    [
        ([1.0], 0.1, None, 0, TypeError, "x is a list"),
        (torch.ones(3), 0.1, None, 0, ValueError, r"x has shape \(3,\)"),
        (torch.ones(2, 2, dtype=torch.float64), 0.1, None, 0, TypeError, "x is torch.float64"),
        (torch.ones(2, 2), 1.1, None, 0, ValueError, "probability is 1.1"),
        (torch.ones(2, 2), -0.1, None, 0, ValueError, "probability is -0.1"),
        (torch.ones(2, 2), float("nan"), None, 0, ValueError, "probability is nan"),
        (torch.ones(2, 2), 0.1, torch.zeros(2), 0, TypeError, "rng is torch.float32"),
        (torch.ones(2, 2), 0.1, torch.zeros(3, dtype=torch.int64), 0, ValueError, r"rng has shape \(3,\)"),
        (torch.ones(2, 2), 0.1, torch.zeros(2, dtype=torch.int64, device="meta"), 0, ValueError, "rng is on meta"),
        (torch.ones(2, 2), 0.1, None, -1, ValueError, "site is -1"),
        (torch.ones(2, 2), 0.1, None, 2**31, ValueError, "site is 2147483648"),
    ],
)
def test_errors(
    x: torch.Tensor, p: float, rng: torch.Tensor | None, site: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dropout(x, p, rng=rng, site=site)
