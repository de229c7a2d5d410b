"""Grounded captions: phrases where they are said to be, and true."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from omgbench.data.scenes import GroundedPhrase, Scene, describe, evaluate, make_scene
from omgbench.data.scenes.vocabulary import COUNTS, SHAPES, STUFF, plural

CASES = [(scene, describe(scene)) for scene in map(make_scene, range(300))]


def test_phrases_stand_where_they_are_said_to_be() -> None:
    counts = Counter(len(caption.phrases) for _, caption in CASES)
    assert set(counts) == {2, 3, 4, 5, 6}
    for _, caption in CASES:
        at = 0
        for phrase in caption.phrases:
            assert at <= phrase.start < phrase.end <= len(caption.text)
            assert caption.text[phrase.start : phrase.end] == phrase.text
            at = phrase.end
        assert caption.text.endswith(".") and "  " not in caption.text and "<" not in caption.text


def test_tagged_text_is_the_caption_with_tags() -> None:
    for _, caption in CASES:
        tagged = caption.tagged()
        assert re.findall(r"<p>(.*?)</p> \[SEG\]", tagged) == [phrase.text for phrase in caption.phrases]
        assert tagged.replace("<p>", "").replace("</p> [SEG]", "") == caption.text
        assert tagged.count("[SEG]") == len(caption.phrases) == caption.tagged("<mask>").count("<mask>")


def test_phrases_share_no_pixel() -> None:
    for scene, caption in CASES:
        masks = [scene.mask_of(phrase.segment_ids) for phrase in caption.phrases]
        assert all(mask.any() for mask in masks)
        assert np.sum(masks, axis=0).max() == 1


def _is_true(scene: Scene, phrase: GroundedPhrase) -> str:
    """Checks the phrase's words against the things; returns what kind of phrase it was."""
    words = phrase.text.lower()
    if phrase.stuff_ids:
        (region,) = (region for region in scene.stuff if region.id in phrase.stuff_ids)
        assert not phrase.object_ids and words in STUFF[region.name].phrases
        return "stuff"
    things = [scene.object(number) for number in phrase.object_ids]
    if len(things) == 1:
        assert things[0].id in evaluate(words, scene)
        return "one"
    singular = next(shape for shape in SHAPES if words.endswith(plural(shape)))
    looks = words.removesuffix(plural(singular))
    if words.startswith("a row of "):
        assert phrase.object_ids == scene.rows[0].object_ids
        looks = looks.removeprefix("a row of ")
        kind = "row"
    else:
        kind = "several"
    assert looks.startswith(COUNTS[len(things)])
    meant = evaluate(looks.removeprefix(COUNTS[len(things)]) + singular, scene)
    assert meant >= set(phrase.object_ids)
    row = {number for group in scene.rows for number in group.object_ids}
    if kind == "several":
        alike = {t.id for t in scene.objects if (t.shape, t.color) == (things[0].shape, things[0].color)}
        assert set(phrase.object_ids) == alike - row
    return kind


def test_phrases_are_true_of_what_they_stand_for() -> None:
    kinds = Counter(_is_true(scene, phrase) for scene, caption in CASES for phrase in caption.phrases)
    assert set(kinds) == {"stuff", "one", "several", "row"} and min(kinds.values()) > 30


def test_relations_between_phrases_are_true() -> None:
    pattern = re.compile(r" (?:is|are) (to the left of|to the right of|above|below|in|on) $")
    checked = Counter[str]()
    for scene, caption in CASES:
        for first, second in zip(caption.phrases, caption.phrases[1:], strict=False):
            found = pattern.match(caption.text[first.end : second.start])
            if not found:
                continue
            word = found[1]
            checked[word] += 1
            one, two = scene.mask_of(first.segment_ids), scene.mask_of(second.segment_ids)
            if word in ("in", "on"):
                ground = scene.ground_map[one]
                assert (ground == second.stuff_ids[0]).mean() > 0.7
                continue
            offset = np.argwhere(two).mean(axis=0) - np.argwhere(one).mean(axis=0)
            held = {
                "to the left of": offset[1] > 0,
                "to the right of": offset[1] < 0,
                "above": offset[0] > 0,
                "below": offset[0] < 0,
            }
            assert held[word]
    assert len(checked) == 6 and min(checked.values()) >= 5


def test_another_seed_gives_another_caption() -> None:
    scene = make_scene(4)
    assert describe(scene, 0) == describe(scene, 0)
    assert len({describe(scene, seed).text for seed in range(8)}) > 4
