"""Referring expressions: each means one thing, says it in the right style, and is needed."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import get_args

import numpy as np
import pytest

from omgbench.data.scenes import (
    Expression,
    ExpressionKind,
    Query,
    Scene,
    evaluate,
    make_clip,
    make_scene,
    read_expression,
    referring_expressions,
    refers_only_to,
)
from omgbench.data.scenes.build import Blueprint, build_scene
from omgbench.data.scenes.checker import RELATIONS
from omgbench.data.scenes.ground import Band, draw_ground_map
from omgbench.data.scenes.query import InRegion, Noun, Related, RelationName, SideRank, SizeRank
from omgbench.data.scenes.vocabulary import LOCATION_WORDS, SHAPES
from omgbench.data.scenes.wording import ExpressionStyle
from omgbench.data.scenes.world import ThingSpec

STYLES: tuple[ExpressionStyle, ...] = ("short", "no_location", "long")
SCENES = [make_scene(seed) for seed in range(120)]


@cache
def _said(style: ExpressionStyle) -> list[tuple[Scene, int, Expression]]:
    return [
        (scene, thing.id, expression)
        for scene in SCENES
        for thing in scene.objects
        for expression in referring_expressions(scene, thing.id, style)
    ]


@pytest.mark.parametrize("style", STYLES)
def test_every_sentence_means_its_target_only(style: ExpressionStyle) -> None:
    """From the words alone, strictly and leniently read."""
    for scene, target, expression in _said(style):
        assert evaluate(expression.text, scene) == {target}, expression
        assert evaluate(expression.text, scene, lenient=True) == {target}, expression


@pytest.mark.parametrize("style", STYLES)
def test_words_say_what_was_meant(style: ExpressionStyle) -> None:
    for _, _, expression in _said(style):
        read = read_expression(expression.text)
        assert read.noun == expression.query.noun
        assert Counter(read.modifiers) == Counter(expression.query.modifiers), expression
        assert read_expression(expression.text.capitalize() + ".") == read


def test_lenient_reading_holds_all_of_the_strict_one() -> None:
    """For sentences of other scenes, which mean nothing, one or several things in this one."""
    sizes = Counter[int]()
    for index, (_, _, expression) in enumerate(_said("short")):
        scene = SCENES[index % len(SCENES)]
        strict = evaluate(expression.text, scene)
        if any(isinstance(modifier, SizeRank | SideRank) for modifier in expression.query.modifiers):
            # A selector may pick another thing where the lenient filters leave more to pick from.
            continue
        assert strict <= evaluate(expression.text, scene, lenient=True)
        sizes[min(len(strict), 2)] += 1
    assert min(sizes[0], sizes[1], sizes[2]) > 10


def test_no_word_of_place_in_no_location_style() -> None:
    assert not any(set(e.text.split()) & LOCATION_WORDS for _, _, e in _said("no_location"))
    assert sum(bool(set(e.text.split()) & LOCATION_WORDS) for _, _, e in _said("short")) > 0.3 * len(_said("short"))


def test_lengths_go_with_the_style() -> None:
    words = {style: np.array([len(e.text.split()) for _, _, e in _said(style)]) for style in STYLES}
    assert 3 <= words["short"].mean() <= 4.5 and 2.5 <= words["no_location"].mean() <= 4.5
    assert 8 <= words["long"].mean() <= 13 and words["long"].min() >= 5
    for style in STYLES:
        assert all(e.text == " ".join(e.text.lower().split()) for _, _, e in _said(style))
    assert all(e.text.startswith("the ") for _, _, e in _said("long"))


@pytest.mark.parametrize("style", STYLES)
def test_all_kinds_occur_and_looks_alone_do_not_do(style: ExpressionStyle) -> None:
    kinds = Counter(e.kind for _, _, e in _said(style))
    impossible = {ExpressionKind.ORDINAL, ExpressionKind.POSITION} if style == "no_location" else set()
    assert set(kinds) == set(ExpressionKind) - impossible
    assert max(kinds.values()) < 0.4 * sum(kinds.values())
    need_more = 0
    for scene, target, _ in _said(style):
        thing = scene.object(target)
        need_more += not refers_only_to(Query(Noun(thing.shape, thing.color)), scene, target)
    assert need_more >= 0.4 * len(_said(style))


def test_relations_all_occur() -> None:
    said = Counter(
        m.relation for style in STYLES for _, _, e in _said(style) for m in e.query.modifiers if isinstance(m, Related)
    )
    assert set(said) == set(get_args(RelationName)) == set(RELATIONS)


@pytest.mark.parametrize("style", STYLES)
def test_kinds_stand_in_order_and_come_once(style: ExpressionStyle) -> None:
    order = list(ExpressionKind)
    several = 0
    for scene in SCENES[:40]:
        for thing in scene.objects:
            found = referring_expressions(scene, thing.id, style)
            places = [order.index(expression.kind) for expression in found]
            assert places == sorted(set(places)) and len(found) <= 4
            several += len(found) > 1
            assert len(referring_expressions(scene, thing.id, style, limit=1)) <= 1
            assert referring_expressions(scene, thing.id, style) == found
    assert several > 80


def test_another_seed_gives_other_sentences() -> None:
    texts = [
        [e.text for scene in SCENES[:20] for t in scene.objects for e in referring_expressions(scene, t.id, seed=seed)]
        for seed in (0, 1)
    ]
    assert texts[0] != texts[1]


def test_frames_of_clips_have_sentences_too() -> None:
    for scene in make_clip(3, 5):
        for thing in scene.objects:
            for expression in referring_expressions(scene, thing.id):
                assert refers_only_to(expression.text, scene, thing.id)


def test_sentences_hold_in_the_pixels() -> None:
    """Places and sizes as seen in the masks, by other arithmetic than the checker's."""
    checked = Counter[str]()
    for scene, target, expression in _said("short"):
        centres = {t.id: np.argwhere(t.mask).mean(axis=0)[::-1] for t in scene.objects}
        noun = expression.query.noun
        said = {name: word for name in ("shape", "color", "size", "pattern") if (word := getattr(noun, name))}
        alike = [t.id for t in scene.objects if all(getattr(t, name) == word for name, word in said.items())]
        x, y = centres[target]
        for modifier in expression.query.modifiers:
            match modifier:
                case SideRank(rank=1) if len(expression.query.modifiers) == 1:
                    sign = 1 if modifier.side == "left" else -1
                    assert all(sign * x <= sign * centres[other][0] for other in alike)
                    checked["side"] += 1
                case InRegion():
                    held = {
                        "left": x < 0.45 * scene.width,
                        "right": x > 0.55 * scene.width,
                        "top": y < 0.45 * scene.height,
                        "bottom": y > 0.55 * scene.height,
                        "middle": abs(x / scene.width - 0.5) < 0.2 and abs(y / scene.height - 0.5) < 0.2,
                    }
                    assert all(held[word] for word in modifier.region.split())
                    checked["region"] += 1
                case Related(relation="left of"):
                    (anchor,) = evaluate(Query(modifier.anchor), scene)
                    assert x < centres[anchor][0]
                    checked["left of"] += 1
                case Related(relation="above"):
                    (anchor,) = evaluate(Query(modifier.anchor), scene)
                    assert y < centres[anchor][1]
                    checked["above"] += 1
    assert min(checked[name] for name in ("side", "region", "left of", "above")) >= 5


@pytest.mark.parametrize(
    "text",
    ["", "the", "red", "wobbly circle", "circle left of", "second circle", "circle between star", "circle on moon"],
)
def test_words_outside_the_language_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        read_expression(text)


def test_unknown_targets_are_refused() -> None:
    for number in (0, len(SCENES[0].objects) + 1):
        with pytest.raises(ValueError, match="no thing"):
            referring_expressions(SCENES[0], number)


def _thing(shape: str, color: str, x: int, y: int, radius: int = 12) -> ThingSpec:
    return ThingSpec(shape, color, "small" if radius < 16 else "large", "plain", x * 16, y * 16, radius * 16, 0, 0, 0)


@pytest.fixture(scope="module")
def known_scene() -> Scene:
    """200 x 160, sky above y = 60, grass below; see the specs."""
    ground = (Band("sky", 0, 0, 12, 0), Band("grass", 60, 0, 12, 0))
    things = (
        _thing("circle", "red", 20, 98),  # 1: row, left
        _thing("circle", "red", 55, 98),  # 2: row, middle
        _thing("circle", "blue", 90, 98),  # 3: row, right
        _thing("ring", "green", 160, 110, 30),  # 4
        _thing("star", "red", 160, 110),  # 5: in the ring
        _thing("square", "blue", 100, 30, 20),  # 6: behind 7, in the sky
        _thing("square", "red", 112, 30),  # 7: in front of 6
        _thing("star", "blue", 21, 128, 11),  # 8: below 1
        _thing("diamond", "black", 130, 70, 8),  # 9: half way from 6 to 4
    )
    blueprint = Blueprint(200, 160, ground, things, (0, 1, 2))
    return build_scene(0, 0, blueprint, draw_ground_map(ground, 200, 160))


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("thing", {1, 2, 3, 4, 5, 6, 7, 8, 9}),
        ("circle", {1, 2, 3}),
        ("small red thing", {1, 2, 5, 7}),
        ("purple thing", set()),
        ("largest square", {6}),
        ("the smallest square in the image", {7}),
        ("largest star", {5}),
        ("smallest star", {8}),
        ("leftmost circle", {1}),
        ("leftmost thing", {1}),
        ("circle closest to red square", {3}),
        ("second circle from the right", {2}),
        ("third circle from left", {3}),
        ("fourth circle from left", set()),
        ("the star that is inside the ring", {5}),
        ("square in front of blue square", {7}),
        ("square behind red square", {6}),
        ("circle in row of three", {1, 2, 3}),
        ("circle in row of four", set()),
        ("blue circle in the row of three", {3}),
        ("square in sky", {6, 7}),
        ("star on the grass", {5, 8}),
        ("star below blue circle", set()),
        ("star left of ring", {8}),
        ("red star left of ring", set()),
        ("circle left of ring", {1, 2, 3}),
        ("thing above ring", {6, 7, 9}),
        ("red circle closest to blue circle", {2}),
        ("circle next to blue star", {1}),
        ("thing left of circle", set()),
        ("thing between blue square and ring", {9}),
        ("circle between blue star and blue circle", set()),
        ("thing between square and ring", set()),
        ("circle left", {1, 2}),
        ("bottom right star", {5}),
        ("thing in the middle of the image", set()),
    ],
)
def test_known_answers(known_scene: Scene, text: str, strict: set[int]) -> None:
    assert evaluate(text, known_scene) == strict


@pytest.mark.parametrize(
    ("text", "lenient"),
    [
        ("star left of ring", {8}),
        ("largest star", {5, 8}),
        ("smallest star", {5, 8}),
        ("largest square", {6}),
        ("leftmost thing", {1, 8}),
        ("leftmost circle", {1}),
        ("circle closest to red square", {2, 3}),
        ("thing left of circle", {1, 2, 8}),
        ("circle between blue star and blue circle", {1, 2}),
        ("circle next to blue star", {1, 2}),
        ("thing in the middle of the image", {3, 9}),
    ],
)
def test_known_doubts(known_scene: Scene, text: str, lenient: set[int]) -> None:
    assert evaluate(text, known_scene, lenient=True) == lenient


def test_each_shape_can_be_named(known_scene: Scene) -> None:
    for shape in SHAPES:
        assert evaluate(f"the {shape}", known_scene) == {t.id for t in known_scene.objects if t.shape == shape}
