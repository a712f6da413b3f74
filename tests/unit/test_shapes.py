"""Shapes: what is drawn is what the caption says, and the oracle is never wrong about it.

The drawing is checked without the oracle (outlines, colours, places), so that the two cannot share
a mistake; then the oracle is asked about thousands of drawings, as they are and damaged.
"""

import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torch.utils.data import DataLoader

from minidalle.data.shapes import (
    COLOURS,
    HELD_OUT,
    PICTURE_SIDE,
    RELATIONS,
    SHAPES,
    SIZES,
    PlacedObject,
    Scene,
    ShapeObject,
    ShapesDataset,
    Statement,
    all_captions,
    coverage,
    describes,
    draw,
    held_out,
    holds,
    parse_caption,
    read_picture,
    relation_between,
    sample_scene,
)
from minidalle.lessons.train_shapes import MoreSmallThings, has_small

BOX = torch.full((3, 3), 1 / 9)
BELL = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def scene_of(seed: int, max_objects: int = 2) -> Scene:
    return sample_scene(torch.Generator().manual_seed(seed), max_objects)


def one(size: str, colour: str, shape: str, x: float = 16, y: float = 16) -> Scene:
    return Scene((PlacedObject(ShapeObject(size, colour, shape), x, y),))


def blur(picture: Tensor, kernel: Tensor) -> Tensor:
    padded = pad(picture[None], (1, 1, 1, 1), value=1.0)
    return conv2d(padded, kernel.expand(3, 1, 3, 3), groups=3)[0]


def shift(picture: Tensor, down: int, right: int) -> Tensor:
    return picture.roll((down, right), dims=(1, 2))  # the border is white: nothing comes round


def damaged(picture: Tensor, which: int) -> Tensor:
    """One of eleven harmless changes: a shift by one pixel, a 3x3 blur, faint noise."""
    which %= len(SHIFTS) + 3
    if which < len(SHIFTS):
        return shift(picture, *SHIFTS[which])
    if which < len(SHIFTS) + 2:
        return blur(picture, (BOX, BELL)[which - len(SHIFTS)])
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(which))
    return (picture + 0.03 * noise).clamp(0, 1)


def wrong_statements(right: Statement) -> list[Statement]:
    """What differs from `right` in one word, by one object, or by the order of the objects."""
    changed = []
    for i, thing in enumerate(right.objects):
        for field, known in (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES)):
            for word in known:
                if word != getattr(thing, field):
                    others = list(right.objects)
                    others[i] = replace(thing, **{field: word})
                    changed.append(Statement(tuple(others), right.relation))
        changed.append(Statement((thing,), None) if right.relation else None)
    if right.relation:
        changed += [right._replace(relation=name) for name in RELATIONS if name != right.relation]
        changed.append(right._replace(objects=right.objects[::-1]))
    else:
        changed += [Statement((*right.objects, ShapeObject("small", "black", "circle")), "above")]
        changed += [Statement(right.objects * 2, "left of")]
    return [statement for statement in changed if statement]


def oracle_errors(count: int, seed: int) -> list[str]:
    """Ask about `count` scenes, drawn as they are and damaged in one way; list every mistake."""
    errors = []
    for index in range(count):
        scene = sample_scene(torch.Generator().manual_seed(seed + index))
        picture = draw(scene)
        wrong_captions = [str(wrong) for wrong in wrong_statements(parse_caption(scene.caption))]
        for which, shown in (("drawn", picture), (f"damaged {index}", damaged(picture, index))):
            found = read_picture(shown)
            if not describes(scene.caption, found):
                errors.append(f"{which}: does not see {scene.caption}, sees {found}")
            for wrong in wrong_captions:
                if describes(wrong, found):
                    errors.append(f"{which}: sees {wrong} in {scene.caption}")
    return errors


# ------------------------------------------------------------------------------------- drawing


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**31))
def test_drawing_a_sampled_scene(seed: int) -> None:
    scene = scene_of(seed)
    picture = draw(scene)
    assert picture.shape == (3, PICTURE_SIDE, PICTURE_SIDE) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    border = torch.ones(PICTURE_SIDE, PICTURE_SIDE, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert (picture[:, border] == 1).all()
    for kind, x, y in scene.objects:
        expected = torch.tensor(COLOURS[kind.colour])
        torch.testing.assert_close(picture[:, int(y), int(x)], expected)
        assert (x - SIZES[kind.size] / 2).is_integer() and (y - SIZES[kind.size] / 2).is_integer()


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_two_objects_are_clearly_apart(seed: int) -> None:
    scene = scene_of(seed)
    if len(scene.objects) == 2:
        (a, ax, ay), (b, bx, by) = scene.objects
        assert a.colour != b.colour
        along, across = abs(ax - bx), abs(ay - by)
        expected = "left of" if ax < bx else "right of"
        if across > along:
            along, across, expected = across, along, "above" if ay < by else "below"
        assert scene.relation == expected
        assert across <= along / 2
        assert along - (SIZES[a.size] + SIZES[b.size]) / 2 >= 3
        white = (draw(scene) == 1).all(dim=0)
        lines = white.all(dim=0) if scene.relation in ("left of", "right of") else white.all(dim=1)
        middle = int((ax + bx) / 2 if scene.relation in ("left of", "right of") else (ay + by) / 2)
        assert lines[middle - 6 : middle + 7].sum() >= 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("shape", "is_inside"),  # of points u, v from -1 to 1: right and down from the box's centre
    [
        ("circle", lambda u, v: u**2 + v**2 <= 1),
        ("square", lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 1),
        ("triangle", lambda u, v: (2 * np.abs(u) <= 1 + v) & (v <= 1)),
        ("diamond", lambda u, v: np.abs(u) + np.abs(v) <= 1),
    ],
)
def test_coverage_against_counted_points(size: str, shape: str, is_inside: Callable) -> None:
    side, x, y, fine = SIZES[size], 14.5, 16.25, 16
    points = (np.arange(PICTURE_SIDE * fine) + 0.5) / fine  # 16 x 16 points in each pixel
    u, v = (points[None, :] - x) * 2 / side, (points[:, None] - y) * 2 / side
    counted = is_inside(u, v).reshape(PICTURE_SIDE, fine, PICTURE_SIDE, fine).mean(axis=(1, 3))
    difference = np.abs(coverage(shape, side, x, y) - counted)
    assert difference.max() < 0.35  # at a sharp tip
    assert difference.sum() < 0.05 * counted.sum()


def test_no_coverage_for_an_unknown_shape() -> None:
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        coverage("star", 12, 16, 16)


def test_drawing_is_the_same_every_time() -> None:
    assert torch.equal(draw(scene_of(5)), draw(scene_of(5)))
    assert scene_of(5) == scene_of(5) != scene_of(6)
    with pytest.raises(FrozenInstanceError):
        scene_of(5).objects = ()


def test_sampling_meets_every_word_about_equally() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = [sample_scene(generator) for _ in range(3000)]
    kinds = [thing.kind for scene in scenes for thing in scene.objects]
    for field, known in (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES)):
        for word in known:
            share = sum(getattr(kind, field) == word for kind in kinds) / len(kinds)
            assert share == pytest.approx(1 / len(known), rel=0.15), word
    for relation in (None, *RELATIONS):
        share = sum(scene.relation == relation for scene in scenes) / len(scenes)
        assert share == pytest.approx(1 / 2 if relation is None else 1 / 8, rel=0.2), relation
    assert {len(scene_of(seed, max_objects=1).objects) for seed in range(50)} == {1}


def test_sampling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    ShapesDataset(3, seed=0)[2]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([], "1 or 2 objects"),
        ([("small", "red", "circle", 4, 16)], "inside"),
        ([("small", "red", "circle", 16, 27)], "inside"),
        ([("small", "red", "circle", 8, 8), ("small", "red", "square", 20, 8)], "colour"),
        ([("small", "red", "circle", 8, 8), ("small", "blue", "square", 17, 8)], "gap"),
        ([("small", "red", "circle", 8, 8), ("small", "blue", "square", 20, 20)], "diagonal"),
    ],
)
def test_impossible_scenes_are_refused(objects: list[tuple], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scene(tuple(PlacedObject(ShapeObject(*words), x, y) for *words, x, y in objects))


# ------------------------------------------------------------------------------------ captions


def test_every_caption_is_read_back() -> None:
    captions = all_captions()
    assert len(captions) == len(set(captions)) == 48 + 48 * 40 * 4
    assert all(str(parse_caption(caption)) == caption for caption in captions)
    assert {scene_of(seed).caption for seed in range(500)} <= set(captions)


def test_a_caption_taken_apart() -> None:
    assert parse_caption("a large blue square") == (
        (ShapeObject(size="large", colour="blue", shape="square"),),
        None,
    )
    assert parse_caption("  A small RED circle\tleft  of a large blue square ") == (
        (ShapeObject("small", "red", "circle"), ShapeObject("large", "blue", "square")),
        "left of",
    )


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "expected 'a SIZE COLOUR SHAPE'"),
        ("a cat", "expected 'a SIZE COLOUR SHAPE'"),
        ("large blue square", "expected 'a SIZE COLOUR SHAPE'"),
        ("the large blue square", "expected 'a SIZE COLOUR SHAPE'"),
        ("a huge blue square", "unknown size 'huge': expected one of small, large"),
        ("a large pink square", "unknown colour 'pink'"),
        ("a large blue star", "unknown shape 'star'"),
        ("a large blue square left of", "left of"),
        ("a large blue square under a small red circle", "above, below"),
        (
            "a large blue square above a small red circle above a small green circle",
            "a small red circle above",
        ),
    ],
)
def test_captions_outside_the_grammar(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_caption(caption)
    assert repr(caption) in str(caught.value)
    with pytest.raises(ValueError):
        holds(caption, torch.ones(3, PICTURE_SIDE, PICTURE_SIDE))


vocabulary = ["a", "of", "left", *SIZES, *COLOURS, *SHAPES, *RELATIONS]


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(vocabulary)).map(" ".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        statement = parse_caption(text)
    except ValueError:
        return
    assert str(statement) == " ".join(text.lower().split())


# ---------------------------------------------------------------------------------- the oracle


def test_the_oracle_is_never_wrong() -> None:
    assert oracle_errors(5000, seed=0) == []


@pytest.mark.slow
def test_the_oracle_is_never_wrong_in_a_hundred_thousand() -> None:
    assert oracle_errors(100_000, seed=1_000_000) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_survives_every_damage(shape: str) -> None:
    for size in SIZES:
        for colour in COLOURS:
            scene = one(size, colour, shape, 12.5 if size == "small" else 12, 16.25)
            for which in range(len(SHIFTS) + 3):
                assert holds(scene.caption, damaged(draw(scene), which)), (scene.caption, which)


def test_the_oracle_measures_places() -> None:
    for seed in range(200):
        scene = scene_of(seed)
        found = read_picture(draw(scene))
        moved = read_picture(shift(draw(scene), down=1, right=-1))
        drawn_in_order = sorted(scene.objects, key=lambda thing: thing.x)
        for drawn, seen, after in zip(drawn_in_order, found, moved, strict=True):
            if len({thing.x for thing in scene.objects}) == len(scene.objects):
                assert seen.kind == drawn.kind
                assert (seen.x, seen.y) == pytest.approx((drawn.x, drawn.y), abs=0.2)
                assert (after.x, after.y) == pytest.approx((seen.x - 1, seen.y + 1), abs=0.01)


def test_holds_for_both_ways_to_say_it() -> None:
    picture = draw(
        Scene(
            (
                PlacedObject(ShapeObject("small", "red", "circle"), 8, 16),
                PlacedObject(ShapeObject("large", "blue", "square"), 22, 18),
            )
        )
    )
    assert holds("a small red circle left of a large blue square", picture)
    assert holds("a large blue square right of a small red circle", picture)
    assert not holds("a large blue square left of a small red circle", picture)
    assert not holds("a small red circle above a large blue square", picture)
    assert not holds("a small red circle", picture)
    assert not holds("a large blue square", picture)


def test_a_diagonal_is_no_relation() -> None:
    first = PlacedObject(ShapeObject("small", "red", "circle"), 8, 8)
    second = PlacedObject(ShapeObject("small", "blue", "circle"), 20, 19)
    assert relation_between(first, second) is None
    picture = torch.minimum(draw(Scene((first,))), draw(Scene((second,))))
    assert len(read_picture(picture)) == 2
    for relation in RELATIONS:
        assert not holds(f"{first.kind} {relation} {second.kind}", picture)


def test_strange_pictures_hold_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    side = PICTURE_SIDE
    stripes = (torch.arange(side) // 4 % 2).float().expand(3, side, side)
    strange = {
        "white": torch.ones(3, side, side),
        "black": torch.zeros(3, side, side),
        "grey": torch.full((3, side, side), 0.5),
        "stripes": stripes,
        "not a number": torch.full((3, side, side), math.nan),
        "infinite": torch.full((3, side, side), -math.inf),
        "out of range": 5 * torch.randn(3, side, side, generator=generator),
    }
    strange["not a number in places"] = draw(one("large", "red", "circle"))
    strange["not a number in places"][:, ::5, ::5] = math.nan
    for i in range(50):
        strange[f"noise {i}"] = torch.rand(3, side, side, generator=generator)
        strange[f"bits {i}"] = torch.rand(3, side, side, generator=generator).round()
    for name, picture in strange.items():
        found = read_picture(picture)
        assert all(kind is None for kind, x, y in found), (name, found)
        assert not holds("a small red circle", picture), name
        assert not holds("a small red circle above a large blue square", picture), name


def test_objects_the_grammar_cannot_name() -> None:
    red_bar = torch.ones(3, PICTURE_SIDE, PICTURE_SIDE)
    red_bar[1:, 10:14, 4:28] = 0.1
    assert [kind for kind, x, y in read_picture(red_bar)] == [None]
    ring = draw(one("large", "black", "circle"))
    ring[:, 13:19, 13:19] = 1
    assert [kind for kind, x, y in read_picture(ring)] == [None]
    cyan = draw(one("large", "red", "square"))
    cyan = 1 - (1 - cyan).roll(1, dims=0) * torch.tensor([10.0, 0.1, 0.1])[:, None, None].clamp(
        max=1.0
    )
    assert [kind for kind, x, y in read_picture(cyan)] == [None]


def test_a_third_object_is_counted_and_a_speck_is_not() -> None:
    scene = one("large", "green", "square", 10, 10)
    picture = draw(scene)
    picture[:, 25:27, 25:27] = 0
    assert holds(scene.caption, picture)
    picture[:, 24:28, 24:28] = 0
    assert not holds(scene.caption, picture)


def test_the_oracle_clips_what_a_decoder_overshoots() -> None:
    scene = one("small", "green", "triangle", 8.5, 10.5)
    picture = draw(scene)
    assert holds(scene.caption, picture.where(picture < 1, 1.5))


def test_objects_may_lie_closer_than_in_a_scene() -> None:
    first = one("small", "red", "diamond", 11.5, 11.5)
    second = one("large", "black", "square", 20, 19)  # a corner of it is in the diamond's window
    found = read_picture(torch.minimum(draw(first), draw(second)))
    assert [str(thing.kind) for thing in found] == [first.caption, second.caption]


def test_the_oracle_wants_one_picture() -> None:
    with pytest.raises(ValueError, match=r"\(3, 32, 32\), found \(1, 3, 32, 32\)"):
        read_picture(torch.ones(1, 3, 32, 32))


# ------------------------------------------------------------------------------------ data set


def test_an_item_depends_on_seed_and_index_only() -> None:
    long, short = ShapesDataset(50, seed=3), ShapesDataset(10, seed=3)
    _ = long[49]
    for i in (9, 0, 4):
        assert torch.equal(long[i][0], short[i][0])
        assert long[i][1] == short[i][1] == short.scene(i).caption
        assert torch.equal(draw(short.scene(i)), short[i][0])
    assert [long.scene(i) for i in range(9)] != [long.scene(i + 1) for i in range(9)]
    other = ShapesDataset(50, seed=4)
    assert not {long.scene(i + 1) for i in range(20)} & {other.scene(i) for i in range(20)}


def test_it_is_a_sequence() -> None:
    dataset = ShapesDataset(7, seed=0)
    assert len(dataset) == len(list(dataset)) == 7
    for index in (-1, 7):
        with pytest.raises(IndexError):
            dataset[index]
    images, captions = next(iter(DataLoader(dataset, batch_size=7)))
    assert images.shape == (7, 3, PICTURE_SIDE, PICTURE_SIDE) and len(captions) == 7
    assert pickle.loads(pickle.dumps(dataset))[3][1] == dataset[3][1]


def test_the_splits_share_no_caption_and_no_pair() -> None:
    seen, unseen = ShapesDataset(2000, seed=0), ShapesDataset(2000, seed=0, split="held_out")
    pairs = [
        {(o.kind.colour, o.kind.shape) for i in range(2000) for o in dataset.scene(i).objects}
        for dataset in (seen, unseen)
    ]
    assert pairs[0] == {(c, s) for c in COLOURS for s in SHAPES} - HELD_OUT
    assert pairs[1] >= HELD_OUT
    assert not any(held_out(seen.scene(i)) for i in range(2000))
    assert all(held_out(unseen.scene(i)) for i in range(2000))
    captions = [{dataset.scene(i).caption for i in range(2000)} for dataset in (seen, unseen)]
    assert not captions[0] & captions[1]
    # What is held out is the pair: each colour and each shape of it is learned from others.
    assert {colour for colour, _ in pairs[0]} == set(COLOURS)
    assert {shape for _, shape in pairs[0]} == set(SHAPES)


def test_your_own_pairs_can_be_held_out() -> None:
    exclude = {("black", "circle")}
    seen = ShapesDataset(300, seed=0, exclude=exclude)
    unseen = ShapesDataset(20, seed=0, split="held_out", exclude=exclude, max_objects=1)
    assert not any(held_out(seen.scene(i), exclude) for i in range(300))
    assert any(held_out(seen.scene(i)) for i in range(300))
    assert {unseen[i][1] for i in range(20)} == {"a small black circle", "a large black circle"}
    everything = ShapesDataset(300, seed=0, exclude=())
    assert any(held_out(everything.scene(i), exclude) for i in range(300))


def test_the_lessons_model_learns_from_more_small_things() -> None:
    """Every other scene has one, no scene a pair that is held out, and the rest are as they are."""
    plain, more = ShapesDataset(400, seed=0), MoreSmallThings(400)
    scenes = [more.scene(i) for i in range(400)]
    assert all(has_small(scene) for scene in scenes[::2])
    assert not any(held_out(scene) for scene in scenes)
    assert scenes[1::2] == [plain.scene(i) for i in range(1, 400, 2)]
    assert 40 < sum(not has_small(scene) for scene in scenes[1::2]) < 110  # 3 in 8 are expected
    assert torch.equal(more[0][0], draw(scenes[0])) and more[0][1] == scenes[0].caption


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "'train' or 'held_out'"),
        ({"size": -1}, "at least 0"),
        ({"seed": -1}, "at least 0"),
        ({"max_objects": 3}, "1 or 2"),
        ({"exclude": {("pink", "circle")}}, "pink"),
        ({"exclude": (), "split": "held_out"}, "nothing to draw"),
        ({"exclude": {(c, s) for c in COLOURS for s in SHAPES}}, "nothing to draw"),
    ],
)
def test_arguments_that_make_no_data_set(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapesDataset(**{"size": 1, "seed": 0} | arguments)


def test_a_picture_full_of_pieces_is_judged_at_once() -> None:
    """Thirty-six dots have more orders than could ever be tried."""
    image = torch.ones(3, 32, 32)
    for y in range(1, 31, 5):
        for x in range(1, 31, 5):
            image[:, y : y + 3, x : x + 3] = 0
    assert len(read_picture(image)) == 36
    assert not holds("a small red circle", image)
