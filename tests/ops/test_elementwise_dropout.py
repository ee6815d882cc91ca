"""Element-wise dropout: the definition, its gradient, and its registration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from definition import elementwise_byte
from fused import SHAPES, assert_compiles_whole, assert_equal_for_any_thread_count, assert_strides_do_not_matter, kept

from fastbert.ops import draw_rng, dropout, dropout_add, extension, philox

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


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_definition_of_any_shape(seed: int, dtype: torch.dtype, residual: bool) -> None:
    for rows, columns in SHAPES:
        x, other = (torch.randn(rows, columns).to(dtype) for _ in range(2))
        keep = kept(rows, columns, 5, 26)
        scaled = torch.where(keep, x.float() * (256 / 230), 0)
        if residual:
            assert torch.equal(dropout_add(x, other, p=0.1, rng=_rng(), site=5), (other.float() + scaled).to(dtype))
        else:
            assert torch.equal(dropout(x, 0.1, rng=_rng(), site=5), scaled.to(dtype))


def test_the_mask_is_that_of_the_definition_in_torch() -> None:
    out = dropout(torch.ones(65, 1000), 0.3, rng=_rng(7, 2**40 + 1), site=2**31 - 1)
    expected = philox.elementwise_bytes_in_torch(_rng(7, 2**40 + 1), 65, 1000, 2**31 - 1) >= philox.threshold(0.3)
    assert torch.equal(out != 0, expected)


def test_the_sum_and_its_gradients(seed: int) -> None:
    x, residual = (torch.randn(9, 37, requires_grad=True) for _ in range(2))
    dout = torch.randn(9, 37)
    keep = _kept(9, 37, 1, 128)
    out = dropout_add(x, residual, p=0.5, rng=_rng(), site=1)
    assert torch.equal(out, residual + torch.where(keep, x * 2, 0))
    dx, dresidual = torch.autograd.grad(out, (x, residual), dout)
    assert torch.equal(dx, torch.where(keep, dout * 2, 0))
    assert torch.equal(dresidual, dout)
    assert torch.equal(dropout_add(x, residual, p=0.0, rng=None, site=1), x + residual)
    assert torch.equal(dropout_add(x, residual, p=1.0, rng=None, site=1), residual)


def test_threads_and_strides(seed: int) -> None:
    for dtype in DTYPES:
        x, residual = (torch.randn(1000, 300).to(dtype) for _ in range(2))
        assert_equal_for_any_thread_count(lambda a: (dropout(a, 0.1, rng=_rng(), site=1),), x)
        assert_equal_for_any_thread_count(lambda a, b: (dropout_add(a, b, p=0.1, rng=_rng(), site=1),), x, residual)
        assert_strides_do_not_matter(lambda a, b: (dropout_add(a, b, p=0.1, rng=_rng(), site=1),), x, residual)


def test_without_the_extension_the_definition_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, residual = torch.randn(9, 37), torch.randn(9, 37)
    found = dropout(x, 0.5, rng=_rng(), site=1), dropout_add(x, residual, p=0.5, rng=_rng(), site=1)
    monkeypatch.setattr(extension, "compiled", None)
    assert torch.equal(dropout(x, 0.5, rng=_rng(), site=1), found[0])
    assert torch.equal(dropout_add(x, residual, p=0.5, rng=_rng(), site=1), found[1])


def test_registration_of_the_sum() -> None:
    x, residual = (torch.randn(5, 20, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.fastbert.dropout_add.default, (x, residual, _rng(), 1, 26))


def test_the_sum_compiles_whole(seed: int) -> None:
    random = _rng()
    assert_compiles_whole(
        lambda x, residual: (dropout_add(torch.relu(x), residual, p=0.25, rng=random, site=2),),
        lambda rows: (torch.randn(rows, 16), torch.randn(rows, 16)),
    )


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


@pytest.mark.parametrize(
    ("residual", "error", "message"),
    [
        (None, TypeError, "residual is a NoneType"),
        (torch.ones(2, 3), ValueError, r"residual has shape \(2, 3\); it must be that of x, \(2, 2\)"),
        (torch.ones(2, 2).half(), TypeError, "residual is torch.float16"),
    ],
)
def test_errors_of_the_sum(residual: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dropout_add(torch.ones(2, 2), residual, p=0.1, rng=None, site=0)
