"""What the suites share: the fixture that times a pair, the rows that need --full, and what the report must know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import pairs
import pytest
import torch
from pairs import Versus

RECORDER = pytest.StashKey["Recorder"]()


class Recorder:
    """Keeps the measured rows and what was left out, and adds both to what pytest prints and writes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}  # the row's pytest name -> why

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.left_out.update({item.nodeid: "not selected" for item in items})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.left_out[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            self.left_out[report.nodeid] = "failed"

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        machine_info["fastbert"] = machine.describe()

    def pytest_benchmark_update_json(self, config: pytest.Config, output_json: dict[str, Any]) -> None:
        output_json["full"] = config.getoption("full")
        output_json["left_out"] = self.left_out

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.rows:
            terminalreporter.section("medians: ours, peer, and how many times as long the peer takes")
            for line in pairs.as_text(self.rows):
                terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also the rows that take minutes, and compiled peers")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("the benchmarks need pytest-benchmark: pip install 'fastbert-kernels[train,bench]'")
    config.addinivalue_line("markers", "costly(seconds, why): a row of about so many seconds; --full runs it")
    config.option.benchmark_quiet = True  # its table has our side alone; the recorder prints both
    if isinstance(
        config.option.benchmark_json, Path
    ):  # it is opened at the very end: a missing folder would cost the run
        config.option.benchmark_json.parent.mkdir(parents=True, exist_ok=True)
    config.stash[RECORDER] = Recorder()
    config.pluginmanager.register(config.stash[RECORDER], "fastbert-benchmarks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("full"):
        return
    for item in items:
        for mark in item.iter_markers("costly"):
            seconds, why = mark.args
            item.add_marker(pytest.mark.skip(reason=f"{why}: about {seconds} s a row, which --full runs"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(20180611)


@pytest.fixture
def full(pytestconfig: pytest.Config) -> bool:
    """Whether costly peers are wanted too."""
    return bool(pytestconfig.getoption("full"))


@pytest.fixture
def versus(benchmark: Any, pytestconfig: pytest.Config) -> Versus:
    """Times ours and its peers in turns, in this process; the figures go to the JSON and to the terminal."""

    def run(
        ours: pairs.Call, row: pairs.Row, *, agree: Callable[[Any, Any], None] | None = None, **peers: pairs.Call
    ) -> None:
        measured = pairs.measure(
            benchmark, ours, row, {name.replace("_", " "): peer for name, peer in peers.items()}, agree
        )
        if measured is not None:
            pytestconfig.stash[RECORDER].rows.append(measured)

    return run
