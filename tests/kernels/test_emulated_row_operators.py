"""The sm_80 code of the kernels over rows, executed, against the definitions in float64."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from definition import elementwise_byte
from ptx_emulator.toolchain import triton_version

pytestmark = pytest.mark.skipif(
    not triton_version() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton (the extra [triton]), and not its interpreter, to compile the kernels",
)

ROWS, COLUMNS = 9, 1000  # three tiles of four rows, the last with one; 24 columns beyond the row
SEED, OFFSET, SITE, THRESHOLD = -987654321, 12, 3, 77
SCALE = 256 / (256 - THRESHOLD)
DROPOUT = {
    "rng": np.array([SEED, OFFSET], np.int64),
    "site": SITE,
    "threshold": THRESHOLD,
    "survivor_scale": SCALE,
}


@pytest.fixture
def kept() -> torch.Tensor:
    byte = elementwise_byte(SEED, OFFSET, SITE, np.arange(ROWS)[:, None], np.arange(COLUMNS)[None, :])
    return torch.from_numpy(byte >= THRESHOLD)


def activation(*shape: int) -> torch.Tensor:
    """float64 numbers that bfloat16 holds."""
    return torch.randn(shape).bfloat16().double()


def bits(x: torch.Tensor) -> np.ndarray:
    return x.detach().bfloat16().view(torch.int16).numpy().view(np.uint16)


def numbers(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).double()


def close(found: torch.Tensor, exact: torch.Tensor, rounding: float = 2.0**-8) -> None:
    """To one rounding of bfloat16, and a little for what float32 has added up."""
    torch.testing.assert_close(found, exact.detach(), rtol=rounding, atol=1e-5)


def test_dropout_of_a_residual_sum(seed: int, kept: torch.Tensor) -> None:
    from emulated_rows import execute
    from row_variants import RowVariant

    x, residual = activation(ROWS, COLUMNS), activation(ROWS, COLUMNS)
    found = execute(
        RowVariant("dropout_add", "sm_80", "bf16", COLUMNS, ("residual",)),
        3,
        {"x": bits(x), "residual": bits(residual), "rows": ROWS, "columns": COLUMNS, **DROPOUT},
        {"out": (np.uint16, (ROWS, COLUMNS))},
    )
    exact = residual.float() + torch.where(kept, x.float() * SCALE, 0)
    assert torch.equal(numbers(found["out"]), exact.bfloat16().double())


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(seed: int, approximate: str) -> None:
    from emulated_rows import execute
    from row_variants import RowVariant

    x, dout = 2 * activation(ROWS, COLUMNS), activation(ROWS, COLUMNS)
    bias = torch.randn(COLUMNS)
    features = ("tanh",) if approximate == "tanh" else ()
    given = {"x": bits(x), "bias": bias.numpy(), "rows": ROWS, "columns": COLUMNS}
    forward = execute(
        RowVariant("bias_gelu_forward", "sm_80", "bf16", COLUMNS, features),
        3,
        given,
        {"out": (np.uint16, (ROWS, COLUMNS))},
    )
    backward = execute(
        RowVariant("bias_gelu_backward", "sm_80", "bf16", COLUMNS, features),
        2,
        given | {"dout": bits(dout), "rows_each": 8},
        {"dx": (np.uint16, (ROWS, COLUMNS)), "dbias": (np.float32, (2, COLUMNS))},
    )
    x.requires_grad_()
    exact_bias = bias.double().requires_grad_()
    exact = F.gelu(x + exact_bias, approximate=approximate)
    dx, dbias = torch.autograd.grad(exact, (x, exact_bias), dout)
    close(numbers(forward["out"]), exact)
    close(numbers(backward["dx"]), dx)
    close(torch.from_numpy(backward["dbias"].sum(0)).double(), dbias, rounding=1e-4)


@pytest.mark.parametrize("return_sum", [False, True])
def test_layer_norm(seed: int, kept: torch.Tensor, return_sum: bool) -> None:
    from emulated_rows import execute
    from row_variants import RowVariant

    x, residual, dout, dtotal = (activation(ROWS, COLUMNS) for _ in range(4))
    weight, bias = 1 + torch.randn(COLUMNS) / 4, torch.randn(COLUMNS)
    features = ("dropout", "sum") if return_sum else ("dropout",)
    sizes = {"rows": ROWS, "columns": COLUMNS, **DROPOUT}
    activations = (np.uint16, (ROWS, COLUMNS))
    forward = execute(
        RowVariant("layer_norm_forward", "sm_80", "bf16", COLUMNS, features),
        3,
        {"x": bits(x), "residual": bits(residual), "weight": weight.numpy(), "bias": bias.numpy(), "eps": 1e-5} | sizes,
        {"out": activations, "mean": (np.float32, (ROWS,)), "rstd": (np.float32, (ROWS,))}
        | ({"total": activations} if return_sum else {}),
    )
    summands = (
        {"total": forward["total"], "dtotal": bits(dtotal)}
        if return_sum
        else {"x": bits(x), "residual": bits(residual)}
    )
    backward = execute(
        RowVariant("layer_norm_backward", "sm_80", "bf16", COLUMNS, features),
        2,
        {"dout": bits(dout), "weight": weight.numpy(), "mean": forward["mean"], "rstd": forward["rstd"]}
        | summands
        | sizes
        | {"rows_each": 8},
        dict.fromkeys(("dx", "dresidual"), activations)
        | dict.fromkeys(("dweight", "dbias"), (np.float32, (2, COLUMNS))),
    )
    total = residual + torch.where(kept, x * SCALE, 0)
    if return_sum:
        total = total.bfloat16().double()
        assert torch.equal(numbers(forward["total"]), total)
    leaves = [v.double().requires_grad_() for v in (total, weight, bias)]
    exact = F.layer_norm(leaves[0], (COLUMNS,), *leaves[1:], 1e-5)
    dresidual, dweight, dbias = torch.autograd.grad(exact, leaves, dout)
    if return_sum:
        dresidual += dtotal
    close(numbers(forward["out"]), exact)
    close(numbers(backward["dresidual"]), dresidual)
    close(numbers(backward["dx"]), torch.where(kept, dresidual * SCALE, 0))
    for name, wanted in (("dweight", dweight), ("dbias", dbias)):
        close(torch.from_numpy(backward[name].sum(0)).double(), wanted, rounding=1e-4)


def test_cross_entropy(seed: int) -> None:
    from emulated_rows import execute
    from row_variants import RowVariant

    classes = 4099  # one block and three logits
    logits = 3 * activation(4, classes)
    logits = logits.bfloat16().double()
    targets = torch.tensor([4098, -100, 0, classes])
    given = {"logits": bits(logits), "targets": targets.numpy(), "classes": classes, "ignore_index": -100}
    floats = (np.float32, (4,))
    forward = execute(
        RowVariant("cross_entropy_forward", "sm_80", "bf16", classes),
        4,
        given,
        {"losses": floats, "largest": floats, "log_rest": floats},
    )
    backward = execute(
        RowVariant("cross_entropy_backward", "sm_80", "bf16", classes),
        4,
        given
        | {"largest": forward["largest"], "log_rest": forward["log_rest"]}
        | {"dlosses": np.array([1.5], np.float32), "dlosses_stride": 0},
        {"dlogits": (np.uint16, (4, classes))},
    )
    exact = logits[:3].requires_grad_()
    losses = F.cross_entropy(exact, targets[:3], reduction="none")
    (dlogits,) = torch.autograd.grad(losses.sum(), exact, torch.tensor(1.5, dtype=torch.float64))
    close(torch.from_numpy(forward["losses"][:3]).double(), losses, rounding=1e-6)
    close(numbers(backward["dlogits"])[:3], dlogits)
    assert np.isnan(forward["losses"][3])
    assert numbers(backward["dlogits"])[3].isnan().all()
