# SPDX-License-Identifier: Apache-2.0
"""`python -m mrti_jax.sample`: what it writes, and one clear line for what it can't do."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from png_text import read_parameters
from tiny import tiny_concept

from mrti_jax.models.stable_diffusion import StableDiffusion
from mrti_jax.sample import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def jane(tmp_path: Path) -> str:
    tiny_concept().save(tmp_path / "jane.safetensors")
    return str(tmp_path / "jane.safetensors")


@pytest.fixture
def model(tiny_folder: Path, tiny_sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model, which is read once for all tests."""
    load = StableDiffusion.load

    def load_once(path: str, **options: object) -> StableDiffusion:
        return tiny_sd if path == str(tiny_folder) else load(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(StableDiffusion, "load", load_once)
    return str(tiny_folder)


def flags(model: str, out: Path, *more: str) -> list[str]:
    fast = ["--steps", "12", "--sampler", "ddim", "--batch-size", "2"]
    return ["--model", model, "--out", str(out), *fast, *more]


def error_of(capsys: Capture, argv: list[str]) -> str:
    assert main(argv) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and "Traceback" not in captured.err
    return line


def test_writes_pictures_and_a_grid(model: str, jane: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\n\na dog\n")
    out = tmp_path / "out"
    status = main(
        ["a <jane[3]>", *flags(model, out, "--concept", jane, "--prompts-file", str(file)),
         "--seed", "4", "--images-per-prompt", "2"]
    )  # fmt: skip
    assert status == 0
    names = {path.name for path in out.iterdir()}
    expected = {f"{prompt}-seed{s}.png" for prompt in ("a-jane-3", "a-dog") for s in (4, 5)}
    assert names == expected | {"grid.png"}
    assert read_parameters(out / "a-jane-3-seed5.png")["concepts"].keys() == {"jane"}
    assert str(out / "grid.png") in capsys.readouterr().out


def test_sweep(model: str, jane: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = ["--grid-value", "0", "--grid-value", "9"]
    argv = ["--grid", "a <jane[{k}]>", *values, *flags(model, out, "--concept", jane)]
    assert main(argv) == 0
    assert {path.name for path in out.iterdir()} == {
        "a-jane-0-seed0.png",
        "a-jane-9-seed0.png",
        "grid.png",
    }
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 256


def test_a_folder_with_a_concept_file(model: str, tmp_path: Path) -> None:
    tiny_concept("bob").save(tmp_path / "run" / "concept.safetensors")
    out = tmp_path / "out"
    assert main(["<bob>", *flags(model, out, "--concept", str(tmp_path / "run"))]) == 0
    assert (out / "bob-seed0.png").exists()


def test_a_concept_in_training_is_told(model: str, tmp_path: Path, capsys: Capture) -> None:
    metadata = {"steps": "4", "planned_steps": "7"}
    replace(tiny_concept(), metadata=metadata).save(tmp_path / "jane.safetensors")
    concept = ["--concept", str(tmp_path / "jane.safetensors")]
    assert main(["<jane>", *flags(model, tmp_path / "out", *concept)]) == 0
    told = "warning: <jane> is drawn as it was after 4 of 7 updates"
    assert told in capsys.readouterr().err.splitlines()


def test_a_long_prompt_is_cut_with_a_warning(model: str, tmp_path: Path, capsys: Capture) -> None:
    assert main([("red " * 80) + "circle", *flags(model, tmp_path / "out")]) == 0
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("warning: ")]
    assert "longer than 77 tokens" in line and "red red red circle" in line


def test_a_prompt_without_its_quotes(model: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["red", "dog", *flags(model, tmp_path / "out")]) == 0
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("warning: ")]
    assert "each of 2 words is a prompt" in line and "in quotes" in line


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["a <jan>"], "write \\<jan> for the text itself; did you mean 'jane'?"),
        (["a <jane[10]>"], "between 0 and 9"),
        (["a <jane[1.5]>"], "above 1.0"),
        (["a <jane["], "malformed concept word"),
        (["a <jane>", "--size", "17"], "multiple of 2"),
        (["a dog", "--sampler", "eular"], "did you mean 'euler'"),
        (["a dog \udcff"], "not UTF-8"),
        (["a dog", "--steps", "0"], "number of steps is 0"),
        (["a dog", "--seed", "-3"], "seed"),
        (["a dog", "--guidance", "nan"], "guidance scale is nan"),
        (["a dog", "--guidance", "inf"], "guidance scale is inf"),
        (["a dog", "--negative-prompt", "<jan>"], "unknown concept word <jan>"),
        (["--seed", "1", "2", "a dog"], "--seed 1 --seed 2"),
        (["--concept", "a", "b.safetensors", "a dog"], "--concept b.safetensors"),
        (["--concept", "a", "/usr", "a dog"], "as in --concept FILE --concept /usr"),
        (["a dog", "--grid-value", "0.5"], "--grid"),
        (["a dog", "--grid-rows", "schemes"], "--grid"),
        (["a dog", "--prompts-file", "nowhere.txt"], "nowhere.txt"),
        (["a dog", "--concept", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--grid", "a <jane>"], "{k}"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], told: str, model: str, jane: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    common = ["--model", model, "--out", str(out), "--concept", jane]
    assert told in error_of(capsys, [*argv, *common])
    assert not out.exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["a <jan>"],
        ["a <jane>", "--negative-prompt", "<jan>"],
        ["a <jane>", "--steps", "0"],
        ["a <jane>", "--sampler", "eular"],
        ["a <jane>", "--seed", "-1"],
        ["a <jane>", "--guidance-rescale", "2"],
        ["a <jane>", "--guidance-interval", "0.5", "0.2"],
        ["a <jane>", "--eta", "2"],
        ["a <jane>", "--eta", "nan"],
        ["a <jane>", "--grid", "a <jane>"],
        ["--grid", "a <jan[{k}]>"],
        ["--grid", "a <jane[{k}]>", "--grid-value", "10"],
        ["--grid", "a <jane[0.{k}]>"],
    ],
)
def test_no_model_is_loaded_for_a_slip(
    argv: list[str], jane: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(StableDiffusion, "load", lambda path, **options: loaded.append(path))
    error_of(capsys, [*argv, "--concept", jane, "--out", str(tmp_path / "out")])
    assert loaded == []


def test_a_concept_that_no_prompt_names_is_told(
    model: str, jane: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["a photo of jane", *flags(model, tmp_path / "out", "--concept", jane)]) == 0
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("warning: ")]
    assert "no prompt names it: write <jane>" in line


def test_what_other_tools_write_is_told(
    model: str, jane: str, tmp_path: Path, capsys: Capture
) -> None:
    given = flags(model, tmp_path / "out", "--concept", jane)
    assert main(["a <jane> <lora:film:0.8>", *given]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert (
        "warning: <lora:film:0.8> is drawn as text: LoRAs and their like can't be used here"
        in lines
    )


@pytest.mark.parametrize(("word", "told"), [("<jane[3]>", 2), ("<jane(3)>", 0)])
def test_flags_that_no_word_heeds_are_told(
    word: str, told: int, model: str, jane: str, tmp_path: Path, capsys: Capture
) -> None:
    given = flags(model, tmp_path / "out", "--concept", jane, "--nothing", "drop")
    assert main([f"a photo of a {word}", *given, "--official-semi"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("has no effect: no prompt has a word in round brackets" in s for s in lines) == told


def test_pictures_are_kept_when_it_is_interrupted(
    model: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("mrti_jax.sampling.generate")

    draw, calls = module.draw, []

    def interrupted(*arguments: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw", interrupted)
    out = tmp_path / "out"
    assert main(["a dog", *flags(model, out, "--images-per-prompt", "9")]) == 130
    drawn = {path.name for path in out.iterdir()}
    assert drawn == {f"a-dog-seed{seed}.png" for seed in range(len(drawn))}
    assert 2 <= len(drawn) < 9
    assert str(out / "a-dog-seed0.png") in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        jax.errors.JaxRuntimeError("INTERNAL: Error dispatching: Out of memory allocating 9 bytes"),
        MemoryError("Unable to allocate 9 bytes"),
    ],
    ids=["accelerator", "cpu", "numpy"],
)
def test_out_of_memory_is_one_line(
    model: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    module = importlib.import_module("mrti_jax.sampling.generate")

    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(module, "draw", full)
    assert main(["a dog", *flags(model, tmp_path / "out")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: a device is out of memory: try a smaller --batch-size")


def test_one_picture_needs_no_sheet(model: str, tmp_path: Path) -> None:
    assert main(["a dog", *flags(model, tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-dog-seed0.png"]


def test_many_pictures_of_a_prompt_are_several_rows(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    many = ["--images-per-prompt", "12", "--size", "8", "--steps", "2"]
    assert main(["a dog", "--model", model, "--out", str(out), "--sampler", "ddim", *many]) == 0
    with Image.open(out / "grid.png") as grid:
        assert grid.width < 11 * 128 + 250 and grid.height > 2 * 128


def test_a_file_of_prompts_may_have_comments_and_a_mark(model: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa dog\n  # mine\n \n", encoding="utf-8")
    assert main(["--prompts-file", str(file), *flags(model, tmp_path / "out")]) == 0
    (picture,) = (tmp_path / "out").iterdir()
    assert read_parameters(picture)["prompt"] == "a dog"


def test_bad_concepts_are_one_line(model: str, jane: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "copy.safetensors").write_bytes(Path(jane).read_bytes())
    common = ["a <jane>", *flags(model, tmp_path / "out"), "--concept"]
    two = [*common, jane, "--concept", str(tmp_path / "copy.safetensors")]
    assert "two concepts are named 'jane'" in error_of(capsys, two)

    tiny_concept(parts=(("", 48),)).save(tmp_path / "wide.safetensors")
    wide = error_of(capsys, [*common, str(tmp_path / "wide.safetensors")])
    assert "width 48" in wide and "has 32" in wide

    (tmp_path / "cut.safetensors").write_bytes(Path(jane).read_bytes()[:100])
    assert "cut.safetensors" in error_of(capsys, [*common, str(tmp_path / "cut.safetensors")])

    (tmp_path / "empty").mkdir()
    assert "nor checkpoints" in error_of(capsys, [*common, str(tmp_path / "empty")])


def test_missing_model_folder(tmp_path: Path, capsys: Capture) -> None:
    argv = ["a dog", "--model", str(tmp_path / "no"), "--out", str(tmp_path / "out")]
    assert "does not exist" in error_of(capsys, argv)


def test_out_is_a_file(model: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out").write_text("mine")
    assert "is a file" in error_of(capsys, ["a dog", *flags(model, tmp_path / "out")])


def test_no_prompt_shows_an_example(capsys: Capture) -> None:
    assert 'python -m mrti_jax.sample "a photo of' in error_of(capsys, [])


def test_an_unknown_flag_is_named(capsys: Capture) -> None:
    assert "--concept" in error_of(capsys, ["a dog", "--concpt", "x"])


def test_pictures_are_those_of_the_library(
    model: str, tiny_sd: StableDiffusion, tmp_path: Path
) -> None:
    from mrti_jax.sampling import generate

    assert main(["a dog", *flags(model, tmp_path / "out", "--seed", "7")]) == 0
    (expected,) = generate(tiny_sd, "a dog", seeds=7, num_steps=12, sampler="ddim", batch_size=2)
    with Image.open(tmp_path / "out" / "a-dog-seed7.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), expected.image)


Drawn = dict[str, dict[str, Any]]
OPTIONS: dict[str, Any] = {
    "seeds": (0,),
    "images_per_prompt": 1,
    "num_steps": 50,
    "guidance_scale": 7.5,
    "guidance_rescale": 0.0,
    "guidance_interval": (0.0, 1.0),
    "negative_prompt": "",
    "height": None,
    "width": None,
    "original_size": None,
    "crop": (0, 0),
    "target_size": None,
    "sampler": None,
    "eta": 0.0,
    "nothing": "zero",
    "official_semi": False,
    "batch_size": 8,
    "vae_slicing": "auto",
}
LOADED: dict[str, Any] = dict.fromkeys(
    ("revision", "variant", "tokenizer", "prediction_type", "dtype", "mesh")
) | {"attention": "auto"}


@pytest.fixture
def drawn(tiny_sd: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What the command asks for, by `load`, `prompts` and `sweep`, instead of doing it."""
    asked: Drawn = {}

    def load(path: str, **options: Any) -> StableDiffusion:
        asked["load"] = options
        return tiny_sd

    monkeypatch.setattr(StableDiffusion, "load", load)
    for kind in ("prompts", "sweep"):
        monkeypatch.setattr(
            f"mrti_jax.sampling.drawing.draw_{kind}",
            lambda sd, texts, concepts, out, kind=kind, **options: asked.update({kind: options}),
        )
    return asked


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("mini", {"num_steps": 30, "guidance_scale": 3.0, "guidance_interval": (0.2, 1.0)}),
        ("mini --guidance 1", {"num_steps": 30, "guidance_scale": 1.0}),
        ("other/model", {"num_steps": 50, "guidance_scale": 7.5}),
    ],
)
def test_the_options_of_a_prompt_alone(model: str, own: dict[str, Any], drawn: Drawn) -> None:
    assert main(["a dog", "--model", *model.split()]) == 0
    assert drawn == {"load": LOADED, "prompts": OPTIONS | own}


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--seed 3 --seed 9", {"seeds": (3, 9)}),
        ("--images-per-prompt 2", {"images_per_prompt": 2}),
        ("--steps 7", {"num_steps": 7}),
        ("--guidance 2", {"guidance_scale": 2.0}),
        ("--guidance-rescale 0.7", {"guidance_rescale": 0.7}),
        ("--guidance-interval 0.2 0.9", {"guidance_interval": (0.2, 0.9)}),
        ("--negative-prompt red", {"negative_prompt": "red"}),
        ("--size 8", {"height": 8, "width": 8}),
        ("--size 8 --height 10", {"height": 10, "width": 8}),
        ("--size 8 --width 10", {"height": 8, "width": 10}),
        ("--original-size 40 30", {"original_size": (40, 30)}),
        ("--crop 3 5", {"crop": (3, 5)}),
        ("--target-size 50 60", {"target_size": (50, 60)}),
        ("--sampler euler", {"sampler": "euler"}),
        ("--eta 0.5", {"eta": 0.5}),
        ("--nothing drop", {"nothing": "drop"}),
        ("--official-semi", {"official_semi": True}),
        ("--batch-size 3", {"batch_size": 3}),
        ("--vae-slicing on", {"vae_slicing": "on"}),
    ],
)
def test_every_flag_reaches_its_option(flags: str, options: dict[str, Any], drawn: Drawn) -> None:
    assert main(["a dog", "--model", "other/model", *flags.split()]) == 0
    assert drawn["prompts"] == OPTIONS | options


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("revision", "main"),
        ("variant", "fp16"),
        ("tokenizer", "other/tokenizer"),
        ("prediction_type", "v_prediction"),
        ("dtype", "bfloat16"),
        ("attention", "xla"),
    ],
)
def test_every_flag_of_the_model_reaches_it(flag: str, value: str, drawn: Drawn) -> None:
    assert main(["a dog", f"--{flag.replace('_', '-')}", value]) == 0
    assert drawn["load"] == LOADED | {flag: value}


def test_the_devices_that_share_the_weights(drawn: Drawn) -> None:
    assert main(["a dog", "--fsdp", "2"]) == 0
    assert dict(drawn["load"]["mesh"].shape) == {"data": 1, "fsdp": 2}


def test_the_flags_of_a_grid(jane: str, drawn: Drawn) -> None:
    values = ["--grid-value", "0", "--grid-value", "9"]
    argv = ["--grid", "a <jane[{k}]>", "--concept", jane, "--grid-rows", "schemes", *values]
    assert main([*argv, "--model", "other/model", "--eta", "0.5"]) == 0
    grid = {"rows": "schemes", "values": ("0", "9")}
    assert drawn == {"load": LOADED, "sweep": OPTIONS | grid | {"eta": 0.5}}
