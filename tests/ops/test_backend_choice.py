"""Which backend runs, and what is said when a faster one cannot."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from interpreter import run_code

from fastbert.ops import attention, available_backends, backends, extension
from fastbert.ops.problem import AttentionProblem


def _problem(dropout: bool = False, return_lse: bool = False) -> AttentionProblem:
    return AttentionProblem(
        device_type="cpu",
        dtype=torch.float32,
        varlen=False,
        batch=1,
        heads=2,
        kv_heads=2,
        head_dim=8,
        seq_q=4,
        seq_k=4,
        dropout=dropout,
        return_lse=return_lse,
    )


@pytest.fixture
def fresh_warnings() -> Iterator[None]:
    backends._warn_once.cache_clear()
    yield
    backends._warn_once.cache_clear()


@pytest.fixture
def sdpa_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order whose first backend does not serve every call."""
    monkeypatch.setitem(backends._ORDER, "cpu", ("sdpa", "reference"))


def test_auto_takes_the_first_that_serves() -> None:
    order = list(available_backends("cpu"))
    assert order[-1] == "reference"
    for problem in (_problem(), _problem(dropout=True), _problem(return_lse=True)):
        reasons = available_backends(problem=problem)
        first = next(name for name, reason in reasons.items() if reason is None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert backends.choose(problem).name == first
            assert backends.choose(problem, "auto").name == first


def test_the_compiled_kernels_come_first_and_serve_everything() -> None:
    assert next(iter(available_backends("cpu"))) == "cpu"
    deterministic = _problem()._replace(deterministic=True, requires_grad=True)
    for problem in (_problem(), _problem(dropout=True), _problem(return_lse=True), deterministic):
        chosen, skipped = backends.preferred(problem)
        assert (chosen.name, skipped) == ("cpu", {})


def test_without_the_extension_the_kernels_say_so(fresh_warnings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "compiled", None)
    monkeypatch.setattr(extension, "error", "fastbert._C is not built")
    with pytest.warns(RuntimeWarning, match=r"skips the faster backend 'cpu': fastbert\._C is not built"):
        assert backends.choose(_problem()).name == "sdpa"
    with pytest.raises(ValueError, match=r"backend 'cpu' cannot serve this call: fastbert\._C is not built"):
        backends.choose(_problem(), "cpu")


def test_the_kernels_decline_other_devices() -> None:
    with pytest.raises(ValueError, match=r"backend 'cpu' cannot serve this call: .* the tensors are on cuda"):
        backends.choose(_problem()._replace(device_type="cuda"), "cpu")


def test_every_backend_of_an_order_exists() -> None:
    for device_type in ("cpu", "cuda", "meta"):
        assert set(available_backends(device_type)) <= set(backends.backend_names())


def test_a_named_backend_that_cannot_says_why() -> None:
    with pytest.raises(ValueError, match="backend 'sdpa' cannot serve this call: torch's SDPA draws other dropout"):
        backends.choose(_problem(dropout=True), "sdpa")
    with pytest.raises(ValueError, match=r"backend 'sdpa' cannot serve this call: .* log-sum-exp"):
        backends.choose(_problem(return_lse=True), "sdpa")


def test_sdpa_declines_determinism_on_the_cpu(fresh_warnings: None, sdpa_first: None) -> None:
    deterministic = _problem()._replace(deterministic=True)
    with pytest.raises(ValueError, match=r"backend 'sdpa' cannot serve this call: .* another number of threads"):
        backends.choose(deterministic, "sdpa")
    with pytest.warns(RuntimeWarning, match="another number of threads"):
        assert backends.choose(deterministic).name == "reference"


def test_a_composite_has_no_kernel() -> None:
    with pytest.raises(ValueError, match="no kernel"):
        backends.kernel("sdpa")


def test_auto_warns_once_for_each_reason(fresh_warnings: None, sdpa_first: None) -> None:
    q = torch.randn(1, 4, 2, 8)
    with pytest.warns(RuntimeWarning, match="skips the faster backend 'sdpa': torch's SDPA draws"):
        attention(q, q, q, dropout_p=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attention(q, q, q, dropout_p=0.1)
        attention(q, q, q)
    with pytest.warns(RuntimeWarning, match="log-sum-exp"):
        attention(q, q, q, return_lse=True)


def test_no_warning_while_compiling(fresh_warnings: None, sdpa_first: None) -> None:
    compiled = torch.compile(lambda q: attention(q, q, q, dropout_p=0.1), fullgraph=True, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compiled(torch.randn(1, 4, 2, 8))


def test_the_environment_forces_a_backend() -> None:
    code = """
import torch
from fastbert.ops import attention, backends
q = torch.randn(1, 4, 2, 8)
attention(q, q, q)
print(backends.requested(None))
try:
    attention(q, q, q, dropout_p=0.1)
except ValueError as error:
    print(error)
attention(q, q, q, dropout_p=0.1, backend="auto")
"""
    result = run_code(code, FASTBERT_BACKEND="sdpa")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "sdpa"
    assert "backend 'sdpa' cannot serve this call" in result.stdout


def test_the_environment_names_an_unknown_backend() -> None:
    result = run_code("import fastbert.ops", FASTBERT_BACKEND="fast")
    assert result.returncode != 0
    assert "FASTBERT_BACKEND is 'fast'; allowed are auto, reference, sdpa, cpu, cuda, triton" in result.stderr
