"""An unchanged script around transformers' Trainer trains and evaluates our classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_peers as peers
import pytest
import torch
import transformers

from fastbert.models import architecture


def rows(purpose: str) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    result = []
    for i in range(24):
        ids = [5 + i % 2, *torch.randint(10, peers.VOCAB, (3 + i % 4,)).tolist()]
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if purpose == "classification":
            row["labels"] = i % 2
        elif purpose == "question-answering":
            row["start_positions"], row["end_positions"] = i % 2, 1 + i % 2
        else:
            row["labels"] = list(ids)
        result.append(row)
    return result


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in batch)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.tensor(
            [
                row[name] + [fill[name]] * (width - len(row[name])) if isinstance(row[name], list) else row[name]
                for row in batch
            ]
        )
        for name in batch[0]
    }


@pytest.mark.parametrize(
    ("family", "purpose"),
    [("bert", "classification"), ("gpt2", "pretraining"), ("openai-gpt", "question-answering"), ("bert", "masked-lm")],
)
def test_trainer(family: str, purpose: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = architecture(family, purpose)(peers.our_config(family, hidden_dropout_prob=0.1))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=5,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=5,
        learning_rate=3e-3,
        gradient_checkpointing=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="epoch",
        save_total_limit=1,
        use_cpu=True,
    )
    data: Any = rows(purpose)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data, data_collator=collate
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.95 * before
    predictions = trainer.predict(data)
    assert predictions.metrics is not None
    assert predictions.metrics["test_loss"] == pytest.approx(after, rel=1e-4)
    assert len(predictions.predictions if purpose != "question-answering" else predictions.predictions[0]) == 24
