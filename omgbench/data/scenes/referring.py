"""Referring expressions: sentences that mean one thing of a scene and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from omgbench.data.scenes.checker import RELATIONS, refers_only_to
from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.query import (
    Between,
    Closest,
    Expression,
    ExpressionKind,
    InRegion,
    InRow,
    Modifier,
    Noun,
    OnStuff,
    Query,
    Related,
    RelationName,
    SideRank,
    SizeRank,
)
from omgbench.data.scenes.vocabulary import REGIONS
from omgbench.data.scenes.wording import ExpressionStyle, say
from omgbench.data.scenes.world import Scene, SceneObject

REFERRING_KEY = 4
STYLES: tuple[ExpressionStyle, ...] = ("short", "no_location", "long")
LONG_WORDS = 9
"""Long sentences with fewer words than this get a further true clause where there is one."""

PLACELESS_RELATIONS: tuple[RelationName, ...] = ("next to", "inside", "in front of", "behind")
PLACED_RELATIONS: tuple[RelationName, ...] = ("left of", "right of", "above", "below")


def referring_expressions(
    scene: Scene, target_id: int, style: ExpressionStyle = "short", seed: int = 0, limit: int = 4
) -> tuple[Expression, ...]:
    """Sentences for one thing, at most one of each kind, from simple to involved.

    Every sentence passes `refers_only_to`. A modifier is said only where the noun alone would not do, unless fewer
    than two sentences can be found that way (people, too, say more than they need).

    Args:
        scene: a scene or a frame of a clip.
        target_id: id of the thing.
        style: "short" (refCOCO: terse, places allowed), "no_location" (refCOCO+: no word of `LOCATION_WORDS`), "long"
            (refCOCOg: a whole noun phrase with articles).
        seed: another seed, other sentences.
        limit: most sentences, at least 1.

    Returns:
        The sentences; none at all if the thing is hidden or nothing tells it apart.

    Raises:
        ValueError: the scene has no such thing.
    """
    thing = scene.object(target_id)
    if not thing.area_px:
        return ()
    draws = Draws(REFERRING_KEY, scene.seed, scene.frame, target_id, STYLES.index(style), seed)
    kinds = _kinds_in_drawn_order(draws)
    maker = _QueryMaker(scene, thing, style, draws)
    found: dict[ExpressionKind, Query] = {}
    for needed in (True, False):
        for kind in kinds:
            if kind not in found and len(found) < (limit if needed else min(limit, 2)):
                query = maker.first_unique(kind, needed)
                if query is not None:
                    found[kind] = query
    queries = [(kind, maker.lengthened(found[kind])) for kind in ExpressionKind if kind in found]
    return tuple(Expression(say(query, style, draws), kind, query) for kind, query in queries)


def _kinds_in_drawn_order(draws: Draws) -> list[ExpressionKind]:
    kinds = draws.shuffled([kind for kind in ExpressionKind if kind != ExpressionKind.ATTRIBUTE])
    if draws.chance(60):
        # An ordinal can nearly always be found; without this there would be little else.
        kinds.remove(ExpressionKind.ORDINAL)
        kinds.append(ExpressionKind.ORDINAL)
    return [ExpressionKind.ATTRIBUTE, *kinds]


class _QueryMaker:
    """True descriptions of one thing, in drawn order."""

    def __init__(self, scene: Scene, thing: SceneObject, style: ExpressionStyle, draws: Draws) -> None:
        self.scene = scene
        self.thing = thing
        self.style = style
        self.draws = draws
        self.others = [other for other in scene.objects if other.id != thing.id and other.area_px]
        self._anchors: dict[int, Noun | None] = {}
        self._modifiers: dict[ExpressionKind, Callable[[], list[tuple[Modifier, ...]]]] = {
            ExpressionKind.SUPERLATIVE: lambda: [(SizeRank("largest"),), (SizeRank("smallest"),)],
            ExpressionKind.ORDINAL: self._ordinals,
            ExpressionKind.POSITION: self._positions,
            ExpressionKind.RELATION: self._relations,
            ExpressionKind.GROUP: self._groups,
            ExpressionKind.STUFF: self._grounds,
        }

    def first_unique(self, kind: ExpressionKind, needed: bool) -> Query | None:
        """A query of this kind that means the thing only; with `needed`, one whose noun alone would not do."""
        if kind == ExpressionKind.ATTRIBUTE:
            return next((q for q in map(Query, self._nouns()) if self._is_unique(q)), None)
        if self.style == "no_location" and kind in (ExpressionKind.ORDINAL, ExpressionKind.POSITION):
            return None
        nouns = self._heads()
        if needed:
            nouns = [noun for noun in nouns if not self._is_unique(Query(noun))]
        choices = self.draws.shuffled(self._modifiers[kind]()) if nouns else []
        pairs = ((noun, modifiers) for modifiers in sorted(choices, key=_far_ordinal) for noun in nouns)
        return next((q for q in (Query(n, m) for n, m in pairs) if self._is_unique(q)), None)

    def lengthened(self, query: Query) -> Query:
        """For the long style: the same with one more true clause if it is still short."""
        if self.style != "long" or self._word_count(query) >= LONG_WORDS:
            return query
        said = {type(modifier) for modifier in query.modifiers}
        if said & {SizeRank, SideRank}:
            said.add(Closest)
        extras = self.draws.shuffled([*self._grounds(), *self._positions(), *self._relations()])
        for extra in extras:
            longer = Query(query.noun, query.modifiers + extra)
            if not said & {type(modifier) for modifier in extra} and self._is_unique(longer):
                return longer
        return query

    def _word_count(self, query: Query) -> int:
        return len(say(query, "long", Draws(0)).split())

    def _is_unique(self, query: Query) -> bool:
        return refers_only_to(query, self.scene, self.thing.id)

    def _nouns(self) -> Iterator[Noun]:
        """Descriptions by looks: in the long style the fullest first, else those of fewest words first."""
        t = self.thing
        pattern = None if t.pattern == "plain" else t.pattern
        nouns = {
            Noun(shape, color, size, patterned)
            for shape in (t.shape, None)
            for color in (t.color, None)
            for size in (t.size, None)
            for patterned in (pattern, None)
        } - {Noun()}
        order = self.draws.shuffled(sorted(nouns, key=repr))
        if self.style == "long":
            return iter(sorted(order, key=_words, reverse=True))
        return iter(sorted(order, key=lambda noun: (_words(noun) + self.draws.below(2), noun.shape is None)))

    def _heads(self) -> list[Noun]:
        """Nouns that modifiers go with: the shape, mostly, with or without colour or size."""
        t = self.thing
        heads = [Noun(t.shape), Noun(t.shape, t.color)]
        if self.style == "long":
            heads.append(Noun(t.shape, t.color, t.size))
        if t.pattern != "plain":
            heads.append(Noun(t.shape, None, None, t.pattern))
        if self.draws.chance(25):
            heads.append(Noun(None, t.color))
        return self.draws.shuffled(heads)

    def _anchor(self, other: SceneObject) -> Noun | None:
        """The shortest description by looks that means only `other`, or None."""
        if other.id not in self._anchors:
            looks = [
                Noun(other.shape),
                Noun(other.shape, other.color),
                Noun(other.shape, None, other.size),
                Noun(other.shape, other.color, other.size),
                Noun(other.shape, other.color, None, other.pattern),
            ]
            usable = (noun for noun in looks if noun.pattern != "plain")
            self._anchors[other.id] = next(
                (noun for noun in usable if refers_only_to(Query(noun), self.scene, other.id)), None
            )
        return self._anchors[other.id]

    def _ordinals(self) -> list[tuple[Modifier, ...]]:
        return [(SideRank(rank, side),) for rank in (1, 2, 3, 4) for side in ("left", "right")]

    def _positions(self) -> list[tuple[Modifier, ...]]:
        return [(InRegion(region),) for region in REGIONS]

    def _relations(self) -> list[tuple[Modifier, ...]]:
        names = PLACELESS_RELATIONS if self.style == "no_location" else PLACELESS_RELATIONS + PLACED_RELATIONS
        found: list[tuple[Modifier, ...]] = []
        anchors = [(other, noun) for other in self.others if (noun := self._anchor(other)) is not None]
        for index, (other, noun) in enumerate(anchors):
            holding = [name for name in names if RELATIONS[name](self.thing, other, self.scene, False)]
            found.extend((Related(name, noun),) for name in holding)
            found.append((Closest(noun),))
            found.extend((Between(noun, second),) for _, second in anchors[index + 1 :])
        return found

    def _groups(self) -> list[tuple[Modifier, ...]]:
        found: list[tuple[Modifier, ...]] = []
        for row in self.scene.rows:
            if self.thing.id in row.object_ids:
                member = InRow(len(row.object_ids))
                found.append((member,))
                if self.style != "no_location":
                    found.extend((*ordinal, member) for ordinal in self._ordinals())
        return found

    def _grounds(self) -> list[tuple[Modifier, ...]]:
        return [(OnStuff(region.name),) for region in self.scene.stuff]


def _far_ordinal(modifiers: tuple[Modifier, ...]) -> bool:
    return any(isinstance(modifier, SideRank) and modifier.rank > 2 for modifier in modifiers)


def _words(noun: Noun) -> int:
    return sum(look is not None for look in (noun.color, noun.size, noun.pattern)) + 1
