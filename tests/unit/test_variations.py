"""Variations of pictures stay true to their captions: moved a little, or in another colour."""

import colorsys
from dataclasses import replace

import pytest
import torch

from minidalle.data.emoji import EmojiDataset
from minidalle.data.sources import EmojiSource
from minidalle.data.variations import (
    HUES,
    MAX_SHIFT,
    Variations,
    hsv_to_rgb,
    hue_distance,
    main_hue,
    rgb_to_hsv,
    turn_hue,
)


@pytest.fixture(scope="module")
def emoji() -> EmojiSource:
    return EmojiSource(64, EmojiDataset("validation"))


@pytest.fixture(scope="module")
def varied(emoji) -> Variations:
    return Variations(emoji, each=3)


def disc(*colour: float) -> torch.Tensor:
    """A disc of one colour on white: (3, 64, 64)."""
    ys, xs = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    inside = (ys - 32) ** 2 + (xs - 32) ** 2 < 24**2
    return torch.where(inside, torch.tensor(colour)[:, None, None], 1.0)


def test_hue_saturation_and_value_are_colorsys_s():
    pixels = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    pixels = torch.cat([pixels, torch.tensor([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0.0]])])
    images = pixels.T[None, :, :, None]  # (1, 3, 504, 1)
    found = rgb_to_hsv(images)
    expected = torch.tensor([colorsys.rgb_to_hsv(*pixel) for pixel in pixels.tolist()])
    torch.testing.assert_close(found[0, :, :, 0].T, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(hsv_to_rgb(found), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("colour, hue", [((0.9, 0.1, 0.1), 0), ((0.1, 0.2, 0.9), 0.646)])
def test_the_main_hue_is_that_of_most_coloured_pixels(colour, hue):
    two = disc(*colour)
    two[:, 30:34, 28:36] = torch.tensor([0.1, 0.9, 0.1])[:, None, None]  # a green spot in it
    found = main_hue(torch.stack([disc(*colour), two]))
    assert all(hue_distance(float(h), hue) < 0.02 for h in found)


def test_grey_pictures_and_motley_ones_have_no_main_hue():
    stripes = [torch.tensor(colorsys.hsv_to_rgb(h, 1, 1)) for h in (0, 0.25, 0.5, 0.75)]
    motley = torch.stack(stripes, 1)[:, :, None].repeat_interleave(16, 1).expand(3, 64, 64)
    spot = torch.ones(3, 64, 64)
    spot[:, :8, :8] = torch.tensor([1.0, 0, 0])[:, None, None]  # 1.6 % of the picture
    assert main_hue(torch.stack([disc(0.4, 0.4, 0.4), motley, spot])).isnan().all()


def test_turning_the_hue_leaves_white_and_other_colours():
    picture = disc(0.9, 0.1, 0.1)
    picture[:, 30:34, 28:36] = torch.tensor([0.1, 0.9, 0.1])[:, None, None]
    purple = turn_hue(picture, near=0.0, by=HUES["purple"])
    assert torch.equal(purple[:, 0, 0], torch.ones(3))
    torch.testing.assert_close(purple[:, 31, 31], torch.tensor([0.1, 0.9, 0.1]))
    red, green, blue = purple[:, 32, 15].tolist()
    assert blue > red > green
    assert hue_distance(float(main_hue(purple[None])), HUES["purple"]) < 0.02


def test_the_first_of_each_is_the_picture_itself(emoji, varied):
    assert len(varied) == 4 * len(emoji)
    assert torch.equal(varied.pictures(range(0, 40, 4)), emoji.pictures(range(10)))
    assert [varied.caption(4 * i) for i in range(10)] == [emoji.caption(i) for i in range(10)]


def test_variations_are_the_same_whenever_they_are_asked_for(emoji, varied):
    some = [1, 2, 3, 41, 42, 43]
    assert torch.equal(varied.pictures(some), Variations(emoji, 3).pictures(some))
    assert torch.equal(varied.pictures(some)[3:], varied.pictures(some[3:]))
    other = Variations(emoji, 3, seed=1)
    assert not torch.equal(varied.pictures(some), other.pictures(some))
    assert [varied.new_colour(i) for i in range(99)] != [other.new_colour(i) for i in range(99)]


def test_most_variations_are_only_moved_a_little(emoji, varied):
    """Shifted back by some whole number of pixels, a picture is almost as it was."""
    moved = [i for i in range(80) if i % 4 and not varied.new_colour(i)]
    assert len(moved) > 20
    reach = range(-int(MAX_SHIFT), int(MAX_SHIFT) + 1)
    for index, image in zip(moved, varied.pictures(moved), strict=True):
        original = emoji.pictures([index // 4])[0]
        shifts = [original.roll((y, x), (1, 2)) for y in reach for x in reach]
        nearest = min(float((image - shifted).abs().mean()) for shifted in shifts)
        mirrored = min(float((image - shifted.flip(2)).abs().mean()) for shifted in shifts)
        assert nearest < 0.12 and nearest <= mirrored + 0.01
        assert not torch.equal(image, original)


def test_recoloured_pictures_have_the_colour_that_their_caption_names(varied):
    recoloured = [i for i in range(len(varied)) if varied.new_colour(i)]
    assert 0.1 < len(recoloured) / len(varied) < 0.35
    hues = main_hue(varied.pictures(recoloured))
    right = 0
    for index, hue in zip(recoloured, hues.tolist(), strict=True):
        colour = varied.new_colour(index)
        assert varied.caption(index).startswith(f"{colour} ")
        generator = torch.Generator().manual_seed(index)
        assert varied.caption(index, generator) != ""
        right += hue_distance(hue, HUES[colour]) < 0.1
    assert right > 0.95 * len(recoloured)


def test_people_and_flags_keep_their_colours(emoji, varied):
    fixed = [i for i, r in enumerate(emoji.records) if r.group in ("people-body", "flags")]
    assert fixed
    assert not any(varied.new_colour(4 * i + v) for i in fixed for v in range(4))


def test_a_colour_takes_the_place_of_the_one_in_the_label():
    records = EmojiDataset("train").records
    apple = next(r for r in records if r.label == "red apple" and r.style == "noto")
    purple = apple.in_colour("purple")
    assert purple.caption == "purple apple, noto style"
    assert "red" not in purple.tags and purple.concept == apple.concept
    octopus = next(r for r in records if r.label == "octopus")
    assert octopus.in_colour("green").label == "green octopus"


@pytest.mark.parametrize(
    "label, green",
    [
        ("light bulb", "green light bulb"),
        ("horizontal traffic light", "green horizontal traffic light"),
        ("light blue heart", "green heart"),
        ("orange book", "green book"),
    ],
)
def test_light_is_a_shade_only_before_a_colour(label, green):
    record = next(r for r in EmojiDataset("train").records if r.group == "objects")
    assert replace(record, label=label).in_colour("green").label == green


class Unseen(EmojiSource):
    """A source whose pictures cannot be looked at."""

    def pictures(self, indices):
        raise AssertionError("decoded")


@pytest.mark.parametrize("each, group", [(0, "animals-nature"), (2, "flags")])
def test_only_pictures_that_may_be_recoloured_are_looked_at(each, group):
    source = Unseen(64, EmojiDataset("validation"))
    source.records = [replace(record, group=group) for record in source.records]
    assert Variations(source, each).hues.isnan().all()


def test_a_negative_number_of_variations_is_refused(emoji):
    with pytest.raises(ValueError, match="variations is -1"):
        Variations(emoji, -1)
