"""Tokenizer directories: AutoTokenizer reads equal ids, and every known layout loads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from fastbert.data import DataError, Tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = [
    "The Café's naïve fox — “quoted”, 3.14% & more…",
    "안녕하세요 세계! 日本語",
    "tabs\tand  double  spaces",
    "don't stop-believing won't; it's 5 o'clock",
    "",
]
TRAINING = ["the quick brown fox isn't naïve", "안녕하세요 세계 안녕", "don't stop now, it's five o'clock"] * 5
GPT1_MERGES = [("t", "h"), ("th", "e</w>"), ("f", "o"), ("fo", "x</w>"), ("o", "w")]
GPT1_LETTERS = "abcdefghijklmnopqrstuvwxyz.,'\"!?-&%0123456789"


def gpt1_vocabulary() -> dict[str, int]:
    """Entries in the order of the released file: unknown, letters inside words, letters that end one, merges."""
    entries = ["<unk>", *GPT1_LETTERS, *(letter + "</w>" for letter in GPT1_LETTERS)]
    return {entry: i for i, entry in enumerate(entries + [a + b for a, b in GPT1_MERGES])}


def write_gpt1(directory: Path, vocabulary: str, merges: str) -> Path:
    (directory / vocabulary).write_text(json.dumps(gpt1_vocabulary()), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in GPT1_MERGES)]
    (directory / merges).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def make(kind: str, directory: Path) -> Tokenizer:
    if kind == "wordpiece":
        return Tokenizer.train_wordpiece(TRAINING, 200)
    if kind == "wordpiece-cased":
        return Tokenizer.train_wordpiece(TRAINING, 200, lowercase=False)
    if kind == "wordpiece-stripped":
        return Tokenizer.train_wordpiece(TRAINING, 200, strip_accents=True)
    if kind.startswith("byte-bpe"):
        tokenizer = Tokenizer.train_byte_bpe(TRAINING, 300)
    else:
        directory.mkdir()
        tokenizer = Tokenizer.load(write_gpt1(directory, "encoder_bpe_5.json", "vocab_5.bpe"))
    if kind.endswith("+task"):
        tokenizer.add_task_tokens()
    return tokenizer


KINDS = ["wordpiece", "wordpiece-cased", "wordpiece-stripped", "byte-bpe", "byte-bpe+task", "gpt1", "gpt1+task"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_config", [False, True])
def test_auto_tokenizer_reads_equal_ids(tmp_path: Path, kind: str, with_config: bool) -> None:
    tokenizer = make(kind, tmp_path / "source")
    tokenizer.model_max_length = 77
    directory = tmp_path / "saved"
    tokenizer.save(directory)
    if with_config:
        family = kind.split("+")[0].removesuffix("-cased").removesuffix("-stripped")
        model_type = {"wordpiece": "bert", "byte-bpe": "gpt2", "gpt1": "openai-gpt"}[family]
        (directory / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    auto = transformers.AutoTokenizer.from_pretrained(directory)
    assert auto.model_max_length == 77
    assert len(auto) == tokenizer.vocab_size
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert auto(text, add_special_tokens=False)["input_ids"] == ids
        assert auto.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    for role in ("pad", "cls", "sep", "mask", "bos", "eos"):
        assert getattr(auto, f"{role}_token_id") == getattr(tokenizer, f"{role}_id"), role
    if tokenizer.cls_id is not None or tokenizer.start_id is not None:
        a, b = tokenizer.encode(TEXTS[0]), tokenizer.encode(TEXTS[3])
        assert auto(TEXTS[0])["input_ids"] == tokenizer.build_single(a)[0]
        encoded = auto(TEXTS[0], TEXTS[3])
        assert (encoded["input_ids"], encoded.get("token_type_ids")) == tokenizer.build_pair(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_loads_the_same(tmp_path: Path, kind: str) -> None:
    tokenizer = make(kind, tmp_path / "source")
    tokenizer.save(tmp_path / "saved")
    tokenizer.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.kind, loaded.special_tokens) == (tokenizer.kind, tokenizer.special_tokens)
    assert loaded.model_max_length == tokenizer.model_max_length
    assert loaded.special_ids == tokenizer.special_ids
    assert not [path for path in (tmp_path / "saved").iterdir() if path.name.startswith(".")]
    vocabulary = {"vocab.txt"} if kind.startswith("wordpiece") else {"vocab.json", "merges.txt"}
    expected = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} | vocabulary
    assert {path.name for path in (tmp_path / "saved").iterdir()} == expected


def test_failed_save_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make("wordpiece", tmp_path)
    directory = tmp_path / "saved"
    tokenizer.save(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    tokenizer.add_task_tokens()
    tokenizer.model_max_length = 9

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@pytest.mark.parametrize("names", [("encoder_bpe_40000.json", "vocab_40000.bpe"), ("vocab.json", "merges.txt")])
def test_gpt1_files_under_either_name(tmp_path: Path, names: tuple[str, str]) -> None:
    tokenizer = Tokenizer.load(write_gpt1(tmp_path, *names))
    vocabulary = gpt1_vocabulary()
    assert tokenizer.kind == "gpt1-bpe"
    assert tokenizer.vocab_size == len(vocabulary)
    assert [tokenizer.token(i) for i in tokenizer.encode("The FOX won!")] == [
        "the</w>",
        "fox</w>",
        "w",
        "o",
        "n</w>",
        "!</w>",
    ]
    assert tokenizer.decode(tokenizer.encode("The fox")) == "the fox"
    assert tokenizer.unk_id == vocabulary["<unk>"]
    assert set(tokenizer.encode("한")) == {0}
    with pytest.raises(DataError, match="does not mark the beginning of words"):
        tokenizer.is_continuation(1)


def test_gpt1_files_equal_transformers(tmp_path: Path) -> None:
    source = os.environ.get("FASTBERT_GPT1_BPE")
    directory = Path(source) if source else write_gpt1(tmp_path, "encoder_bpe_5.json", "vocab_5.bpe")
    vocabulary = json.loads(next(directory.glob("encoder*.json")).read_text(encoding="utf-8"))
    lines = next(directory.glob("*.bpe")).read_text(encoding="utf-8").split("\n")[1:-1]
    theirs = transformers.OpenAIGPTTokenizer(vocab=vocabulary, merges=[tuple(line.split()) for line in lines])
    ours = Tokenizer.load(directory)
    assert ours.vocab_size == len(vocabulary)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
    if source:
        assert ours.vocab_size == 40_478
        assert ours.add_task_tokens() == 3
        assert ours.vocab_size == 40_481


def test_bert_vocabulary_file_alone_equals_transformers(tmp_path: Path) -> None:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cafe", "##s", "naive", "'", "fox", "안", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizer(vocab={entry: i for i, entry in enumerate(entries)})
    ours = Tokenizer.load(tmp_path)
    assert ours.kind == "wordpiece"
    assert ours.model_max_length is None
    for text in (*TEXTS, "The cafés' naïve fox."):
        assert ours.build_single(ours.encode(text))[0] == theirs(text)["input_ids"]
    (tmp_path / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "model_max_length": 1000000000000000019884624838656}'
    )
    cased = Tokenizer.load(tmp_path)
    assert cased.encode("The the") == [1, 5]
    assert cased.model_max_length is None


def test_gpt2_files_equal_transformers(tmp_path: Path) -> None:
    Tokenizer.train_byte_bpe(TRAINING, 300).save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    ours = Tokenizer.load(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    merges = [
        tuple(line.split(" ")) for line in (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    ]
    theirs = transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges)
    assert ours.kind == "byte-bpe"
    assert ours.eos_id == theirs.eos_token_id
    for text in (*TEXTS, "one<|endoftext|>two"):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_cutting_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    Tokenizer.train_wordpiece(TRAINING, 200).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert 3 < len(tokenizer.encode(TRAINING[0])) < 20
    assert 0 not in tokenizer.encode_batch([TRAINING[0], "the"])[1]


def test_special_tokens_may_be_written_as_objects(tmp_path: Path) -> None:
    Tokenizer.train_wordpiece(TRAINING, 200).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"mask_token": {"content": "[MASK]", "lstrip": True}, "pad_token": "[SEP]", "cls_token": None})
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.mask_id == 4
    assert tokenizer.pad_id == tokenizer.sep_id == 3
    assert tokenizer.cls_id is None


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer directory .*none/here does not exist"):
        Tokenizer.load(tmp_path / "none" / "here")
    with pytest.raises(DataError, match=r"no tokenizer in .*: it needs tokenizer\.json, or vocab\.txt"):
        Tokenizer.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, a directory with tokenizer files is needed"):
        Tokenizer.load(tmp_path / "file")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is not valid JSON"):
        Tokenizer.load(tmp_path)
    write_gpt1(tmp_path, "encoder_1.json", "a.bpe")
    write_gpt1(tmp_path, "encoder_2.json", "a.bpe")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match=r"has 2 files encoder\*\.json, one is needed"):
        Tokenizer.load(tmp_path)


def test_unsupported_model(tmp_path: Path) -> None:
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(DataError, match="has a Unigram model that is not supported; WordPiece"):
        Tokenizer.load(tmp_path)


def test_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nwith details")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    sentence = r"^bert-base is not a directory, and the hub cannot be reached \(no route\)$"
    with pytest.raises(DataError, match=sentence):
        Tokenizer.load("bert-base")

    def wrapped(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("An error happened. Please check your connection.") from ConnectionError(
            "no route"
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", wrapped)
    with pytest.raises(DataError, match=sentence):
        Tokenizer.load("bert-base")

    def unknown(*_: object, **__: object) -> str:
        raise RepositoryNotFoundError("404 Client Error\n\nmake sure you are authenticated", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unknown)
    with pytest.raises(DataError, match=r"^bert-base is not a directory, and the hub has no such repository"):
        Tokenizer.load("bert-base")

    def refused(*_: object, **__: object) -> str:
        raise HfHubHTTPError("429 Too Many Requests\n\nadvice", response=MagicMock())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(DataError, match=r"directory, and the hub refused it \(429 Too Many Requests\)$"):
        Tokenizer.load("bert-base")


def test_hub_repository_is_read_from_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    Tokenizer.train_wordpiece(TRAINING, 200).save(tmp_path)
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert Tokenizer.load("some/model").kind == "wordpiece"
    assert asked[0][0] == "some/model"
    assert not any("safetensors" in pattern or "*" in pattern for pattern in asked[0][1])
