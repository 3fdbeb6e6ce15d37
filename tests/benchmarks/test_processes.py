# SPDX-License-Identifier: Apache-2.0
"""Sides of a measurement in processes of their own."""

from pathlib import Path

import pytest

from benchmarks.processes import Side, Work, by_turns
from benchmarks.report import Report

SIDE = """
from benchmarks.processes import serve
print("what a library prints")
serve(lambda: ({seconds}, 0.25), lambda: 2**30)
"""
WORK = Work(folder="", program="train", size=8, batch_size=4, steps=1)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    return tmp_path


def test_each_side_is_measured_and_compared_with_the_first(
    modules: Path, capsys: pytest.CaptureFixture[str]
):
    for name, seconds in {"fast": 0.5, "slow": 2.0}.items():
        (modules / f"{name}.py").write_text(SIDE.format(seconds=seconds))
    sides = [Side("Ours", "fast", WORK), Side("Theirs", "slow", WORK)]
    assert by_turns(Report("title"), sides, 2, "example") == {"Ours": 8.0, "Theirs": 2.0}
    told = capsys.readouterr().out
    assert "Ours: 4.00 times the speed of Theirs" in told and "1.00" in told


@pytest.mark.parametrize("where", ["", "print('ready', flush=True); input(); "])
def test_a_side_that_fails_leaves_the_others_and_its_error(
    where: str, modules: Path, capsys: pytest.CaptureFixture[str]
):
    (modules / "works.py").write_text(SIDE.format(seconds=0.5))
    (modules / "fails.py").write_text(f"{where}raise ValueError('why it fails')")
    sides = [Side("Ours", "works", WORK), Side("Theirs", "fails", WORK)]
    assert by_turns(Report("title"), sides, 1, "example") == {"Ours": 8.0}
    told = capsys.readouterr().out
    assert "Theirs failed" in told and "why it fails" in told and "times the speed" not in told
