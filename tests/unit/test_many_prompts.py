"""Many prompts: files of prompts, and folders whose pictures are drawn once, by one or many."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidalle import many, picture_folder, pictures, prompts
from minidalle.bart import Bart, BartConfig
from minidalle.cli.many import own_device
from minidalle.data.folder import FolderDataset
from minidalle.many import Share, deal, draw_folder, share_of_process
from minidalle.pipeline import MiniDalle
from minidalle.prompts import Request, Wanted, parse_prompts, plan_pictures, stem_of
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

COMMAND = [sys.executable, "-m", "minidalle", "generate"]
TEXTS = ["a circle", "تفاحة 🍎", "", "a small red circle left of a large blue square", "con"]
REQUESTS = [Request(text, n, seed=7) for text, n in zip(TEXTS, [3, 1, 4, 2, 2], strict=True)]


def small_model(seed: int = 0) -> MiniDalle:
    """A small random model, lively enough that other tokens are other pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vqgan, bart = VQGAN(VQGANConfig.tiny()).eval(), Bart(BartConfig.tiny()).eval()
    with torch.no_grad():
        vqgan.decoder.conv_out.weight *= 5
        vqgan.quantize.embedding.weight *= 3
    return MiniDalle(
        bart=bart,
        vqgan=vqgan,
        tokenizer=ByteLevelBPE.train(["a small red circle"] * 5, vocab_size=300),
        sampling=SamplingConfig(temperature=1.2, condition_scale=2.0),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a small model, for the command."""
    folder = tmp_path_factory.mktemp("models") / "small"
    small_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(saved) -> MiniDalle:
    return MiniDalle.from_pretrained(saved)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pngs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def check_alike(folder: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """The same files; the same is said in each picture, of which no value differs by more than 1.

    Tokens do not depend on what is drawn together; the VQGAN's rounding does.
    """
    assert set(os.listdir(folder)) == set(expected)
    for name, data in expected.items():
        if not name.endswith(".png"):
            assert (folder / name).read_bytes() == data
        else:
            (tmp_path / "expected.png").write_bytes(data)
            check_same_picture(folder / name, tmp_path / "expected.png")


def check_same_picture(path: Path, expected: Path) -> None:
    assert pictures.read_metadata(path) == pictures.read_metadata(expected)
    images = [np.asarray(Image.open(each)).astype(int) for each in (path, expected)]
    assert images[0].shape == images[1].shape and abs(images[0] - images[1]).max() <= 1


def lines_of(folder: Path) -> list[dict]:
    text = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


class Watched:
    """Stand in for a model; remember which pictures are drawn, batch by batch."""

    def __init__(self, model):
        self.model, self.batches = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def stream_pairs(self, pairs, sampling):
        self.batches.append(list(pairs))
        return self.model.stream_pairs(pairs, sampling)


# --- Files of prompts


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "\ufeffone\r\n\n  \n two \nthree", ["one", " two ", "three"]),
        ("p", "a\u2028b\n🍎 تفاحة\none\n", ["a\u2028b", "🍎 تفاحة", "one"]),
        ("p.txt", '{"prompt": "a"}\n', ['{"prompt": "a"}']),
        ("p.jsonl", '{"prompt": "a\\nb"}\n\n{"prompt": "", "n": 4}', ["a\nb", ("", 4, 5)]),
        ("P.JSONL", '{"seed": 9, "prompt": "\\ud83c\\udf4e"}', [("🍎", 2, 9)]),
        ("p.csv", 'prompt,n,seed\r\n"a, b",4,\n,,\nc,,7\n,1,\n', [("a, b", 4, 5), ("c", 2, 7),
                                                                ("", 1, 5)]),
        ("p.csv", "\ufeffprompt\nx\n", ["x"]),
    ],
)  # fmt: skip
def test_prompts_are_read(name, text, expected):
    expected = [Request(*((e, 2, 5) if isinstance(e, str) else e)) for e in expected]
    assert parse_prompts(text.encode(), name, n=2, seed=5) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.txt", "\n \n", "p.txt holds no prompt"),
        ("p.csv", "prompt,n\n", "p.csv holds no prompt"),
        ("p.txt", b"\xff\xfe", "p.txt is not UTF-8 text"),
        ("p.txt", "a\n" + "b" * 70_000, "line 2: the prompt has 70,000 characters"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": 1}', "line 3: prompt is 1; expected text"),
        ("p.jsonl", '{"n": 1}', "line 1: prompt is missing"),
        ("p.jsonl", '{"prompt": "a", "n": true}', "n is True; expected a whole number"),
        ("p.jsonl", '{"prompt": "a", "n": 2.0}', "n is 2.0; expected a whole number"),
        ("p.jsonl", '{"prompt": "a", "colour": "red"}', "no field 'colour'; there are prompt, n"),
        ("p.jsonl", '{"prompt": "\\ud800"}', "line 1: the prompt has half a character"),
        ("p.jsonl", "[1]", "found list"),
        ("p.jsonl", "{", "line 1: not valid JSON"),
        ("p.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("p.csv", "a circle\na square", "line 2: there is no field 'a circle'"),
        ("p.csv", "prompt\na, b", "line 2: there is no field"),
        ("p.csv", "prompt,n\na,two", "line 2: n is 'two'"),
        ("p.csv", "prompt,n\na,0", "line 2: n is 0"),
        ("p.csv", f"prompt,seed\na,{2**63}", "line 2: seed is 9223372036854775808"),
        ("p.csv", "prompt\n" + "x" * 200_000, "not valid CSV"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(name, text, words):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        parse_prompts(data, name)
    assert str(error.value).startswith(name)


def test_every_picture_is_planned_once():
    """Prompts may come again, with other seeds, too; order is the file's."""
    requests = [Request("b", 2, 5), Request("a", 1, 0), Request("b", 3, 6), Request("b", 2, 5)]
    plan = plan_pictures(requests)
    assert [(p.prompt, p.seed) for p in plan] == [("b", 5), ("b", 6), ("a", 0), ("b", 7), ("b", 8)]
    assert len({p.file for p in plan}) == 5


HARD_NAMES = [
    "", " ", ".", "..", "/", "../../etc/passwd", "a/b\\c", "CON", "nul", "-rf", "~", "a\0b", "a\nb",
    "x" * 60_000, "🍎" * 300, "ø" * 300, "תפוח", "é", "e\u0301", "É", "A cat!", "a cat", "a  cat",
]  # fmt: skip


def test_names_suit_every_file_system(tmp_path):
    names = [p.file for p in plan_pictures(Request(text, 1, 2**63 - 2) for text in HARD_NAMES)]
    assert len({name.lower() for name in names}) == len(HARD_NAMES)
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*\.png", name) and len(name) <= 80
        (tmp_path / name).touch()
    assert stem_of("Red apple, twemoji style!") == "red-apple-twemoji-style-b0d43bca7655"


def test_prompts_that_would_have_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(prompts, "DIGEST", 0)
    assert len(plan_pictures([Request("a cat"), Request("a dog"), Request("a cat", 2)])) == 3
    with pytest.raises(ValueError, match="'a cat!' and of 'a cat' would have one name"):
        plan_pictures([Request("a cat"), Request("a cat!")])


# --- Sharing


@pytest.mark.parametrize("total", [0, 1, 2, 7, 8, 9, 64, 65, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_picture_is_dealt_to_one_process(total, count):
    wanted = [Wanted("", seed, str(seed)) for seed in range(total)]
    parts = [deal(wanted, Share(index, count)) for index in range(count)]
    assert sorted(p.seed for part in parts for p in part) == list(range(total))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= many.HAND and (min(sizes) > 0 or total < count)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Share(5, 8, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, Share(1, 2, 1)),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "WORLD_SIZE 2"),
        ({"RANK": "-1"}, "RANK -1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
    ],
)
def test_a_process_knows_its_share(monkeypatch, environment, expected):
    for name in (*many.RANKS, *many.SIZES, *many.LOCALS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, Share):
        assert share_of_process() == expected
    else:
        with pytest.raises(ValueError, match=re.escape(expected)):
            share_of_process()


def test_each_process_of_a_machine_has_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cuda", Share(5, 8, 1)) == "cuda:1"
    assert own_device("cuda", Share()) == "cuda" and own_device("cpu", Share(5, 8, 1)) == "cpu"
    with pytest.raises(ValueError, match="process 3 of this machine"):
        own_device("cuda", Share(2, 3, 2))


# --- The folder


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_pictures_are_those_drawn_one_by_one(model, tmp_path, batch_size):
    """With all that is inside, whatever they were drawn together with."""
    watched = Watched(model)
    found = draw_folder(watched, REQUESTS, tmp_path / "out", batch_size=batch_size)
    assert found == (12, 0)
    assert [len(batch) for batch in watched.batches] == {1: [1] * 12, 5: [5, 5, 2], 100: [12]}[
        batch_size
    ]
    for prompt, seed, file in plan_pictures(REQUESTS):
        model.generate(prompt, n=1, seed=seed).save(tmp_path / "alone.png")
        check_same_picture(tmp_path / "out" / file, tmp_path / "alone.png")
    assert len(pngs(tmp_path / "out")) == len(set(pngs(tmp_path / "out").values())) == 12


def test_batches_fit_in_the_free_memory(model, tmp_path):
    """Which may grow and shrink meanwhile."""
    watched, fits = Watched(model), iter([3, 4, 2])
    watched.most_at_once = lambda count: min(count, next(fits))
    assert draw_folder(watched, REQUESTS[:3], tmp_path, batch_size=4) == (8, 0)
    assert [len(batch) for batch in watched.batches] == [3, 4, 1]
    assert len(pngs(tmp_path)) == 8


def test_what_exists_is_not_drawn_again(model, tmp_path, tmp_path_factory):
    """Missing, empty and cut-off pictures are; what was begun is cleared away, the rest left."""
    draw_folder(model, REQUESTS, tmp_path)
    whole, plan = contents(tmp_path), plan_pictures(REQUESTS)
    gone, empty, cut = plan[2], plan[5], plan[11]
    (tmp_path / gone.file).unlink()
    (tmp_path / empty.file).write_bytes(b"")
    (tmp_path / cut.file).write_bytes(whole[cut.file][:-1])
    (tmp_path / f".{gone.file}.4711.part").write_bytes(b"half")
    others = {"mine.txt": b"notes", ".mine.part": b"mine", ".mine.png.7.part": b"mine"}
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    redrawn = {gone.file, empty.file, cut.file}
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in pngs(tmp_path)}
    watched = Watched(model)
    assert draw_folder(watched, REQUESTS, tmp_path, batch_size=2) == (3, 9)
    made = [(p.prompt, p.seed) for p in (gone, empty, cut)]
    assert watched.batches == [made[:2], made[2:]]
    for name, data in others.items():
        assert (tmp_path / name).read_bytes() == data
        (tmp_path / name).unlink()
    check_alike(tmp_path, whole, tmp_path_factory.mktemp("expected"))
    for name, stamp in before.items():
        assert name in redrawn or (tmp_path / name).stat().st_mtime_ns == stamp
    assert draw_folder(watched, REQUESTS, tmp_path) == (0, 12) and len(watched.batches) == 2


def test_a_file_of_prompts_may_grow(model, tmp_path):
    """And shrink: what it no longer asks for stays, and stays listed."""
    draw_folder(model, [Request("a", 2, 3), Request("b", 1, 3)], tmp_path)
    watched = Watched(model)
    more = [Request("c", 1, 3), Request("a", 3, 2)]
    assert draw_folder(watched, more, tmp_path) == (2, 2)
    assert watched.batches == [[("c", 3), ("a", 2)]]
    listed = [(line["text"], line["seed"]) for line in lines_of(tmp_path)]
    assert listed == [("c", 3), ("a", 2), ("a", 3), ("a", 4), ("b", 3)]
    assert {line["file_name"] for line in lines_of(tmp_path)} == set(pngs(tmp_path))


def test_the_folder_is_one_of_captioned_pictures(model, tmp_path):
    texts = ["a circle", "red, or blue?", "تفاحة"]
    draw_folder(model, [Request(text, 2) for text in texts], tmp_path)
    dataset = FolderDataset(tmp_path, side=32)
    assert not dataset.skipped
    assert sorted(text for each in dataset.captions for text in each) == sorted(2 * texts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0.5}, "temperature was 1.2, is 0.5. Draw"),
        ({"top_k": 3, "condition_scale": 4.0}, "top_k was 0, is 3; condition_scale was 2.0, is 4"),
    ],
)
def test_other_settings_are_refused(model, tmp_path, change, words):
    draw_folder(model, REQUESTS[:1], tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        draw_folder(model, REQUESTS, tmp_path, sampling=replace(model.sampling, **change))
    assert contents(tmp_path) == before


def test_another_model_is_refused(model, saved, tmp_path):
    """By its weights, not by its name; in another dtype that is what is said."""
    draw_folder(model, REQUESTS[:1], tmp_path)
    before = contents(tmp_path)
    other = small_model(seed=1)
    with pytest.raises(ValueError, match=r"model was '.*small', is 'unnamed' with other weights"):
        draw_folder(other, REQUESTS, tmp_path)
    with pytest.raises(ValueError, match=r"another way: dtype was 'float32', is 'bfloat16'\. Draw"):
        draw_folder(MiniDalle.from_pretrained(saved, dtype="bfloat16"), REQUESTS, tmp_path)
    assert contents(tmp_path) == before
    again = small_model()
    assert again.name != model.name
    assert draw_folder(again, REQUESTS[:1], tmp_path) == (0, 3)


def test_training_changes_the_fingerprint():
    """Of either part, and of what the tokenizer has learned."""
    model = small_model()
    known = {picture_folder.fingerprint(model)}
    for value in (model.bart.lm_head.weight, next(model.vqgan.parameters())):
        with torch.no_grad():
            value += 1e-3
        known.add(picture_folder.fingerprint(model))
    model.tokenizer = ByteLevelBPE.train(["a large blue square"] * 5, vocab_size=300)
    known.add(picture_folder.fingerprint(model))
    assert len(known) == 4


def test_settings_are_written_by_one_of_many(model, tmp_path, monkeypatch):
    """Of two processes that both find none, the second must not undo what the first wrote."""
    path = tmp_path / "settings.json"
    picture_folder.write_once(path, "first", 0)
    picture_folder.write_once(path, "second", 1)
    assert contents(tmp_path) == {"settings.json": b"first"}
    monkeypatch.setattr(os, "link", None)  # a file system without them

    def no_links(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    path.unlink()
    picture_folder.write_once(path, "third", 1)
    assert contents(tmp_path) == {"settings.json": b"third"}


@pytest.mark.parametrize("text", ["{", "[]", '"a"', '{"text": "a"}', '{"file_name": []}'])
def test_damaged_metadata_is_named(model, tmp_path, text):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.jsonl: expected an object with a file_name"):
        draw_folder(model, REQUESTS, tmp_path)
    assert not pngs(tmp_path)


def test_what_cannot_be_written_is_named(model, tmp_path):
    """And the pictures of the batches before are there."""
    plan = plan_pictures(REQUESTS)
    (tmp_path / plan[7].file).mkdir()
    with pytest.raises(OSError, match=re.escape(plan[7].file)):
        draw_folder(model, REQUESTS, tmp_path, batch_size=3)
    files = {p.file for p in plan}
    assert {p.file for p in plan[:6]} <= {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
    assert all(picture_folder.is_whole(tmp_path / f) for f in files & set(os.listdir(tmp_path))
               if f != plan[7].file)  # fmt: skip


def test_progress_counts_pictures(model, tmp_path):
    told = []
    show = lambda done, total: told.append((done, total))  # noqa: E731
    draw_folder(model, REQUESTS, tmp_path, batch_size=5, progress=show)
    assert told[0] == (0, 12) and told[-1] == (12, 12) and told == sorted(told)
    assert {total for _, total in told} == {12} and {done for done, _ in told} >= {5, 10}
    told.clear()
    draw_folder(model, REQUESTS, tmp_path, progress=show)
    assert told == [(0, 0)]
    with pytest.raises(ValueError, match="batch_size is 0"):
        draw_folder(model, REQUESTS, tmp_path, batch_size=0)


# --- The command


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory) -> Path:
    """20 prompts, 60 pictures."""
    path = tmp_path_factory.mktemp("prompts") / "p.txt"
    path.write_text("".join(f"a circle and {i} squares\n" for i in range(20)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(model, prompt_file, tmp_path_factory) -> dict[str, bytes]:
    """Their folder, drawn by one process at once."""
    folder = tmp_path_factory.mktemp("whole")
    requests = parse_prompts(prompt_file.read_bytes(), "p.txt", n=3, seed=1)
    assert draw_folder(model, requests, folder) == (60, 0)
    return contents(folder)


def arguments_for(prompt_file: Path, saved: Path, folder: Path) -> list[str]:
    wanted = ["--prompts", prompt_file, "-n", 3, "--seed", 1]
    return [*map(str, [*wanted, "--folder", folder, "--model", saved])]


def test_killed_in_the_middle(run, whole, saved, prompt_file, tmp_path):
    """The same command goes on: no picture is lost, none made twice, none is half there."""
    folder = tmp_path / "out"
    arguments = arguments_for(prompt_file, saved, folder)
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--batch-size", "1"], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        while not folder.is_dir() or len(pngs(folder)) < 10:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = pngs(folder)
    assert 10 <= len(left) < 60 and set(left) < set(whole)
    stamps = {name: (folder / name).stat().st_mtime_ns for name in left}
    answer = json.loads(run("generate", *arguments, "--json").out)
    assert (answer["drawn"], answer["existing"]) == (60 - len(left), len(left))
    check_alike(folder, whole, tmp_path)
    assert stamps == {name: (folder / name).stat().st_mtime_ns for name in left}


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"],
    "accelerate": [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "-m",
    ],
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_share_the_pictures(launcher, whole, saved, prompt_file, tmp_path):
    """Each is made once, by one of them, and is the one that a single process makes.

    torchrun's second call goes on from a folder in which some are missing.
    """
    folder = tmp_path / "out"
    arguments = [*arguments_for(prompt_file, saved, folder), "--json"]
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "minidalle", "generate", *arguments]
    for expected in (60, 4)[: 2 if launcher == "torchrun" else 1]:
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        answers, text = [], done.stdout.strip()
        while text:
            answer, end = json.JSONDecoder().raw_decode(text)
            answers.append(answer)
            text = text[end:].strip()
        assert sorted(answer["process"] for answer in answers) == [0, 1]
        assert {answer["processes"] for answer in answers} == {2}
        assert sum(answer["drawn"] for answer in answers) == expected
        assert sum(answer["existing"] for answer in answers) == 60 - expected
        assert min(answer["drawn"] for answer in answers) >= 1
        check_alike(folder, whole, tmp_path)
        for name in sorted(pngs(folder))[::17]:
            (folder / name).unlink()


def test_the_command_says_what_it_did(run, saved, prompt_file):
    few = ("generate", "a circle", "a circle", "-n", 2, "--folder", "deep/out", "--model", saved)
    assert run(*few) == (0, "2 pictures drawn, 0 were there already\ndeep/out\n", "")
    assert run(*few, "--separate", "-n", 3).out.startswith("1 pictures drawn, 2 were there")
    assert run(*few, "--timings").out.splitlines()[2].startswith("load ")
    metadata = pictures.read_metadata(next(Path("deep/out").glob("*-1.png")))
    assert (metadata["prompt"], metadata["seeds"]) == ("a circle", [1])
    refused = run(*few, "--top-k", 5)
    assert refused.code == 2 and "top_k was 0, is 5" in refused.err


def test_n_and_seed_of_a_prompt_hold_for_grids_too(run, saved):
    Path("p.csv").write_text("prompt,n,seed\na circle,,\na square,1,9\n")
    arguments = ("-n", 2, "--seed", 3, "--model", saved)
    assert run("generate", "--prompts", "p.csv", *arguments).code == 0
    seeds = [pictures.read_metadata(f"minidalle-{i}.png")["seeds"] for i in (1, 2)]
    assert seeds == [[3, 4], [9]]
    done = run("generate", "--prompts", "p.csv", *arguments, "--separate", "-o", "o.png")
    assert done.out.split() == ["o-1-3.png", "o-1-4.png", "o-2-9.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("x --folder out --stream", "--stream does not go with --folder"),
        ("x --folder out --rerank", "--rerank does not go with --folder"),
        ("x --folder out -o a.png", "--out does not go with --folder"),
        ("x --folder out --image-prompt a.png", "--image-prompt does not go with --folder"),
        ("x --batch-size 4", "--batch-size is about --folder"),
        ("x --folder out --batch-size 0", "--batch-size"),
        ("x --folder out -n 0", "n is 0"),
        ("x --folder out --temperature nan", "temperature is nan"),
        ("--folder out", "no prompt"),
        ("--folder out --prompts bad.jsonl", "bad.jsonl, line 1"),
        ("x --folder bad.jsonl", "bad.jsonl cannot be made"),
        ("x --folder bad.jsonl/out", "bad.jsonl/out cannot be made"),
        (f"x --folder {'y' * 300}", "too long"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(run, monkeypatch, arguments, words):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(MiniDalle, "from_pretrained", load)
    Path("bad.jsonl").write_text("{")
    done = run("generate", *arguments.split())
    assert done.code == 2 and done.out == "" and words in done.err
    assert os.listdir() == ["bad.jsonl"]


def test_several_processes_would_draw_one_file(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes would draw the same" in run("generate", "x").err
