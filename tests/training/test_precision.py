"""What "auto" precision means, and what an explicit choice costs."""

from __future__ import annotations

import logging

import pytest
import torch

from fastbert import _C
from fastbert.training import precision
from fastbert.training.precision import resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_follows_the_hardware(monkeypatch, native, expected):
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: native)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(
    ("instruction_set", "expected"),
    [("generic", "fp32"), ("avx2", "fp32"), ("avx512", "fp32"), ("avx512_bf16", "bf16"), ("amx", "bf16")],
)
def test_auto_on_a_cpu_follows_its_instruction_set(monkeypatch, instruction_set, expected):
    monkeypatch.setattr(_C, "instruction_set", lambda: instruction_set)
    assert resolve_precision("auto", CPU) == expected


def test_an_explicit_choice_stands_and_is_warned_about_where_it_is_slow(monkeypatch, caplog):
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: False)
    with caplog.at_level(logging.WARNING):
        assert resolve_precision("fp32", CPU) == "fp32"
        assert not caplog.records
        assert resolve_precision("bf16", CPU) == "bf16"
    assert "no bf16 matrix products" in caplog.text


def test_an_emulating_device_is_not_native(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision("auto", torch.device("cuda")) == "fp32"
