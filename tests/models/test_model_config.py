"""The configuration: defaults, presets, Hugging Face's dictionary, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import huggingface_peers as peers
import pytest
import torch
import transformers

from fastbert import models
from fastbert.models import BertConfig, GPTConfig, TransformerConfig, architecture, preset, preset_names
from fastbert.models.config import BERT_FAMILIES, FAMILIES, GPT_FAMILIES

THEIRS: dict[str, Any] = {
    "bert": transformers.BertConfig,
    "openai-gpt": transformers.OpenAIGPTConfig,
    "gpt2": transformers.GPT2Config,
}
DEFAULTS = {"bert": BertConfig(), "openai-gpt": GPTConfig(), "gpt2": preset("gpt2")}

# Facts of the papers and of the released checkpoints, not our own output.
PARAMETERS = [
    ("bert-base", "model", 109_482_240),
    ("bert-base", "masked-lm", 109_514_298),
    ("bert-base", "pretraining", 110_106_428),
    ("bert-large", "model", 335_141_888),
    ("bert-large", "masked-lm", 335_174_458),
    ("bert-large", "pretraining", 336_226_108),
    ("openai-gpt", "pretraining", 116_534_784),
    ("gpt2", "pretraining", 124_439_808),
]


@pytest.mark.parametrize(("name", "purpose", "count"), PARAMETERS)
def test_parameter_counts(name: str, purpose: str, count: int) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = architecture(config.family, purpose)(config)
    assert model.num_parameters() == count
    assert model.num_parameters(only_trainable=True) == count
    tables = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * config.hidden_size
    assert model.num_parameters(exclude_embeddings=True) == count - tables


@pytest.mark.parametrize(("name", "layers", "hidden"), [("gpt2-tiny", 2, 128), ("gpt2-mini", 4, 256)])
def test_small_gpt2_presets(name: str, layers: int, hidden: int) -> None:
    config = preset(name)
    assert (config.family, config.pre_norm, config.vocab_size) == ("gpt2", True, 50257)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (layers, hidden, 4 * hidden)
    assert (config.head_dim, config.max_position_embeddings, config.eos_token_id) == (64, 512, 50256)


def test_gpt1_with_its_three_special_tokens() -> None:
    with torch.device("meta"):
        model = models.GPTForPreTraining(preset("openai-gpt", vocab_size=40478 + 3))
    assert model.num_parameters() == 116_537_088


@pytest.mark.parametrize("family", THEIRS)
def test_defaults_are_hugging_faces(family: str) -> None:
    theirs = TransformerConfig.from_dict(THEIRS[family]().to_dict())
    expected = DEFAULTS[family].replace(num_labels=2, id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert theirs == expected


@pytest.mark.parametrize("name", preset_names())
def test_dictionary_round_trip(name: str) -> None:
    config = preset(
        name,
        id2label={0: "no", 1: "yes", 2: "maybe"},
        classifier_dropout=0.2,
        embedding_dropout_prob=0.3,
        classifier_bias=True,
        problem_type="single_label_classification",
        pad_token_id=7,
    )
    written = json.loads(config.to_json_string())
    assert TransformerConfig.from_dict(written) == config
    theirs = THEIRS[config.family].from_dict(written)
    assert theirs.num_labels == 3
    assert theirs.hidden_size == config.hidden_size
    assert theirs.num_hidden_layers == config.num_hidden_layers
    assert theirs.num_attention_heads == config.num_attention_heads
    assert theirs.max_position_embeddings == config.max_position_embeddings
    assert theirs.label2id == {"no": 0, "yes": 1, "maybe": 2}


def test_old_dictionaries_may_leave_keys_out() -> None:
    assert TransformerConfig.from_dict({"model_type": "gpt2", "n_ctx": 1024}) == preset("gpt2")
    assert TransformerConfig.from_dict({"model_type": "bert", "architectures": ["BertModel"]}) == BertConfig()


def test_gpt1_calls_the_tanh_gelu_gelu() -> None:
    assert GPTConfig().to_dict()["afn"] == "gelu"
    assert TransformerConfig.from_dict({"model_type": "openai-gpt", "afn": "gelu"}).hidden_act == "gelu_new"
    assert TransformerConfig.from_dict({"model_type": "bert", "hidden_act": "gelu"}).hidden_act == "gelu"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({}, "model_type"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder"),
        ({"model_type": "bert", "hidden_act": "mish"}, "mish"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights"),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_other_mathematics_is_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        TransformerConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hidden_size": 100}, "hidden_size 100 must be a multiple of num_attention_heads 12"),
        ({"num_attention_heads": 2}, "at most 256, got 384"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be between 0 and 1, got 1.5"),
        ({"classifier_dropout": -0.1}, "classifier_dropout must be between 0 and 1, got -0.1"),
        ({"family": "t5"}, "family must be one of bert, openai-gpt, gpt2, got 't5'"),
        ({"hidden_act": "tanh"}, "hidden_act must be one of gelu"),
        ({"problem_type": "ranking"}, "problem_type must be None or one of"),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "id2label must name the labels 0 to 2, got"),
        ({"id2label": {0: "a", 1: "a"}}, "every label its own name"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "label2id must be the inverse"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BertConfig(**values)


def test_families_without_segments_or_without_a_key_for_the_width() -> None:
    with pytest.raises(ValueError, match="type_vocab_size must be 0 for openai-gpt"):
        GPTConfig(type_vocab_size=2)
    with pytest.raises(ValueError, match="intermediate_size must be 3072 for openai-gpt, got 1000"):
        GPTConfig(intermediate_size=1000)


def test_every_family_is_one_of_two() -> None:
    assert FAMILIES == (*BERT_FAMILIES, *GPT_FAMILIES) == peers.FAMILIES
    assert [family for family in FAMILIES if DEFAULTS[family].causal] == list(GPT_FAMILIES)
    assert {models.BertModel.families, models.BertForMultipleChoice.families} == {BERT_FAMILIES}
    assert {models.GPTModel.families, models.GPTForMultipleChoice.families} == {GPT_FAMILIES}


def test_replace_keeps_what_belongs_together() -> None:
    config = preset("bert-tiny", id2label={0: "no", 1: "yes"})
    assert config.intermediate_size == 512
    assert config.replace(hidden_size=256).intermediate_size == 1024
    assert config.replace(num_labels=5).id2label is None
    assert config.replace(label2id={"a": 0, "b": 1, "c": 2}).num_labels == 3
    assert type(config.replace(num_labels=5)) is BertConfig
    with pytest.raises(ValueError, match="BertConfig has no field colour"):
        config.replace(colour="red")


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'bert-huge'; there are bert-tiny.*gpt2"):
        preset("bert-huge")
    with pytest.raises(ValueError, match="family must be one of bert, openai-gpt, gpt2, got 't5'"):
        architecture("t5", "model")
    with pytest.raises(ValueError, match=r"purpose must be one of .*masked-lm.* for bert, got 'similarity'"):
        architecture("bert", "similarity")
    with pytest.raises(ValueError, match="BertModel needs a configuration of family bert, got gpt2"):
        models.BertModel(preset("gpt2"))


def test_every_purpose_has_its_class() -> None:
    shared = ["model", "pretraining", "classification", "token-classification", "question-answering", "multiple-choice"]
    for purpose in shared:
        bert, gpt = architecture("bert", purpose), architecture("gpt2", purpose)
        assert bert.__name__.startswith("Bert")
        assert gpt.__name__ == bert.__name__.replace("Bert", "GPT")
        assert architecture("openai-gpt", purpose) is gpt
    assert architecture("bert", "masked-lm") is models.BertForMaskedLM
    assert architecture("openai-gpt", "similarity") is models.GPTForSimilarity
