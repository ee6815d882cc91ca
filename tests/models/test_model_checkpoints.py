"""Reading and writing checkpoints: what is missing, unexpected or misshapen, old names, and interrupted writes."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import huggingface_hub
import huggingface_peers as peers
import pytest
import safetensors.torch
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from torch import Tensor

from fastbert.models import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    GPTForPreTraining,
    GPTForSequenceClassification,
    GPTModel,
    PretrainedModel,
    architecture,
    read_config,
)
from fastbert.models.auto import load_pretrained

CLASSES = [
    (family, purpose)
    for family in peers.FAMILIES
    for purpose in (
        "model",
        "pretraining",
        "classification",
        "token-classification",
        "question-answering",
        "multiple-choice",
        "masked-lm" if family == "bert" else "similarity",
    )
]


def saved(tmp_path: Path, model: PretrainedModel) -> Path:
    directory = tmp_path / "saved"
    model.save_pretrained(directory)
    return directory


def edit(directory: Path, change: Any) -> None:
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize(("family", "purpose"), CLASSES, ids=["-".join(case) for case in CLASSES])
def test_round_trip_of_every_class(family: str, purpose: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    config = peers.our_config(family, id2label={0: "no", 1: "yes"}, classifier_bias=family != "bert")
    model = architecture(family, purpose)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    with caplog.at_level(logging.WARNING):
        again = load_pretrained(saved(tmp_path, model), purpose)
    assert not caplog.records
    assert type(again) is type(model)
    assert again.config == config
    assert not again.training
    for (name, expected), (other, actual) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(actual, expected), name
        assert actual.requires_grad
        assert actual.is_contiguous()


@pytest.mark.parametrize("family", peers.FAMILIES)
@pytest.mark.parametrize("prefixed", [True, False])
def test_a_body_gets_a_new_head(family: str, prefixed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    body = architecture(family, "model")(peers.our_config(family))
    directory = saved(tmp_path, body)
    if prefixed:
        prefix = "bert." if family == "bert" else "transformer."
        edit(directory, lambda tensors: [tensors.update({prefix + name: tensors.pop(name)}) for name in list(tensors)])
    with caplog.at_level(logging.WARNING):
        model = load_pretrained(directory, "classification", num_labels=5, classifier_dropout=0.3)
    new = "classifier.weight, classifier.bias" if family == "bert" else "score.weight"
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        f"not in the checkpoint, newly initialised, to be trained before use: {new}"
    ]
    assert (model.config.num_labels, model.config.classifier_dropout) == (5, 0.3)
    weight = model.get_parameter("classifier.linear.weight")
    assert weight.shape == (5, peers.HIDDEN)
    assert weight.std().item() == pytest.approx(0.02, rel=0.4)
    for name, parameter in body.transformer.named_parameters():
        assert torch.equal(model.transformer.get_parameter(name), parameter)
    assert all(not parameter.is_meta for parameter in model.parameters())


def test_a_model_to_be_used_as_it_is_needs_its_head(tmp_path: Path) -> None:
    directory = saved(tmp_path, BertModel(peers.our_config("bert")))
    with pytest.raises(ValueError, match=r"weights missing: classifier\.weight, classifier\.bias"):
        BertForSequenceClassification.from_pretrained(directory, require_head=True)
    assert BertModel.from_pretrained(directory, require_head=True).config == peers.our_config("bert")


def test_unused_weights_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another head's quietly, the transformer's as a warning."""
    directory = saved(tmp_path, BertForPreTraining(peers.our_config("bert")))
    edit(directory, lambda tensors: tensors.update({"bert.encoder.layer.9.output.dense.bias": torch.ones(3)}))
    with caplog.at_level(logging.INFO, logger="fastbert"):
        BertForMaskedLM.from_pretrained(directory)
    unused = "weights that BertForMaskedLM does not use: "
    assert [(record.levelname, record.getMessage().split(": ", 1)[1]) for record in caplog.records] == [
        (
            "INFO",
            f"{unused}cls.seq_relationship.bias, cls.seq_relationship.weight, pooler.dense.bias, pooler.dense.weight",
        ),
        ("WARNING", f"{unused}encoder.layer.9.output.dense.bias"),
    ]


@pytest.mark.parametrize("family", peers.FAMILIES)
@pytest.mark.parametrize("purpose", ["classification", "token-classification", "question-answering"])
def test_a_body_out_of_a_task_model_is_no_warning(
    family: str, purpose: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = saved(tmp_path, architecture(family, purpose)(peers.our_config(family)))
    with caplog.at_level(logging.INFO, logger="fastbert"):
        load_pretrained(directory, "model")
    unused = [record.levelname for record in caplog.records if "does not use" in record.getMessage()]
    assert unused == ["INFO"]


@pytest.mark.parametrize(
    ("family", "purpose", "sentence"),
    [
        ("gpt2", "masked-lm", r"holds a GPT-2 model, which cannot fill in masked words; only BERT models can$"),
        ("openai-gpt", "masked-lm", r"holds a GPT model, which cannot fill in masked words; only BERT models can$"),
        ("bert", "similarity", r"holds a BERT model, which cannot compare two texts; only GPT and GPT-2 models can$"),
    ],
)
def test_a_family_that_cannot_is_named(family: str, purpose: str, sentence: str, tmp_path: Path) -> None:
    directory = saved(tmp_path, architecture(family, "model")(peers.our_config(family)))
    with pytest.raises(ValueError, match=f"^{directory} {sentence}"):
        load_pretrained(directory, purpose)
    with pytest.raises(ValueError, match=r"purpose must be one of .*, got 'poetry'"):
        load_pretrained(directory, "poetry")


def test_weights_of_the_transformer_must_all_be_there(tmp_path: Path) -> None:
    directory = saved(tmp_path, BertModel(peers.our_config("bert")))

    def remove(tensors: dict[str, Tensor]) -> None:
        del tensors["encoder.layer.1.attention.self.key.weight"]
        del tensors["embeddings.LayerNorm.bias"]

    edit(directory, remove)
    with pytest.raises(ValueError, match=r"weights missing: .*embeddings.LayerNorm.bias.*layer\.1\..*key\.weight"):
        BertModel.from_pretrained(directory)


def test_wrong_shapes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = BertForSequenceClassification(peers.our_config("bert", num_labels=3))
    directory = saved(tmp_path, model)
    with pytest.raises(
        ValueError, match=r"wrong shape: classifier.weight is \(3, 32\), the model has \(4, 32\); classifier.bias is"
    ):
        BertForSequenceClassification.from_pretrained(directory, num_labels=4)
    with caplog.at_level(logging.WARNING):
        other = BertForSequenceClassification.from_pretrained(directory, num_labels=4, ignore_mismatched_sizes=True)
    assert "newly initialised, to be trained before use: classifier.weight, classifier.bias" in caplog.text
    assert other.get_parameter("classifier.linear.weight").shape == (4, 32)
    with pytest.raises(ValueError, match=r"embeddings.word_embeddings.weight is \(61, 32\), the model has \(62, 32\)"):
        BertModel.from_pretrained(directory, vocab_size=62, ignore_mismatched_sizes=True)


def test_old_names_of_layer_norms_load_and_others_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = BertForMaskedLM(peers.our_config("bert"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    directory = saved(tmp_path, model)

    def age(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[old] = tensors.pop(name)
        tensors["bert.encoder.layer.0.attention.output.dense.gamma"] = torch.ones(3)
        tensors["bert.embeddings.position_ids"] = torch.arange(peers.POSITIONS)
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()

    edit(directory, age)
    with caplog.at_level(logging.WARNING):
        again = BertForMaskedLM.from_pretrained(directory)
    for (name, expected), actual in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(actual, expected), name
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "weights that BertForMaskedLM does not use: encoder.layer.0.attention.output.dense.gamma"
    ]


def test_only_the_output_copy_of_a_tied_table_is_enough(tmp_path: Path) -> None:
    model = GPTForPreTraining(peers.our_config("gpt2"))
    directory = saved(tmp_path, model)
    edit(directory, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("transformer.wte.weight")}))
    again = GPTForPreTraining.from_pretrained(directory)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_tables_that_are_not_tied_are_refused(tmp_path: Path) -> None:
    directory = saved(tmp_path, GPTForPreTraining(peers.our_config("openai-gpt")))
    edit(directory, lambda tensors: tensors.update({"lm_head.weight": torch.ones(peers.VOCAB, peers.HIDDEN)}))
    with pytest.raises(ValueError, match=r"lm_head.weight differs from tokens_embed.weight"):
        GPTForPreTraining.from_pretrained(directory)


def test_original_gpt_files_with_buffers_and_no_prefix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = GPTModel(peers.our_config("gpt2"))
    directory = saved(tmp_path, model)

    def age(tensors: dict[str, Tensor]) -> None:
        for layer in range(peers.LAYERS):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    edit(directory, age)
    with caplog.at_level(logging.WARNING):
        again = GPTForPreTraining.from_pretrained(directory)
    assert not caplog.records
    ids = torch.tensor([[7, 8, 9]])
    torch.testing.assert_close(again.transformer.state_dict(), model.transformer.state_dict())
    assert again(ids).logits.shape == (1, 3, peers.VOCAB)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    directory = saved(tmp_path, BertModel(peers.our_config("bert")))
    edit(directory, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()}))
    assert {parameter.dtype for parameter in BertModel.from_pretrained(directory).parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(kind: str, tmp_path: Path) -> None:
    model = GPTForSequenceClassification(peers.our_config("openai-gpt"))
    directory = saved(tmp_path, model)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    whole = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    stem, extension = whole.split(".")
    names = sorted(tensors)
    shards = {f"{stem}-0000{i + 1}-of-00002.{extension}": names[i::2] for i in range(2)}
    for shard, members in shards.items():
        part = {name: tensors[name] for name in members}
        if kind == "safetensors":
            safetensors.torch.save_file(part, directory / shard)
        else:
            torch.save(part, directory / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (directory / f"{whole}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    again = GPTForSequenceClassification.from_pretrained(directory)
    for expected, actual in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(actual, expected)
    (directory / next(iter(shards))).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks the shards .*-00001-of-00002"):
        GPTForSequenceClassification.from_pretrained(directory)


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/nonexistent/never",)


@pytest.mark.parametrize("content", ["pickle", "noise", "not tensors"])
def test_a_bin_runs_nothing(content: str, tmp_path: Path) -> None:
    directory = saved(tmp_path, BertModel(peers.our_config("bert")))
    (directory / "model.safetensors").unlink()
    target = directory / "pytorch_model.bin"
    if content == "pickle":
        target.write_bytes(pickle.dumps({"a": Malicious()}))
    elif content == "noise":
        target.write_bytes(b"\x00" * 100)
    else:
        torch.save({"a": 1}, target)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin (cannot be read as weights|holds things)"):
        BertModel.from_pretrained(directory)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    directory = saved(tmp_path, BertModel(peers.our_config("bert")))
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read as weights"):
        BertModel.from_pretrained(directory)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        BertModel.from_pretrained(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"\./runs/x is not a directory"):
        BertModel.from_pretrained("./runs/x")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        BertModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=r"has no weights: none of model\.safetensors"):
        BertModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match=r"config\.json: model_type must be one of"):
        read_config(tmp_path)

    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("An error happened. Please check your connection.") from ConnectionError(
            "no route"
        )

    def raw(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route\nwith details")

    for failure in (unreachable, raw):
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", failure)
        sentence = r"^bert-base is not a directory, and the hub cannot be reached \(no route\)$"
        with pytest.raises(FileNotFoundError, match=sentence):
            BertModel.from_pretrained("bert-base")

    def unknown(*_: Any, **__: Any) -> str:
        raise RepositoryNotFoundError("404 Client Error\n\nmake sure you are authenticated", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unknown)
    with pytest.raises(FileNotFoundError, match=r"^bert-base is not a directory, and the hub has no such repository"):
        BertModel.from_pretrained("bert-base")


def test_hub_ids_are_downloaded_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BertModel(peers.our_config("bert"))
    directory = saved(tmp_path, model)
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        return str(directory / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    again = BertModel.from_pretrained("some/model", revision="v1")
    assert asked == [("some/model", "config.json", "v1"), ("some/model", "model.safetensors", "v1")]
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = saved(tmp_path, BertModel(peers.our_config("bert")))
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    (directory / "vocab.txt").write_text("[PAD]")

    def disk_full(_: Any, path: str, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        BertModel(peers.our_config("bert", hidden_size=64)).save_pretrained(directory)
    assert {path.name for path in directory.iterdir()} == {*before, "vocab.txt"}
    for name, content in before.items():
        assert (directory / name).read_bytes() == content


def test_config_names_their_class(tmp_path: Path) -> None:
    names = {
        BertForPreTraining(peers.our_config("bert")): "BertForPreTraining",
        GPTForPreTraining(peers.our_config("openai-gpt")): "OpenAIGPTLMHeadModel",
        GPTForSequenceClassification(peers.our_config("gpt2")): "GPT2ForSequenceClassification",
        GPTModel(peers.our_config("gpt2")): "GPT2Model",
    }
    for model, name in names.items():
        values = json.loads((saved(tmp_path, model) / "config.json").read_text())
        assert values["architectures"] == [name]
        assert values["dtype"] == "float32"
