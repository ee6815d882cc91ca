"""Masked-language-model targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert.data import DataError, Tokenizer
from fastbert.data.masking import Masking

CLS, SEP, MASK, UNK = 2, 3, 4, 1
VOCABULARY = 60
IGNORED = -100


def masking(probability: float = 0.15, whole_word: bool = False) -> Masking:
    never = np.isin(np.arange(VOCABULARY), [0, CLS, SEP, MASK])
    # Ids from 40 on continue words.
    continuation = np.arange(VOCABULARY) >= 40
    return Masking(probability, MASK, np.arange(5, VOCABULARY), never, continuation if whole_word else None)


def sequence(rng: np.random.Generator, length: int) -> npt.NDArray[np.int64]:
    ids = rng.integers(5, VOCABULARY, length)
    ids[0], ids[-1], ids[length // 2] = CLS, SEP, SEP
    return ids


@settings(max_examples=100, deadline=None)
@given(length=st.integers(5, 200), seed=st.integers(0, 2**32), probability=st.sampled_from([0.01, 0.15, 0.5, 1.0]))
def test_number_of_targets_and_what_is_left_alone(length: int, seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    ids = sequence(rng, length)
    before = ids.copy()
    inputs, labels = masking(probability).apply(ids, rng)
    targets = labels != IGNORED
    ordinary = int((before >= 5).sum())
    assert targets.sum() == min(ordinary, max(1, round(probability * length)))
    assert np.array_equal(labels[targets], before[targets])
    assert np.array_equal(inputs[~targets], before[~targets])
    assert not np.isin(before[targets], [CLS, SEP]).any()
    assert np.array_equal(ids, before)


@pytest.mark.parametrize("whole_word", [False, True])
def test_no_more_targets_than_allowed(whole_word: bool) -> None:
    """Whole words of at most two pieces fit; the bound is the original script's max_predictions_per_seq."""
    rng = np.random.default_rng(0)
    bounded = dataclasses.replace(masking(0.5, whole_word), max_predictions=20)
    ids = np.tile([10, 45, 11, 12], 25)  # 45 continues 10
    counts = {int((bounded.apply(ids, rng)[1] != IGNORED).sum()) for _ in range(50)}
    assert max(counts) == 20
    assert min(counts) >= 19


def test_eighty_ten_ten() -> None:
    rng = np.random.default_rng(0)
    masked = kept = total = 0
    random_counts = np.zeros(VOCABULARY, dtype=np.int64)
    positions = np.zeros(128, dtype=np.int64)
    for _ in range(3000):
        ids = sequence(rng, 128)
        inputs, labels = masking().apply(ids, rng)
        targets = labels != IGNORED
        positions += targets
        total += int(targets.sum())
        masked += int((inputs[targets] == MASK).sum())
        kept += int((inputs[targets] == labels[targets]).sum())
        changed = inputs[targets & (inputs != MASK) & (inputs != ids)]
        random_counts += np.bincount(changed, minlength=VOCABULARY)
    ordinary = VOCABULARY - 5
    # Binomial standard deviation of each share is about 0.0016; a random token is the original once in 55.
    assert masked / total == pytest.approx(0.8, abs=0.008)
    assert kept / total == pytest.approx(0.1 + 0.1 / ordinary, abs=0.006)
    assert random_counts[:5].sum() == 0
    assert random_counts[5:].min() > 0.6 * random_counts[5:].mean()
    inner = np.delete(positions, [0, 64, 127])
    assert inner.min() > 0.75 * inner.mean()


@settings(max_examples=100, deadline=None)
@given(length=st.integers(5, 200), seed=st.integers(0, 2**32))
def test_whole_words(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = sequence(rng, length)
    _, labels = masking(whole_word=True).apply(ids, rng)
    targets = labels != IGNORED
    assert targets.any()
    words: list[list[int]] = []
    for position, token in enumerate(ids.tolist()):
        if token in (CLS, SEP):
            words.append([])
        elif token >= 40 and words[-1]:
            words[-1].append(position)
        else:
            words.append([position])
    chosen = [word for word in words if word and targets[word].any()]
    assert all(targets[word].all() for word in chosen)
    count = max(1, round(0.15 * length))
    assert targets.sum() <= count or len(chosen) == 1


def test_a_long_word_alone_is_still_a_target() -> None:
    ids = np.array([CLS, 10, 41, 42, 43, 44, SEP])
    _, labels = masking(whole_word=True).apply(ids, np.random.default_rng(0))
    assert (labels != IGNORED).tolist() == [False, True, True, True, True, True, False]


def test_nothing_to_mask() -> None:
    ids = np.array([CLS, SEP])
    inputs, labels = masking().apply(ids, np.random.default_rng(0))
    assert inputs.tolist() == [CLS, SEP]
    assert labels.tolist() == [IGNORED, IGNORED]


def test_from_tokenizer() -> None:
    tokenizer = Tokenizer.train_wordpiece(["some words to train on, some more"] * 3, 60)
    settings_ = Masking.from_tokenizer(tokenizer, 0.15, whole_word=True)
    assert settings_.mask_id == MASK
    assert np.flatnonzero(settings_.never).tolist() == [0, CLS, SEP, MASK]
    assert settings_.random_ids.tolist() == list(range(5, tokenizer.vocab_size))
    assert settings_.continuation is not None
    assert dataclasses.replace(settings_, mask_probability=0.3).mask_probability == 0.3
    for wrong in (0.0, -0.1, 1.1):
        with pytest.raises(DataError, match="mask_probability must be above 0 and at most 1"):
            Masking.from_tokenizer(tokenizer, wrong, whole_word=False)
    with pytest.raises(DataError, match="needs a mask token, the byte-bpe tokenizer has none"):
        Masking.from_tokenizer(Tokenizer.train_byte_bpe(["a b c"], 260), 0.15, whole_word=False)
