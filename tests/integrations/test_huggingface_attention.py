"""attn_implementation="fastbert" beside transformers' own sdpa attention: equal logits, gradients and tokens."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_models as models
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import masking_utils

from fastbert.integrations import huggingface
from fastbert.integrations.huggingface import fastbert_attention
from fastbert.integrations.huggingface_masks import AttentionMask, make_mask
from fastbert.ops import philox

CLOSE = {"rtol": 1e-5, "atol": 5e-6}
LENGTHS = [5, 7, 1, 4]


@pytest.fixture(autouse=True)
def torch_serves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """A mask that ours should serve and torch got is a failure, but where a test expects it."""
    huggingface._warn_of_matrix.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*torch serves the attention of.*")
        yield


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", models.MODELS)
def test_logits_and_gradients(name: str, side: str) -> None:
    """Of every token; what stands in the padding is nobody's business, and torch makes NaN of some of it."""
    inputs = models.texts(side)
    tokens = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    logits, gradients = [], []
    for model in models.pair(name):
        model.train()  # there is no dropout
        found = model(**inputs).logits[tokens]
        torch.manual_seed(3)
        weights = torch.randn_like(found)
        logits.append(found)
        gradients.append(torch.autograd.grad((found * weights).sum(), list(model.parameters()), allow_unused=True))
    torch.testing.assert_close(logits[1], logits[0], **CLOSE)
    for wanted, got in zip(*gradients, strict=True):
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", models.DECODERS)
def test_generation_with_a_cache(name: str, cache: str) -> None:
    inputs = models.texts("left")
    theirs, ours = (
        model.generate(**inputs, max_new_tokens=10, do_sample=False, cache_implementation=cache, disable_compile=True)
        for model in models.pair(name)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("name", models.DECODERS)
def test_a_prompt_in_pieces(name: str, kind: str) -> None:
    """Several queries behind keys that a cache already holds, the static one with room left at the end."""
    input_ids = models.texts("none")["input_ids"]
    model = models.make(name, "fastbert")
    cache: Any
    if kind == "dynamic":
        cache = transformers.DynamicCache(config=model.config)
    else:
        cache = transformers.StaticCache(config=model.config, max_cache_len=20)
    keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    with torch.no_grad():
        logits = [model(piece, **{keyword: cache}).logits for piece in input_ids.split([4, 5, 1, 2], dim=1)]
        whole = models.make(name, "sdpa")(input_ids).logits
    torch.testing.assert_close(torch.cat(logits, 1), whole, **CLOSE)


def packed_texts() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Texts, the same laid end to end, their positions and cumulative lengths."""
    torch.manual_seed(4)
    rows = [torch.randint(3, models.VOCAB, (1, length)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return rows, torch.cat(rows, 1), positions, torch.tensor([0, *LENGTHS]).cumsum(0).int()


@pytest.mark.parametrize("name", models.DECODERS)
def test_packed_by_position_ids(name: str) -> None:
    rows, packed, positions, _ = packed_texts()
    theirs, ours = models.pair(name)
    found = ours(packed.repeat(2, 1), position_ids=positions.repeat(2, 1), use_cache=False).logits
    wanted = torch.cat([theirs(row, use_cache=False).logits for row in rows], 1)
    torch.testing.assert_close(found, wanted.repeat(2, 1, 1), **CLOSE)


@pytest.mark.parametrize("name", [*models.ENCODERS, "llama", "mistral"])
def test_packed_by_cumulative_lengths(name: str) -> None:
    rows, packed, positions, cu_seqlens = packed_texts()
    theirs, ours = models.pair(name)
    found = ours(
        packed,
        position_ids=positions + 1 if name == "roberta" else positions,  # its positions start after the pad's
        cu_seq_lens_q=cu_seqlens,
        cu_seq_lens_k=cu_seqlens,
        max_length_q=max(LENGTHS),
        max_length_k=max(LENGTHS),
    ).logits
    torch.testing.assert_close(found, torch.cat([theirs(row).logits for row in rows], 1), **CLOSE)


def test_dropout_in_training_alone() -> None:
    inputs = models.texts("right")
    ours = models.make("bert", "fastbert", attention_probs_dropout_prob=0.5)
    quiet = ours(**inputs).logits
    assert torch.equal(quiet, ours(**inputs).logits)
    ours.train()
    torch.manual_seed(5)
    first = ours(**inputs).logits
    second = ours(**inputs).logits
    torch.manual_seed(5)
    assert torch.equal(first, ours(**inputs).logits)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, quiet)


def test_dropout_drops_the_weights_of_the_definition() -> None:
    """With one value a key, the output shows which weights are left, whatever side the padding is on."""
    torch.manual_seed(6)
    query = torch.zeros(1, 2, 8, 8)
    value = torch.eye(8).expand(1, 2, 8, 8)
    keys = torch.arange(8)[None] >= 3
    torch.manual_seed(7)
    out, _ = fastbert_attention(nn.Identity(), query, query, value, AttentionMask(None, 0, 8, keys), dropout=0.25)
    torch.manual_seed(7)
    rng = philox.draw_rng(torch.device("cpu"))
    kept = philox.attention_bytes(rng, 1, 2, 8, 8)[0] >= philox.threshold(0.25)
    visible = torch.ones(8, 8, dtype=torch.bool).tril() & keys
    assert torch.equal(out.transpose(1, 2)[0] > 0, kept & visible)


def test_gradient_checkpointing() -> None:
    inputs = models.texts("right")
    gradients = []
    for checkpointing in (False, True):
        ours = models.make("bert", "fastbert", attention_probs_dropout_prob=0.3).train()
        if checkpointing:
            ours.gradient_checkpointing_enable()
        torch.manual_seed(8)
        ours(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append([parameter.grad for parameter in ours.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_auto_model_reads_a_checkpoint(tmp_path: Path) -> None:
    theirs = models.make("bert", "sdpa")
    theirs.save_pretrained(tmp_path)
    ours = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="fastbert").eval()
    inputs = models.texts("right")
    tokens = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours(**inputs).logits[tokens], theirs(**inputs).logits[tokens], **CLOSE)
    ours.set_attn_implementation("sdpa")
    assert torch.equal(ours(**inputs).logits[tokens], theirs(**inputs).logits[tokens])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bool])
def test_a_mask_of_the_user_is_torch_s(dtype: torch.dtype) -> None:
    """A random one, with the diagonal, in a causal model: it says everything."""
    theirs, ours = models.pair("llama")
    input_ids = models.texts("none")["input_ids"]
    torch.manual_seed(9)
    mask = (torch.rand(3, 1, 12, 12) > 0.5) | torch.eye(12, dtype=torch.bool)
    if dtype != torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    with pytest.warns(RuntimeWarning, match="torch serves the attention of LlamaAttention"):
        found = ours(input_ids, attention_mask=mask).logits
    torch.testing.assert_close(found, theirs(input_ids, attention_mask=mask).logits, **CLOSE)


@pytest.mark.parametrize(
    ("name", "padded"),
    [
        pytest.param("bert", True, marks=pytest.mark.slow),
        ("llama", True),
        pytest.param("llama", False, marks=pytest.mark.slow),
        pytest.param("mistral", True, marks=pytest.mark.slow),
    ],
)
def test_compiles_whole(name: str, padded: bool) -> None:
    theirs, ours = models.pair(name)
    inputs = models.texts("right" if padded else "none")
    tokens = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    found = torch.compile(ours, fullgraph=True, backend="aot_eager")(**inputs).logits
    torch.testing.assert_close(found[tokens], theirs(**inputs).logits[tokens], **CLOSE)


@pytest.mark.parametrize("name", models.MODELS)
def test_attention_weights_are_refused(name: str) -> None:
    ours = models.make(name, "fastbert")
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        ours(**models.texts("none"), output_attentions=True)


X = torch.randn(1, 2, 4, 8)
CAUSAL = AttentionMask(None, 0, 4)
LENGTHS_OF_ONE = {"cu_seq_lens_q": torch.tensor([0, 4]), "cu_seq_lens_k": torch.tensor([0, 4]), "max_length_q": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"softcap": 30.0}, "softcap is not supported; load the model with attn_implementation='eager'"),
        ({"s_aux": torch.zeros(2)}, "s_aux is not supported"),
        ({"position_bias": torch.zeros(1, 2, 4, 4)}, "position_bias is not supported"),
        ({"output_attentions": True}, "attention weights are never made"),
        ({"attention_mask": AttentionMask(None, None, 4), "is_causal": True}, "is_causal=True contradicts"),
        ({"attention_mask": AttentionMask(None, 0, 5)}, "made for 5 keys, and there are 4"),
        ({"attention_mask": AttentionMask(None, 0, 3)}, "made for 3 keys, and there are 4"),
        ({"query": X[:, :, :2], "attention_mask": None, "sliding_window": 2}, "needs as many keys as queries"),
        ({"attention_mask": torch.ones(1, 4)}, r"attention_mask has shape \(1, 4\)"),
        (LENGTHS_OF_ONE, "packed sequences need all of cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k"),
        (
            {**LENGTHS_OF_ONE, "max_length_k": 4, "attention_mask": AttentionMask(None, 0, 4, torch.ones(1, 4) > 0)},
            "padding in attention_mask beside cu_seq_lens_q",
        ),
        (
            {**LENGTHS_OF_ONE, "max_length_k": 4, "attention_mask": torch.ones(1, 1, 4, 4) > 0},
            "an attention mask beside cu_seq_lens_q",
        ),
    ],
)
def test_what_would_change_the_result_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastbert_attention(
            **({"module": nn.Identity(), "query": X, "key": X, "value": X, "attention_mask": CAUSAL} | arguments)
        )


@pytest.mark.parametrize(("seq_q", "causal"), [(4, None), (4, False), (1, None), (1, True)])
def test_without_a_mask_the_module_says_whether_it_is_causal(seq_q: int, causal: bool | None) -> None:
    """As in transformers: causal by default, and one query sees every key."""
    module, query = nn.Identity(), X[:, :, :seq_q]
    found, _ = fastbert_attention(module, query, X, X, None, is_causal=causal)
    sees_ahead = causal is False or seq_q == 1
    wanted = nn.functional.scaled_dot_product_attention(query, X, X, is_causal=not sees_ahead)
    torch.testing.assert_close(found.transpose(1, 2), wanted)


def test_a_mask_says_more_than_is_causal() -> None:
    found, _ = fastbert_attention(nn.Identity(), X, X, X, CAUSAL, is_causal=False)
    wanted = nn.functional.scaled_dot_product_attention(X, X, X, is_causal=True)
    torch.testing.assert_close(found.transpose(1, 2), wanted)


def test_a_decoder_made_bidirectional() -> None:
    """By its configuration: every token sees those behind it, none sees the padding."""
    inputs = models.texts("left")
    tokens = inputs["attention_mask"].bool()
    theirs, ours = models.pair("llama", is_causal=False)
    found = ours(**inputs).logits[tokens]
    torch.testing.assert_close(found, theirs(**inputs).logits[tokens], **CLOSE)
    assert not torch.allclose(found, models.make("llama", "fastbert")(**inputs).logits[tokens])


def test_a_window_without_a_mask() -> None:
    found, _ = fastbert_attention(nn.Identity(), X, X, X, None, sliding_window=2)
    visible = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]).bool()
    torch.testing.assert_close(found.transpose(1, 2), nn.functional.scaled_dot_product_attention(X, X, X, visible))


MASK_FUNCTIONS = {
    "causal": masking_utils.causal_mask_function,
    "full": masking_utils.bidirectional_mask_function,
    "sliding": masking_utils.sliding_window_causal_mask_function(3),
    "sliding both ways": masking_utils.sliding_window_bidirectional_mask_function(2),
}


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize(("q_offset", "q_length", "kv_offset", "kv_length"), [(0, 6, 0, 6), (3, 4, 1, 6), (2, 2, 0, 9)])
@pytest.mark.parametrize("name", MASK_FUNCTIONS)
def test_recognised_masks_are_transformers_own(
    name: str, q_offset: int, q_length: int, kv_offset: int, kv_length: int, padding: str | None
) -> None:
    """Each of its fields, read by its documentation, gives the matrix that transformers makes."""
    rows = {"left": [[0, 0, 1, 1, 1, 1, 1]], "right": [[1, 1, 1, 1, 1, 0, 0]], None: None}[padding]
    arguments: dict[str, Any] = {
        "batch_size": 1,
        "q_length": q_length,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "kv_length": kv_length,
        "mask_function": MASK_FUNCTIONS[name],
        "attention_mask": None if rows is None else torch.tensor(rows)[:, : q_offset + q_length].bool(),
    }
    mask = make_mask(**arguments)
    wanted = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    assert wanted is not None
    if isinstance(mask, Tensor):
        assert name == "sliding both ways"  # no such alignment without a cache
        assert (q_offset, q_length) == (2, 2)
        assert torch.equal(mask, wanted)
        return
    assert mask.seq_k + mask.unused == kv_length
    queries = torch.arange(q_length)[:, None] + mask.seq_k - q_length
    keys = torch.arange(kv_length)[None]
    visible = keys < mask.seq_k
    if mask.left is not None:
        visible = visible & (keys >= queries - mask.left)
    if mask.right is not None:
        visible = visible & (keys <= queries + mask.right)
    if mask.key_padding_mask is not None:
        visible[:, : mask.seq_k] &= mask.key_padding_mask
    assert torch.equal(visible.expand(q_length, kv_length), wanted[0, 0])


@pytest.mark.parametrize(
    "function",
    [
        masking_utils.chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.int64)),
        masking_utils.or_masks(masking_utils.causal_mask_function, masking_utils.blockwise_overlay(torch.ones(2, 6))),
        masking_utils.and_masks(masking_utils.causal_mask_function, masking_utils.sliding_window_overlay(2)),
        masking_utils.and_masks(masking_utils.causal_mask_function, lambda b, h, q, k: k > 1),
        lambda b, h, q, k: k <= q,
    ],
)
def test_what_is_not_recognised_is_the_whole_matrix(function: Any) -> None:
    arguments: dict[str, Any] = {"batch_size": 2, "q_length": 6, "kv_length": 6, "mask_function": function}
    found = make_mask(**arguments)
    assert isinstance(found, Tensor)
    wanted = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    assert wanted is not None
    assert torch.equal(found, wanted)


IDS = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize("name", MASK_FUNCTIONS)
def test_packing_is_recognised(name: str) -> None:
    function = masking_utils.and_masks(MASK_FUNCTIONS[name], masking_utils.packed_sequence_mask_function(IDS))
    mask = make_mask(2, q_length=6, kv_length=6, mask_function=function)
    plain = make_mask(2, q_length=6, kv_length=6, mask_function=MASK_FUNCTIONS[name])
    assert isinstance(mask, AttentionMask)
    assert isinstance(plain, AttentionMask)
    assert mask.packing is not None
    assert mask.packing.cu_seqlens.tolist() == [0, 3, 5, 6, 7, 12]
    assert mask.packing.max_seqlen == 5
    assert mask._replace(packing=None) == plain


@pytest.mark.parametrize("case", ["a sequence that comes back", "padding", "keys of a cache"])
def test_packing_of_another_kind_is_the_whole_matrix(case: str) -> None:
    ids = IDS.flip(1) if case == "a sequence that comes back" else IDS
    arguments: dict[str, Any] = {
        "batch_size": 2,
        "q_length": 3 if case == "keys of a cache" else 6,
        "q_offset": 3 if case == "keys of a cache" else 0,
        "kv_length": 6,
        "attention_mask": torch.arange(6).expand(2, 6) < 5 if case == "padding" else None,
        "mask_function": masking_utils.and_masks(
            masking_utils.causal_mask_function, masking_utils.packed_sequence_mask_function(ids)
        ),
    }
    found = make_mask(**arguments)
    wanted = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    assert isinstance(found, Tensor)
    assert wanted is not None
    assert torch.equal(found, wanted)


def test_one_query_of_a_static_cache_is_placed_on_the_device() -> None:
    """Positions are a tensor there, whose value is not read: tensors that hold none must do."""
    arguments: dict[str, Any] = {
        "batch_size": 2,
        "q_length": 1,
        "kv_length": 6,
        "mask_function": MASK_FUNCTIONS["sliding"],
    }
    found = make_mask(**arguments, q_offset=torch.tensor(4))
    assert isinstance(found, Tensor)
    assert found.tolist() == [[[[False, False, True, True, True, False]]]] * 2
    on_meta = make_mask(**arguments, q_offset=torch.empty((), dtype=torch.int64, device="meta"))
    assert isinstance(on_meta, Tensor)
    assert on_meta.shape == (2, 1, 1, 6)
