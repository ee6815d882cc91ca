"""The report of the benchmarks on made-up figures, the rules of timing, and that the suites can be run."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
REASON = "BERT-base: about 360 s a row, which --full runs"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import report

    return report


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import pairs

    return pairs


def row(work: str, ours: float, peers: dict[str, float], **fields: Any) -> dict[str, Any]:
    """One entry of pytest-benchmark's list, as the suites leave it. Times in seconds."""
    figures = {name: {"median": t, "ratio": t / ours, "quartiles": [0.9, 3.1]} for name, t in peers.items()}
    info = {"shape": "4 x 8", "dtype": "float32", "variant": "", "backend": "", "amount": 0.0, "unit": ""}
    return {"extra_info": {**info, "work": work, "ours": ours, "peers": figures, "rounds": 7, "threads": 2, **fields}}


def raw(**changes: Any) -> dict[str, Any]:
    machine = {
        "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "processors": 4,
        "instruction_set": "amx",
        "threads": 2,
        "torch": "2.13.0",
        "fastbert": "0.1.0",
        "transformers": None,
        "python": "3.12.1",
        "forced_backend": None,
        "backends": {"cpu": "it is tired", "sdpa": None},
    }
    rows = [
        row("attention forward", 0.002, {"torch": 0.005}, backend="cpu", variant="causal", amount=0.5, unit="GFLOP"),
        row("attention forward", 0.040, {"torch": 0.010}, backend="sdpa", variant="full", amount=1.0, unit="GFLOP"),
        row("a step", 1.5, {"transformers": 4.5, "transformers compiled": 3.0}, amount=3000, unit="tokens"),
    ]
    whole = {
        "machine_info": {"fastbert": machine},
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-01-02T03:04:05+00:00",
        "benchmarks": rows,
        "full": False,
        "left_out": {
            "benchmarks/test_training.py::test_bert_base_pretraining[128-float32]": REASON,
            "benchmarks/test_training.py::test_bert_base_pretraining[512-float32]": REASON,
        },
    }
    return {**whole, **changes}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def tables(page: str) -> dict[str, list[dict[str, str]]]:
    """The tables of a page by their heading: a dictionary a row."""
    found: dict[str, list[dict[str, str]]] = {}
    for section in page.split("\n## ")[1:]:
        lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        if lines:
            found[section.splitlines()[0]] = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return found


def test_the_page_has_the_numbers_that_were_measured(report: ModuleType, tmp_path: Path) -> None:
    assert report.main([str(write(tmp_path / "raw.json", raw())), "--output", str(tmp_path / "results")]) == 0
    stem = "intel-xeon-platinum-8481c-amx"
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        f"{stem}.{end}" for end in ("md", "json", "svg")
    }
    page = (tmp_path / "results" / f"{stem}.md").read_text(encoding="utf-8")
    causal, full = tables(page)["Attention forward"]
    assert (causal["ours, ms"], causal["peer, ms"], causal["ratio"]) == (
        "2.00",
        "5.00",
        "**2.50**",
    )  # ratio = peer / ours
    assert (causal["GFLOP/s"], causal["quartiles"], causal["backend"]) == ("250", "0.90 to 3.10", "cpu")
    assert (full["ours, ms"], full["peer, ms"], full["ratio"]) == ("40.0", "10.0", "**0.25**")
    plain, compiled = tables(page)["A step"]
    assert (plain["peer"], plain["ratio"], plain["tokens/s"]) == ("transformers", "**3.00**", "2,000")
    assert (compiled["peer"], compiled["ratio"]) == ("transformers compiled", "**2.00**")
    assert "variant" not in plain  # a column without content is no column
    for text in ("2026-01-02", "0123456789ab with changes", "2 on 4 processors", "not installed", "it is tired"):
        assert text in page


def test_the_page_says_what_was_left_out(report: ModuleType, tmp_path: Path) -> None:
    page = report.markdown(report.read(write(tmp_path / "raw.json", raw())))
    assert page.endswith(
        "## Left out\n\n- compiled peers, which --full adds\n"
        f"- {REASON} (2 rows)\n  - `test_training.py::test_bert_base_pretraining`: 128-float32, 512-float32\n"
    )
    page = report.markdown(report.read(write(tmp_path / "raw.json", raw(full=True, left_out={}))))
    assert page.endswith("## Left out\n\nNothing: every row ran, with every peer.\n")


def test_numbers_and_picture_hold_the_same(report: ModuleType, tmp_path: Path) -> None:
    results = report.read(write(tmp_path / "raw.json", raw()))
    page, numbers, picture = report.write(results, tmp_path / "results")
    condensed = json.loads(numbers.read_text(encoding="utf-8"))
    assert [line["ratio"] for line in condensed["rows"]] == [2.5, 0.25, 3.0, 2.0]
    assert condensed["rows"][0]["ours_ms"] == 2.0
    assert condensed["left_out"] == raw()["left_out"]
    texts = {element.text for element in ElementTree.parse(picture).iter() if element.text}
    assert {"2.50x", "0.25x", "3.00x", "attention forward, against torch", "4 x 8, causal"} <= texts
    before = picture.read_bytes()
    report.write(results, tmp_path / "results")
    assert picture.read_bytes() == before
    assert picture.name in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"benchmarks": []}, "does not come from the suites"),
        ([], "does not come from the suites"),
        (raw(benchmarks=[]), "has no measured row"),
    ],
)
def test_a_file_without_results_is_refused(
    report: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    source = write(tmp_path / "raw.json", content)
    assert report.main([str(source), "--output", str(tmp_path / "results")]) == 1
    assert f"report: {source} {message}" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_missing_file_is_named(report: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("processor", "expected"),
    [("AMD EPYC", "amd-epyc-avx2"), ("AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13-64-core-avx2")],
)
def test_files_are_named_after_processor_and_instruction_set(report: ModuleType, processor: str, expected: str) -> None:
    assert report.slug(processor, "avx2") == expected


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(1e-6, 300), (0.01, 200), (0.5, 5), (2.0, 5), (2.5, 4), (3.3, 3), (60.0, 3)]
)
def test_rounds_follow_the_time_of_one(pairs: ModuleType, seconds: float, rounds: int) -> None:
    assert pairs.rounds_for(seconds) == rounds


def test_the_ratio_is_that_of_the_medians(pairs: ModuleType) -> None:
    compared = pairs.compare([1.0, 2.0, 9.0], {"torch": [4.0, 5.0, 9.0]})
    assert compared["ours"] == 2.0
    assert compared["peers"]["torch"] == {"median": 5.0, "ratio": 2.5, "quartiles": [1.75, 3.25]}  # of 4, 2.5 and 1


def test_a_pair_that_does_different_work_fails(pairs: ModuleType) -> None:
    benchmark = SimpleNamespace(disabled=True, pedantic=lambda call: call())
    description = pairs.Row("a step", "3", "float32")
    ours, peers = (lambda: torch.ones(3)), {"torch": lambda: torch.ones(3) * 1.01}
    with pytest.raises(AssertionError, match="the sides differ by"):
        pairs.measure(benchmark, ours, description, peers, pairs.assert_close)
    assert pairs.measure(benchmark, ours, description, {"torch": ours}, pairs.assert_close) is None


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One small row, run as a user runs it."""
    path = tmp_path_factory.mktemp("benchmarks") / "new" / "raw.json"
    run_pytest("-k", "test_elementwise and dropout and not residual and 1152x384-float32", f"--benchmark-json={path}")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_a_row_is_measured_and_reported(measured: dict[str, Any], report: ModuleType, tmp_path: Path) -> None:
    (bench,) = measured["benchmarks"]
    info = bench["extra_info"]
    assert info["rounds"] == len(bench["stats"]["data"]) >= 5
    assert info["ours"] == pytest.approx(bench["stats"]["median"])
    assert info["peers"]["torch"]["ratio"] == pytest.approx(info["peers"]["torch"]["median"] / info["ours"])
    assert set(measured["left_out"].values()) == {"not selected"}
    page = report.markdown(report.read(write(tmp_path / "raw.json", measured)))
    assert tables(page)["Dropout 0.1, forward + backward"][0]["shape"] == "1152 x 384"


def test_every_suite_collects(measured: dict[str, Any]) -> None:
    names = [bench["fullname"] for bench in measured["benchmarks"]] + list(measured["left_out"])
    suites = {name.partition("::")[0].rpartition("/")[2] for name in names}
    assert suites == {path.name for path in (ROOT / "benchmarks").glob("test_*.py")}
    assert len(names) == len(set(names))


def test_costly_rows_wait_for_full() -> None:
    output = run_pytest("-k", "bert_base", "-rs")
    assert "BERT-base: about 360 s a row, which --full runs" in output


def run_pytest(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "benchmarks", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
