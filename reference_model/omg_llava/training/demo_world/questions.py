"""Questions about a scene with short answers: yes or no, several choices, counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.vocabulary import COLORS, COUNTS, SHAPES, STUFF, plural, with_article
from omgbench.data.scenes.world import Scene

QUESTION_KEY = 7
CHOICES = 4
_LETTERS = "ABCD"
DIRECTLY = "Answer with the option's letter from the given choices directly."
SINGLE_WORD = "Answer the question using a single word or phrase."


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """A question and its answer."""

    question: str
    answer: str


def questions(scene: Scene) -> list[ShortAnswer]:
    """A few questions of every kind, the same for a seed; as many with the answer yes as with no."""
    draws = Draws(QUESTION_KEY, scene.seed, scene.frame)
    found = [_presence(scene, draws, is_there=True), _presence(scene, draws, is_there=False)]
    found += [_ground_presence(scene, draws, is_there=draws.chance(50)), _count(scene, draws)]
    unique = [name for name, n in Counter(thing.shape for thing in scene.objects).items() if n == 1]
    if unique:
        found.append(_color_of(scene, draws, draws.pick(unique)))
    found.append(_shape_among(scene, draws))
    return draws.shuffled(found)


def _presence(scene: Scene, draws: Draws, *, is_there: bool) -> ShortAnswer:
    present = sorted({(thing.color, thing.shape) for thing in scene.objects})
    if is_there:
        color, shape = draws.pick(present)
    else:
        # Half of the absent ones share a word with what is there, or looking for either word would do.
        absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
        seen_shapes = {shape for _, shape in present}
        seen_colors = {color for color, _ in present}
        close = [pair for pair in absent if pair[0] in seen_colors and pair[1] in seen_shapes]
        color, shape = draws.pick(close if close and draws.chance(50) else absent)
    answer = "Yes" if is_there else "No"
    return ShortAnswer(f"Is there {with_article(f'{color} {shape}')} in the image? {SINGLE_WORD}", answer)


def _ground_presence(scene: Scene, draws: Draws, *, is_there: bool) -> ShortAnswer:
    present = [region.name for region in scene.stuff]
    name = draws.pick(present if is_there else [name for name in STUFF if name not in present])
    return ShortAnswer(f"Is there {name} in the image? {SINGLE_WORD}", "Yes" if is_there else "No")


def _count(scene: Scene, draws: Draws) -> ShortAnswer:
    counts = Counter(thing.shape for thing in scene.objects)
    shape = draws.pick(sorted(counts))
    return ShortAnswer(f"How many {plural(shape)} are in the image? {SINGLE_WORD}", COUNTS[counts[shape]].capitalize())


def _color_of(scene: Scene, draws: Draws, shape: str) -> ShortAnswer:
    color = next(thing.color for thing in scene.objects if thing.shape == shape)
    return _choice(f"What color is the {shape}?", color, [name for name in COLORS if name != color], draws)


def _shape_among(scene: Scene, draws: Draws) -> ShortAnswer:
    present = sorted({thing.shape for thing in scene.objects})
    shape = draws.pick(present)
    return _choice("Which shape is in the image?", shape, [name for name in SHAPES if name not in present], draws)


def _choice(question: str, right: str, wrong: list[str], draws: Draws) -> ShortAnswer:
    options = draws.shuffled([right, *draws.shuffled(wrong)[: CHOICES - 1]])
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False)]
    return ShortAnswer("\n".join((question, *lines, DIRECTLY)), _LETTERS[options.index(right)])
