"""The atlas's data: counted right, the pictures where the page looks for them."""

import atlas
import torch
from PIL import Image

from minidalle.data.emoji import EmojiDataset
from minidalle.viz.codebook import encode_all
from minidalle.vqgan import VQGAN, VQGANConfig

IDS = torch.tensor([[0, 0, 1, 2], [1, 1, 1, 1], [2, 0, 2, 0]])  # (B, N), K = 4


def test_few_pictures_show_every_code_that_occurs():
    ids = torch.cat([IDS, torch.randint(4, 9, (60, 4), generator=torch.Generator().manual_seed(0))])
    chosen = atlas.choose_pictures(ids, 10)
    assert len(chosen) == len(set(chosen)) < len(ids)
    for code in range(10):
        there = int((ids == code).any(1).sum())
        assert int((ids[chosen] == code).any(1).sum()) >= min(there, atlas.EACH)


def test_the_map_of_places_is_white_where_a_code_occurs_most():
    maps = atlas.place_maps(IDS, 4)
    assert maps.shape == (4, 3, 2, 2)
    expected = torch.tensor([[1.0, 2.0], [0.0, 1.0]]) / 2  # code 0 at places 0, 1, 1, 3
    assert torch.allclose(maps[0, 0], expected.sqrt())
    assert (maps[3] == 0).all()


def test_the_nearest_codes_are_others():
    codebook = torch.tensor([[0.0], [1.0], [10.0], [11.5]])
    assert atlas.nearest(codebook, 2).tolist() == [[1, 2], [0, 2], [3, 1], [2, 1]]


def test_styles_are_shares_of_a_codes_occurrences():
    shares = atlas.style_shares(IDS, ["a", "b", "a"], 4)
    assert shares == [[("a", 100)], [("b", 80), ("a", 20)], [("a", 100)], []]


def test_the_files_hold_what_the_page_reads(tmp_path):
    emoji = EmojiDataset("validation")
    vqgan = VQGAN(VQGANConfig.tiny()).eval()
    images, records = emoji.images[:12, :, ::2, ::2], emoji.records[:12]
    data = atlas.atlas_data(vqgan, images, records, tmp_path)
    k, side = vqgan.config.n_embed, data["side"]
    ids = encode_all(vqgan, images)
    assert len(data["counts"]) == k and sum(data["counts"]) == ids.numel() == data["tokens_counted"]
    assert sorted(data["order"]) == list(range(k))
    assert side**2 == ids.shape[1]
    captions = [record.caption for record in records]
    for code, examples in enumerate(data["examples"]):
        assert bool(examples) == (data["counts"][code] > 0)
        for picture, place in examples:
            row = captions.index(data["pictures"][picture])
            assert ids[row, place] == code
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.webp")}
    tile, rows = vqgan.config.factor, k // atlas.COLUMNS
    assert sizes["tiles.webp"] == sizes["in_use.webp"] == (atlas.COLUMNS * tile, rows * tile)
    assert sizes["places.webp"] == (atlas.COLUMNS * side, rows * side)
    assert sizes["drawings.webp"] == sizes["redrawn.webp"]
