"""The compiled extension: Philox bits against published vectors and against numpy, threads, forks, instruction sets."""

from __future__ import annotations

import ast
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from interpreter import run_code

import fastbert
from fastbert import _C

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 16, 32),
    (1, 2, 17, 33),
    (3, 1, 5, 200),
    (2, 2, 40, 31),
    (1, 1, 129, 257),
    (2, 1, 15, 130),
]
SEEDS = [(0, 0), (2**64 - 1, 2**32 - 1), (0x0123456789ABCDEF, 7), (5, 2**40 + 3)]


def philox(counter: list[Words], seed: int, rounds: int = 7) -> list[Words]:
    """Philox4x32 as section 4.3 of Salmon et al. (SC 2011) defines it, on arrays."""
    word = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    left0, right0, left1, right1 = counter
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(rounds):
        product0, product1 = left0 * np.uint64(0xD2511F53), left1 * np.uint64(0xCD9E8D57)
        left0, right0, left1, right1 = (
            (product1 >> shift) ^ right0 ^ np.uint64(key0),
            product1 & word,
            (product0 >> shift) ^ right1 ^ np.uint64(key1),
            product0 & word,
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return [left0, right0, left1, right1]


def byte_of(words: list[Words], word: Words, byte: Words) -> Bytes:
    """Byte ``byte``, little-endian, of word number ``word``."""
    chosen = np.choose(word.astype(np.int64), words)
    return ((chosen >> (np.uint64(8) * byte)) & np.uint64(0xFF)).astype(np.uint8)


def expected_attention_bytes(shape: tuple[int, int, int, int], seed: int, offset: int) -> Bytes:
    """The attention layout, element by element from its formula."""
    batch, head, i, j = np.indices(shape, dtype=np.uint64)
    counter = [
        j // 32 * 32 + i % 8 * 4 + j % 8 // 2,
        i // 16,
        batch * np.uint64(shape[1]) + head,
        np.full(shape, offset % 2**32, dtype=np.uint64),
    ]
    return byte_of(philox(counter, seed), j % 32 // 8, j % 2 + 2 * (i % 16 // 8))


def expected_elementwise_bytes(rows: int, columns: int, seed: int, offset: int, site: int) -> Bytes:
    """The element-wise layout, element by element from its formula."""
    row, column = np.indices((rows, columns), dtype=np.uint64)
    constant = [np.full((rows, columns), value, dtype=np.uint64) for value in (2**31 | site, offset % 2**32)]
    return byte_of(philox([column // 16, row, *constant], seed), column % 16 // 4, column % 4)


GUARD = 64  # bytes on both sides of a buffer that must stay as they are


def guarded(size: int) -> Bytes:
    return np.full(size + 2 * GUARD, 0xA5, dtype=np.uint8)


def unguarded(buffer: Bytes) -> Bytes:
    assert (buffer[:GUARD] == 0xA5).all()
    assert (buffer[-GUARD:] == 0xA5).all()
    return buffer[GUARD:-GUARD]


def attention_bytes(shape: tuple[int, int, int, int], seed: int, offset: int, num_threads: int = 1) -> Bytes:
    buffer = guarded(int(np.prod(shape)))
    _C.philox_attention_bytes(buffer.ctypes.data + GUARD, *shape, seed, offset, num_threads)
    return unguarded(buffer).reshape(shape)


def elementwise_bytes(rows: int, columns: int, seed: int, offset: int, site: int, num_threads: int = 1) -> Bytes:
    buffer = guarded(rows * columns)
    _C.philox_elementwise_bytes(buffer.ctypes.data + GUARD, rows, columns, seed, offset, site, num_threads)
    return unguarded(buffer).reshape(rows, columns)


# Random123's published known answers: rounds, counter, key, output.
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
KNOWN_ANSWERS = [
    (7, (0,) * 4, (0,) * 2, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (7, (0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (7, PI[:4], PI[4:], (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
    (10, (0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (10, (0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (10, PI[:4], PI[4:], (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("rounds", "counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_random123s_known_answers(
    rounds: int, counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert _C.philox4x32(counter, key, rounds) == expected
    independent = philox([np.array(word, dtype=np.uint64) for word in counter], key[0] | key[1] << 32, rounds)
    assert tuple(int(word) for word in independent) == expected


def test_philox_uses_seven_rounds_by_default() -> None:
    assert _C.philox4x32((0, 0, 0, 0), (0, 0)) == KNOWN_ANSWERS[0][3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("seed", "offset"), SEEDS)
def test_attention_bytes_follow_the_formula(shape: tuple[int, int, int, int], seed: int, offset: int) -> None:
    np.testing.assert_array_equal(attention_bytes(shape, seed, offset), expected_attention_bytes(shape, seed, offset))


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 15), (2, 16), (5, 17), (4, 100), (7, 129), (2, 768), (33, 312)]
)
@pytest.mark.parametrize(("seed", "offset"), SEEDS)
def test_elementwise_bytes_follow_the_formula(rows: int, columns: int, seed: int, offset: int) -> None:
    for site in (0, 3, 2**31 - 1):
        expected = expected_elementwise_bytes(rows, columns, seed, offset, site)
        np.testing.assert_array_equal(elementwise_bytes(rows, columns, seed, offset, site), expected)


def test_bytes_are_uniform() -> None:
    counts = np.bincount(attention_bytes((4, 4, 256, 256), seed=1, offset=0).ravel(), minlength=256)
    mean = counts.sum() / 256
    chi_squared = float(((counts - mean) ** 2 / mean).sum())
    assert 150 < chi_squared < 380  # 255 degrees of freedom: outside with a probability below 1e-6


def test_a_part_of_a_call_has_the_bytes_of_the_whole() -> None:
    whole, part = expected_attention_bytes((5, 7, 20, 40), 3, 1), guarded(2 * 3 * 20 * 40)
    _C.philox_attention_bytes(
        part.ctypes.data + GUARD, 2, 3, 20, 40, 3, 1, 1, first_sequence=3, first_head=2, total_heads=7
    )
    np.testing.assert_array_equal(unguarded(part).reshape(2, 3, 20, 40), whole[3:5, 2:5])


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)])
def test_an_empty_attention_buffer_needs_no_address(shape: tuple[int, int, int, int]) -> None:
    _C.philox_attention_bytes(0, *shape, 1, 2, 1)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0)])
def test_an_empty_elementwise_buffer_needs_no_address(rows: int, columns: int) -> None:
    _C.philox_elementwise_bytes(0, rows, columns, 1, 2, 3, 1)


@pytest.mark.parametrize("num_threads", [2, 3, 7])
def test_bytes_do_not_depend_on_the_thread_count(num_threads: int) -> None:
    shape = (3, 5, 131, 167)
    np.testing.assert_array_equal(attention_bytes(shape, 11, 2, num_threads), attention_bytes(shape, 11, 2))
    rows, columns = 611, 777
    expected = elementwise_bytes(rows, columns, 11, 2, 4)
    np.testing.assert_array_equal(elementwise_bytes(rows, columns, 11, 2, 4, num_threads), expected)


def test_bytes_are_right_from_several_python_threads_at_once() -> None:
    shape = (2, 4, 128, 256)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(attention_bytes, shape, seed, 0, 2) for seed in range(16)]
    for seed, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(), attention_bytes(shape, seed, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1, 1, 1, 0, 0, 1), "pointer is null"),
        ((8, -1, 1, 1, 1, 0, 0, 1), "batch is -1: allowed are 0 to"),
        ((8, 1, 1, 2**33, 1, 0, 0, 1), "seq_q is 8589934592"),
        ((8, 2**20, 2**20, 1, 1, 0, 0, 1), "batch is 1048576: allowed are 0 to 4096"),
        ((8, 1, 1, 1, 1, 0, 0, 0), "num_threads is 0: allowed are 1 to"),
        ((8, 1, 1, 2**32, 2**32, 0, 0, 1), r"the buffer's sizes multiply to more than 2\^63 - 1 bytes"),
        ((8, 2**16, 2**16, 2**16, 2**16, 0, 0, 1), "the buffer's sizes multiply to more than"),
        ((8, 1, 2, 1, 1, 0, 0, 1, 0, 3, 4), "total_heads is 4: allowed are 5 to"),
        ((8, 1, 2, 1, 1, 0, 0, 1, 2**31, 0, 2), "batch is 1: allowed are 0 to 0"),
    ],
)
def test_attention_bytes_reject_what_they_cannot_fill(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _C.philox_attention_bytes(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1, 0, 0, 0, 1), "pointer is null"),
        ((8, -1, 1, 0, 0, 0, 1), "rows is -1"),
        ((8, 1, 1, 0, 0, 2**31, 1), "site is 2147483648: allowed are 0 to 2147483647"),
        ((8, 1, 1, 0, 0, 0, -2), "num_threads is -2"),
        ((8, 2**32, 2**32, 0, 0, 0, 1), "the buffer's sizes multiply to more than"),
    ],
)
def test_elementwise_bytes_reject_what_they_cannot_fill(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _C.philox_elementwise_bytes(*arguments)


DIGEST = """
import ctypes, hashlib
from fastbert import _C
attention, elementwise = (ctypes.c_uint8 * (2 * 3 * 37 * 210))(), (ctypes.c_uint8 * (19 * 333))()
_C.philox_attention_bytes(ctypes.addressof(attention), 2, 3, 37, 210, 99, 5, 1)
_C.philox_elementwise_bytes(ctypes.addressof(elementwise), 19, 333, 99, 5, 1, 1)
print(_C.instruction_set(), hashlib.sha256(bytes(attention) + bytes(elementwise)).hexdigest())
"""
LADDER = ["generic", "avx2", "avx512", "avx512_bf16", "amx"]


@pytest.mark.parametrize("name", LADDER)
def test_every_instruction_set_gives_the_same_bytes(name: str) -> None:
    best = LADDER.index(run_code(DIGEST, FASTBERT_CPU_ISA="").stdout.split()[0])
    result = run_code(DIGEST, FASTBERT_CPU_ISA=name)
    if LADDER.index(name) > best:
        assert f"FASTBERT_CPU_ISA is '{name}', which this machine does not have" in result.stderr
        assert f"allowed are {', '.join(LADDER[: best + 1])}" in result.stderr
        return
    expected = expected_attention_bytes((2, 3, 37, 210), 99, 5).tobytes()
    expected += expected_elementwise_bytes(19, 333, 99, 5, 1).tobytes()
    assert result.stdout.split() == [name, hashlib.sha256(expected).hexdigest()], result.stderr


def test_an_unknown_instruction_set_is_an_error_that_names_the_known_ones() -> None:
    code = "from fastbert import _C\n_C.philox4x32((0, 0, 0, 0), (0, 0))\n_C.instruction_set()"
    result = run_code(code, FASTBERT_CPU_ISA="sse9")
    known = "generic, avx2, avx512, avx512_bf16, amx"
    message = f"ValueError: FASTBERT_CPU_ISA is 'sse9', which is unknown: allowed are {known}"
    assert result.stderr.strip().endswith(message)


def test_the_instruction_set_is_one_of_the_known_ones() -> None:
    assert _C.instruction_set() in LADDER


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_of_a_multithreaded_parent_fills_the_same_bytes() -> None:
    result = run_code(
        """
        import ctypes, hashlib, os, sys, warnings
        import torch
        from fastbert import _C
        warnings.simplefilter("ignore")  # newer Pythons warn of forking with threads, which is the point here

        def digest():
            buffer = (ctypes.c_uint8 * (8 * 128 * 512))()
            _C.philox_attention_bytes(ctypes.addressof(buffer), 1, 8, 128, 512, 7, 3, 2)
            return hashlib.sha256(buffer).hexdigest()

        torch.set_num_threads(2)
        torch.zeros(1 << 21).add_(1)
        expected = digest()
        child = os.fork()
        if child == 0:
            os._exit(0 if digest() == expected else 3)
        status = os.waitpid(child, 0)[1]
        print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1)
        """
    )
    assert result.stdout.split() == ["0"], result.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("first", ["torch", pytest.param("fastbert._C", marks=pytest.mark.slow)])
def test_extension_and_torch_share_one_openmp_and_its_threads(first: str) -> None:
    if not _C.build_info()["openmp_library"]:
        pytest.skip("the extension was built without OpenMP")
    result = run_code(
        f"""
        import os
        import {first}
        import torch
        from fastbert import _C

        def runtimes():
            files = [line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split("/")[-1]]
            return sorted({{os.path.realpath(file) for file in files if ".so" in file}})

        def threads():
            return len(os.listdir("/proc/self/task"))

        torch.set_num_threads(2)
        torch.zeros(1 << 22).sigmoid_()
        before = threads()
        buffer = torch.empty(1 << 22, dtype=torch.uint8)
        _C.philox_elementwise_bytes(buffer.data_ptr(), 1 << 12, 1 << 10, 1, 0, 0, 2)
        print(threads() - before, os.path.realpath(_C.build_info()["openmp_library"]), *runtimes())
        """
    )
    assert result.returncode == 0, result.stderr
    new_threads, used, *loaded = result.stdout.split()
    assert new_threads == "0", "the extension started threads of its own beside torch's"
    assert loaded == [used], "more than one OpenMP runtime is loaded"


def test_two_threads_of_torch_are_used(two_threads: None) -> None:
    # What fastbert.ops hands over as num_threads.
    shape = (1, 2, 256, 512)
    np.testing.assert_array_equal(
        attention_bytes(shape, 3, 1, torch.get_num_threads()), expected_attention_bytes(shape, 3, 1)
    )


def test_the_stub_file_describes_the_module() -> None:
    stub = ast.parse((Path(fastbert.__file__).parent / "_C.pyi").read_text())
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    build_info = classes.pop("BuildInfo")  # a dictionary when the program runs
    assert functions | classes.keys() == {name for name in dir(_C) if not name.startswith("_")}
    fields = [
        node.target.id
        for node in build_info.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert fields == list(_C.build_info())


def test_build_info_tells_how_the_extension_was_built() -> None:
    info = _C.build_info()
    assert info["cpp_standard"] >= 201703
    assert "-std=c++17" in info["flags"]
    assert "avx" not in info["flags"], "flags of one instruction set must stay with its own files"
    assert info["cuda"]
