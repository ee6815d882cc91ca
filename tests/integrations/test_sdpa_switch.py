"""torch's scaled_dot_product_attention routed to our kernels: who serves which call, equal numbers, and the switch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastbert.integrations import sdpa
from fastbert.ops import attention, available_backends, scaled_dot_product_attention, torch_signature

TORCH = torch._C._nn.scaled_dot_product_attention

pytestmark = pytest.mark.skipif(
    available_backends("cpu").get("cpu", "") is not None, reason="needs the compiled kernels of the CPU"
)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Who served the routed calls, in turn: the name of a backend of ours, or None for torch."""
    found: list[str | None] = []
    kernel = sdpa._kernel

    def note(*arguments: Any) -> str | None:
        found.append(kernel(*arguments))
        return found[-1]

    monkeypatch.setattr(sdpa, "_kernel", note)
    return found


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    yield
    assert functional.scaled_dot_product_attention is TORCH
    assert not sdpa.is_enabled()


def qkv(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape or (2, 4, 7, 8), requires_grad=True) for _ in range(3))
    return q, k, v


def same(inputs: tuple[Tensor, ...], **arguments: Any) -> None:
    """Outputs and gradients, of a routed call and of torch's."""
    with sdpa.enable():
        found = functional.scaled_dot_product_attention(*inputs, **arguments)
    wanted = TORCH(*inputs, **arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    dout = torch.randn_like(wanted)
    for a, b in zip(*(torch.autograd.grad(y, inputs, dout) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


KEYS = torch.arange(7) < torch.tensor([[7], [3]])
OURS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "keys": {"attn_mask": KEYS[:, None, None]},
    "keys, expanded": {"attn_mask": KEYS[:, None, None].expand(2, 4, 7, 7)},
}
TORCHS: dict[str, dict[str, Any]] = {
    "additive": {"attn_mask": torch.zeros(7, 7)},
    "of keys, but written out": {"attn_mask": KEYS[:, None, None].repeat(1, 1, 7, 1)},
    "causal, but written out": {"attn_mask": torch.ones(7, 7, dtype=torch.bool).tril()},
    "of heads": {"attn_mask": torch.ones(2, 4, 1, 7, dtype=torch.bool)},
}


@pytest.mark.parametrize("name", OURS)
def test_ours(served: list[str | None], name: str) -> None:
    same(qkv(), **OURS[name])
    assert served == ["cpu"]


@pytest.mark.parametrize("name", TORCHS)
def test_masks_that_are_torchs(served: list[str | None], name: str) -> None:
    same(qkv(), **TORCHS[name])
    assert served == [None]


@pytest.mark.parametrize("shape", [(7, 8), (4, 7, 8), (2, 3, 4, 7, 8)])
def test_other_numbers_of_dimensions(served: list[str | None], shape: tuple[int, ...]) -> None:
    same(qkv(*shape), is_causal=True)
    assert served == ["cpu"]


@pytest.mark.parametrize("lengths", [(3, 7), (7, 3)])
def test_causal_starts_at_the_top_left(served: list[str | None], lengths: tuple[int, int]) -> None:
    q, k, v = qkv()
    same((q[:, :, : lengths[0]], k[:, :, : lengths[1]], v[:, :, : lengths[1]]), is_causal=True)
    assert served == ["cpu"]


def test_grouped_heads(served: list[str | None]) -> None:
    q, k, v = qkv()
    same((q, k[:, :2], v[:, :2]), enable_gqa=True)
    assert served == ["cpu"]


def test_types_and_shapes_that_are_torchs(served: list[str | None]) -> None:
    same(tuple(x.detach().double().requires_grad_() for x in qkv()))
    same(qkv(1, 1, 2, 300))
    q, k, v = qkv()
    same((q, k, v[..., :5]))
    same((q, k[:1], v[:1]))
    assert served == [None] * 4


def test_torchs_own_errors(served: list[str | None]) -> None:
    q, k, v = qkv()
    with sdpa.enable(), pytest.raises(RuntimeError):
        functional.scaled_dot_product_attention(q, k.half(), v)
    with sdpa.enable(), pytest.raises(RuntimeError):
        functional.scaled_dot_product_attention(q, k, v, torch.ones(7, 6) > 0)
    assert served == [None] * 2


def test_a_mask_beside_is_causal_is_torchs(served: list[str | None]) -> None:
    same(qkv(), attn_mask=KEYS[:, None, None], is_causal=True)
    assert served == [None]


def test_autocast(served: list[str | None]) -> None:
    q, k, v = qkv()
    with sdpa.enable(), torch.autocast("cpu", torch.bfloat16):
        assert functional.scaled_dot_product_attention(q, k, v.bfloat16()).dtype == torch.bfloat16
    assert served == ["cpu"]


class Counting(Tensor):
    """A subclass with a say in what torch's functions do to it."""

    calls: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses_see_torchs_function(served: list[str | None]) -> None:
    x = torch.randn(1, 2, 3, 4).as_subclass(Counting)
    with sdpa.enable():
        functional.scaled_dot_product_attention(x, x, x)
    assert "scaled_dot_product_attention" in Counting.calls
    assert served == [None]


def test_transforms_are_torchs(served: list[str | None]) -> None:
    q, k, v = (x.detach() for x in qkv())
    with sdpa.enable():
        found = torch.vmap(functional.scaled_dot_product_attention)(q, k, v)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            _, tangent = torch.func.jvp(lambda x: functional.scaled_dot_product_attention(x, k, v), (q,), (q,))
    torch.testing.assert_close(found, TORCH(q, k, v))
    assert tangent.shape == q.shape
    assert served == [None] * 2


def test_dropout(served: list[str | None]) -> None:
    """Of our definition, drawn from torch's generator."""
    q, k, v = qkv()
    with sdpa.enable():
        torch.manual_seed(1)
        found = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    torch.manual_seed(1)
    assert torch.equal(found, scaled_dot_product_attention(q, k, v, dropout_p=0.5, backend="cpu"))
    assert served == ["cpu"]


@pytest.mark.parametrize("is_causal", [False, True])
def test_multihead_attention_in_training(served: list[str | None], is_causal: bool) -> None:
    torch.manual_seed(2)
    module = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 5, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(5) if is_causal else None

    def step() -> list[Tensor]:
        out, weights = module(x, x, x, need_weights=False, attn_mask=mask, is_causal=is_causal)
        assert weights is None
        return [out, *torch.autograd.grad(out.square().sum(), list(module.parameters()))]

    wanted = step()
    with sdpa.enable():
        found = step()
    assert served == ["cpu"]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_multihead_attention_adds_its_key_padding_mask(served: list[str | None]) -> None:
    module = nn.MultiheadAttention(16, 4, batch_first=True)
    x, padding = torch.randn(2, 7, 16), ~KEYS
    wanted, _ = module(x, x, x, key_padding_mask=padding, need_weights=False)
    with sdpa.enable():
        found, _ = module(x, x, x, key_padding_mask=padding, need_weights=False)
    assert torch.equal(found, wanted)
    assert served == [None]


def test_compiles_whole_and_anew_when_switched() -> None:
    counted: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        counted.append(sum("fastbert" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    x = torch.randn(2, 2, 6, 8)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)

    def step(x: Tensor, mask: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, mask) + functional.scaled_dot_product_attention(
            x, x, x, is_causal=True
        )

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    wanted = compiled(x, mask)
    with sdpa.enable():
        torch.testing.assert_close(compiled(x, mask), wanted)
        compiled(x, mask)
    assert torch.equal(compiled(x, mask), wanted)
    assert counted == [0, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OURS)
def test_on_a_gpu(name: str) -> None:
    """Whoever serves it there; masks that would have to be read are torch's on every device."""
    q, k, v = (x.detach().half().cuda() for x in qkv())
    arguments = {key: x.cuda() if isinstance(x, Tensor) else x for key, x in OURS[name].items()}
    with sdpa.enable():
        found = functional.scaled_dot_product_attention(q, k, v, **arguments)
    torch.testing.assert_close(found, TORCH(q, k, v, **arguments), rtol=2e-3, atol=2e-3)


def test_the_switch_nests() -> None:
    assert not sdpa.is_enabled()
    sdpa.enable()
    with sdpa.enable():
        assert sdpa.is_enabled()
    assert functional.scaled_dot_product_attention is sdpa._routed
    sdpa.disable()
    assert functional.scaled_dot_product_attention is TORCH
    with pytest.raises(RuntimeError, match="it is not enabled"):
        sdpa.disable()


def test_an_error_inside_ends_it() -> None:
    with pytest.raises(KeyError), sdpa.enable():
        raise KeyError


def test_it_holds_for_every_thread(served: list[str | None]) -> None:
    q, k, v = qkv()
    with sdpa.enable():
        threads = [threading.Thread(target=lambda: functional.scaled_dot_product_attention(q, k, v)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert served == ["cpu"] * 3


def test_somebody_elses_replacement_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        sdpa.enable()
        ours = functional.scaled_dot_product_attention
        patch.setattr(functional, "scaled_dot_product_attention", lambda *arguments: ours(*arguments))
        with pytest.warns(RuntimeWarning, match="has been replaced meanwhile and is left as it is"):
            sdpa.disable()
        x = torch.randn(1, 1, 2, 4)
        assert torch.equal(functional.scaled_dot_product_attention(x, x, x), TORCH(x, x, x))
    functional.scaled_dot_product_attention = TORCH


def test_our_own_operators_still_reach_torchs_function(served: list[str | None]) -> None:
    """What our operators leave to torch, and backends that the caller names, are not sent round in a circle."""
    q, k, v = qkv()
    bias = torch.zeros(7, 7)
    with sdpa.enable():
        scaled_dot_product_attention(q, k, v, bias)
        for backend in ("reference", "sdpa"):
            attention(*(x.transpose(1, 2) for x in (q, k, v)), backend=backend)
    assert served == []
    assert torch_signature.torch_sdpa is TORCH
