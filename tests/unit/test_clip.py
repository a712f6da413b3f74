"""CLIP: its features, its loss, what is re-ranked by it, how it is trained and kept."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from training_helpers import FewEmoji, Stop, stop_at
from transformers import CLIPConfig as TheirConfig
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_clip, native
from minidalle.clip import CLIP, CLIPConfig, TransformersCLIP, contrastive_loss
from minidalle.data import sources
from minidalle.data.variations import move_and_zoom
from minidalle.pipeline import MiniDalle, to_tensor
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training.clip import (
    CLIPTask,
    CLIPTrainConfig,
    retrieval_figures,
)
from minidalle.training.loop import LoopConfig, train
from minidalle.vqgan import VQGAN, VQGANConfig

CAPTIONS = ["a small red circle", "a large blue square", "a green triangle"]
CLIP_64 = replace(CLIPConfig.tiny(), resolution=64, patch=8)
LOOP = LoopConfig(
    steps=8,
    batch_size=4,
    warmup_steps=2,
    precision="no",
    log_every=2,
    evaluate_every=8,
    save_every=3,
)


@pytest.fixture(scope="module")
def tokenizer():
    return ByteLevelBPE.train(CAPTIONS * 5, vocab_size=300)


@pytest.fixture
def clip(tokenizer):
    torch.manual_seed(0)
    return CLIP(replace(CLIPConfig.tiny(), vocab_size=tokenizer.vocab_size)).eval()


@pytest.fixture
def model(tokenizer, clip):
    torch.manual_seed(0)
    bart, vqgan = Bart(BartConfig.tiny()).eval(), VQGAN(VQGANConfig.tiny()).eval()
    with torch.no_grad():
        vqgan.decoder.conv_out.weight *= 5
        vqgan.quantize.embedding.weight *= 3
    return MiniDalle(bart=bart, vqgan=vqgan, tokenizer=tokenizer, clip=clip)


def pictures(count, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def same_picture(first, second):
    """Equal, up to one grey level: the VQGAN rounds differently in batches of different size."""
    return (to_tensor(first) - to_tensor(second)).abs().max() < 1.5 / 255


# The network.


def test_features_have_unit_length_and_scores_are_their_cosines(clip, tokenizer):
    ids, mask = tokenizer.encode_batch(CAPTIONS, 24)
    images = pictures(4)
    texts, shown = clip.encode_text(ids, mask), clip.encode_images(images)
    assert texts.shape == (3, 32) and shown.shape == (4, 32)
    for features in (texts, shown):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    scores = clip.scores(images, ids, mask)
    assert scores.shape == (4, 3)
    expected = torch.cosine_similarity(shown[:, None], texts[None], dim=2)
    torch.testing.assert_close(scores, expected)
    assert (texts[0] - texts[1]).abs().max() > 0.01 and (shown[0] - shown[1]).abs().max() > 1e-4


def test_padding_does_not_change_text_features(clip, tokenizer):
    """Neither how much of it there is, nor what ids stand in it, nor the batch around it."""
    ids, mask = tokenizer.encode_batch(CAPTIONS, 24)
    expected = clip.encode_text(ids, mask)
    other = torch.where(mask.bool(), ids, 7)
    torch.testing.assert_close(clip.encode_text(other, mask), expected)
    for i, caption in enumerate(CAPTIONS):
        length = int(mask[i].sum())
        alone = clip.encode_text(*tokenizer.encode_batch([caption], length))
        torch.testing.assert_close(alone[0], expected[i])


def test_every_token_counts_and_in_its_order(clip, tokenizer):
    texts = ["a small red circle", "a small red square", "red small a circle"]
    a, b, c = clip.encode_text(*tokenizer.encode_batch(texts, 24))
    assert (a - b).abs().max() > 1e-3 and (a - c).abs().max() > 1e-5


def test_gradients_reach_both_towers_and_the_temperature(clip, tokenizer):
    ids, mask = tokenizer.encode_batch(CAPTIONS, 24)
    clip.train()
    output = clip(pictures(3), ids, mask)
    contrastive_loss(*output).backward()
    for name, parameter in clip.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_scale_starts_as_published_and_stops_at_a_hundred(clip):
    assert clip.log_scale.exp().item() == pytest.approx(1 / 0.07)
    clip.limit_scale()
    assert clip.log_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        clip.log_scale.fill_(9.0)
    clip.limit_scale()
    assert clip.log_scale.exp().item() == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_heads": 5}, "text_heads is 5; it must divide text_width 48"),
        ({"projection_dim": 0}, "projection_dim is 0"),
        ({"channels": (32, 40)}, r"channels is \(32, 40\)"),
        ({"channels": ()}, r"channels is \(\)"),
        ({"resolution": 36}, "resolution is 36; patch and channels need a multiple of 8"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"text_layers": 10**6}, "text_layers is 1000000"),
    ],
)
def test_impossible_configs_are_refused_by_field(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CLIPConfig.tiny(), **changes)


@pytest.mark.parametrize("changes", [{"max_zoom": 1.0}, {"max_shift": -1.0}])
def test_impossible_training_settings_are_refused_by_field(changes):
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        CLIPTrainConfig(**changes)


def test_inputs_that_do_not_fit_are_refused(clip):
    mask = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"text ids up to 10000; expected 0 to"):
        clip.encode_text(torch.tensor([[0, 10_000, 2]]), mask)
    with pytest.raises(ValueError, match="25 text tokens; this CLIP reads at most 24"):
        clip.encode_text(torch.zeros(1, 25, dtype=torch.long), torch.ones(1, 25))
    with pytest.raises(ValueError, match=r"expected \(B, 3, 32, 32\)"):
        clip.encode_images(pictures(1, side=64))


# The loss.


def test_loss_of_a_toy_computed_by_hand():
    """Two pairs at right angles, but the second picture looks like the first text by 0.6."""
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Logits at scale 2: [[2, 0], [1.2, 1.6]]. By picture, -log of the right one's share:
    by_picture = [0.126928, 0.513015]  # log(1 + e^-2), log(1 + e^-0.4)
    by_text = [0.371101, 0.183868]  #    log(1 + e^-0.8), log(1 + e^-1.6)
    expected = (sum(by_picture) / 2 + sum(by_text) / 2) / 2
    assert contrastive_loss(image, text, 2.0).item() == pytest.approx(expected, abs=1e-5)
    # It goes both ways: pictures and texts may change places.
    assert contrastive_loss(text, image, 2.0).item() == pytest.approx(expected, abs=1e-5)


def test_equal_captions_are_no_negatives():
    """Pairs 0 and 1 are one caption in two wordings: either is right for both of their pictures."""
    image = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-0.6, 0.8]])
    keys = torch.tensor([5, 5, 9])
    loss = contrastive_loss(image, text, 3.0, keys)
    by_picture, by_text = (
        logits.log_softmax(1) for logits in (3 * image @ text.T, 3 * text @ image.T)
    )
    halves = [(p[0, :2].sum() + p[1, :2].sum()) / 2 + p[2, 2] for p in (by_picture, by_text)]
    torch.testing.assert_close(loss, -(halves[0] + halves[1]) / 6)
    wordings_swapped = text[[1, 0, 2]]
    torch.testing.assert_close(contrastive_loss(image, wordings_swapped, 3.0, keys), loss)
    for same in (None, torch.tensor([1, 2, 3])):  # were they different, it would matter
        apart, swapped = (contrastive_loss(image, t, 3.0, same) for t in (text, wordings_swapped))
        assert (apart - swapped).abs() > 0.1


ONE_OF_TWO = """
import sys, torch
from minidalle.clip import contrastive_loss
from minidalle.training.processes import gather_rows
folder, rank = sys.argv[1], int(sys.argv[2])
meet = f"file://{folder}/meet"
torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
image, text, keys = (rows[rank::2] for rows in torch.load(f"{folder}/rows.pt"))
image.requires_grad_()
loss = contrastive_loss(gather_rows(image), gather_rows(text), 5.0, gather_rows(keys))
loss.backward()
torch.save((loss.detach(), image.grad), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_have_one_processs_loss_and_gradient(tmp_path):
    """Gradients come summed over two equal losses; averaged, as training does, they are one's."""
    generator = torch.Generator().manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(6, 4, generator=generator)) for _ in range(2)
    )
    keys = torch.tensor([1, 2, 3, 1, 4, 5])
    torch.save((image, text, keys), tmp_path / "rows.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(tmp_path), str(rank)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        error = process.communicate()[1]
        assert process.returncode == 0, error
    image.requires_grad_()
    expected = contrastive_loss(image, text, 5.0, keys)
    expected.backward()
    for rank in range(2):
        loss, gradient = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(gradient / 2, image.grad[rank::2])


# Re-ranking.


def test_rerank_sorts_by_score_and_keeps_pictures_with_their_seeds(model):
    result = model.generate("a small red circle", n=6, seed=7)
    ranked = model.rerank(result)
    assert ranked.scores == sorted(ranked.scores, reverse=True)
    assert all(isinstance(score, float) and -1 <= score <= 1 for score in ranked.scores)
    assert sorted(ranked.seeds) == result.seeds == [7, 8, 9, 10, 11, 12]
    assert ranked.seeds != result.seeds  # else this test shows nothing
    for seed, image, tokens, score in zip(
        ranked.seeds, ranked.images, ranked.tokens, ranked.scores, strict=True
    ):
        alone = model.generate("a small red circle", seed=seed)
        assert torch.equal(alone.tokens[0], tokens)
        assert same_picture(alone.images[0], image)
        assert model.rerank(alone).scores[0] == pytest.approx(score, abs=1e-3)
    assert result.scores is None and ranked.prompt == result.prompt  # the first stays as it was
    again = model.rerank(ranked)
    assert again.seeds == ranked.seeds


def test_the_score_is_the_clips(model, clip, tokenizer):
    """Of the normalized prompt, as the CLIP was trained."""
    result = model.generate("A Small RED circle!", n=3)
    ids, mask = tokenizer.encode_batch([model.normalizer(result.prompt)], 24)
    images = torch.stack([to_tensor(image) for image in result.images])
    with torch.no_grad():
        expected = clip.scores(images, ids, mask)[:, 0].sort(descending=True).values
    assert model.rerank(result).scores == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_model_without_clip(model, clip, tokenizer, tmp_path):
    """It says so; another's CLIP can be given, loaded or as a folder."""
    bare = MiniDalle(bart=model.bart, vqgan=model.vqgan, tokenizer=tokenizer, name="runs/x")
    result = bare.generate("a green triangle", n=4)
    with pytest.raises(ValueError, match="runs/x has no CLIP"):
        bare.rerank(result)
    expected = model.rerank(result)
    assert bare.rerank(result, clip).seeds == expected.seeds
    native.save(tmp_path / "clip", clip=clip, tokenizer=tokenizer)
    assert bare.rerank(result, tmp_path / "clip").scores == pytest.approx(expected.scores)
    bare.save_pretrained(tmp_path / "bare")
    assert MiniDalle.from_pretrained(tmp_path / "bare").clip is None
    with pytest.raises(ValueError, match="holds no CLIP"):
        load_clip(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bare.rerank(result, tmp_path / "nowhere")


def test_a_clip_of_another_tokenizer_is_refused(model, tokenizer):
    other = CLIP(CLIPConfig.tiny())
    with pytest.raises(ValueError, match=r"reads 320 text tokens, the tokenizer has \d+"):
        MiniDalle(bart=model.bart, vqgan=model.vqgan, tokenizer=tokenizer, clip=other)
    with pytest.raises(ValueError, match="not this CLIP's"):
        model.rerank(model.generate("a circle"), other)


def test_save_and_load_with_clip(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["clip"]["channels"] == [32, 64]
    again, alone = MiniDalle.from_pretrained(tmp_path), load_clip(tmp_path)
    assert again.clip.config == alone.config == model.clip.config and not alone.training
    for name, value in model.clip.state_dict().items():
        assert torch.equal(again.clip.state_dict()[name], value), name
        assert torch.equal(alone.state_dict()[name], value), name
    result = model.generate("a circle", n=3)
    assert again.rerank(result).scores == pytest.approx(model.rerank(result).scores)
    (tmp_path / "clip.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors: missing"):
        MiniDalle.from_pretrained(tmp_path)


# CLIPs of the transformers library.


@pytest.fixture(scope="module")
def their_folder(tmp_path_factory):
    """A tiny CLIPModel of random weights, with a tokenizer that knows single letters."""
    folder = tmp_path_factory.mktemp("theirs")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[])
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = TheirConfig(
        projection_dim=8,
        text_config={
            **tower,
            "num_hidden_layers": 1,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 24,
            "bos_token_id": len(vocabulary) - 2,
            "eos_token_id": len(vocabulary) - 1,
        },
        vision_config={**tower, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    shown = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(shown, tokenizer).save_pretrained(folder)
    return folder


def test_their_scores_are_the_librarys(their_folder):
    """Equal to CLIPModel's own logits, less its temperature."""
    clip = TransformersCLIP.load(their_folder)
    images = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "white")]
    texts = ["red circle", "a"]
    scores = clip.scores(images, texts)
    inputs = clip.processor(text=texts, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = clip.model(**inputs)
    logits = output.logits_per_image / clip.model.logit_scale.exp()
    torch.testing.assert_close(scores, logits.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.encode_text(texts).norm(dim=1), torch.ones(2))
    assert clip.encode_text(["long " * 99]).shape == (1, 8)  # cut to what it has positions for


def test_rerank_by_a_clip_of_transformers(model, their_folder):
    result = model.generate("a small red circle", n=4, seed=1)
    ranked = model.rerank(result, clip=their_folder)
    scores = TransformersCLIP.load(their_folder).scores(result.images, [result.prompt])[:, 0]
    assert ranked.scores == pytest.approx(scores.sort(descending=True).values.tolist())
    assert ranked.seeds == [result.seeds[i] for i in scores.argsort(descending=True).tolist()]
    assert model.rerank(result).scores != ranked.scores


def test_pickled_weights_are_not_read(their_folder, tmp_path):
    for file in their_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    state = TransformersCLIP.load(their_folder).model.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"needs model\.safetensors"):
        TransformersCLIP.load(tmp_path)
    save_file({"junk": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"needs model\.safetensors"):
        TransformersCLIP.load(tmp_path)


# Training.


@pytest.fixture
def few_emoji(monkeypatch):
    monkeypatch.setattr(sources, "EmojiDataset", FewEmoji)


def clip_task(loop=LOOP, clip=CLIP_64, **changes):
    return CLIPTask(CLIPTrainConfig(clip=clip, **changes), loop)


def test_a_killed_run_ends_bit_equal_to_one_never_killed(few_emoji, tmp_path):
    """Killed in step 5 (last checkpoint: 3) and started again: the same parameters to the bit."""
    with_dropout = replace(CLIP_64, dropout=0.1)
    whole, killed, resumed = (clip_task(clip=with_dropout) for _ in range(3))
    train(whole, LOOP, tmp_path / "whole")

    with pytest.raises(Stop):
        train(stop_at(killed, 5), LOOP, tmp_path / "killed")
    train(resumed, LOOP, tmp_path / "killed")
    for (name, a), b in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_it_learns_which_caption_belongs_to_which_picture(few_emoji, tmp_path):
    """80 steps on 24 pictures: nearly all are found; the folder has the CLIP and its tokenizer."""
    loop = replace(LOOP, steps=80, batch_size=24, warmup_steps=10, evaluate_every=80, save_every=80)
    task = clip_task(loop, lr=3e-3, max_shift=0.0, max_zoom=0.0)
    captions = [task.train_data.caption(i) for i in range(24)]
    pictures = task.train_data.pictures(range(24))

    def known():
        with torch.no_grad():
            return retrieval_figures(task.scores(pictures, captions), 24)

    before = known()
    figures = train(task, loop, tmp_path)
    task.model.eval()
    after = known()
    assert before["text_to_image_top5"] < 0.5
    assert after["text_to_image_top1"] > 0.8 and after["image_to_text_top1"] > 0.8
    assert set(figures) == set(after)
    loaded = load_clip(tmp_path)
    assert loaded.config == task.config.clip and loaded.config.vocab_size <= 320
    assert Image.open(tmp_path / "samples" / "nearest_pictures.png").size == (5 * 64, 8 * 64)


def test_a_whole_model_gets_the_clip(few_emoji, model, tmp_path):
    """Its tokenizer is used, its parts stay as they are, and what comes out re-ranks."""
    without = MiniDalle(bart=model.bart, vqgan=model.vqgan, tokenizer=model.tokenizer)
    without.save_pretrained(tmp_path / "model", dtype="float16")
    task = clip_task(model=str(tmp_path / "model"))
    assert task.tokenizer.vocab == model.tokenizer.vocab
    assert task.config.clip.vocab_size == model.tokenizer.vocab_size
    train(task, LOOP, tmp_path / "run")
    for name in ("bart.safetensors", "vqgan.safetensors", "tokenizer.json"):
        before, after = (tmp_path / folder / name for folder in ("model", "run"))
        assert before.read_bytes() == after.read_bytes(), name
    whole = MiniDalle.from_pretrained(tmp_path / "run")
    assert len(whole.rerank(whole.generate("a circle", n=3)).scores) == 3


def test_a_model_of_raw_captions_gets_a_clip_of_raw_captions(few_emoji, model, tmp_path):
    raw = Bart(replace(BartConfig.tiny(), normalize_text=False))
    MiniDalle(bart=raw, vqgan=model.vqgan, tokenizer=model.tokenizer).save_pretrained(tmp_path)
    task = clip_task(model=str(tmp_path))
    assert task.normalized("A Cat!") == "A Cat!" and not task.config.clip.normalize_text


def test_batches_hold_true_captions_of_unmirrored_pictures(few_emoji):
    """A sample's picture and caption depend on its own generator only; equal ones share a key."""
    task = clip_task(max_shift=0.0, max_zoom=0.0)
    indices = torch.tensor([3, 5, 3])
    batch = task.batch(0, indices, [torch.Generator().manual_seed(i) for i in (1, 2, 30)])
    torch.testing.assert_close(batch["images"], task.train_data.pictures(indices))
    assert batch["keys"][0] == batch["keys"][2] != batch["keys"][1]
    for ids, mask, i in zip(batch["text_ids"], batch["text_mask"], indices.tolist(), strict=True):
        text = task.tokenizer.decode(ids[mask.bool()])
        record = task.train_data.source.records[i]
        assert any(task.normalizer(word).strip() in text for word in (record.label, *record.tags))
    moved = clip_task()
    one = moved.batch(0, indices[1:2], [torch.Generator().manual_seed(2)])
    of_three = moved.batch(0, indices, [torch.Generator().manual_seed(i) for i in (1, 2, 30)])
    torch.testing.assert_close(one["images"][0], of_three["images"][1])
    assert not torch.equal(of_three["images"][0], of_three["images"][2])


def test_recoloured_pictures_have_captions_and_keys_of_their_own(few_emoji):
    task = clip_task(variations=3)
    assert len(task) == 4 * 24 == len(task.keys)
    recoloured = [i for i in range(len(task)) if task.train_data.new_colour(i)]
    assert recoloured
    for i in recoloured:
        assert task.keys[i] != task.keys[i - i % 4]  # the picture itself
        assert task.train_data.caption(i).startswith(task.train_data.new_colour(i))


@pytest.mark.parametrize("data", ["some.tar", "shards/{00..03}.tar"])
def test_shards_are_refused(data):
    with pytest.raises(ValueError, match="not trained on shards"):
        clip_task(data=data)


def test_pictures_move_and_zoom_but_are_never_mirrored():
    """A bright half stays on its side; the share that it fills changes by move and zoom."""
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, :, :16] = 1
    generators = [torch.Generator().manual_seed(i) for i in range(50)]
    moved = move_and_zoom(image.expand(50, -1, -1, -1), 4.0, 0.1, generators)
    assert moved[:, :, :, :8].min() > 0.999 and moved[:, :, :, 24:].max() < 0.001
    edges = moved[:, 0, 0].sum(1)
    assert edges.min() >= 11.4 and edges.max() <= 20.6 and edges.std() > 1
    still = move_and_zoom(image, 0.0, 0.0, generators[:1])
    torch.testing.assert_close(still, image)


def test_retrieval_figures_by_hand():
    """Three queries among four: text 0 finds its picture, text 1 second, text 2 last."""
    scores = torch.tensor(  # pictures down, texts across
        [
            [0.9, 0.8, 0.5, 0.0],
            [0.1, 0.7, 0.6, 0.0],
            [0.2, 0.3, 0.1, 0.0],
            [0.3, 0.1, 0.9, 0.5],
        ]
    )
    figures = retrieval_figures(scores, 3)
    assert figures["text_to_image_top1"] == pytest.approx(1 / 3)
    assert figures["image_to_text_top1"] == pytest.approx(2 / 3)
    assert figures["text_to_image_top5"] == figures["image_to_text_top5"] == 1.0
    for worthless in (torch.zeros(9, 9), torch.full((9, 9), float("nan"))):
        assert set(retrieval_figures(worthless, 9).values()) == {0.0}


def test_the_command(few_emoji, run, tmp_path):
    """`train clip` runs from a preset; a field that does not exist is refused by name."""
    settings = [
        "steps=2", "batch_size=4", "channels=(32, 32)", "text_layers=1", "vocab_size=400",
        "precision=no",
    ]  # fmt: skip
    options = [part for setting in settings for part in ("--set", setting)]
    done = run("train", "clip", "--run", "r", *options)
    assert done.code == 0 and "text_to_image_top1" in done.out
    assert load_clip(tmp_path / "r").config.channels == (32, 32)
    wrong = run("train", "clip", "--run", "s", "--set", "max_zom=1")
    assert wrong.code and "did you mean 'max_zoom'" in wrong.err
