"""The two scripts of the README, run as they stand and with the import from transformers: one loss curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

SCRIPTS = Path(__file__).parent / "scripts"
README = Path(__file__).resolve().parents[2] / "README.md"
STEPS, ROWS, VOCAB = 50, 8, 61
OURS, THEIRS = "from fastbert import BertFor", "from transformers import BertFor"


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    """Padded pairs of texts whose class the second token tells, with some noise to learn from."""
    torch.manual_seed(0)
    result = []
    for i in range(count):
        length = 4 + i % 9
        input_ids = torch.randint(10, VOCAB, (12,))
        input_ids[1] = 5 + i % 2
        label = i % 2 if i % 10 else 1 - i % 2
        tokens = (torch.arange(12) < length).long()
        result.append(
            {
                "input_ids": input_ids * tokens,
                "attention_mask": tokens,
                "token_type_ids": (torch.arange(12) >= length // 2).long() * tokens,
                "labels": torch.tensor(label),
            }
        )
    return result


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs/bert, an untuned model without dropout, and the data that the scripts read."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        initializer_range=0.2,  # large enough to learn something in 50 steps
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "runs" / "bert")
    examples = rows(STEPS * ROWS)
    batches = [
        {name: torch.stack([row[name] for row in examples[i : i + ROWS]]) for name in examples[0]}
        for i in range(0, len(examples), ROWS)
    ]
    torch.save(examples, tmp_path / "examples.pt")
    torch.save(batches, tmp_path / "batches.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, swapped_import: str) -> dict[str, Any]:
    """A script, with its import swapped; the variables it leaves."""
    source = (SCRIPTS / name).read_text(encoding="utf-8")
    assert source.count(OURS) == 1
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source.replace(OURS, swapped_import), name, "exec"), variables)
    return variables


def check(theirs: list[float], ours: list[float], place: Path) -> None:
    assert len(ours) == len(theirs) == STEPS
    assert sum(theirs[-10:]) < 0.8 * sum(theirs[:10])  # it is a curve
    assert ours == pytest.approx(theirs, abs=1e-4)
    # What ours saved last is theirs to load.
    _, report = transformers.BertForSequenceClassification.from_pretrained(
        place / "runs" / "reviews", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_plain_loop(workplace: Path) -> None:
    theirs, ours = (run("plain_loop.py", swapped_import)["losses"] for swapped_import in (THEIRS, OURS))
    check(theirs, ours, workplace)


def test_trainer_script(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses are taken from the Trainer's steps; what it logs is rounded."""
    curves: dict[str, list[float]] = {THEIRS: [], OURS: []}
    training_step = transformers.Trainer.training_step
    for swapped_import, losses in curves.items():

        def note(self: Any, *arguments: Any, losses: list[float] = losses, **keywords: Any) -> Any:
            loss = training_step(self, *arguments, **keywords)
            losses.append(loss.item())
            return loss

        monkeypatch.setattr(transformers.Trainer, "training_step", note)
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        run("trainer_script.py", swapped_import)
    check(curves[THEIRS], curves[OURS], workplace)


@pytest.mark.parametrize("name", ["plain_loop.py", "trainer_script.py"])
def test_the_readme_shows_the_scripts(name: str) -> None:
    source = (SCRIPTS / name).read_text(encoding="utf-8").removeprefix("from __future__ import annotations\n\n")
    assert f"```python\n{source}```" in README.read_text(encoding="utf-8")
