"""Evaluation: figures by hand on what is known, perfect pictures, wrong ones, and the command."""

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from minidalle.bart import Bart, BartConfig
from minidalle.data import emoji as emoji_module
from minidalle.data.emoji import SPLITS, EmojiDataset, EmojiRecord
from minidalle.data.shapes import PICTURE_SIDE, ShapesDataset, draw
from minidalle.pictures import to_pil
from minidalle.pipeline import MiniDalle, Result
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.training import retrieval as retrieval_module
from minidalle.training.drawings import (
    evaluate_retrieval,
    evaluate_search,
    evaluate_shapes,
    kind_of,
    oracle_verdicts,
)
from minidalle.training.evaluate import at_side, evaluate_model, evaluate_vqgan, reconstructions
from minidalle.training.metrics import ssim
from minidalle.training.retrieval import (
    Gallery,
    Search,
    build_galleries,
    choose,
    lite0_features,
    places_of,
    retrieval,
    shares,
)
from minidalle.vqgan import VQGAN, VQGANConfig


def pixels(images):
    """The simplest features: the picture at 16×16, middle grey as zero."""
    return F.normalize(at_side(images, 16).flatten(1) - 0.5, dim=1)


@pytest.fixture(scope="module")
def data():
    return EmojiDataset("validation")


@pytest.fixture(scope="module")
def search(data):
    """The validation pictures, each to be found among those of its style."""
    galleries = build_galleries(data.records, data.images, set(emoji_module.STYLE_NAMES), pixels)
    return Search(data.records, data.images, galleries, pixels)


@pytest.fixture
def model():
    """A small random model of 64×64 pictures; what it draws depends on seed and caption."""
    torch.manual_seed(0)
    vqgan = VQGAN(replace(VQGANConfig.tiny(), resolution=64, patch=4)).eval()
    with torch.no_grad():
        vqgan.decoder.conv_out.weight *= 5
        vqgan.quantize.embedding.weight *= 3
    return MiniDalle(
        bart=Bart(BartConfig.tiny()).eval(),
        vqgan=vqgan,
        tokenizer=ByteLevelBPE.train(["a small red circle, noto style"] * 5, vocab_size=300),
        sampling=SamplingConfig(temperature=1.2, condition_scale=2.0),
    )


class PerfectModel:
    """Knows every picture: seed 0 draws the right one, other seeds another caption's."""

    name, device = "perfect", torch.device("cpu")
    sampling, clip = SamplingConfig(condition_scale=2.0), SimpleNamespace()
    sampling_with = MiniDalle.sampling_with

    def __init__(self, captions, images, inner):
        self.captions, self.images = list(captions), images
        self.vqgan, self.bart, self.tokenizer = inner.vqgan, inner.bart, inner.tokenizer
        self.normalizer, self.calls = None, []

    def generate(self, prompts, n=1, seed=0, condition_scale=None):
        self.calls.append((list(prompts), n, condition_scale))
        results = []
        for prompt in prompts:
            places = [(self.captions.index(prompt) + 37 * s) % len(self.captions) for s in range(n)]
            images = [to_pil(self.images[i] / 255) for i in places]
            tokens, seeds = torch.zeros(n, 16, dtype=torch.long), list(range(seed, seed + n))
            results.append(Result(prompt, images, tokens, seeds, self.sampling, 16, 16, "", ""))
        return results

    def draw_tokens(self, pairs, sampling):
        """In the place of tokens the number of the right picture: (B, 1)."""
        self.calls += pairs
        return torch.tensor([[self.captions.index(caption)] for caption, _ in pairs])

    def results_of(self, wanted, tokens, sampling):
        return [
            Result(prompt, [to_pil(self.images[i] / 255)], i, seeds, sampling, 16, 16, "", "")
            for (prompt, seeds), i in zip(wanted, tokens[:, 0], strict=True)
        ]

    def rerank(self, result):
        """The lowest seed first: the right picture, where it is there."""
        order = sorted(range(len(result.seeds)), key=result.seeds.__getitem__)
        return replace(result, seeds=[result.seeds[i] for i in order])


# --- The parts


def test_vqgan_and_bart_figures(model, data):
    few = SimpleNamespace(images=data.images[:20], records=data.records[:20])
    figures = evaluate_model(model, few)
    assert set(figures["vqgan"]) == {"psnr", "ssim", "codes_used", "perplexity"}
    expected = ssim(few.images / 255, reconstructions(model, few.images)).mean().item()
    assert figures["vqgan"]["ssim"] == pytest.approx(expected, abs=1e-5)
    by_parts = evaluate_vqgan(model.vqgan, few.images, batch_size=3)
    assert by_parts == pytest.approx(figures["vqgan"], rel=1e-4)
    assert set(figures["bart"]) == {"right", "empty", "wrong", "ln_k"}
    assert figures["bart"]["ln_k"] == math.log(64)
    assert figures["bart"]["right"] == pytest.approx(math.log(64), abs=0.5)  # it knows nothing yet


def test_pictures_of_another_side_are_resized(model, data):
    few = SimpleNamespace(images=data.images[:4], records=data.records[:4])
    large = SimpleNamespace(images=at_side(few.images, 128), records=few.records)
    assert large.images.dtype == torch.uint8 and large.images.shape[-1] == 128
    small, also = (evaluate_model(model, d)["vqgan"]["psnr"] for d in (few, large))
    assert small == pytest.approx(also, abs=0.5)


# --- Retrieval


def record(concept, style="noto", group="things"):
    return EmojiRecord(concept, style, concept, concept, group, "", ())


def test_places_by_hand():
    """Three real pictures in two dimensions; the queries are features themselves."""
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    galleries = {
        "noto": Gallery(["a", "b", "c"], directions),
        "twemoji": Gallery(["c", "a"], directions[:2]),
    }
    records = [record("a"), record("b"), record("c"), record("a", "twemoji"), record("a")]
    drawn = torch.tensor([[0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [math.nan, 1.0]])
    search = Search(records, torch.empty(0), galleries, lambda features: features)
    # To (0.8, 0.6): c 0.96, a 0.8, b 0.6 in noto; c 0.8, a 0.6 in twemoji. No number: last.
    assert places_of(drawn, search, range(5)).tolist() == [1, 2, 0, 1, 3]
    assert places_of(drawn[:2], search, [2, 2]).tolist() == [0, 0]
    found = retrieval(drawn, search)
    assert (found["captions"], found["top1"], found["top5"]) == (5, 0.2, 1.0)
    assert found["styles"]["twemoji"] == {"captions": 1, "top1": 0.0, "top5": 1.0}


def test_shares_by_hand():
    places = {"": torch.tensor([[0, 4], [5, 9]]), "ceiling_": torch.tensor([[0], [0]])}
    assert shares(places) == {"top1": 0.25, "top5": 0.5, "ceiling_top1": 1.0, "ceiling_top5": 1.0}


def test_true_pictures_are_all_found(search):
    found = retrieval(search.images / 255, search)
    assert found["top1"] == found["top5"] == 1


def test_shuffled_pictures_are_found_by_chance(search):
    """Mean over ten shuffles; chance is 5 of the pictures of a style, and alike pictures help."""
    generator = torch.Generator().manual_seed(0)
    tops = [
        retrieval(search.images[torch.randperm(109, generator=generator)] / 255, search)["top5"]
        for _ in range(10)
    ]
    chance = sum(min(1, 5 / len(search.galleries[r.style].concepts)) for r in search.records) / 109
    assert sum(tops) / 10 == pytest.approx(chance, abs=0.06)
    assert chance < 0.3


def test_lite0_finds_true_pictures(data):
    """Also where they are drawn a little smaller, which pixels would not."""
    few = SimpleNamespace(records=data.records[:20], images=data.images[:20])
    styles = {r.style for r in few.records}
    describe = lite0_features()
    galleries = build_galleries(few.records, few.images, styles, describe)
    search = Search(few.records, few.images, galleries, describe)
    assert retrieval(few.images / 255, search)["top1"] == 1
    smaller = F.pad(at_side(few.images / 255, 56), [4] * 4, value=1.0)
    assert retrieval(smaller, search)["top1"] >= 0.9


def test_the_ceiling_is_the_retrieval_of_reconstructions(search, model):
    few = search._replace(records=search.records[:30], images=search.images[:30])
    found = evaluate_search(model, few, seeds=1)
    ceiling = retrieval(reconstructions(model, few.images), few)
    assert (found["ceiling_top1"], found["ceiling_top5"]) == (ceiling["top1"], ceiling["top5"])
    for title in ("groups", "styles"):
        for name, row in ceiling[title].items():
            assert found[title][name]["ceiling_top5"] == row["top5"]
    assert 0 < ceiling["top5"] < 1  # or the test would say nothing


def test_pictures_are_drawn_as_asked_and_counted_one_by_one(search, model):
    """Seed 0 right and seed 1 wrong is half; nine re-ranked are right; each scale is drawn once."""
    perfect = PerfectModel([r.caption for r in search.records], search.images, model)
    assert evaluate_search(perfect, search, seeds=1)["top1"] == 1
    two = evaluate_search(perfect, search, seeds=2, scales=[1.0, 2.0])
    assert 0.5 <= two["top1"] < 0.6
    assert two["scales"]["2"] == {"top1": two["top1"], "top5": two["top5"]}
    assert two["condition_scale"] == 2
    drawn = [(text, scale) for texts, n, scale in perfect.calls if n == 2 for text in texts]
    assert len(drawn) == len(set(drawn)) == 2 * len(search.records)
    nine = evaluate_search(perfect, search, rerank=9)
    assert nine["reranked_top1"] == 1 and nine["top1"] < 0.3
    assert (nine["seeds"], nine["rerank"]) == (1, 9)
    # Of twice nine the second nine have no right picture.
    assert 0.5 <= evaluate_search(perfect, search, seeds=2, rerank=9)["reranked_top1"] < 0.6


def test_groups_add_up_to_the_whole(search, model):
    perfect = PerfectModel([r.caption for r in search.records], search.images, model)
    found = evaluate_search(perfect, search, seeds=3, rerank=2)
    for title in ("groups", "styles"):
        rows = found[title].values()
        assert sum(row["captions"] for row in rows) == found["captions"] == 109
        for name in ("top1", "top5", "ceiling_top1", "ceiling_top5", "reranked_top1"):
            mean = sum(row["captions"] * row[name] for row in rows) / 109
            assert mean == pytest.approx(found[name])
    assert set(found["groups"]) == {r.group for r in search.records}


def test_the_subset_is_always_the_same(data):
    chosen = choose(data.records, 12)
    assert chosen == sorted(chosen) and set(choose(data.records, 8)) < set(chosen)
    assert choose(data.records, None) == list(range(109)) == choose(data.records, 1000)
    # It depends on the drawings, not on their order.
    turned = data.records[::-1]
    assert {turned[i] for i in choose(turned, 12)} == {data.records[i] for i in chosen}
    assert chosen == [3, 19, 24, 32, 38, 42, 59, 76, 79, 86, 102, 103]


@pytest.fixture
def few_emoji(monkeypatch):
    """Only the first pictures of each split, and pixels for features."""
    whole = EmojiDataset("validation")

    class FewEmoji(EmojiDataset):
        def __init__(self, split):
            if split not in SPLITS:
                raise ValueError(f"there is no split {split!r}")
            start = 10 * SPLITS.index(split)
            self.records = whole.records[start : start + 10]
            self.images = whole.images[start : start + 10]

    monkeypatch.setattr(emoji_module, "EmojiDataset", FewEmoji)
    monkeypatch.setattr(retrieval_module, "EmojiDataset", FewEmoji)
    return FewEmoji


def test_retrieval_of_a_split(few_emoji, model):
    """The gallery has the real pictures of all splits; the queries are of one."""
    told = []
    found = evaluate_retrieval(
        model, "test", seeds=2, limit=6, describe=pixels, progress=lambda *step: told.append(step)
    )
    assert (found["captions"], found["seeds"]) == (6, 2)
    styles = {r.style for r in few_emoji("test").records}
    size = sum(r.style in styles for split in SPLITS for r in few_emoji(split).records)
    assert told[0] == ("looking at real pictures", size, size) and size > 10
    assert told[-1] == ("drawing at condition scale 2", 12, 12)
    again = evaluate_retrieval(model, "test", seeds=2, limit=6, describe=pixels)
    assert again == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "all"}, "'all'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"limit": -1}, "limit is -1"),
        ({"rerank": 1}, "rerank is 1"),
        ({"rerank": 9}, "no CLIP"),
        ({"scales": [1, math.inf]}, "condition_scale is inf"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_drawn(model, arguments, words):
    def never(images):
        raise AssertionError("pictures were looked at")

    with pytest.raises(ValueError, match=words):
        evaluate_retrieval(model, describe=never, **arguments)


# --- Shapes


def test_the_oracle_finds_true_shapes_right_and_others_wrong():
    dataset = ShapesDataset(60, seed=1, exclude=())
    captions = [dataset[i][1] for i in range(60)]
    images = torch.stack([dataset[i][0] for i in range(60)])
    assert oracle_verdicts(captions, images).all()
    assert oracle_verdicts(captions, at_side(images, 64)).double().mean() > 0.9
    assert oracle_verdicts(captions, images.roll(1, 0)).double().mean() < 0.1


def test_shapes_figures(model, monkeypatch):
    """A model that knows every picture is right everywhere; a random one nowhere."""
    dataset = ShapesDataset(70, seed=0, exclude=())
    scenes = [dataset.scene(i) for i in range(70)]
    images = torch.stack([(255 * draw(scene)).byte() for scene in scenes])
    perfect = PerfectModel([scene.caption for scene in scenes], images, model)
    figures = evaluate_shapes(perfect, 70)
    oracle = figures["oracle"]
    assert oracle["right"] == 1 and oracle["captions"] == 70
    assert perfect.calls == [(scene.caption, seed) for seed, scene in enumerate(scenes)]
    assert all(row["right"] == 1 for row in oracle["groups"].values())
    assert sum(row["captions"] for row in oracle["groups"].values()) == 70
    assert set(oracle["groups"]) == {kind_of(scene) for scene in scenes}
    assert len(oracle["groups"]) == 4
    assert set(figures) == {"vqgan", "bart", "oracle"}
    again = oracle_verdicts([s.caption for s in scenes], reconstructions(model, images))
    assert oracle["ceiling_right"] == again.double().mean().item()
    assert evaluate_shapes(model, 10)["oracle"]["right"] == 0
    assert images.shape[-1] == PICTURE_SIDE


# --- The command


@pytest.fixture
def command(run, model, few_emoji, monkeypatch):
    """Call `minidalle evaluate` with the small model, on few emoji, by pixels."""
    monkeypatch.setattr(MiniDalle, "from_pretrained", lambda *_, **__: model)
    monkeypatch.setattr("minidalle.training.drawings.lite0_features", lambda device: pixels)
    return lambda *arguments: run("evaluate", *arguments)


def test_table_and_json_agree(command):
    """Every figure of the JSON stands in the table, in the same order, and nothing else."""
    arguments = ("--retrieval", "--captions", 5, "--seeds", 1, "--scales", "1,3")
    table, answer = command(*arguments), json.loads(command(*arguments, "--json").out)
    assert list(answer) == ["vqgan", "bart", "retrieval"]
    assert list(answer["retrieval"]["scales"]) == ["1", "3"]

    def numbers(value):
        if isinstance(value, dict):
            plain = [v for v in value.values() if not isinstance(v, dict)]
            return plain + [n for v in value.values() if isinstance(v, dict) for n in numbers(v)]
        return [value]

    printed = []
    for line in table.out.splitlines():
        for word in line.split()[1:]:
            try:
                printed.append(float(word.replace(",", "")))
            except ValueError:
                continue  # a name
    assert printed == pytest.approx([n for part in answer.values() for n in numbers(part)])
    ends = {len(line) for line in table.out.splitlines() if line.startswith("    ")}
    assert len(ends) <= 2  # columns stand below each other


def test_without_retrieval_nothing_is_drawn(command, model, monkeypatch):
    monkeypatch.setattr(model, "generate", None)
    answer = json.loads(command("--split", "validation", "--json").out)
    assert list(answer) == ["vqgan", "bart"]


def test_a_missing_extra_gives_one_line(command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = command("--retrieval", "--json")
    assert done.code == 0 and list(json.loads(done.out)) == ["vqgan", "bart"]
    assert done.err.count("\n") == 1 and "pip install minidalle[perceptual]" in done.err


def test_shapes_by_command(command):
    answer = json.loads(command("--data", "shapes", "--captions", 7, "--json").out)
    assert answer["oracle"]["captions"] == 7 and 0 < answer["vqgan"]["psnr"] < 30
    assert "ceiling_right" in command("--data", "shapes", "--captions", 7).out


def test_shapes_are_drawn_as_asked(command, model, monkeypatch):
    """And the figures say how; what is not said is as the checkpoint has it."""
    seen, plain = [], MiniDalle.stream_pairs

    def watched(self, pairs, sampling, prefix=None):
        seen.append(sampling)
        return plain(self, pairs, sampling, prefix)

    monkeypatch.setattr(MiniDalle, "stream_pairs", watched)
    knobs = ("--temperature", 0.5, "--top-k", 7, "--top-p", 0.9, "--condition-scale", 3)
    asked = SamplingConfig(temperature=0.5, top_k=7, top_p=0.9, condition_scale=3.0)
    for given, expected in (((), model.sampling), (knobs, asked)):
        answer = json.loads(command("--data", "shapes", "--captions", 3, *given, "--json").out)
        assert set(seen) == {expected}
        assert {name: answer["oracle"][name] for name in asdict(expected)} == asdict(expected)
        seen.clear()


def test_emoji_are_drawn_as_asked(command):
    arguments = ("--retrieval", "--captions", 2, "--seeds", 1, "--json")
    plain = json.loads(command(*arguments).out)["retrieval"]
    strong = json.loads(command(*arguments, "--condition-scale", 3).out)["retrieval"]
    assert (plain["condition_scale"], strong["condition_scale"]) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--split holdout", "'holdout'"),
        ("--data cats", "'cats'"),
        ("--seeds 2", "--seeds is about retrieval"),
        ("--rerank 9", "--rerank is about retrieval"),
        ("--captions 5", "--captions is about retrieval"),
        ("--retrieval --scales one", "'one'"),
        ("--retrieval --seeds 0", "seeds is 0"),
        ("--retrieval --rerank 1", "rerank is 1"),
        ("--data shapes --captions 0", "limit is 0"),
        ("--data shapes --retrieval", "for emoji"),
        ("--data shapes --split test", "for emoji"),
        ("--temperature 0.5", "--temperature is about drawing; add --retrieval"),
        ("--top-k 5 --split test", "--top-k is about drawing"),
        ("--data shapes --condition-scale nan", "condition_scale is nan"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(run, monkeypatch, arguments, words):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(MiniDalle, "from_pretrained", load)
    done = run("evaluate", *arguments.split())
    assert done.code == 2 and done.out == "" and words in done.err
