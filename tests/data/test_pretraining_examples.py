"""Sentence pairs for BERT, chunks of documents for GPT."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from fastbert.data import (
    CausalExamples,
    DataError,
    Example,
    NextSentence,
    SentencePairExamples,
    TokenizedCorpus,
    Tokenizer,
    split_documents,
    tokenize_documents,
)

Stretch = tuple[int, int]
NUM_WORDS = 300
# A vocabulary in which every word is one token, so that a token tells where it comes from.
WORDS = [f"{chr(97 + i // 26 // 26 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}" for i in range(NUM_WORDS)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    trained = Tokenizer.train_wordpiece([" ".join(WORDS)] * 30, 2000)
    assert all(len(trained.encode(word)) == 1 for word in WORDS)
    return trained


@pytest.fixture(scope="module")
def gpt() -> Tokenizer:
    return Tokenizer.train_byte_bpe([" ".join(WORDS)] * 30, 1500)


def make_corpus(tokenizer: Tokenizer, sizes: list[list[int]]) -> TokenizedCorpus:
    rng = np.random.default_rng(0)
    return tokenize_documents([[" ".join(rng.choice(WORDS, n)) for n in document] for document in sizes], tokenizer)


@pytest.fixture(scope="module")
def corpus(tokenizer: Tokenizer) -> TokenizedCorpus:
    rng = np.random.default_rng(1)
    return make_corpus(tokenizer, [rng.integers(3, 25, rng.integers(1, 30)).tolist() for _ in range(60)])


def pairs(corpus: TokenizedCorpus, tokenizer: Tokenizer, **changes: object) -> SentencePairExamples:
    arguments: dict[str, object] = {"seed": 11, "max_length": 64, **changes}
    return SentencePairExamples(corpus, tokenizer, **arguments)  # type: ignore[arg-type]


def original(example: Example) -> list[int]:
    assert example.labels is not None
    ids: list[int] = np.where(example.labels == -100, example.input_ids, example.labels).tolist()
    return ids


def segments(example: Example, tokenizer: Tokenizer) -> list[list[int]]:
    ids = original(example)
    assert ids[0] == tokenizer.cls_id
    assert ids[-1] == tokenizer.sep_id
    ends = [i for i, token in enumerate(ids) if token == tokenizer.sep_id]
    assert example.token_type_ids is not None
    expected = [0] * (ends[0] + 1) + [1] * (len(ids) - ends[0] - 1)
    assert example.token_type_ids.tolist() == expected
    return [ids[start + 1 : end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def documents_of(corpus: TokenizedCorpus) -> npt.NDArray[np.int64]:
    tokens_per_document = np.diff(corpus.sentence_offsets[corpus.document_offsets])
    return np.repeat(np.arange(corpus.num_documents), tokens_per_document)


def same(a: Example, b: Example) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("input_ids", "token_type_ids", "labels")
    ) and (a.next_sentence_label == b.next_sentence_label)


def test_label_meaning() -> None:
    assert (int(NextSentence.IS_NEXT), int(NextSentence.RANDOM)) == (0, 1)


def test_pairs_come_from_where_their_label_says(corpus: TokenizedCorpus, tokenizer: Tokenizer) -> None:
    view = pairs(corpus, tokenizer).epoch(0)
    owner = documents_of(corpus)
    starts = set(corpus.sentence_offsets.tolist())
    for i, (a_start, a_end, b_start, b_end) in enumerate(view.segments.bounds.tolist()):
        example = view[i]
        a, b = segments(example, tokenizer)
        assert a == corpus.slice(a_start, a_end).tolist() != []
        assert b == corpus.slice(b_start, b_end).tolist() != []
        assert len(example) == view.lengths[i] <= 64
        # Each segment lies in one document; B is the text right after A exactly when it is labelled so.
        assert len(set(owner[a_start:a_end])) == len(set(owner[b_start:b_end])) == 1
        if example.next_sentence_label == NextSentence.RANDOM:
            assert owner[a_start] != owner[b_start]
        else:
            assert owner[a_start] == owner[b_start]
            assert b_start >= a_end
            if len(example) < 64:
                assert b_start == a_end
                assert a_end in starts


def test_a_pair_that_needed_no_cutting_is_whole_sentences(corpus: TokenizedCorpus, tokenizer: Tokenizer) -> None:
    bounds = pairs(corpus, tokenizer).epoch(0).segments.bounds
    uncut = bounds[(bounds[:, 1] - bounds[:, 0] + bounds[:, 3] - bounds[:, 2]) < 61]
    assert len(uncut) > 20
    assert np.isin(uncut, corpus.sentence_offsets).all()


def test_every_token_of_a_document_is_used_or_cut(corpus: TokenizedCorpus, tokenizer: Tokenizer) -> None:
    used = np.zeros(corpus.num_tokens, dtype=bool)
    for epoch in range(4):
        for a_start, a_end, b_start, b_end in pairs(corpus, tokenizer).epoch(epoch).segments.bounds.tolist():
            used[a_start:a_end] = used[b_start:b_end] = True
    assert used.mean() > 0.97


def test_half_of_the_pairs_are_random_and_most_are_full(tokenizer: Tokenizer) -> None:
    long = make_corpus(tokenizer, [[10] * 400 for _ in range(8)])
    view = pairs(long, tokenizer, short_probability=0.1).epoch(0)
    # Chunks of 7 sentences of 10 tokens: never a lone sentence unless the chunk was drawn short.
    random = np.array([view[i].next_sentence_label for i in range(len(view))])
    assert 0.45 < random.mean() < 0.62
    assert 0.85 < (view.lengths == 64).mean() < 0.97
    assert (pairs(long, tokenizer, short_probability=0.0).epoch(0).lengths == 64).mean() > 0.97
    assert (pairs(long, tokenizer, short_probability=1.0).epoch(0).lengths == 64).mean() < 0.5


def test_cutting_happens_at_both_ends(tokenizer: Tokenizer) -> None:
    long = make_corpus(tokenizer, [[40, 40] for _ in range(200)])
    bounds = pairs(long, tokenizer, short_probability=0.0).epoch(0).segments.bounds
    starts = np.isin(bounds[:, [0, 2]], long.sentence_offsets).mean()
    ends = np.isin(bounds[:, [1, 3]], long.sentence_offsets).mean()
    assert starts < 0.1
    assert ends < 0.1


def test_examples_are_a_function_of_seed_epoch_and_index(corpus: TokenizedCorpus, tokenizer: Tokenizer) -> None:
    view, again = pairs(corpus, tokenizer).epoch(3), pairs(corpus, tokenizer).epoch(3)
    order = np.random.default_rng(5).permutation(len(view)).tolist()
    for i in order:
        assert same(view[i], again[i])
    assert same(view[-1], view[len(view) - 1])
    with pytest.raises(IndexError):
        view[len(view)]
    other_epoch, other_seed = pairs(corpus, tokenizer).epoch(4), pairs(corpus, tokenizer, seed=12).epoch(3)
    for other in (other_epoch, other_seed):
        assert not np.array_equal(other.segments.bounds, view.segments.bounds)


def test_masks_change_with_the_epoch_even_for_equal_text(tokenizer: Tokenizer) -> None:
    one = make_corpus(tokenizer, [[50]])
    examples = pairs(one, tokenizer, next_sentence=False, short_probability=0.0)
    first, second = examples.epoch(0)[0], examples.epoch(1)[0]
    assert original(first) == original(second)
    assert first.labels is not None
    assert second.labels is not None
    assert not np.array_equal(first.labels, second.labels)


def test_without_next_sentence(corpus: TokenizedCorpus, tokenizer: Tokenizer) -> None:
    view = pairs(corpus, tokenizer, next_sentence=False).epoch(0)
    texts = []
    for i in range(len(view)):
        example = view[i]
        assert example.next_sentence_label is None
        assert len(example) == view.lengths[i] <= 64
        (text,) = segments(example, tokenizer)
        texts += text
    # The stretches are all of the corpus, in order.
    assert texts == corpus.ids.tolist()
    assert np.isin(view.segments.bounds[:, :2], corpus.sentence_offsets).all()


@pytest.mark.parametrize("next_sentence", [False, True])
def test_text_without_line_breaks_is_used_whole(tokenizer: Tokenizer, next_sentence: bool) -> None:
    long = make_corpus(tokenizer, [[1000], [999, 5]])
    used = np.zeros(long.num_tokens, dtype=bool)
    labels = []
    for epoch in range(6):
        view = pairs(long, tokenizer, next_sentence=next_sentence).epoch(epoch)
        for i, (a_start, a_end, b_start, b_end) in enumerate(view.segments.bounds.tolist()):
            used[a_start:a_end] = used[b_start:b_end] = True
            labels.append(view[i].next_sentence_label)
    assert used.all()
    if next_sentence:
        assert labels.count(NextSentence.IS_NEXT) / len(labels) > 0.2


def test_whole_word_targets(tokenizer: Tokenizer) -> None:
    texts = [["unbelievable tokenizations everywhere"] * 8 for _ in range(4)]
    corpus = tokenize_documents(texts, tokenizer)
    view = pairs(corpus, tokenizer, whole_word=True, next_sentence=False).epoch(0)
    continues = tokenizer.continuation_mask
    seen = False
    for i in range(len(view)):
        example = view[i]
        assert example.labels is not None
        targets, ids = example.labels != -100, np.array(original(example))
        for position in np.flatnonzero(continues[ids]):
            assert targets[position] == targets[position - 1]
            seen = True
    assert seen


def test_chosen_documents_only(corpus: TokenizedCorpus, tokenizer: Tokenizer) -> None:
    training, held_out = split_documents(corpus.num_documents, every=6)
    owner = documents_of(corpus)
    for chosen in (training, held_out):
        bounds = pairs(corpus, tokenizer, documents=chosen).epoch(0).segments.bounds
        assert set(owner[bounds[:, 0]]) == set(chosen.tolist())
        assert set(owner[bounds[:, 2]]) <= set(chosen.tolist())


def test_pair_errors(corpus: TokenizedCorpus, tokenizer: Tokenizer, gpt: Tokenizer) -> None:
    with pytest.raises(DataError, match="needs at least 2 documents, there is 1; use next_sentence=False"):
        pairs(corpus, tokenizer, documents=np.array([3]))
    with pytest.raises(DataError, match="max_length must be at least 5, got 4"):
        pairs(corpus, tokenizer, max_length=4)
    with pytest.raises(DataError, match=r"short_probability must be in \[0, 1\], got 2"):
        pairs(corpus, tokenizer, short_probability=2)
    with pytest.raises(DataError, match=r"document numbers must be in \[0, 60\), got 1 to 60"):
        pairs(corpus, tokenizer, documents=np.array([1, 60]))
    with pytest.raises(DataError, match="none was chosen"):
        pairs(corpus, tokenizer, documents=np.array([], dtype=np.int64))
    with pytest.raises(DataError, match=r"needs \[CLS\] and \[SEP\], the byte-bpe tokenizer has none"):
        pairs(corpus, gpt)
    assert len(pairs(corpus, tokenizer, max_length=5).epoch(0)) > 0


@pytest.mark.parametrize("max_length", [2, 7, 64, 10_000])
def test_causal_chunks_predict_every_token_once(gpt: Tokenizer, max_length: int) -> None:
    corpus = make_corpus(gpt, [[5, 9], [1], [80, 3, 40]])
    examples = CausalExamples(corpus, gpt, max_length=max_length)
    assert examples.epoch(5) is examples
    document_ends = corpus.sentence_offsets[corpus.document_offsets].tolist()
    expected = [[*corpus.slice(start, end).tolist(), gpt.eos_id] for start, end in itertools.pairwise(document_ends)]
    rebuilt: list[list[int]] = []
    for i in range(len(examples)):
        example = examples[i]
        assert 2 <= len(example) == examples.lengths[i] <= max_length
        assert example.labels is not None
        assert np.array_equal(example.labels, example.input_ids)
        assert example.token_type_ids is None
        ids = example.input_ids.tolist()
        if rebuilt and rebuilt[-1][-1] != gpt.eos_id:
            assert ids[0] == rebuilt[-1][-1]
            rebuilt[-1] += ids[1:]
        else:
            rebuilt.append(ids)
    assert rebuilt == expected


def test_causal_without_end_of_text_and_with_chosen_documents(tokenizer: Tokenizer) -> None:
    corpus = make_corpus(tokenizer, [[1], [4], [6]])
    examples = CausalExamples(corpus, tokenizer, max_length=16)
    # A lone token predicts nothing, so the first document gives no example.
    assert [examples[i].input_ids.tolist() for i in range(len(examples))] == [
        corpus.slice(1, 5).tolist(),
        corpus.slice(5, 11).tolist(),
    ]
    chosen = CausalExamples(corpus, tokenizer, max_length=16, documents=np.array([2]))
    assert chosen.lengths.tolist() == [6]
    with pytest.raises(DataError, match="no document of two tokens"):
        CausalExamples(corpus, tokenizer, max_length=16, documents=np.array([0]))
    with pytest.raises(DataError, match="max_length must be at least 2, got 1"):
        CausalExamples(corpus, tokenizer, max_length=1)


def test_split_documents() -> None:
    training, held_out = split_documents(100, every=20)
    assert held_out.tolist() == [19, 39, 59, 79, 99]
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(100))
    for count in range(2, 60):
        training, held_out = split_documents(count)
        assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(count))
        assert len(held_out) >= (2 if count >= 4 else 1)
        assert len(training) >= len(held_out)
    with pytest.raises(DataError, match="needs at least 2 in the corpus, there are 1"):
        split_documents(1)
    with pytest.raises(DataError, match="every must be at least 2, got 1"):
        split_documents(10, every=1)
