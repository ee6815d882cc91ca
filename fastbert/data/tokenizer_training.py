"""Training vocabularies. The same texts give the same vocabulary in every process and on any number of threads."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fastbert.data.errors import DataError
from fastbert.data.tokenizer_files import END_OF_TEXT, PAD_TEXT, bert_template

WORDPIECE_NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONTINUATION = "##"
# Rarer characters and pairs of pieces enter no vocabulary.
MIN_FREQUENCY = 2
# Up to this many characters are known whatever they cost; more may fill half of the vocabulary.
BASIC_ALPHABET = 256


def train_wordpiece_backend(
    texts: Iterable[str], vocab_size: int, lowercase: bool, strip_accents: bool
) -> tokenizers.Tokenizer:
    """Train BERT's WordPiece (byte-pair merges with "##" inside words, then longest match first).

    Raises:
        DataError: no text, or ``vocab_size`` without room for more than the special tokens.
    """
    if vocab_size < 2 * len(WORDPIECE_NAMES):
        raise DataError(f"vocab_size must be at least {2 * len(WORDPIECE_NAMES)} for WordPiece, got {vocab_size}")
    bert = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )
    # Stripping accents decomposes Hangul syllables into jamo: compose them again.
    steps = [normalizers.NFC(), bert, *([normalizers.NFC()] if strip_accents else [])]
    normalizer, pre_tokenizer = normalizers.Sequence(steps), pre_tokenizers.BertPreTokenizer()

    trained = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizer
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as spool:
        characters: Counter[str] = Counter()
        for text in texts:
            normal = normalizer.normalize_str(text).replace("\n", " ")
            characters.update(normal)
            spool.write(normal + "\n")
        alphabet = _alphabet(characters, vocab_size)
        spool.seek(0)
        # Left alone, the trainer numbers the pieces inside words in the order of a random hash, and breaks ties
        # between merges by number. Naming them as special tokens numbers them first, in order.
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=MIN_FREQUENCY,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            special_tokens=[*WORDPIECE_NAMES, *(CONTINUATION + character for character in alphabet)],
            continuing_subword_prefix=CONTINUATION,
            show_progress=False,
        )
        trained.train_from_iterator(spool, trainer)

    ids = trained.get_vocab()
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    backend.add_special_tokens(WORDPIECE_NAMES)
    backend.post_processor = bert_template(("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"]))
    return backend


def train_byte_bpe_backend(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Train GPT-2's byte-level byte-pair encoding.

    Raises:
        DataError: no text, or ``vocab_size`` below the 256 bytes and the special tokens.
    """
    names = [END_OF_TEXT, PAD_TEXT]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(alphabet) + len(names)
    if vocab_size < smallest:
        raise DataError(f"vocab_size must be at least {smallest} for byte-level BPE, got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=names,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(_nonempty(texts), trainer)
    return backend


def _alphabet(characters: Counter[str], vocab_size: int) -> list[str]:
    """The most frequent characters, sorted; each takes two entries, at the start of a word and inside one."""
    room = (vocab_size - len(WORDPIECE_NAMES)) // 2
    limit = max(vocab_size // 4, min(BASIC_ALPHABET, room))
    known = [(-count, character) for character, count in characters.items() if not character.isspace()]
    if not known:
        raise DataError("a tokenizer needs text to train on, the texts are empty")
    frequent = [item for item in known if -item[0] >= MIN_FREQUENCY] or known
    return sorted(character for _, character in sorted(frequent)[:limit])


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        if text.strip():
            empty = False
            yield text
    if empty:
        raise DataError("a tokenizer needs text to train on, the texts are empty")
