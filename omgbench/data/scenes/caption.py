"""Grounded captions: a few sentences whose phrases stand for things, groups and grounds of the scene."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from omgbench.data.scenes.checker import RELATIONS
from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.vocabulary import COUNTS, STUFF, plural, with_article
from omgbench.data.scenes.world import Scene, SceneObject

CAPTION_KEY = 5
MAX_CLUSTERS = 4
MAX_GROUNDS = 2
BACKDROPS = ("sky", "wall")
MIN_BACKGROUND_PERMILLE = 50
ON_GROUND_PERMILLE = 850


@dataclass(frozen=True, slots=True)
class GroundedPhrase:
    """A phrase of a caption and what it stands for.

    Attributes:
        start, end: `caption.text[start:end]` is the phrase.
        text: the phrase.
        object_ids: the things it stands for; several for a group.
        stuff_ids: the ground it stands for. Exactly one of the two is not empty.
    """

    start: int
    end: int
    text: str
    object_ids: tuple[int, ...]
    stuff_ids: tuple[int, ...] = ()

    @property
    def segment_ids(self) -> tuple[int, ...]:
        """Ids for `Scene.mask_of`."""
        return self.object_ids + self.stuff_ids


@dataclass(frozen=True, slots=True)
class GroundedCaption:
    """A caption.

    Attributes:
        text: plain sentences.
        phrases: 2 to 6 phrases in the order of the text, none overlapping another; no pixel belongs to two of them.
    """

    text: str
    phrases: tuple[GroundedPhrase, ...]

    def tagged(self, mask_token: str = "[SEG]") -> str:
        """The text in the form in which models are asked to answer: `<p>a red circle</p> [SEG] is on ...`."""
        parts, at = [], 0
        for phrase in self.phrases:
            parts += [self.text[at : phrase.start], f"<p>{phrase.text}</p> {mask_token}"]
            at = phrase.end
        return "".join(parts) + self.text[at:]


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Things that one phrase names: all of one shape and colour, or a row."""

    words: str
    things: tuple[SceneObject, ...]

    @property
    def verb(self) -> str:
        return "is" if len(self.things) == 1 or self.words.startswith("a row") else "are"


class _Writer:
    """Puts a caption together and notes where its phrases are."""

    def __init__(self) -> None:
        self.text = ""
        self.phrases: list[GroundedPhrase] = []

    def say(self, *parts: str | _Cluster | tuple[str, int]) -> None:
        """Add a sentence: plain words, clusters of things, and (phrase, stuff id)."""
        if self.text:
            self.text += " "
        sentence_start = len(self.text)
        for part in parts:
            if isinstance(part, str):
                self.text += part
                continue
            words, stuff = (part.words, ()) if isinstance(part, _Cluster) else (part[0], (part[1],))
            start = len(self.text)
            if start == sentence_start:
                words = words[0].upper() + words[1:]
            self.text += words
            ids = tuple(thing.id for thing in part.things) if isinstance(part, _Cluster) else ()
            self.phrases.append(GroundedPhrase(start, len(self.text), words, ids, stuff))
        self.text += "."


def describe(scene: Scene, seed: int = 0) -> GroundedCaption:
    """A caption of 2 to 6 grounded phrases: single things, groups of like things, rows, grounds.

    Everything said is true of the scene. A phrase for several things names a whole row, or all things of that shape and
    colour outside the row; not every thing need be named. Another seed gives another caption.
    """
    draws = Draws(CAPTION_KEY, scene.seed, scene.frame, seed)
    clusters = draws.shuffled(_clusters(scene, draws))[:MAX_CLUSTERS]
    writer = _Writer()
    grounds_said: set[int] = set()
    while clusters:
        first = clusters.pop(0)
        ground = _common_ground(first)
        if ground is not None and ground not in grounds_said and len(grounds_said) < MAX_GROUNDS and draws.chance(75):
            grounds_said.add(ground)
            _say_on_ground(writer, scene, draws, first, ground, clusters)
        elif not (clusters and _say_related(writer, scene, first, clusters)):
            writer.say(draws.pick(("There ", "In the picture there ")) + f"{first.verb} ", first)
    _say_background(writer, scene, draws, grounds_said)
    return GroundedCaption(writer.text, tuple(writer.phrases))


def _clusters(scene: Scene, draws: Draws) -> list[_Cluster]:
    visible = [thing for thing in scene.objects if thing.area_px]
    groups: dict[tuple[str, str], list[SceneObject]] = defaultdict(list)
    row_ids = {i for row in scene.rows for i in row.object_ids}
    clusters = []
    for row in scene.rows:
        members = tuple(thing for thing in visible if thing.id in row.object_ids)
        if len(members) == len(row.object_ids):
            clusters.append(_Cluster(_row_words(members), members))
    for thing in visible:
        if thing.id not in row_ids:
            groups[thing.shape, thing.color].append(thing)
    clusters.extend(_Cluster(_group_words(tuple(group), draws), tuple(group)) for group in groups.values())
    return clusters


def _row_words(members: tuple[SceneObject, ...]) -> str:
    color = members[0].color + " " if len({thing.color for thing in members}) == 1 else ""
    return f"a row of {COUNTS[len(members)]} {color}{plural(members[0].shape)}"


def _group_words(group: tuple[SceneObject, ...], draws: Draws) -> str:
    first = group[0]
    looks: list[str] = []
    if len({thing.size for thing in group}) == 1 and draws.chance(60):
        looks.append(first.size)
    if len({thing.pattern for thing in group}) == 1 and first.pattern != "plain":
        looks.append(first.pattern)
    looks.append(first.color)
    if len(group) == 1:
        return with_article(" ".join((*looks, first.shape)))
    return " ".join((COUNTS[len(group)], *looks, plural(first.shape)))


def _common_ground(cluster: _Cluster) -> int | None:
    """Id of the ground on which all things of the cluster lie, or None."""
    shared = None
    for thing in cluster.things:
        ground = next((k for k, share in thing.stuff_permille if share >= ON_GROUND_PERMILLE), None)
        if ground is None or shared not in (None, ground):
            return None
        shared = ground
    return shared


def _stuff_phrase(scene: Scene, stuff_id: int, draws: Draws) -> tuple[str, int]:
    name = next(region.name for region in scene.stuff if region.id == stuff_id)
    return draws.pick(STUFF[name].phrases), stuff_id


def _say_on_ground(
    writer: _Writer, scene: Scene, draws: Draws, first: _Cluster, ground: int, rest: list[_Cluster]
) -> None:
    """ "A and B are on the grass." Takes B out of `rest`."""
    name = next(region.name for region in scene.stuff if region.id == ground)
    place = f" {STUFF[name].preposition} "
    second = next((cluster for cluster in rest if _common_ground(cluster) == ground), None)
    if second is not None and draws.chance(50):
        rest.remove(second)
        writer.say(first, " and ", second, f" are{place}", _stuff_phrase(scene, ground, draws))
    else:
        writer.say(first, f" {first.verb}{place}", _stuff_phrase(scene, ground, draws))


def _say_related(writer: _Writer, scene: Scene, first: _Cluster, rest: list[_Cluster]) -> bool:
    """ "A is behind B", for single things. Takes B out of `rest`; False if no relation holds."""
    for second in rest:
        if len(first.things) == len(second.things) == 1:
            for relation in ("inside", "in front of", "behind", "left of", "right of", "above", "below"):
                if RELATIONS[relation](first.things[0], second.things[0], scene, False):
                    rest.remove(second)
                    words = f"to the {relation}" if relation in ("left of", "right of") else relation
                    writer.say(first, f" is {words} ", second)
                    return True
    return False


def _say_background(writer: _Writer, scene: Scene, draws: Draws, said: set[int]) -> None:
    """Name one ground not named yet; always where otherwise only one phrase would stand."""
    pixels = scene.width * scene.height
    left = [region for region in scene.stuff if region.id not in said]
    left = [region for region in left if region.area_px * 1000 >= pixels * MIN_BACKGROUND_PERMILLE]
    if not left or (len(writer.phrases) >= 2 and (len(said) >= MAX_GROUNDS or not draws.chance(70))):
        return
    region = draws.pick(left)
    phrase = _stuff_phrase(scene, region.id, draws)
    if region.name in BACKDROPS:
        writer.say(draws.pick(("The background shows ", "Behind everything lies ")), phrase)
    elif draws.chance(50):
        writer.say(phrase, " fills part of the picture")
    else:
        writer.say("One can also see ", phrase)
