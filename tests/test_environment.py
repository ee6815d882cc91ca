"""What ``fastbert doctor`` says."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import fastbert
from fastbert import _C
from fastbert.environment import cuda_kernels, cuda_status, describe
from fastbert.ops import backends
from fastbert.ops.backends import KernelBackend, reference


def test_the_description_is_complete_and_fits_json() -> None:
    environment = describe()
    assert environment.fastbert == fastbert.__version__
    assert environment.torch == torch.__version__
    assert environment.extension is not None
    assert environment.extension_error is None
    assert json.loads(json.dumps(environment.as_dict()))["device"] == environment.device
    text = environment.as_text()
    for word in (
        "fastbert",
        "python",
        "torch",
        "device",
        "cuda",
        "instructions",
        "extension",
        "attention",
        "reference",
    ):
        assert word in text


def test_the_backend_that_runs_is_one_that_can() -> None:
    for choice in describe().attention:
        assert choice.runs is not None
        assert choice.backends[choice.runs] is None


@pytest.mark.parametrize(
    ("runtime", "driver", "usable", "expected"),
    [
        (None, None, False, "without CUDA"),
        ("12.8", None, False, "built for CUDA 12.8, but there is no NVIDIA driver"),
        ("12.8", (12, 4), True, "built for CUDA 12.8, the driver supports 12.4"),
        ("13.0", (12, 4), False, "the driver supports only 12.4: update the driver"),
        ("12.8", (13, 0), False, "torch finds no usable GPU"),
    ],
)
def test_cuda_status_names_driver_and_runtime(
    runtime: str | None, driver: tuple[int, int] | None, usable: bool, expected: str
) -> None:
    assert expected in cuda_status(runtime, driver, usable)


@pytest.mark.parametrize(
    ("runtime", "unavailable", "expected"),
    [
        ("", "there are none", "no kernels, since nobody asked"),
        ("13.0", None, "kernels for sm_90, by nvcc 13.0: they run here"),
        ("13.0", "there is no NVIDIA driver", "by nvcc 13.0: they do not run: there is no NVIDIA driver"),
    ],
)
def test_cuda_kernels_are_told_with_what_stops_them(runtime: str, unavailable: str | None, expected: str) -> None:
    report = "kernels for sm_90, by nvcc 13.0" if runtime else "no kernels, since nobody asked"
    assert expected in cuda_kernels({"cuda": report, "cuda_runtime": runtime}, unavailable)
    assert cuda_kernels(None, unavailable) == "none: the extension is not available"


@pytest.mark.parametrize(
    ("reasons", "forced", "runs", "why"),
    [
        ({"a": None, "b": None}, "auto", "a", "the first of a > b that can"),
        ({"a": "it is tired", "b": None}, "auto", "b", "the first of a > b that can"),
        ({"a": "it is tired"}, "auto", None, "attention: no backend serves this call on cpu"),
        ({"a": None, "b": None}, "b", "b", "FASTBERT_BACKEND forces it"),
        ({"a": "it is tired"}, "a", None, "attention: backend 'a' cannot serve this call: it is tired"),
    ],
)
def test_the_choice_is_told_as_calls_make_it(
    monkeypatch: pytest.MonkeyPatch, reasons: dict[str, str | None], forced: str, runs: str | None, why: str
) -> None:
    made = {
        name: KernelBackend(name, lambda problem, reason=reason: reason, reference.forward, reference.backward)
        for name, reason in reasons.items()
    }
    monkeypatch.setattr(backends, "_BACKENDS", made)
    monkeypatch.setattr(backends, "_ORDER", {"cpu": tuple(made), "cuda": tuple(made)})
    monkeypatch.setattr(backends, "_FORCED", forced)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for choice in describe().attention:
        assert (choice.backends, choice.runs, choice.why) == (reasons, runs, why)


def test_a_wrong_instruction_set_is_reported_and_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ValueError("FASTBERT_CPU_ISA is 'sse9', which is unknown")

    monkeypatch.setattr(_C, "instruction_set", refuse)
    environment = describe()
    assert environment.instruction_set == "unknown: FASTBERT_CPU_ISA is 'sse9', which is unknown"
    assert environment.extension is not None


def test_a_missing_extension_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastbert._C", None)  # what makes importing it fail
    environment = describe()
    assert environment.extension is None
    assert environment.extension_error is not None
    assert f"not available: {environment.extension_error}" in environment.as_text()
