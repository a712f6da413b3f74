"""The codebook: tiles, counts, an order and places are what a loop over codes and tokens finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minidalle.viz import codebook
from minidalle.vqgan import VQGAN, VQGANConfig


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(VQGANConfig.tiny()).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_tile_is_the_middle_of_a_picture_full_of_its_code(vqgan):
    tiles = codebook.code_tiles(vqgan, batch=5)
    assert tiles.shape == (64, 3, 8, 8)
    assert tiles.min() >= 0 and tiles.max() <= 1
    for code in (0, 17, 63):
        picture = vqgan.decode(torch.full((1, 16), code))[0].clamp(0, 1)
        torch.testing.assert_close(tiles[code], picture[:, 16:24, 16:24], atol=1e-5, rtol=0)
    smaller = codebook.code_tiles(vqgan, side=3)
    picture = vqgan.decode(torch.full((1, 9), 5))[0].clamp(0, 1)
    torch.testing.assert_close(smaller[5], picture[:, 8:16, 8:16], atol=1e-5, rtol=0)


def test_a_tile_in_use_is_the_mean_of_what_stands_where_its_code_does(vqgan, images):
    ids = vqgan.encode(images)
    tiles = codebook.tiles_in_use(vqgan, ids, batch=3)
    drawn = vqgan.decode(ids).clamp(0, 1)
    for code in range(64):
        places = (ids == code).nonzero().tolist()
        patches = [drawn[i, :, n // 4 * 8 :, n % 4 * 8 :][:, :8, :8] for i, n in places] or [
            torch.zeros(3, 8, 8)
        ]
        torch.testing.assert_close(tiles[code], torch.stack(patches).mean(0), atol=1e-5, rtol=0)
    assert 1 < len(ids.unique()) < 64  # so that both were seen


def test_counts_are_those_of_all_tokens(vqgan, images):
    ids = vqgan.encode(images)
    counts = codebook.code_counts(vqgan, images, batch=3)
    assert counts.tolist() == [int((ids == code).sum()) for code in range(64)]
    as_bytes = (images * 255).round().byte()
    torch.testing.assert_close(codebook.encode_all(vqgan, as_bytes), vqgan.encode(as_bytes / 255))


def test_a_model_in_bfloat16_has_tiles_and_counts(images):
    torch.manual_seed(0)
    half = VQGAN(replace(VQGANConfig.tiny(), n_embed=8)).eval().bfloat16()
    assert codebook.code_tiles(half).dtype == torch.float32
    assert codebook.tiles_in_use(half, half.encode(images.bfloat16())).dtype == torch.float32
    assert codebook.code_counts(half, images).sum() == 7 * 16


def test_the_order_is_a_permutation_in_which_neighbours_are_alike():
    codes = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    order = codebook.order_by_likeness(codes)
    assert sorted(order.tolist()) == list(range(300))
    assert order.equal(codebook.order_by_likeness(codes.clone()))

    def way(order):
        return (codes[order][1:] - codes[order][:-1]).norm(dim=1).mean()

    assert way(order) < 0.4 * way(torch.arange(300))
    assert way(order) < way(codebook.nearest_chain(codes))


def test_things_in_a_row_stay_in_their_row():
    line = torch.arange(50.0)[:, None] * torch.tensor([[1.0, 2.0]])
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    order = codebook.order_by_likeness(line[shuffled])
    assert shuffled[order].tolist() == list(range(50))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_an_order_of_few(k):
    assert sorted(codebook.order_by_likeness(torch.zeros(k, 3, 8, 8)).tolist()) == list(range(k))


def test_where_used_tells_the_first_places_in_different_pictures():
    ids = torch.tensor([[4, 4, 1, 2], [2, 4, 2, 2], [4, 0, 0, 0]])
    assert codebook.where_used(ids) == {0: [(2, 1)], 1: [(0, 2)], 2: [(0, 3)], 4: [(0, 0)]}
    assert codebook.where_used(ids, 2)[4] == [(0, 0), (1, 1)]
    assert codebook.where_used(ids, 9)[2] == [(0, 3), (1, 0)]


def test_chosen_examples_show_every_code_that_occurs(vqgan, images):
    ids = vqgan.encode(images)
    examples = codebook.choose_examples(ids, images)
    assert set(examples.places) == set(ids.unique().tolist())
    for code, (picture, place) in examples.places.items():
        assert vqgan.encode(examples.pictures[picture : picture + 1])[0, place] == code
    few = codebook.choose_examples(ids, images, most=1)
    assert len(few.pictures) == 1 and few.side == 4
    assert len(few.places) == max(len(row.unique()) for row in ids)


def test_marks_surround_the_places_and_leave_them_visible(images):
    picture = np.asarray(codebook.mark_places(images[0], [5], 4, size=64))
    plain = np.asarray(codebook.mark_places(images[0], [], 4, size=64))
    assert picture.shape == (64, 64, 3)
    changed = (picture != plain).any(-1)
    assert changed[14:34, 14:34].any() and not changed[16:32, 16:32].any()
    changed[13:35, 13:35] = False
    assert not changed.any()
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert (plain == pixels.repeat(2, 0).repeat(2, 1)).all()
