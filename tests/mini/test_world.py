# SPDX-License-Identifier: Apache-2.0
"""The picture world: what is drawn, what is held out, what captions say."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mrti_jax.errors import UserError
from mrti_jax.mini.concepts import CONCEPTS, SAMPLE, best_caption, concept, main, photos
from mrti_jax.mini.world import HELD_OUT, THINGS, Scene, caption, object_mask, random_scene, render
from mrti_jax.mini.world.caption import PLACE_PHRASES, TEXTURE_NOUNS
from mrti_jax.mini.world.palette import COLOURS, CONTRASTING, lab, rgb, toned
from mrti_jax.mini.world.shapes import SHAPES
from mrti_jax.mini.world.textures import TEXTURES


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def test_same_seed_gives_same_scenes_pictures_and_captions() -> None:
    assert scenes(50) == scenes(50)
    scene = scenes(1)[0]
    np.testing.assert_array_equal(render(scene), render(scene))
    words = [caption(scene, np.random.default_rng(3)) for _ in range(2)]
    assert words[0] == words[1]


def test_picture_does_not_depend_on_the_resolution() -> None:
    for scene in scenes(60):
        small = render(scene, 64).astype(float)
        halved = render(scene, 128).reshape(64, 2, 64, 2, 3).mean((1, 3))
        # Edges differ where two of them share a pixel; everything else agrees to rounding.
        assert np.abs(small - halved).mean() < 2.0
        assert np.median(np.abs(small - halved)) <= 1.0


def test_object_mask_covers_the_pixels_that_a_new_colour_changes() -> None:
    for scene in scenes(40):
        scene = dataclasses.replace(
            scene, style="photo", texture="plain", colour="red", background="green"
        )
        other = dataclasses.replace(scene, colour="blue")
        changed = (render(scene).astype(int) != render(other).astype(int)).any(-1)
        mask = object_mask(scene)
        assert changed[mask > 0.02].all()
        assert not changed[mask == 0].any()


def test_object_stays_inside_the_picture() -> None:
    touching = []
    for scene in scenes(300, seed=1):
        mask = object_mask(scene)
        border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
        assert mask.sum() > 100
        assert border.sum() < 0.01 * mask.sum()  # the tip of a wide star at most
        touching.append(border.max() > 0.5)
    assert np.mean(touching) < 0.01


def test_masks_of_the_shapes_differ() -> None:
    masks = [object_mask(Scene(s, "plain", "red", "white")) for s in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert np.minimum(one, other).sum() / np.maximum(one, other).sum() < 0.85


def test_held_out_appearances_are_never_drawn_unless_asked_for() -> None:
    combos = Counter(scene.combo for scene in scenes(3000))
    assert not HELD_OUT & set(combos)
    rng = np.random.default_rng(0)
    assert all(random_scene(rng, held_out=True).combo in HELD_OUT for _ in range(100))
    share = len(HELD_OUT) / (len(SHAPES) * len(TEXTURES) * len(COLOURS))
    assert 0.06 < share < 0.10


def test_shares_of_textures_things_and_styles() -> None:
    drawn = scenes(3000)
    assert sum(s.thing is not None for s in drawn) / len(drawn) == pytest.approx(0.12, abs=0.02)
    free = [s for s in drawn if s.thing is None]
    assert sum(s.texture == "plain" for s in free) / len(free) == pytest.approx(0.4, abs=0.03)
    assert {s.thing for s in drawn} == {None, *THINGS}


def test_the_colour_of_a_scene_stands_out_from_its_background() -> None:
    for scene in scenes(500):
        assert scene.background in CONTRASTING[scene.colour]


def test_marks_are_seen_on_their_colour_yet_far_weaker_than_an_outline() -> None:
    for scene in scenes(500):
        if scene.texture != "plain":
            colour = rgb(scene.colour, scene.colour_shade)
            gap = np.linalg.norm(lab(toned(colour, scene.tone)) - lab(colour))
            assert 18.0 < gap < 60.0


def words_of(text: str) -> list[str]:
    return re.findall("[a-z]+", text)


def test_full_captions_say_what_the_scene_is() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes(1500):
        text = caption(scene, rng, mention=1.0)
        words = words_of(text)
        thing = scene.thing is not None and scene.thing in words
        assert thing or scene.shape in words
        assert (set(SHAPES) | set(THINGS)) & set(words) <= {scene.shape, scene.thing}
        phrase = re.split(" (?:on|against) an? ", text)[0]
        named = [word for word in words_of(phrase) if word in COLOURS]
        if thing:
            assert named == []
        else:
            assert named == [scene.colour]
            textures = {t for t, noun in TEXTURE_NOUNS.items() if t in words or noun in words}
            assert textures == ({scene.texture} - {"plain"})
        assert re.search(f"(on|against) an? {scene.background}( [a-z]+)? background", text)
        assert scene.place == "middle" or any(p in text for p in PLACE_PHRASES[scene.place])
        assert not any(
            phrase in text for p, ps in PLACE_PHRASES.items() if p != scene.place for phrase in ps
        )
        assert ("small" in words) == (scene.size == "small")
        assert ("large" in words) == (scene.size == "large")
        assert any(style in text for style in (scene.style, "photograph"))


def test_short_captions_name_only_the_shape() -> None:
    rng = np.random.default_rng(0)
    texts = {caption(scene, rng, mention=0.0) for scene in scenes(1500)}
    assert "an image of a star" in texts
    assert not any(word in COLOURS for text in texts for word in words_of(text))


def test_vocabulary_is_small() -> None:
    rng = np.random.default_rng(0)
    words = {word for s in scenes(3000) for word in words_of(caption(s, rng, mention=0.8))}
    assert len(words) < 400


def test_concepts_are_held_out_and_keep_their_details_in_every_photo() -> None:
    assert len(CONCEPTS) >= 12
    assert SAMPLE in CONCEPTS
    for appearance in CONCEPTS.values():
        assert appearance.combo in HELD_OUT
        taken = photos(appearance, 4, rng=np.random.default_rng(0))
        assert {s.combo for s in taken} == {appearance.combo}
        assert len({(s.angle, s.period, s.aspect, s.colour_shade) for s in taken}) == 1
        assert len({s.background for s in taken}) == 4
        words = words_of(best_caption(appearance))
        assert {appearance.combo.shape, appearance.combo.colour} <= set(words)


def test_unknown_concept() -> None:
    with pytest.raises(UserError, match="did you mean 'jane'"):
        concept("jan")


def test_a_concepts_photos_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "new"), "dax"]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        f"dax{i}.png" for i in (1, 2, 3, 4)
    }
    out = capsys.readouterr().out
    assert f"--data.path {tmp_path / 'new'} --concept.name dax --concept.initializer" in out
    assert main([str(tmp_path), "dex"]) == 2
    assert "the built-in concept is 'dex', but must be one of" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), "dax"]) == 0  # the same ones again
    (tmp_path / "new" / "dax4.png").write_text("mine")
    for name in ("dax", "hugo"):
        assert main([str(tmp_path / "new"), name]) == 2
        assert "holds something else, dax" in capsys.readouterr().err
    assert (tmp_path / "new" / "dax4.png").read_text() == "mine"
    (tmp_path / "other" / "jane1.png").mkdir(parents=True)
    assert main([str(tmp_path / "other")]) == 2
    assert "holds something else, jane1" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert main([str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
