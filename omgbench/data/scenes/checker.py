"""Which things of a scene an expression refers to, from the annotations alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omgbench.data.scenes.query import (
    Between,
    Closest,
    Filter,
    InRegion,
    InRow,
    Noun,
    OnStuff,
    Query,
    Related,
    SideRank,
    SizeRank,
)
from omgbench.data.scenes.world import Scene, SceneObject

Things = Sequence[SceneObject]


def evaluate(expression: str | Query, scene: Scene, *, lenient: bool = False) -> frozenset[int]:
    """Ids of the things that the expression refers to.

    Places are those of the visible boxes' centres, sizes are full areas; a thing that is wholly hidden is never
    referred to.

    Args:
        expression: a sentence (read by `read_expression`) or its meaning.
        lenient: False: things for which every condition clearly holds. True: also those for which a reader might
            say it holds ("left of" for anything whose centre is a little to the left, "largest" for all that are
            nearly as large). A sentence is safe if both give the same single thing.

    Raises:
        ValueError: a sentence outside the language of the demo world.
    """
    if isinstance(expression, str):
        from omgbench.data.scenes.reading import read_expression

        expression = read_expression(expression)
    found = _named(expression.noun, scene)
    for modifier in expression.modifiers:
        if not isinstance(modifier, SizeRank | SideRank | Closest):
            found = _filtered(modifier, found, scene, lenient)
    for modifier in expression.modifiers:
        if isinstance(modifier, SizeRank):
            found = _size_ranked(modifier, found, lenient)
        elif isinstance(modifier, SideRank):
            found = _side_ranked(modifier, found, scene, lenient)
        elif isinstance(modifier, Closest):
            found = _closest(modifier, found, scene, lenient)
    return frozenset(thing.id for thing in found)


def refers_only_to(expression: str | Query, scene: Scene, object_id: int) -> bool:
    """Whether a reader can only mean this one thing: strictly and leniently read."""
    only = frozenset((object_id,))
    return evaluate(expression, scene) == only and evaluate(expression, scene, lenient=True) == only


def _named(noun: Noun, scene: Scene) -> list[SceneObject]:
    return [
        thing
        for thing in scene.objects
        if thing.area_px
        and noun.shape in (None, thing.shape)
        and noun.color in (None, thing.color)
        and noun.size in (None, thing.size)
        and noun.pattern in (None, thing.pattern)
    ]


def _anchors(noun: Noun, scene: Scene, lenient: bool) -> list[SceneObject]:
    """Things an anchor may be; none at all if, strictly read, it is not the only one of its kind."""
    found = _named(noun, scene)
    return found if lenient or len(found) == 1 else []


def _filtered(modifier: Filter, things: Things, scene: Scene, lenient: bool) -> list[SceneObject]:
    match modifier:
        case InRegion():
            return [t for t in things if _is_in_region(modifier.region, t, scene, lenient)]
        case Related():
            holds = RELATIONS[modifier.relation]
            anchors = _anchors(modifier.anchor, scene, lenient)
            return [t for t in things if any(a.id != t.id and holds(t, a, scene, lenient) for a in anchors)]
        case Between():
            ends = [_anchors(noun, scene, lenient) for noun in (modifier.first, modifier.second)]
            pairs = [(a, b) for a in ends[0] for b in ends[1] if a.id != b.id]
            return [
                t for t in things if any(_is_between(t, a, b, lenient) for a, b in pairs if t.id not in (a.id, b.id))
            ]
        case InRow():
            members = {i for row in scene.rows if len(row.object_ids) == modifier.count for i in row.object_ids}
            return [t for t in things if t.id in members]
        case OnStuff():
            ids = {region.id for region in scene.stuff if region.name == modifier.stuff}
            least = 300 if lenient else 850
            return [t for t in things if sum(share for k, share in t.stuff_permille if k in ids) >= least]


def _centre2(thing: SceneObject) -> tuple[int, int]:
    """Twice the centre of the visible box, pixels."""
    x1, y1, x2, y2 = thing.box_xyxy
    return x1 + x2, y1 + y2


def _short_side(scene: Scene) -> int:
    return min(scene.width, scene.height)


def _is_in_region(region: str, thing: SceneObject, scene: Scene, lenient: bool) -> bool:
    x2, y2 = _centre2(thing)
    x, y = x2 * 50 // scene.width, y2 * 50 // scene.height  # percent of width and height
    if region == "middle":
        reach = 22 if lenient else 10
        return abs(x - 50) <= reach and abs(y - 50) <= reach
    near, far = (55, 45) if lenient else (38, 62)
    holds = {"left": x <= near, "right": x >= far, "top": y <= near, "bottom": y >= far}
    return all(holds[word] for word in region.split())


def _direction(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool, axis: int, sign: int) -> bool:
    (tx, ty), (ax, ay) = _centre2(thing), _centre2(anchor)
    along, across = ((tx - ax), (ty - ay)) if axis == 0 else ((ty - ay), (tx - ax))
    along *= sign
    if lenient:
        return along * 20 >= _short_side(scene)
    return along * 5 >= _short_side(scene) and along >= abs(across)


def _is_left(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    return _direction(thing, anchor, scene, lenient, 0, -1)


def _is_right(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    return _direction(thing, anchor, scene, lenient, 0, 1)


def _is_above(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    return _direction(thing, anchor, scene, lenient, 1, -1)


def _is_below(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    return _direction(thing, anchor, scene, lenient, 1, 1)


def _is_next_to(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    a, b = thing.box_xyxy, anchor.box_xyxy
    gap = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3], 0)
    return gap * (6 if lenient else 16) <= _short_side(scene)


def _is_inside(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    x1, y1, x2, y2 = anchor.box_xyxy
    if lenient:
        cx2, cy2 = _centre2(thing)
        return 2 * x1 <= cx2 <= 2 * x2 and 2 * y1 <= cy2 <= 2 * y2
    inset = min(x2 - x1, y2 - y1) // 10
    a = thing.box_xyxy
    within = x1 + inset <= a[0] and a[2] <= x2 - inset and y1 + inset <= a[1] and a[3] <= y2 - inset
    return anchor.shape == "ring" and within


def _hides(front: SceneObject, back: SceneObject, scene: Scene, lenient: bool) -> bool:
    area = sum(o.area_px for o in scene.overlaps if (o.front_id, o.back_id) == (front.id, back.id))
    least = 1 if lenient else max(12, min(front.full_area_px, back.full_area_px) // 20)
    return area >= least


def _is_hidden_by(thing: SceneObject, anchor: SceneObject, scene: Scene, lenient: bool) -> bool:
    return _hides(anchor, thing, scene, lenient)


RELATIONS: dict[str, Callable[[SceneObject, SceneObject, Scene, bool], bool]] = {
    "left of": _is_left,
    "right of": _is_right,
    "above": _is_above,
    "below": _is_below,
    "next to": _is_next_to,
    "inside": _is_inside,
    "in front of": _hides,
    "behind": _is_hidden_by,
}
"""Does the relation hold between a thing and an anchor in a scene (thing, anchor, scene, lenient)?"""


def _is_between(thing: SceneObject, first: SceneObject, second: SceneObject, lenient: bool) -> bool:
    (tx, ty), (ax, ay), (bx, by) = _centre2(thing), _centre2(first), _centre2(second)
    length2 = (bx - ax) ** 2 + (by - ay) ** 2
    along = (tx - ax) * (bx - ax) + (ty - ay) * (by - ay)  # in 1/length2 of the way
    aside = abs((tx - ax) * (by - ay) - (ty - ay) * (bx - ax))  # distance from the line, times length
    if lenient:
        return 0 <= along <= length2 and aside * 100 <= 45 * length2
    return 25 * length2 <= 100 * along <= 75 * length2 and aside * 100 <= 15 * length2


def _size_ranked(modifier: SizeRank, things: Things, lenient: bool) -> list[SceneObject]:
    if not things:
        return []
    areas = [thing.full_area_px for thing in things]
    if modifier.order == "largest":
        least = max(areas) * (80 if lenient else 100)
        return [t for t in things if t.full_area_px * 100 >= least]
    most = min(areas) * (125 if lenient else 100)
    return [t for t in things if t.full_area_px * 100 <= most]


def _side_ranked(modifier: SideRank, things: Things, scene: Scene, lenient: bool) -> list[SceneObject]:
    sign = 1 if modifier.side == "left" else -1
    places = [sign * _centre2(thing)[0] for thing in things]
    clear = _short_side(scene) // 10 if lenient else 1  # doubled pixels, as the places are
    found = []
    for thing, place in zip(things, places, strict=True):
        surely_before = sum(other <= place - clear for other in places)
        maybe_before = sum(other < place + clear for other in places) - 1
        if surely_before <= modifier.rank - 1 <= maybe_before:
            found.append(thing)
    return found


def _closest(modifier: Closest, things: Things, scene: Scene, lenient: bool) -> list[SceneObject]:
    found: dict[int, SceneObject] = {}
    for anchor in _anchors(modifier.anchor, scene, lenient):
        ax, ay = _centre2(anchor)
        gaps = [
            ((x - ax) ** 2 + (y - ay) ** 2, thing)
            for thing in things
            if thing.id != anchor.id
            for x, y in (_centre2(thing),)
        ]
        if gaps:
            most = min(gap for gap, _ in gaps) * (169 if lenient else 100)
            found.update((thing.id, thing) for gap, thing in gaps if gap * 100 <= most)
    return list(found.values())
