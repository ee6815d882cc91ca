"""The output mapping reads by attribute, key, index and slice."""

from __future__ import annotations

import pytest
import torch

from fastbert.models import ModelOutput


def test_every_way_of_reading() -> None:
    loss, logits = torch.tensor(1.0), torch.zeros(2, 3)
    output = ModelOutput(loss=loss, logits=logits, hidden_states=None)
    assert output.loss is output["loss"] is output[0] is loss
    assert output.logits is output[-1] is logits
    first, second = output[:2]
    assert first is loss
    assert second is logits
    assert output.to_tuple() == (loss, logits)
    assert list(output) == ["loss", "logits"]
    assert len(output) == 2
    assert isinstance(output, dict)


def test_what_was_not_computed() -> None:
    output = ModelOutput(loss=None, logits=torch.zeros(1))
    assert output.loss is None
    assert "loss" not in output
    assert output[0] is output.logits
    with pytest.raises(KeyError):
        output["loss"]
    with pytest.raises(AttributeError, match="no 'colour'; it has logits"):
        output.colour  # noqa: B018


def test_rebuilt_from_a_mapping_as_accelerate_does() -> None:
    output = ModelOutput(loss=torch.tensor(1.0), logits=torch.zeros(1))
    again = type(output)({name: value + 1 for name, value in output.items()})
    assert again.loss == 2.0
