# SPDX-License-Identifier: Apache-2.0
"""Wrong flags are reported in one line, like everything else that is wrong."""

import io
import re

import pytest

from mrti_jax import plan, sample, train
from mrti_jax.diffusion import SAMPLERS
from mrti_jax.errors import UserError
from mrti_jax.flags import read_flags
from mrti_jax.mini import concepts
from mrti_jax.sampling.png import A1111_SAMPLERS

LONG = "/a/folder/with/a/name/that/is/longer/than/a/line/of/a/terminal/and/has/no/place/to/break/it"


@pytest.mark.parametrize(
    ("flags", "arguments", "told"),
    [
        (train.Flags, "--train.step 3", r"unrecognized options: --train.step, 3; .*--train.steps"),
        (
            train.Flags,
            "--train.step 3 --data.pth x",
            r"unrecognized options: --train.step, 3, --data.pth, x; .*--data.path.*--train.steps",
        ),
        (train.Flags, f"--data.paht {LONG}", f"--data.paht, {LONG}; .*--data.path"),
        (train.Flags, "--stepz 3", r"unrecognized options: --stepz, 3 \(--help"),
        (train.Flags, "--train.steps x", "--train.steps is 'x', not a whole number"),
        (
            train.Flags,
            "--data.learnable-property cat",
            "invalid choice 'cat' .*: choose from object, style",
        ),
        (sample.Flags, "a --dtype fp16", "'--dtype': choose from bfloat16, float32"),
        (sample.Flags, "a --seed 1 2 3", "options: 2, 3; for .*, as in --seed 1 --seed 2"),
        (sample.Flags, "a --steps 1 2", r"unrecognized options: 2 \(--help"),
        (sample.Flags, "a --guidance", "missing value for argument '--guidance'"),
        (sample.Flags, "a --steps abc", r"--steps is 'abc', not a whole number \(--help"),
        (sample.Flags, "a --guidance 1,5", r"--guidance is '1,5', not a number \(--help"),
        (
            sample.Flags,
            "a --concept b --stepz 3",
            r"options: --stepz, 3; perhaps you meant --steps \(",
        ),
        (concepts.Flags, "", r"there is no FOLDER: where to write the photos \(--help"),
        (sample.Flags, "a --original-size 3", r"--original-size is '3', not two whole numbers \("),
        (sample.Flags, "a --crop 3 x", r"--crop is '3', 'x', not two whole numbers \("),
        (sample.Flags, "a --crop 3", "missing value for argument '--crop'. Expected 2 values"),
        (
            sample.Flags,
            "a --guidance-interval 0.3",
            "--guidance-interval is '0.3', not two numbers",
        ),
        (train.Flags, "--train.picture-guidance-interval 0 x", "interval is '0', 'x', not two n"),
        (sample.Flags, "a --steps None", "--steps is 'None', not a whole number"),
    ],
)
@pytest.mark.parametrize("columns", ["40", "100"])
def test_one_line(
    columns: str, flags: type, arguments: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(UserError) as caught:
        read_flags(flags, arguments.split())
    assert re.match(f".*{told}", str(caught.value)) and "\n" not in str(caught.value)
    assert not re.search("[│─╭]", str(caught.value))


def test_a_terminal_without_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UserError, match=r"^unrecognized options: --train.step, 3; .*meant"):
        read_flags(train.Flags, ["--train.step", "3"])


def test_what_is_right() -> None:
    flags = read_flags(sample.Flags, ["a dog", "--seed", "1", "--seed", "2"], prog="sample")
    assert (flags.prompts, flags.seed) == (("a dog",), (1, 2))


@pytest.mark.parametrize(
    ("flags", "names"), [(sample.Flags, SAMPLERS), (concepts.Flags, concepts.CONCEPTS)]
)
def test_the_names_in_the_help(
    flags: type, names: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Written out by hand there, as a flag's help can only be a literal."""
    with pytest.raises(SystemExit):
        read_flags(flags, ["--help"])
    told = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    *first, last = names
    assert f"{', '.join(first)} or {last}" in told


def test_every_sampler_has_its_name_for_other_tools() -> None:
    assert A1111_SAMPLERS.keys() == SAMPLERS.keys()


def test_help_has_no_line_breaks_of_the_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        read_flags(train.Flags, ["--help"])
    lines = [line.strip(" │") for line in capsys.readouterr().out.splitlines()]
    (last,) = [line for line in lines if line.endswith("those without one.")]
    assert len(last) > len("those without one.")  # the source's last line


@pytest.mark.parametrize("flags", [sample.Flags, train.Flags, plan.Flags])
def test_the_help_offers_no_none(flags: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_flags(flags, ["--help"])
    assert not re.search(r"[{|]None[}|]", capsys.readouterr().out)
