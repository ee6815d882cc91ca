"""torch.nn.functional.scaled_dot_product_attention, served by our kernels while this is enabled.

    from fastbert.integrations import sdpa
    sdpa.enable()            # for the whole process, until sdpa.disable()
    with sdpa.enable():      # or for a block
        ...

Every caller that looks the function up in ``torch.nn.functional`` when it calls is routed, torch's own
nn.MultiheadAttention in training with need_weights=False among them; one that imported the function by name before is
not. A call goes to a kernel of ours if there is one for its device and if
:func:`fastbert.ops.scaled_dot_product_attention` covers its arguments; whether a boolean mask only says which keys are
tokens is seen from its shape and strides, so no value of a mask is read. Every other call is torch's, unchanged:
additive masks (nn.MultiheadAttention makes one of its key_padding_mask), masks that differ between queries or heads,
float64, head_dim above 256, tensor subclasses that bring their own, torch.func transforms, forward-mode
differentiation, other devices. (The environment variable FASTBERT_BACKEND names a backend here too; one that cannot
serve raises.)

What changes for a call of ours: dropout draws from torch's generator another mask than torch would (with the same
probability, rounded to a 256th), a row that sees no key is 0, second derivatives raise, and
torch.nn.attention.sdpa_kernel, which chooses among torch's kernels, has no effect. A call takes some tens of
microseconds more on the host than torch's own, so the smallest problems gain nothing.

The switch is one for the process and counts: as many disable() as enable() end it, and both may be called from any
thread. Calls under way in other threads end with the function they began with; code that must not be routed has to run
before or after. torch.compile traces whichever function is in place and compiles anew when the switch has changed; the
compiled code has no break.
"""

from __future__ import annotations

import math
import threading
import warnings
from types import TracebackType

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import has_torch_function

from fastbert.ops import scaled_dot_product_attention
from fastbert.ops.autocast import autocast_dtype, autocast_is_on
from fastbert.ops.backends import preferred, requested
from fastbert.ops.backends.sdpa import torch_sdpa
from fastbert.ops.problem import AttentionProblem
from fastbert.ops.torch_signature import outside_contract
from fastbert.ops.validation import DTYPES

_TORCH_COMPOSED = ("sdpa", "reference")  # backends that are torch's own operators, with our work around them


class _Switch:
    """How often the routing was asked for, and what it took the place of."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.replaced = torch_sdpa

    def __enter__(self) -> None:
        pass  # enable() has turned it on

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        disable()


_switch = _Switch()


def enable() -> _Switch:
    """Route torch's function; the result may be used in a ``with`` statement, which ends it."""
    with _switch.lock:
        if _switch.count == 0:
            _switch.replaced = functional.scaled_dot_product_attention
            functional.scaled_dot_product_attention = _routed
        _switch.count += 1
    return _switch


def disable() -> None:
    """End one enable(); the last one puts back what was there.

    Raises:
        RuntimeError: not enabled.
    """
    with _switch.lock:
        if _switch.count == 0:
            raise RuntimeError("fastbert.integrations.sdpa.disable: it is not enabled")
        _switch.count -= 1
        if _switch.count:
            return
        if functional.scaled_dot_product_attention is _routed:
            functional.scaled_dot_product_attention = _switch.replaced
            return
    warnings.warn(
        "fastbert.integrations.sdpa.disable: torch.nn.functional.scaled_dot_product_attention has been replaced "
        "meanwhile and is left as it is",
        RuntimeWarning,
        stacklevel=2,
    )


def is_enabled() -> bool:
    """Whether torch's function is routed."""
    return _switch.count > 0


def _routed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Torch's function on our kernels; see the module."""
    backend = _kernel(query, key, value, attn_mask, dropout_p, is_causal)
    if backend is None:
        return torch_sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    return scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, backend=backend
    )


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool
) -> str | None:
    """The name of the kernel backend that serves a call, or None: torch's."""
    if _watched(query, key, value, attn_mask) or min(query.dim(), key.dim(), value.dim()) < 2:
        return None
    if attn_mask is not None and (is_causal or attn_mask.dim() < 2):
        return None
    device = query.device.type
    dtype = query.dtype
    if autocast_is_on(device):
        dtype = autocast_dtype(query)
    elif key.dtype != dtype or value.dtype != dtype:
        return None
    if dtype not in DTYPES or torch.float64 in (query.dtype, key.dtype, value.dtype):
        return None
    if outside_contract(query, key, value, attn_mask) is not None:
        return None
    shape, shape_k = query.shape, key.shape
    problem = AttentionProblem(
        device_type=device,
        dtype=dtype,
        varlen=False,
        batch=math.prod(shape[:-3]),
        heads=shape[-3] if query.dim() > 2 else 1,
        kv_heads=shape_k[-3] if key.dim() > 2 else 1,
        head_dim=shape[-1],
        seq_q=shape[-2],
        seq_k=shape_k[-2],
        window_right=shape[-2] - shape_k[-2] if is_causal else None,
        key_padding_mask=attn_mask is not None,
        dropout=0 < dropout_p < 1,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        requires_grad=torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad),
    )
    name = preferred(problem)[0].name
    if name == "sdpa" or (name in _TORCH_COMPOSED and requested(None) == "auto"):
        return None
    return name


def _watched(*tensors: Tensor | None) -> bool:
    """Whether somebody else wants to see torch's own function called, or differentiates in a way kernels cannot."""
    if has_torch_function(tuple(x for x in tensors if x is not None)):
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0  # noqa: SLF001
