"""Which things stand where: rows, things in rings, overlapping pairs, look-alikes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from omgbench.data.scenes.draws import Draws
from omgbench.data.scenes.shapes import SUBPIXEL, UNIT, cosine, sine
from omgbench.data.scenes.vocabulary import COLORS, SHAPES, SIZES, Pattern, Size
from omgbench.data.scenes.world import SceneStyle, ThingSpec

TRIES = 30
MARGIN_16 = 3 * SUBPIXEL
"""Things keep this far from the border and from each other, unless they are meant to overlap."""

SIZE_NAMES: tuple[Size, ...] = ("small", "medium", "large")
SPUN_FREELY = ("star", "crescent", "arrow", "oval", "heart")
COLOR_NAMES = tuple(COLORS)


@dataclass
class Plan:
    """Things planned so far, those behind first; `row` holds the places in `things` of the members of a row."""

    draws: Draws
    width: int
    height: int
    style: SceneStyle
    things: list[ThingSpec] = field(default_factory=list)
    row: tuple[int, ...] = ()
    motifs: int = 0

    @property
    def short_side_16(self) -> int:
        """Shorter side of the picture in 1/16 pixel."""
        return min(self.width, self.height) * SUBPIXEL

    def radius_16(self, size: Size) -> int:
        """A radius that goes with the size word."""
        return self.short_side_16 * self.draws.between(*SIZES[size]) // 1000

    def is_free(self, x_16: int, y_16: int, radius_16: int, ignore: tuple[int, ...] = ()) -> bool:
        """Whether a circle lies inside the picture and clear of all things but those at the places `ignore`."""
        reach = radius_16 + MARGIN_16
        if not (reach <= x_16 <= self.width * SUBPIXEL - reach and reach <= y_16 <= self.height * SUBPIXEL - reach):
            return False
        return all(
            (x_16 - other.x_16) ** 2 + (y_16 - other.y_16) ** 2 >= (reach + other.radius_16) ** 2
            for place, other in enumerate(self.things)
            if place not in ignore
        )

    def find_place(self, radius_16: int) -> tuple[int, int] | None:
        """A free place for a circle, or None after some tries."""
        reach = radius_16 + MARGIN_16
        for _ in range(TRIES):
            x = self.draws.between(reach, self.width * SUBPIXEL - reach)
            y = self.draws.between(reach, self.height * SUBPIXEL - reach)
            if self.is_free(x, y, radius_16):
                return x, y
        return None

    def add(self, spec: ThingSpec, place: int | None = None) -> None:
        """Put a thing in front of all others, or at a place in the order; never before a member of the row."""
        self.things.insert(len(self.things) if place is None else place, spec)


def plan_things(draws: Draws, width: int, height: int, style: SceneStyle) -> Plan:
    """Draw the things of a scene. The plan may hold fewer than `style.things[0]` where space ran out."""
    plan = Plan(draws, width, height, style)
    wanted = draws.between(*style.things)
    if wanted >= 4 and draws.chance(35):
        _add_row(plan, min(wanted - 1, draws.pick((3, 3, 4))))
    if wanted - len(plan.things) >= 2 and draws.chance(30):
        _add_ring_with_content(plan)
    if wanted - len(plan.things) >= 2 and draws.chance(50):
        _add_overlapping_pair(plan)
    while len(plan.things) < wanted and _add_single(plan):
        pass
    return plan


def _new_thing(plan: Plan) -> ThingSpec:
    """A thing, not yet placed: often a look-alike of one that is there, so that one word does not tell them apart."""
    draws = plan.draws
    shape, color = draws.pick(SHAPES), draws.pick(COLOR_NAMES)
    size: Size = draws.pick(("small", "medium", "medium", "large"))
    is_patterned = size != "small" and draws.chance(plan.style.patterned_percent)
    pattern: Pattern = draws.pick(("striped", "dotted")) if is_patterned else "plain"
    if plan.things:
        like = draws.pick(plan.things)
        luck = draws.below(100)
        if luck < 38:
            shape, color = like.shape, like.color
        elif luck < 60:
            shape = like.shape
        elif luck < 72:
            color = like.color
    return _spec(plan, shape, color, size, pattern)


def _spec(plan: Plan, shape: str, color: str, size: Size, pattern: Pattern) -> ThingSpec:
    draws = plan.draws
    degrees = draws.between(0, 359) if shape in SPUN_FREELY else draws.between(-10, 10)
    if shape == "heart":
        degrees = draws.between(-25, 25)
    return ThingSpec(
        shape=shape,
        color=color,
        size=size,
        pattern=pattern,
        x_16=0,
        y_16=0,
        radius_16=plan.radius_16(size),
        degrees=degrees % 360,
        shade=draws.between(-12, 12),
        motif=plan.motifs,
    )


def _resized(plan: Plan, spec: ThingSpec, size: Size) -> ThingSpec:
    return replace(
        spec, size=size, radius_16=plan.radius_16(size), pattern="plain" if size == "small" else spec.pattern
    )


def _at(spec: ThingSpec, x_16: int, y_16: int) -> ThingSpec:
    return replace(spec, x_16=x_16, y_16=y_16)


def _add_single(plan: Plan) -> bool:
    spec = _new_thing(plan)
    for size in reversed(SIZE_NAMES[: SIZE_NAMES.index(spec.size) + 1]):
        spec = _resized(plan, spec, size)
        place = plan.find_place(spec.radius_16)
        if place is not None:
            plan.add(_at(spec, *place))
            plan.motifs += 1
            return True
    return False


def _add_row(plan: Plan, count: int) -> None:
    draws = plan.draws
    model = _spec(plan, draws.pick(SHAPES), draws.pick(COLOR_NAMES), draws.pick(("small", "small", "medium")), "plain")
    step = model.radius_16 * draws.between(225, 250) // 100
    reach = model.radius_16 + MARGIN_16
    free_x = plan.width * SUBPIXEL - 2 * reach - step * (count - 1)
    if free_x < 0:
        return
    left, y = reach + draws.below(free_x + 1), draws.between(reach, plan.height * SUBPIXEL - reach)
    odd_one = draws.below(count) if draws.chance(60) else None
    for index in range(count):
        color = draws.pick(COLOR_NAMES) if index == odd_one else model.color
        plan.add(replace(model, color=color, x_16=left + index * step, y_16=y))
    plan.row = tuple(range(count))
    plan.motifs += 1


def _add_ring_with_content(plan: Plan) -> None:
    ring = replace(_resized(plan, _new_thing(plan), "large"), shape="ring", degrees=0)
    place = plan.find_place(ring.radius_16)
    if place is None:
        return
    inner = _new_thing(plan)
    if inner.shape == "ring":
        inner = replace(inner, shape="circle")
    plan.add(_at(ring, *place))
    plan.add(_at(_resized(plan, inner, "small"), *place))
    plan.motifs += 1


def _add_overlapping_pair(plan: Plan) -> None:
    draws = plan.draws
    back = _new_thing(plan)
    place = plan.find_place(back.radius_16)
    if place is None:
        return
    plan.add(_at(back, *place))
    back_place = len(plan.things) - 1
    other = replace(_new_thing(plan), motif=back.motif)
    for _ in range(TRIES):
        direction = draws.below(360)
        apart = (back.radius_16 + other.radius_16) * draws.between(55, 72) // 100
        x, y = place[0] + apart * cosine(direction) // UNIT, place[1] + apart * sine(direction) // UNIT
        if plan.is_free(x, y, other.radius_16, ignore=(back_place,)):
            behind = other.radius_16 > back.radius_16 or (other.radius_16 == back.radius_16 and draws.chance(50))
            plan.add(_at(other, x, y), back_place if behind else None)
            break
    plan.motifs += 1
