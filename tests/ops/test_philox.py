"""The dropout bits: the generator against published vectors, the layout against its formula."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from definition import attention_byte, elementwise_byte
from definition import philox4x32 as philox_in_numpy

from fastbert.ops import philox

# kat_vectors of Random123 (D. E. Shaw Research): rounds, counter, key, answer.
KNOWN_ANSWERS = [
    (7, "00000000 00000000 00000000 00000000", "00000000 00000000", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, "00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

SEEDS = [0, 1, 0x0123456789ABCDEF, -1, -(2**63)]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def _rng(seed: int, offset: int = 0) -> torch.Tensor:
    return torch.tensor([seed, offset])


@pytest.mark.parametrize(("rounds", "counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(rounds: int, counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (torch.tensor(word) for word in _words(counter))
    k0, k1 = (torch.tensor(word) for word in _words(key))
    assert [int(word) for word in philox.philox4x32((c0, c1, c2, c3), (k0, k1), rounds)] == _words(answer)
    in_numpy = philox_in_numpy([np.array(w) for w in _words(counter)], (_words(key)[0], _words(key)[1]), rounds)
    assert [int(word) for word in in_numpy] == _words(answer)


def test_literal_tile() -> None:
    """The 16 x 32 tile of seed 0x0123456789abcdef, offset 3, head 5, by the numpy generator."""
    literal = np.array([_row(line) for line in TILE.split()])
    found = philox.attention_bytes(_rng(0x0123456789ABCDEF, 3), 2, 3, 16, 32)[1, 2]
    assert found.tolist() == literal.tolist()


def _row(line: str) -> list[int]:
    return list(bytes.fromhex(line))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 17, 33), (1, 2, 40, 70), (3, 1, 5, 100)])
def test_attention_bytes_follow_the_formula(seed: int, shape: tuple[int, int, int, int]) -> None:
    batch, heads, seq_q, seq_k = shape
    offset = 2**32 + 7
    found = philox.attention_bytes(_rng(seed, offset), *shape)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    i, j = np.arange(seq_q)[:, None], np.arange(seq_k)[None, :]
    for b in range(batch):
        for h in range(heads):
            expected = attention_byte(seed, offset, b * heads + h, i, j)
            np.testing.assert_array_equal(found[b, h].numpy(), expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 16), (7, 33)])
def test_elementwise_bytes_follow_the_formula(seed: int, rows: int, columns: int) -> None:
    found = philox.elementwise_bytes(_rng(seed, 9), rows, columns, 3)
    expected = elementwise_byte(seed, 9, 3, np.arange(rows)[:, None], np.arange(columns)[None, :])
    np.testing.assert_array_equal(found.numpy(), expected)


def test_tensors_of_any_device_and_the_extension_agree() -> None:
    rng = _rng(-5, 2**40 + 1)
    for shape in [(1, 1, 1, 1), (2, 3, 16, 32), (2, 2, 65, 31), (1, 2, 3, 200)]:
        assert torch.equal(philox.attention_bytes(rng, *shape), philox.attention_bytes_in_torch(rng, *shape))
    for rows, columns in [(1, 1), (4, 16), (3, 100), (64, 17)]:
        assert torch.equal(
            philox.elementwise_bytes(rng, rows, columns, 2**31 - 1),
            philox.elementwise_bytes_in_torch(rng, rows, columns, 2**31 - 1),
        )


@pytest.mark.parametrize("draw", [philox.attention_bytes, philox.attention_bytes_in_torch])
def test_a_part_draws_the_bytes_of_the_whole(draw: Callable[..., torch.Tensor]) -> None:
    rng = _rng(-5, 3)
    whole = draw(rng, 4, 6, 33, 40)
    part = draw(rng, 2, 3, 17, 35, first_sequence=1, first_head=2, total_heads=6)
    assert torch.equal(part, whole[1:3, 2:5, :17, :35])


def test_empty_shapes() -> None:
    assert philox.attention_bytes(_rng(1), 0, 2, 3, 4).shape == (0, 2, 3, 4)
    assert philox.attention_bytes(_rng(1), 2, 2, 0, 4).shape == (2, 2, 0, 4)
    assert philox.attention_bytes_in_torch(_rng(1), 2, 2, 3, 0).shape == (2, 2, 3, 0)
    assert philox.elementwise_bytes(_rng(1), 0, 4, 0).shape == (0, 4)
    assert philox.elementwise_bytes_in_torch(_rng(1), 4, 0, 0).shape == (4, 0)


def test_a_byte_belongs_to_its_place() -> None:
    """Growing a shape changes no byte that was there: packed and padded batches rest on this."""
    rng = _rng(77)
    large = philox.attention_bytes(rng, 3, 2, 70, 90)
    assert torch.equal(philox.attention_bytes(rng, 2, 2, 33, 41), large[:2, :, :33, :41])


@pytest.mark.parametrize(
    ("p", "t"), [(1e-9, 1), (0.1, 26), (0.5, 128), (0.25, 64), (0.999999, 255), (0.0019, 1), (0.00195313 * 3, 2)]
)
def test_threshold(p: float, t: int) -> None:
    assert philox.threshold(p) == t
    assert philox.survivor_scale(t) == 256 / (256 - t)


def test_the_expectation_is_exact() -> None:
    t = philox.threshold(0.1)
    kept = sum(byte >= t for byte in range(256)) / 256
    assert kept * philox.survivor_scale(t) == 1


def test_share_of_kept_weights() -> None:
    kept = (philox.attention_bytes(_rng(123), 4, 4, 128, 128) >= 26).double().mean()
    expected, n = 230 / 256, 4 * 4 * 128 * 128
    assert abs(kept - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


def test_draw_rng_obeys_manual_seed() -> None:
    torch.manual_seed(5)
    first, second = philox.draw_rng("cpu"), philox.draw_rng("cpu")
    torch.manual_seed(5)
    assert torch.equal(philox.draw_rng("cpu"), first)
    assert not torch.equal(first, second)
    assert first.dtype == torch.int64
    assert first.shape == (2,)
    assert first[1] == 0


def test_draws_cover_negative_seeds() -> None:
    torch.manual_seed(0)
    seeds = [int(philox.draw_rng("cpu")[0]) for _ in range(64)]
    assert min(seeds) < 0 < max(seeds)


def test_layers_get_their_own_offsets() -> None:
    rng = _rng(11, 4)
    assert philox.layer_rngs(rng, 3).tolist() == [[11, 4], [11, 5], [11, 6]]
    assert philox.with_offset(rng, 2).tolist() == [11, 6]
    assert philox.layer_rngs(rng, 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [("philox_attention_bytes", (2, 3, 5, 7, 1, 2, 9)), ("philox_elementwise_bytes", (5, 7, 1))],
)
def test_operators_are_registered_correctly(operator: str, arguments: tuple[int, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.fastbert, operator).default, (_rng(3), *arguments))


BROKEN = """
import importlib, sys, types, warnings
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "fastbert._C":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError("libgomp.so.1: cannot open shared object file")
    def exec_module(self, module): ...
sys.meta_path.insert(0, Broken())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from fastbert.environment import describe
    from fastbert.ops import dropout, extension
    assert dropout(torch.ones(2, 8), 0.5, rng=None, site=0).shape == (2, 8)
    dropout(torch.ones(2, 8), 0.5, rng=None, site=0)
print(sum("libgomp.so.1" in str(warning.message) for warning in caught))
print(extension.error)
print(describe().as_text())
"""


def test_a_broken_extension_is_told_of_and_not_fatal() -> None:
    result = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    warned, reason, *doctor = result.stdout.splitlines()
    assert warned == "1"
    assert reason == "libgomp.so.1: cannot open shared object file"
    assert any("extension" in line and reason in line for line in doctor)


def test_compiles_whole() -> None:
    def bits(rng: torch.Tensor, n: int) -> torch.Tensor:
        return philox.attention_bytes(philox.layer_rngs(rng, 2)[1], 1, 2, n, n)

    compiled = torch.compile(bits, fullgraph=True, backend="aot_eager")
    for n in (5, 9, 20):
        assert torch.equal(compiled(_rng(8), n), bits(_rng(8), n))


TILE = """
3d8a1cabf5566610f3a1203427f46339fb5ea5436afe84f168a2f3e13cfc3be8
a713517aed7c21995e748f214ea9ba1f154175cf5dd0c541f15bc7430e638620
cb67b243d25c87fa1df44b3fdf46f39eb8f3fb82471a80e22e8a63a01449d9a1
513c64c57e6d49e1d273e8289737e4b99f9a15ccc2e2cd821a54315a56dc7d34
c8e52e76511ae26c2141019ce1db0ba51b1b4509cf5befdedecaf6eec4793df4
9f2dc933a133be5fb5a668b6e3c3267ad7cab811fdbf27dbb816db2a020a8d14
5c12adde8a588b874694d89170e89cf7fc7b26079b8eb293ea246d4290b1e797
cfa712b716b815f57324be70b611c14be09d3d9d30cf16ca77285161a39cbe54
2a4562bf6df7f82de61c3dc79162d299419d648f2fa184b4c61569a2a2392ece
e4a5507dc51a85e0051ca6c2bc89ffac211e5b6bdeabf6fde635872aa0bc98b0
a73209826d90ffea7156e91c4459766eb3a3e0871c8b591e148d74f79ea6490b
8e67539ede55820eb3009187f565e333dea7c9901199f41ce0b4ede4595182c8
359f00186a8ab2d1392811a71ecf59ec79b532323fb75f61998e5352df59bde8
9f4735efb55ddfd53cb68221aeb6ff9ecfe73992a4d81d1442ff84012e6c5384
60502c013dfa20c0df56ffa6fa1a1a843d936ff20e3bc20a7f0a7cb257f08079
70946e686a7a701d0677cf866df71007648b6d29587f58a3752e5abc5fce0bf7
"""
