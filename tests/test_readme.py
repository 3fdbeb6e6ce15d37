# SPDX-License-Identifier: Apache-2.0
"""The README's commands are understood, its Python runs, and its links lead somewhere."""

import importlib.util
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

from mrti_jax import plan, sample, train
from mrti_jax.concept import Concept, parse
from mrti_jax.mini import concepts
from mrti_jax.models import __main__ as models
from mrti_jax.models.stable_diffusion import StableDiffusion

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAGS = {
    "sample": sample.Flags,
    "train": train.Flags,
    "models": models.Flags,
    "plan": plan.Flags,
    "mini.concepts": concepts.Flags,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = re.findall(
    rf"python -m mrti_jax\.({'|'.join(map(re.escape, FLAGS))})\b(.*)",
    "\n".join(blocks("bash")).replace("\\\n", " "),
)


def test_there_are_commands() -> None:
    assert {command for command, _ in COMMANDS} == set(FLAGS)


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_command(command: str, arguments: str) -> None:
    flags = tyro.cli(FLAGS[command], args=shlex.split(arguments, comments=True))
    if isinstance(flags, sample.Flags):
        templates = [template.replace("{k}", "0") for template in flags.grid]
        for prompt in [*flags.prompts, *templates]:
            assert parse(prompt).words
    elif isinstance(flags, train.Flags) and flags.recipe:
        assert (ROOT / flags.recipe).exists()


def test_the_list_of_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mrti_jax"])
    runpy.run_module("mrti_jax", run_name="__main__")
    listed = re.findall(r"^python -m (\S+)  ", capsys.readouterr().out, re.MULTILINE)
    assert {f"mrti_jax.{command}" for command in FLAGS} <= set(listed)
    assert all(importlib.util.find_spec(module) for module in listed)


@pytest.mark.filterwarnings("ignore:.*(had no training example|steps skip bucket)")
def test_python_runs(
    tiny_sd: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a toy model, and with 20 steps in place of 300."""
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StableDiffusion, "load", lambda: tiny_sd)
    exec(code.replace("steps=300", "steps=20"), names)
    assert Concept.load(tmp_path / "jane.safetensors").metadata["steps"] == "20"
    assert len(names["pictures"]) == 2


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_link(link: str) -> None:
    assert (ROOT / link).exists()
