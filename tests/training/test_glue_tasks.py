"""GLUE by name: its files, official metrics, and what its server takes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import task_data as data
import torch
from torchmetrics.functional.classification import binary_f1_score, binary_matthews_corrcoef
from torchmetrics.functional.regression import pearson_corrcoef

from fastbert import FinetuneConfig, finetune
from fastbert.data import TextRecord
from fastbert.inference import EvaluateConfig, PredictConfig, evaluate, predict
from fastbert.models import BertConfig
from fastbert.training.tasks import task_named
from fastbert.training.tasks.classification import Prediction
from fastbert.training.tasks.regression import NumberPrediction

BINARY = BertConfig(num_labels=2, id2label={0: "0", 1: "1"})


def measured(task: str, true: list[str], predicted: list[str]) -> dict[str, float]:
    records = [TextRecord("", label=label) for label in true]
    return task_named(task).measure(records, [Prediction(label, 1.0) for label in predicted], BINARY)


@pytest.mark.parametrize("seed", range(5))
def test_official_metrics(seed: int) -> None:
    draw = random.Random(seed)
    true = [draw.choice("01") for _ in range(60)]
    predicted = [label if draw.random() < 0.7 else draw.choice("01") for label in true]
    classes, labels = (torch.tensor([int(label) for label in side]) for side in (predicted, true))
    accuracy = sum(t == p for t, p in zip(true, predicted, strict=True)) / 60
    assert measured("glue/sst2", true, predicted) == {"accuracy": accuracy}
    for task in ("glue/mrpc", "glue/qqp"):
        assert measured(task, true, predicted) == {
            "accuracy": accuracy,
            "f1": pytest.approx(float(binary_f1_score(classes, labels)), rel=1e-5),
        }
    matthews = float(binary_matthews_corrcoef(classes, labels))
    assert measured("glue/cola", true, predicted) == {"matthews": pytest.approx(matthews, rel=1e-5)}


def test_what_has_no_value_is_zero() -> None:
    assert measured("glue/cola", ["1", "0", "1"], ["1", "1", "1"]) == {"matthews": 0.0}
    assert measured("glue/mrpc", ["0", "0"], ["0", "0"]) == {"accuracy": 1.0, "f1": 0.0}


def test_stsb_is_measured_by_correlation() -> None:
    records = [TextRecord("", label=str(score)) for score in (0.5, 2.0, 3.25, 5.0)]
    values = [1.0, 0.5, 3.0, 9.0]
    found = task_named("glue/stsb").measure(records, [NumberPrediction(value) for value in values], BINARY)
    expected = pearson_corrcoef(torch.tensor(values), torch.tensor([0.5, 2.0, 3.25, 5.0]))
    assert found == {"pearson": pytest.approx(float(expected)), "spearman": pytest.approx(0.8)}


def test_which_metric_chooses_the_best_model() -> None:
    chosen = {
        name: task_named(f"glue/{name}").choose_metric(None, BINARY)
        for name in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
    }
    assert chosen == {
        "cola": "matthews",
        "sst2": "accuracy",
        "mrpc": "f1",
        "stsb": "pearson",
        "qqp": "f1",
        "mnli": "accuracy",
        "qnli": "accuracy",
        "rte": "accuracy",
        "wnli": "accuracy",
    }


def write_mrpc(path: Path, rows: list[dict[str, Any]], *, labelled: bool) -> Path:
    lines = [("Quality" if labelled else "index") + "\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f"{row['same'] if labelled else i}\t1\t2\t{row['first']}\t{row['second']}" for i, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_from_files_to_submission(family: str, tmp_path: Path) -> None:
    rows = data.compared_texts(64, 0)
    train = write_mrpc(tmp_path / "train.tsv", rows, labelled=True)
    test = write_mrpc(tmp_path / "test.tsv", rows[:10], labelled=False)
    model = data.small_model(family, data.topic_texts(), tmp_path / "model")
    settings: dict[str, Any] = {"max_length": 40, "tokens_per_batch": 256, "learning_rate": 1e-3, "dropout": 0.0}
    run = tmp_path / "run"
    finetune(
        FinetuneConfig(str(model), str(run), task="glue/mrpc", train=str(train), log_to="none", epochs=5, **settings)
    )
    assert set(evaluate(EvaluateConfig(str(run), str(train), max_length=40))) == {"loss", "accuracy", "f1"}
    predictions = predict(PredictConfig(str(run), str(test), str(tmp_path / "MRPC.tsv"), max_length=40))
    lines = (tmp_path / "MRPC.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert lines[1:] == [f"{i}\t{prediction.label}" for i, prediction in enumerate(predictions)]
    assert len(lines) == 11


def test_scores_are_submitted_in_their_range(tmp_path: Path) -> None:
    records = [TextRecord("", id=str(i)) for i in range(3)]
    predictions = [NumberPrediction(value) for value in (-0.5, 2.34567, 7.0)]
    task_named("glue/stsb").write(tmp_path / "STS-B.tsv", records, predictions)
    assert (tmp_path / "STS-B.tsv").read_text() == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n"


def test_columns_are_glues_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text_column is 'x', which task 'glue/rte' does not read"):
        FinetuneConfig("m", "o", task="glue/rte", train="a.tsv", text_column="x")
    with pytest.raises(ValueError, match=r"output .*out\.csv must end in \.tsv"):
        predict(PredictConfig("m", "a.tsv", str(tmp_path / "out.csv"), task="glue/rte"))
