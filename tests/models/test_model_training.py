"""What training adds: dropout drawn once a forward, checkpointing, autocast, settings, initial weights."""

from __future__ import annotations

import copy
from typing import Any

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor, nn

from fastbert.models import (
    BertForMaskedLM,
    BertForPreTraining,
    GPTForMultipleChoice,
    GPTForPreTraining,
    PretrainedModel,
    architecture,
)
from fastbert.models.heads import Classifier
from fastbert.packing import PackedBatch

SEQUENCES = [[7, 8, 9, 10, 5, 6], [11, 12], [12, 13, 14, 20]]
DROPOUT: dict[str, Any] = {
    "embedding_dropout_prob": 0.1,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def build(family: str, purpose: str = "pretraining", **overrides: Any) -> Any:
    torch.manual_seed(0)
    return architecture(family, purpose)(peers.our_config(family, **overrides)).train()


def batch_for(family: str) -> PackedBatch:
    labels = [[token if i % 2 else -100 for i, token in enumerate(tokens)] for tokens in SEQUENCES]
    return PackedBatch.from_sequences(SEQUENCES, token_labels=labels if family == "bert" else None)


def loss_and_gradients(model: PretrainedModel, batch: PackedBatch, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(seed)
    loss = torch.stack([term.mean() for term in model.loss_terms(batch).values()]).sum()
    torch.autograd.backward(loss)
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_dropout_follows_the_seed_and_stops_in_evaluation(family: str) -> None:
    model, batch = build(family, **DROPOUT), batch_for(family)
    first, _ = loss_and_gradients(model, batch, seed=1)
    again, _ = loss_and_gradients(model, batch, seed=1)
    other, _ = loss_and_gradients(model, batch, seed=2)
    assert first == again
    assert first != other
    model.eval()
    assert loss_and_gradients(model, batch, seed=1)[0] == loss_and_gradients(model, batch, seed=2)[0]


def test_every_place_that_drops_drops() -> None:
    """With one probability at 1 and the others at 0, what comes after that place is what zeros would give."""
    batch = batch_for("gpt2")
    hidden = build("gpt2", "model", embedding_dropout_prob=1.0).transformer.embeddings(
        batch.input_ids, batch.position_ids, None, None, torch.tensor([1, 0])
    )
    assert (hidden == 0).all()
    everything = build("gpt2", "model", hidden_dropout_prob=1.0)
    embedded = everything.transformer.embeddings(batch.input_ids, batch.position_ids, None, None, None)
    expected = everything.transformer.final_norm(embedded)  # the residual stream is never added to
    torch.testing.assert_close(everything(batch).last_hidden_state, expected)
    attention = build("gpt2", "model", attention_probs_dropout_prob=1.0)
    ids = batch.input_ids.clone()
    ids[0] = 30  # with all attention dropped, no token sees another
    seen = attention(PackedBatch(ids, batch.cu_seqlens, batch.max_seqlen, batch.position_ids)).last_hidden_state
    assert torch.equal(seen[1:], attention(batch).last_hidden_state[1:])


def test_packed_and_padded_forms_drop_the_same() -> None:
    model = build("bert", "model", **DROPOUT, classifier_dropout=0.0)
    torch.manual_seed(3)
    packed = model(PackedBatch.from_sequences(SEQUENCES)).last_hidden_state
    ids = nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens in SEQUENCES], batch_first=True)
    torch.manual_seed(3)
    padded = model(ids, attention_mask=(ids != 0).long()).last_hidden_state
    torch.testing.assert_close(padded[ids != 0], packed, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_layers_draw_different_masks(family: str) -> None:
    model = build(family, "model", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    first, second = model.transformer.blocks[0], model.transformer.blocks[1]
    second.load_state_dict(first.state_dict())
    model.transformer.blocks = nn.ModuleList([first, second])
    seen: list[Tensor] = []
    for block in (first, second):
        block.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    model(batch_for(family))
    assert seen[0][0] == seen[1][0]  # one seed a forward
    assert (seen[1][1] - seen[0][1]) == 1  # the layer is the offset


def test_classifier_dropout_is_shared_by_the_choices_of_one_example() -> None:
    config = peers.our_config("openai-gpt", classifier_dropout=0.5)
    classifier = Classifier(config, peers.HIDDEN)
    with torch.no_grad():
        classifier.linear.weight.copy_(torch.eye(peers.HIDDEN))
        classifier.linear.bias.zero_()
    kept = classifier(torch.ones(6, peers.HIDDEN), torch.tensor([11, 0]), group=3) != 0
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])
    assert not torch.equal(kept[0], kept[3])
    assert 0 < kept[0].sum() < peers.HIDDEN
    model = GPTForMultipleChoice(config).train()
    assert torch.isfinite(model(torch.randint(5, peers.VOCAB, (2, 3, 4)), labels=torch.tensor([0, 2])).loss)


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_gradient_checkpointing_changes_nothing(family: str) -> None:
    model, batch = build(family, **DROPOUT), batch_for(family)
    loss, gradients = loss_and_gradients(model, batch, seed=5)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again, recomputed = loss_and_gradients(model, batch, seed=5)
    assert loss == again
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name
    model.gradient_checkpointing_disable()
    assert loss_and_gradients(model, batch, seed=5)[0] == loss
    model.gradient_checkpointing_enable(every_n_layers=2)
    assert loss_and_gradients(model, batch, seed=5)[0] == loss
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="offload must be False and every_n_layers at least 1, got offload=True"):
        model.gradient_checkpointing_enable(offload=True)


@pytest.mark.parametrize(("every", "kept"), [(1, [0, 0, 0]), (2, [0, 1, 0])])
def test_gradient_checkpointing_computes_blocks_twice(every: int, kept: list[int]) -> None:
    model, batch = build("gpt2"), batch_for("gpt2")
    model.gradient_checkpointing_enable(every_n_layers=every)
    calls = [0] * peers.LAYERS

    for layer, block in enumerate(model.transformer.blocks):

        def count(*_: Any, layer: int = layer) -> None:
            calls[layer] += 1

        block.register_forward_pre_hook(count)
    loss_and_gradients(model, batch, seed=1)
    assert calls == [2 - once for once in kept]


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_autocast_keeps_activations_low_and_masters_high(family: str) -> None:
    model, batch = build(family), batch_for(family)
    full, gradients = loss_and_gradients(model, batch, seed=0)
    seen: set[torch.dtype] = set()
    for block in model.transformer.blocks:
        block.register_forward_hook(lambda *args: seen.add(args[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, low_gradients = loss_and_gradients(model, batch, seed=0)
    assert seen == {torch.bfloat16}
    assert low.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert low.item() == pytest.approx(full.item(), rel=1e-2)
    # A gradient in bfloat16 has 8 bits; compared as a whole, not entry by entry.
    flat, low_flat = (torch.cat([g.flatten() for g in d.values()]) for d in (gradients, low_gradients))
    assert torch.nn.functional.cosine_similarity(flat, low_flat, dim=0) > 0.999


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_initial_weights(family: str) -> None:
    model = build(family, hidden_size=128, num_hidden_layers=8)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            assert (module.bias == 0).all()
            residual = family == "gpt2" and name.endswith(("attention.output", "mlp.down"))
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(0.005 if residual else 0.02, rel=0.05), name
        elif isinstance(module, nn.Embedding) and module.num_embeddings > 10:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name


@pytest.mark.parametrize(("family", "model_class"), [("bert", BertForMaskedLM), ("openai-gpt", GPTForPreTraining)])
@pytest.mark.parametrize("size", [70, 50])
def test_resizing_the_vocabulary_keeps_the_old_ids(family: str, model_class: type[PretrainedModel], size: int) -> None:
    torch.manual_seed(0)
    model: Any = model_class(peers.our_config(family)).eval()
    if model.lm_head.bias is not None:
        nn.init.normal_(model.lm_head.bias)
    ids = torch.tensor([[7, 8, 9]])
    before = model(ids).logits
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert model.config.vocab_size == table.num_embeddings == size
    after = model(ids).logits
    assert after.shape == (1, 3, size)
    kept = min(size, peers.VOCAB)
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        model.resize_token_embeddings(0)


def test_resizing_leaves_frozen_what_is_frozen() -> None:
    model: Any = BertForMaskedLM(peers.our_config("bert"))
    model.get_input_embeddings().weight.requires_grad_(False)
    model.lm_head.bias.requires_grad_(False)
    model.resize_token_embeddings(70)
    assert not model.get_input_embeddings().weight.requires_grad
    assert not model.lm_head.bias.requires_grad
    model.requires_grad_(True)
    model.resize_token_embeddings(80)
    assert model.num_parameters(only_trainable=True) == model.num_parameters()


def test_models_of_one_configuration_do_not_share_it() -> None:
    config = peers.our_config("bert")
    first, second = BertForMaskedLM(config), BertForMaskedLM(config)
    first.resize_token_embeddings(70)
    assert (first.config.vocab_size, second.config.vocab_size, config.vocab_size) == (70, peers.VOCAB, peers.VOCAB)


def test_attention_backend_by_name() -> None:
    model, batch = build("bert").eval(), batch_for("bert")
    model.set_attention_backend("reference")
    exact = model.loss_terms(batch)["mlm"].sum
    model.set_attention_backend(None)
    torch.testing.assert_close(model.loss_terms(batch)["mlm"].sum, exact)
    model.set_attention_backend("fastest")
    with pytest.raises(ValueError, match="fastest"):
        model.loss_terms(batch)


def test_copies_and_state_dicts() -> None:
    model = build("bert")
    names = list(model.state_dict())
    assert len(names) == len(set(names)) == len(list(model.parameters()))  # the tied table is there once
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.transformer.embeddings.tokens.weight.zero_()
    assert (model.transformer.embeddings.tokens.weight != 0).any()
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)


def test_a_model_learns() -> None:
    """Thirty steps on one batch bring the loss of both families close to zero."""
    for family in ("bert", "openai-gpt"):
        model, batch = build(family), batch_for(family)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(30):
            loss = torch.stack([term.mean() for term in model.loss_terms(batch).values()]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        assert loss < 0.5, family


def test_bert_for_pretraining_without_pairs_has_no_next_sentence_loss() -> None:
    model: BertForPreTraining = build("bert")
    assert list(model.loss_terms(batch_for("bert"))) == ["mlm"]
