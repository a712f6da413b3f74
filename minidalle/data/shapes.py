"""Captioned scenes drawn in code, with an oracle that reads a picture back.

A scene holds one or two flat shapes on white, 32 pixels a side, and its caption says all there is
to say: "a small red circle left of a large blue square". A model small enough to train in seconds
can learn such pictures, and because the oracle can tell whether a caption holds, a lesson can count
how often the model is right instead of guessing.

    sample_scene(generator)      -> Scene
    draw(scene)                  -> (3, 32, 32) in [0, 1]
    read_picture(image)          -> what the oracle sees, from left to right
    holds(caption, image)        -> True or False

The grammar: `a SIZE COLOUR SHAPE`, or two of them with a relation between. The two objects of a
scene differ in colour and never touch. Coordinates are in pixels from the top left corner: x to
the right, y downwards; pixel i covers the interval [i, i + 1].
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

PICTURE_SIDE = 32
SIZES = {"small": 7, "large": 12}  # side of the bounding box, in pixels
COLOURS = {  # RGB in [0, 1]; each keeps one channel near 0, so that it stands out from the white
    "red": (0.90, 0.10, 0.10),
    "yellow": (1.00, 0.85, 0.05),
    "green": (0.10, 0.65, 0.20),
    "blue": (0.10, 0.25, 0.90),
    "purple": (0.60, 0.10, 0.75),
    "black": (0.05, 0.05, 0.05),
}
SHAPES = ("circle", "square", "triangle", "diamond")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # x, y

MARGIN = 2  # pixels that stay white at the picture's border
GAP = 3  # pixels, at least, between two bounding boxes, along their relation's axis

# Colours and shapes that are all seen in training, but never in these pairs.
HELD_OUT = frozenset(
    {("red", "triangle"), ("blue", "circle"), ("green", "diamond"), ("yellow", "square")}
)


@dataclass(frozen=True)
class ShapeObject:
    """What a caption says of one object. Raises ValueError for a word that is not in the lists."""

    size: str  # a key of SIZES
    colour: str  # a key of COLOURS
    shape: str  # one of SHAPES

    def __post_init__(self) -> None:
        for field, known in (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES)):
            if (word := getattr(self, field)) not in known:
                raise ValueError(f"unknown {field} {word!r}: expected one of {', '.join(known)}")

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


class PlacedObject(NamedTuple):
    """An object and the centre of its bounding box, in pixels: to be drawn, or found."""

    kind: ShapeObject | None  # None, from the oracle only: something that the grammar cannot name
    x: float
    y: float


class Statement(NamedTuple):
    """What a caption says."""

    objects: tuple[ShapeObject, ...]  # one or two
    relation: str | None  # a key of RELATIONS: where the first is, seen from the second

    def __str__(self) -> str:
        return f" {self.relation} ".join(map(str, self.objects))


@dataclass(frozen=True)
class Scene:
    """One or two objects in their places. Raises ValueError for places the rules above forbid."""

    objects: tuple[PlacedObject, ...]

    def __post_init__(self) -> None:
        if len(self.objects) not in (1, 2):
            raise ValueError(f"a scene has 1 or 2 objects, not {len(self.objects)}")
        for kind, x, y in self.objects:
            room = MARGIN + SIZES[kind.size] / 2
            if not (room <= min(x, y) and max(x, y) <= PICTURE_SIDE - room):
                raise ValueError(f"{kind} at {x=}, {y=} is less than {MARGIN} pixels inside")
        if len(self.objects) == 2:
            (first, *one), (second, *two) = self.objects
            if first.colour == second.colour:
                raise ValueError(f"the objects of a scene differ in colour: {first}, {second}")
            distance = max(abs(one[0] - two[0]), abs(one[1] - two[1]))
            if distance < GAP + (SIZES[first.size] + SIZES[second.size]) / 2:
                raise ValueError(f"{first} at {one} and {second} at {two} leave no gap of {GAP}")
            if self.relation is None:
                raise ValueError(f"{first} at {one} lies diagonally to {second} at {two}")

    @property
    def relation(self) -> str | None:
        return relation_between(*self.objects) if len(self.objects) == 2 else None

    @property
    def caption(self) -> str:
        return str(Statement(tuple(thing.kind for thing in self.objects), self.relation))


def relation_between(first: PlacedObject, second: PlacedObject) -> str | None:
    """Where `first` is, seen from `second`: a key of RELATIONS, or None where it is not clear."""
    dx, dy = first.x - second.x, first.y - second.y
    for relation, (right, down) in RELATIONS.items():
        along, across = dx * right + dy * down, abs(dx * down) + abs(dy * right)
        if along > 0 and across <= 0.75 * along:  # 1 is the diagonal, where nobody can tell
            return relation
    return None


def sample_scene(generator: torch.Generator, max_objects: int = 2) -> Scene:
    """A random scene: as often one object as two, every word and place equally likely.

    Bounding boxes begin at whole pixels. `max_objects=1` leaves out pairs and their relations.
    """

    def integer(low: int, high: int) -> int:  # both ends included
        return int(torch.randint(low, high + 1, (), generator=generator))

    def pick(options: Collection[str]) -> str:
        return list(options)[integer(0, len(options) - 1)]

    colours = torch.randperm(len(COLOURS), generator=generator)[: integer(1, max_objects)].tolist()
    kinds = [ShapeObject(pick(SIZES), list(COLOURS)[c], pick(SHAPES)) for c in colours]
    sides = [SIZES[kind.size] for kind in kinds]
    last = [PICTURE_SIDE - MARGIN - side for side in sides]  # where a box can begin at the latest
    if len(kinds) == 1:
        x, y = (integer(MARGIN, last[0]) + sides[0] / 2 for _ in "xy")
        return Scene((PlacedObject(kinds[0], x, y),))

    relation = pick(RELATIONS)
    near, far = (0, 1) if relation in ("left of", "above") else (1, 0)  # near the top left corner
    begin = [0, 0]
    begin[near] = integer(MARGIN, last[far] - GAP - sides[near])
    begin[far] = integer(begin[near] + sides[near] + GAP, last[far])
    along = [begin[i] + sides[i] / 2 for i in (0, 1)]
    while True:  # a pair lies at most half as far apart across the relation's axis as along it
        across = [integer(MARGIN, last[i]) + sides[i] / 2 for i in (0, 1)]
        if abs(across[0] - across[1]) <= abs(along[0] - along[1]) / 2:
            break
    xs, ys = (along, across) if relation in ("left of", "right of") else (across, along)
    return Scene(tuple(map(PlacedObject, kinds, xs, ys)))


def held_out(scene: Scene, exclude: Collection[tuple[str, str]] = HELD_OUT) -> bool:
    """Whether any object of the scene has a (colour, shape) pair in `exclude`."""
    return any((thing.kind.colour, thing.kind.shape) in exclude for thing in scene.objects)


def coverage(shape: str, side: float, x: float, y: float) -> np.ndarray:
    """How much of each pixel a shape covers: (32, 32) in [0, 1], for a box of `side` around x, y.

    A pixel's share is the depth of its middle inside the outline, plus a half: soft edges.
    """
    half = side / 2
    across = np.abs(np.arange(PICTURE_SIDE)[None, :] + 0.5 - x)
    down = np.arange(PICTURE_SIDE)[:, None] + 0.5 - y
    box = half - np.maximum(across, np.abs(down))
    if shape == "circle":
        depth = half - np.hypot(across, down)
    elif shape == "square":
        depth = box
    elif shape == "triangle":  # its slanted sides fall two pixels for each one across
        depth = np.minimum((half + down - 2 * across) / 5**0.5, half - down)
    elif shape == "diamond":
        depth = (half - across - np.abs(down)) / 2**0.5
    else:
        raise ValueError(f"unknown shape {shape!r}: expected one of {', '.join(SHAPES)}")
    return np.clip(np.minimum(depth, box) + 0.5, 0, 1)  # no soft tip reaches out of the box


def draw(scene: Scene) -> Tensor:
    """The scene's picture: (3, 32, 32), float32 in [0, 1], always the same for the same scene."""
    picture = np.ones((3, PICTURE_SIDE, PICTURE_SIDE))
    for kind, x, y in scene.objects:
        covered = coverage(kind.shape, SIZES[kind.size], x, y)
        colour = np.array(COLOURS[kind.colour])[:, None, None]
        picture = (1 - covered) * picture + covered * colour
    return torch.from_numpy(picture.astype(np.float32))


def parse_caption(caption: str) -> Statement:
    """Read a caption, whatever its capitals and spaces; `str()` of the result is the caption again.

    Two objects of one colour are understood too, though no scene has them.
    Raises ValueError, with the words that were expected, for what is not in the grammar.
    """
    text = " ".join(caption.lower().split())
    relation = next((name for name in RELATIONS if f" {name} " in text), None)
    objects = []
    for phrase in text.split(f" {relation} ", maxsplit=1) if relation else [text]:
        article, *words = phrase.split() or [""]
        if article != "a" or len(words) != 3:
            raise ValueError(
                f"caption {caption!r}: expected 'a SIZE COLOUR SHAPE', or two of them with one of "
                f"{', '.join(RELATIONS)} between; found {phrase!r}"
            )
        try:
            objects.append(ShapeObject(*words))
        except ValueError as error:
            raise ValueError(f"caption {caption!r}: {error}") from None
    return Statement(tuple(objects), relation)


def all_captions() -> list[str]:
    """Every caption that a scene can have: 48 of one object, 7,680 of two."""
    kinds = [ShapeObject(*words) for words in product(SIZES, COLOURS, SHAPES)]
    pairs = [pair for pair in permutations(kinds, 2) if pair[0].colour != pair[1].colour]
    return [str(kind) for kind in kinds] + [
        str(Statement(pair, relation)) for pair, relation in product(pairs, RELATIONS)
    ]


# The oracle. Ink is what is missing to white, so that an empty picture is all zeros. Each connected
# piece of dark ink is compared with every object that could have been drawn in its place.
SPECK = 8  # pixels: a connected piece smaller than this is dirt, not an object
MISFIT = 0.3  # the share of a piece's ink that may stay unexplained; a clean drawing leaves < 0.01


def read_picture(image: Tensor) -> list[PlacedObject]:
    """The objects the oracle sees in a picture (3, 32, 32) in [0, 1], from left to right.

    Raises ValueError where the tensor has another shape, but never for what the picture shows.
    """
    if tuple(image.shape) != (3, PICTURE_SIDE, PICTURE_SIDE):
        raise ValueError(f"expected a picture (3, 32, 32), found {tuple(image.shape)}")
    ink = 1 - image.detach().cpu().double().clamp(0, 1).numpy()  # (3, S, S)
    dark = ink.max(axis=0) > 0.5  # (S, S): at least half covered, whatever the colour
    found = []
    for piece in _pieces(dark):
        if len(piece) >= SPECK:
            others = dark.copy()
            others[tuple(piece.T)] = False
            # A blurred object's pale rim ends two pixels outside its dark piece.
            (top, left), (bottom, right) = np.maximum(piece.min(axis=0) - 2, 0), piece.max(axis=0)
            window = np.zeros_like(dark)
            window[top : bottom + 3, left : right + 3] = True
            found.append(_recognise(ink * (window & ~others)))
    return sorted(found, key=lambda thing: (thing.x, thing.y))


def _pieces(dark: np.ndarray) -> Iterator[np.ndarray]:
    """The connected pieces of a mask (S, S), each as (pixels, 2) rows and columns: flood fill."""
    left = set(map(tuple, np.argwhere(dark).tolist()))
    while left:
        piece = [left.pop()]
        for row, col in piece:  # the list grows while we walk along it
            for pixel in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
                if pixel in left:
                    left.remove(pixel)
                    piece.append(pixel)
        yield np.array(piece)


def _recognise(ink: np.ndarray) -> PlacedObject:
    """Draw every size, shape and colour where this ink (3, S, S) lies, and take the closest."""
    mass = ink.sum(axis=0)
    middles = np.arange(PICTURE_SIDE) + 0.5
    x, y = (mass.sum(axis=0) @ middles) / mass.sum(), (mass.sum(axis=1) @ middles) / mass.sum()
    # A triangle's centre of mass is a sixth of its side below the centre of its box.
    forms = [
        (size, shape, y - SIZES[size] / 6 if shape == "triangle" else y)
        for size, shape in product(SIZES, SHAPES)
    ]
    sharp = np.stack([coverage(shape, SIZES[size], x, centre) for size, shape, centre in forms])
    # Every form is tried blurred too: next to sharp drawings a blurred square would look round.
    padded = np.pad(sharp, ((0, 0), (1, 1), (1, 1)))
    shifts = product(range(3), range(3))
    blurred = sum(padded[:, r : r + PICTURE_SIDE, c : c + PICTURE_SIDE] for r, c in shifts) / 9
    stencils = np.stack([sharp, blurred], axis=1).reshape(len(forms), 2, -1)  # (forms, 2, S * S)
    paints = 1 - np.array(list(COLOURS.values()))  # (colours, 3): the ink of a full pixel
    # |ink - stencil * paint|^2, multiplied out: all combinations in two products.
    overlap = stencils @ (paints @ ink.reshape(3, -1)).T  # (forms, 2, colours)
    drawn = np.square(stencils).sum(axis=-1, keepdims=True) * np.square(paints).sum(axis=-1)
    misfit = 1 + (drawn - 2 * overlap) / np.square(ink).sum()
    form, _, paint = np.unravel_index(misfit.argmin(), misfit.shape)
    size, shape, centre = forms[form]
    kind = ShapeObject(size, list(COLOURS)[paint], shape) if misfit.min() <= MISFIT else None
    return PlacedObject(kind, float(x), float(centre))


def describes(caption: str, found: Collection[PlacedObject]) -> bool:
    """Whether a caption says what was found, no more and no less. Raises as `parse_caption`."""
    statement = parse_caption(caption)
    if len(found) != len(statement.objects):
        return False
    return any(
        tuple(thing.kind for thing in order) == statement.objects
        and (len(order) == 1 or relation_between(*order) == statement.relation)
        for order in permutations(found)
    )


def holds(caption: str, image: Tensor) -> bool:
    """Whether a picture (3, 32, 32) in [0, 1] shows what the caption says, and nothing else.

    Raises ValueError for a caption that is not in the grammar.
    """
    return describes(caption, read_picture(image))


class ShapesDataset(Dataset):
    """`size` pictures with captions; item i depends on nothing but i and the arguments after size.

    dataset[i] is ((3, 32, 32) in [0, 1], caption); dataset.scene(i) is the scene behind it.
    split="train": no object has a (colour, shape) pair in `exclude`; "held_out": in each scene at
    least one object has. `exclude=()` trains on everything.
    Raises ValueError for arguments that leave nothing to draw.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        split: Literal["train", "held_out"] = "train",
        exclude: Collection[tuple[str, str]] = HELD_OUT,
        max_objects: int = 2,
    ) -> None:
        pairs = set(product(COLOURS, SHAPES))
        if split not in ("train", "held_out"):
            raise ValueError(f"split is 'train' or 'held_out', not {split!r}")
        if size < 0 or seed < 0 or max_objects not in (1, 2):
            raise ValueError(f"{size=} and {seed=} are at least 0, {max_objects=} is 1 or 2")
        if unknown := set(exclude) - pairs:
            raise ValueError(f"exclude has (colour, shape) pairs that do not exist: {unknown}")
        if not (pairs - set(exclude) if split == "train" else exclude):
            raise ValueError(f"exclude leaves nothing to draw for split {split!r}")
        self.size, self.seed, self.split = size, seed, split
        self.exclude, self.max_objects = frozenset(exclude), max_objects

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> Scene:
        """The scene behind item `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"item {index} of a data set of {self.size}")
        # SeedSequence stirs the two numbers: seed 1 is not seed 0 moved on by one item.
        stirred = np.random.SeedSequence((self.seed, index)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(stirred))
        while True:
            scene = sample_scene(generator, self.max_objects)
            if held_out(scene, self.exclude) == (self.split == "held_out"):
                return scene

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        scene = self.scene(index)
        return draw(scene), scene.caption
