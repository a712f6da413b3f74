"""The command line as a user meets it: what it writes, what it prints, how it refuses.

Most tests call `main` in this process, with a small random model in a folder; a few run the real
command, where only that shows it.
"""

import io
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import minidalle
from minidalle import pictures
from minidalle.bart import Bart, BartConfig
from minidalle.checkpoints import load_vqgan, native
from minidalle.cli.loading import choose_dtype
from minidalle.clip import CLIP, CLIPConfig
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

OTHER_COMMANDS = (
    "convert",
    "bench load",
    "bench convert",
    "bench train",
    "train vqgan",
    "train bart",
)
COMMAND = [sys.executable, "-m", "minidalle"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with a small random model, lively enough that other tokens are other pictures."""
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig.tiny()).eval()
    with torch.no_grad():
        vqgan.decoder.conv_out.weight *= 5
        vqgan.quantize.embedding.weight *= 3
    folder = tmp_path_factory.mktemp("models") / "small"
    MiniDalle(
        bart=Bart(BartConfig.tiny()).eval(),
        vqgan=vqgan,
        tokenizer=ByteLevelBPE.train(["a small red circle"] * 5, vocab_size=300),
        sampling=SamplingConfig(temperature=1.2, condition_scale=2.0),
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def no_loading(monkeypatch):
    """Fail the test where a model is loaded."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(MiniDalle, "from_pretrained", load)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What it writes and prints.


def test_the_command_draws_with_the_embedded_model(tmp_path):
    """The one test of the whole: a process, its defaults, a pipe."""
    arguments = ["generate", "red apple, twemoji style", "-n", "2", "--seed", "7", "--timings"]
    done = subprocess.run(COMMAND + arguments, cwd=tmp_path, capture_output=True, text=True)
    path, timings = done.stdout.splitlines()
    assert (done.returncode, done.stderr, path) == (0, "", "minidalle.png")
    assert "load" in timings and "draw tokens" in timings
    assert names(tmp_path) == ["minidalle.png"]
    assert Image.open(tmp_path / path).size == (128, 64)
    metadata = pictures.read_metadata(tmp_path / path)
    assert (metadata["prompt"], metadata["seeds"]) == ("red apple, twemoji style", [7, 8])


def test_the_same_command_writes_the_same_bytes(run, model):
    for name, seed in (("a.png", 7), ("b.png", 7), ("c.png", 8)):
        done = run("generate", "a circle", "-n", 4, "--seed", seed, "-o", name, "--model", model)
        assert done == (0, f"{name}\n", "")
    a, b, c = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c and Image.open("a.png").size == (64, 64)


def test_python_saves_the_same_file(run, model):
    run("generate", "a circle", "-n", 4, "--seed", 7, "-o", "a.png", "--model", model)
    result = MiniDalle.from_pretrained(str(model)).generate("a circle", n=4, seed=7)
    result.save("b.png")
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    assert pictures.read_metadata("a.png")["model"] == str(model)


def test_several_prompts_are_drawn_as_if_alone(run, model):
    Path("p.txt").write_bytes("\ufeffتفاحة\r\n\n  \n🍎 x\ny".encode())
    arguments = ("-n", 2, "--seed", 3, "--model", model)
    done = run("generate", "a circle", "", "--prompts", "p.txt", "-o", "o.png", *arguments)
    files = [f"o-{i}.png" for i in range(1, 6)]
    assert done == (0, "".join(f"{name}\n" for name in files), "")
    prompts = [pictures.read_metadata(name)["prompt"] for name in files]
    assert prompts == ["a circle", "", "تفاحة", "🍎 x", "y"]
    run("generate", "🍎 x", "-o", "alone.png", *arguments)
    assert Path("alone.png").read_bytes() == Path("o-4.png").read_bytes()


def test_prompts_from_standard_input(run, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert run("generate", "--prompts", "-", "-n", 1, "--model", model).code == 0
    assert pictures.read_metadata("minidalle-2.png")["prompt"] == "two"


def test_separate_writes_one_file_per_picture(run, model):
    arguments = ("generate", "a circle", "-n", 3, "--seed", 5, "--model", model)
    done = run(*arguments, "--separate", "-o", "o.png")
    assert done.out.split() == ["o-5.png", "o-6.png", "o-7.png"]
    run(*arguments, "-o", "grid.png")
    grid = pixels("grid.png")
    for i, (x, y) in enumerate([(0, 0), (32, 0), (0, 32)]):
        assert (pixels(f"o-{i + 5}.png") == grid[y : y + 32, x : x + 32]).all()
        assert pictures.read_metadata(f"o-{i + 5}.png")["seeds"] == [i + 5]
    done = run(*arguments, "x", "--separate", "-o", "p.png", "-n", 1)
    assert done.out.split() == ["p-1-5.png", "p-2-5.png"]


def test_rerank_puts_the_best_first(run, model, tmp_path):
    """The same pictures in the order of their scores; alone, each keeps its seed's name."""
    whole = MiniDalle.from_pretrained(model)
    torch.manual_seed(0)
    clip = CLIP(replace(CLIPConfig.tiny(), vocab_size=whole.tokenizer.vocab_size)).eval()
    whole.clip = clip
    whole.save_pretrained(tmp_path / "ranked")
    arguments = ("generate", "a circle", "-n", 4, "--seed", 5, "--model", tmp_path / "ranked")
    run(*arguments, "-o", "plain.png")
    assert run(*arguments, "--rerank", "-o", "best.png").code == 0
    metadata = pictures.read_metadata("best.png")
    scores, seeds = metadata["scores"], metadata["seeds"]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert sorted(seeds) == [5, 6, 7, 8] != seeds
    assert "scores" not in pictures.read_metadata("plain.png")
    plain, best = pixels("plain.png"), pixels("best.png")
    for place, seed in zip([(0, 0), (32, 0), (0, 32), (32, 32)], seeds, strict=True):
        x, y = place
        u, v = 32 * ((seed - 5) % 2), 32 * ((seed - 5) // 2)
        assert (best[y : y + 32, x : x + 32] == plain[v : v + 32, u : u + 32]).all()
    run(*arguments, "--rerank", "--separate", "-o", "o.png")
    for score, seed in zip(scores, seeds, strict=True):
        alone = pictures.read_metadata(f"o-{seed}.png")
        assert alone["seeds"] == [seed] and alone["scores"] == [score]


def test_without_a_clip_rerank_is_refused_before_drawing(run, model):
    done = run("generate", "x", "--rerank", "--stream", "-o", "none.png", "--model", model)
    assert done.code == 2 and "no CLIP" in done.err and not Path("none.png").exists()


def test_stream_rewrites_the_file_while_it_forms(run, model, monkeypatch):
    """Eight states and the end, each a whole picture with ever less grey in it."""
    versions = []
    write = pictures.write_picture

    def watched(picture, path, metadata):
        write(picture, path, metadata)
        versions.append((pictures.read_metadata(path).get("step"), pixels(path)))

    monkeypatch.setattr(pictures, "write_picture", watched)
    arguments = ("generate", "a circle", "-n", 4, "--model", model)
    assert run(*arguments, "--stream", "-o", "s.png") == (0, "s.png\n", "")
    steps, states = zip(*versions, strict=True)
    assert steps == (0, 2, 4, 6, 8, 10, 12, 14, None)
    grey = [(state == pictures.GREY).all(-1).mean() for state in states]
    assert grey == sorted(grey, reverse=True) and grey[0] == 1 > grey[-2] > grey[-1]
    run(*arguments, "-o", "whole.png")
    assert Path("s.png").read_bytes() == Path("whole.png").read_bytes()
    assert len(versions) == 10


def test_json_is_the_whole_output(run, model):
    arguments = ("generate", "a", "b", "-n", 2, "--top-p", 0.9, "--model", model, "--json")
    done = run(*arguments, "--separate", "--timings")
    answer = json.loads(done.out)
    assert [(entry["prompt"], entry["seeds"]) for entry in answer["files"]] == [
        ("a", [0]), ("a", [1]), ("b", [0]), ("b", [1]),
    ]  # fmt: skip
    for entry in answer["files"]:
        seconds, file = entry.pop("seconds"), entry.pop("file")
        assert seconds > 0 and entry == pictures.read_metadata(file)
        assert entry["sampling"]["top_p"] == 0.9
    assert set(answer["timings"]) == {"load", "draw tokens", "decode pictures", "write"}


def test_progress_is_shown_on_a_terminal_only(run, model, monkeypatch):
    assert run("generate", "a", "b", "-n", 1, "--model", model).err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = run("generate", "a", "b", "-n", 1, "--model", model)
    assert "drawing" in done.err and "32/32" in done.err
    assert done.out == "minidalle-1.png\nminidalle-2.png\n"


def test_a_picture_can_be_made_again_from_its_metadata(run, model):
    knobs = ("--temperature", 0.8, "--top-k", 20, "--top-p", 0.95, "--condition-scale", 3)
    run("generate", "a circle", "-n", 3, "--seed", 11, *knobs, "-o", "first.png", "--model", model)
    facts = json.loads(run("info", "first.png", "--json").out)
    assert facts["version"] == minidalle.__version__ and isinstance(facts["model"], str)
    assert facts["dtype"] == "float32"
    knobs = [
        part
        for name, value in facts["sampling"].items()
        for part in (f"--{name.replace('_', '-')}", value)
    ]
    seeds = ("-n", len(facts["seeds"]), "--seed", facts["seeds"][0])
    run("generate", facts["prompt"], *seeds, *knobs, "-o", "again.png", "--model", model)
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()
    run("generate", facts["prompt"], *seeds, "-o", "other.png", "--model", model)
    assert Path("other.png").read_bytes() != Path("first.png").read_bytes()


def test_info_is_readable_and_safe_on_a_terminal(run):
    pictures.write_picture(
        Image.new("RGB", (1, 1)), Path("a.png"), {"prompt": "تفاحة \x1b[2J\udcff", "seeds": [1, 2]}
    )
    done = run("info", "a.png")
    assert done.out == "prompt: تفاحة \\x1b[2J\\udcff\nseeds: [1, 2]\n"


def test_top_k_above_the_codebook_means_all(run, model):
    """0 draws from all codes, and so does any number above that of the codes, here 64 or fewer."""
    assert native.read_config(model)["vqgan"]["n_embed"] <= 64
    for top_k in (0, 65, 10**30):
        arguments = ("generate", "a", "-n", 4, "--top-k", top_k, "-o", f"{top_k}.png")
        assert run(*arguments, "--model", model).code == 0
    assert (pixels("0.png") == pixels("65.png")).all()
    assert (pixels("0.png") == pixels(f"{10**30}.png")).all()


@pytest.mark.parametrize(
    "prompt", ["", " ", "x" * 10_000, "\x00\x07\x1b[31m", "\ud800", "تفاحة حمراء", "-- x"]
)
def test_any_text_is_a_prompt(run, model, prompt):
    done = run("generate", "-n", 1, "--model", model, "--json", "--", prompt)
    assert done.code == 0 and json.loads(done.out)["files"][0]["prompt"] == prompt
    assert pictures.read_metadata("minidalle.png")["prompt"] == prompt


def test_arguments_that_are_not_utf8(tmp_path, model):
    """Bytes of a shell in another encoding: the prompt is drawn, the name is written as it is."""
    arguments = ["generate", b"caf\xe9", "-n", "1", "-o", b"caf\xe9.png", "--model", model]
    done = subprocess.run(COMMAND + arguments, cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\xe9.png\n", b"")
    assert pictures.read_metadata(bytes(tmp_path) + b"/caf\xe9.png")["prompt"] == "caf\udce9"


def test_image_prompt_keeps_the_beginning(run, model):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)).save("p.jpg")
    arguments = ("generate", "a", "-n", 2, "--model", model, "--image-prompt", "p.jpg")
    for keep, name in ((1, "whole.png"), (0.5, "half.png"), (0, "none.png")):
        assert run(*arguments, "--keep", keep, "-o", name).code == 0
    whole, half, none = (pixels(f"{name}.png") for name in ("whole", "half", "none"))
    assert (whole[:, :32] == whole[:, 32:]).all()  # all of it is kept: both pictures are the same
    assert not (half[:, :32] == half[:, 32:]).all()
    run("generate", "a", "-n", 2, "--model", model, "-o", "free.png")
    assert (pixels("free.png") == none).all()
    facts = pictures.read_metadata("half.png")
    assert (facts["image_prompt"], facts["keep"]) == ("p.jpg", 0.5)
    assert "keep" not in pictures.read_metadata("free.png")


def test_reconstruct_shows_both_side_by_side(run, model):
    """The PSNR printed is that of the right half of the file against its left half."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    Image.fromarray(noise).save("a.png")
    Image.new("CMYK", (32, 32)).save("b.jpg")
    done = run("reconstruct", "a.png", "b.jpg", "-o", "r.png", "--model", model)
    first, second, path = done.out.splitlines()
    assert path == "r.png" and Image.open("r.png").size == (64, 64)
    assert (pixels("r.png")[:32, :32] == pictures.square(Image.open("a.png"), 32)).all()
    for line, name, row in ((first, "a.png", 0), (second, "b.jpg", 32)):
        left, right = np.split(pixels("r.png")[row : row + 32] / 255, 2, axis=1)
        expected = -10 * np.log10(((left - right) ** 2).mean())
        stated, value, unit = line.split()
        assert (stated, unit) == (name, "dB") and abs(float(value) - expected) < 0.1
    answer = json.loads(run("reconstruct", "a.png", "--model", model, "--json").out)
    assert answer["file"] == "reconstruction.png"
    assert f"{answer['pictures'][0]['psnr']:.2f}" == first.split()[1]


def test_reconstruct_needs_no_bart(run, model, tmp_path, no_loading):
    native.save(tmp_path / "vqgan", vqgan=load_vqgan(model))
    Image.new("RGB", (5, 5), "red").save("a.png")
    assert run("reconstruct", "a.png", "--vqgan", "vqgan").code == 0


def test_options_of_the_model_are_handed_on(run, monkeypatch):
    """Only those that were given; the dtype is chosen by the device."""
    seen = []

    def load(*arguments, **options):
        seen.append((*arguments, options))
        raise ValueError("enough")

    monkeypatch.setattr(MiniDalle, "from_pretrained", load)
    run("generate", "x")
    more = ("--vqgan", "v", "--revision", "r", "--variant", "mega", "--dtype", "bfloat16")
    run("generate", "x", "--model", "a/b", "--device", "cuda:1", *more)
    given = {"vqgan": "v", "revision": "r", "variant": "mega"}
    assert seen == [
        (None, {"device": "cpu", "dtype": "float32"}),
        ("a/b", {"device": "cuda:1", "dtype": "bfloat16", **given}),
    ]


@pytest.mark.parametrize(
    ("device", "there", "native_bfloat16", "expected"),
    [
        ("cpu", True, True, "float32"),
        ("mps", False, False, "float32"),
        ("cuda", True, True, "bfloat16"),
        ("cuda:1", True, False, "float16"),
        ("cuda", False, False, "float32"),  # the loader says that there is none
    ],
)
def test_automatic_precision(monkeypatch, device, there, native_bfloat16, expected):
    def supported(including_emulation=True):
        return including_emulation or native_bfloat16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_dtype("auto", device) == expected
    assert choose_dtype("float16", device) == "float16"


@pytest.mark.parametrize(
    ("fast", "weights", "expected"),
    [(True, 10**9, "bfloat16"), (True, 10**7, "float32"), (False, 10**9, "float32")],
)
def test_automatic_precision_of_a_processor(monkeypatch, fast, weights, expected):
    """bfloat16 where the processor multiplies it, and the weights are many."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": fast})
    assert choose_dtype("auto", "cpu", lambda: weights) == expected
    assert choose_dtype("auto", "mps", lambda: weights) == "float32"


# What it says of itself.


def test_version_and_help(run):
    assert run("--version").out == f"minidalle {minidalle.__version__}\n"
    assert "generate" in run().out
    for command in ("generate", "reconstruct", "info", "evaluate", *OTHER_COMMANDS):
        done = run(*command.split(), "--help")
        lines = [line.strip() for line in done.out.split("Examples:")[1].splitlines()]
        examples = [line for line in lines if line]
        assert done.code == 0 and examples
        assert all(f"{line} ".startswith(f"minidalle {command} ") for line in examples), examples


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from minidalle.cli import main; sys.argv[1:] = ['generate', '--help']; main();"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--condition-scale" in done.stdout, done.stderr


def test_makefile_targets_do_what_the_readme_says():
    """`make -n` prints the commands without running them."""
    root = Path(__file__).parents[2]
    make = ["make", "-n", "-C", str(root), "demo", "PROMPT=rocket, noto style", "SEED=3"]
    printed = subprocess.run(make, capture_output=True, text=True, check=True).stdout
    assert 'generate "rocket, noto style" -n 9 --seed 3 -o demo.png' in printed


# How it refuses.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("generate", "prompt"),
        ("generate x --colour red", "--colour"),
        ("generate x -n many", "-n"),
        ("generate x -n 0", "n is 0"),
        ("generate x -n -1 --separate", "n is -1"),
        ("generate x -n 10001", "at most 10000"),
        ("generate x --seed -1", "seed is -1"),
        (f"generate x --seed {2**63}", "2**63"),
        (f"generate x --seed {10**30} --separate", "2**63"),
        ("generate x --temperature nan", "temperature is nan"),
        ("generate x --temperature -0.5", "temperature is -0.5"),
        ("generate x --top-k -1", "top_k is -1"),
        ("generate x --top-p 0", "top_p is 0.0"),
        ("generate x --condition-scale inf", "condition_scale is inf"),
        ("generate x --image-prompt nowhere.png", "nowhere.png"),
        ("generate x --image-prompt text.png", "text.png"),
        ("generate x --image-prompt one.png --keep 1.5", "keep"),
        ("generate x --image-prompt one.png --keep nan", "keep"),
        ("generate --prompts nowhere.txt", "nowhere.txt"),
        ("generate --prompts blank.txt", "blank.txt holds no prompt"),
        ("generate --prompts one.png", "one.png is not UTF-8"),
        ("generate x -o nowhere/a.png", "nowhere"),
        ("generate x -o taken.png", "taken.png cannot be written"),
        ("generate x y -o two.png", "two-2.png cannot be written"),
        ("generate x -n 2 --separate -o s.png", "s-1.png cannot be written"),
        ("generate x -o a.txt", ".png"),
        ("generate x -o .", ".png"),
        ("reconstruct", "PICTURE"),
        ("reconstruct nowhere.png", "nowhere.png"),
        ("reconstruct one.png text.png", "text.png"),
        ("reconstruct one.png -o taken.png", "taken.png"),
        ("info", "PATH"),
        ("info nowhere.png", "nowhere.png"),
        ("info one.png", "no metadata"),
        ("info text.png", "text.png"),
        ("evaluate --split holdout", "'holdout'"),
        ("train", "command"),
        ("train vqgan --run r --set stps=3", "'steps'"),
        ("train vqgan --run r --preset huge", "'huge'"),
        ("train vqgan --set stps=3", "'steps'"),
        ("train bart --run r --vqgan nowhere", "nowhere"),
        ("paint x", "paint"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run, no_loading, tmp_path, arguments, words):
    """Found out before a model is loaded, and nothing is written."""
    for name in ("taken.png", "two-2.png", "s-1.png"):
        Path(name).mkdir()
    Image.new("RGB", (1, 1)).save("one.png")
    Path("text.png").write_text("this is not a picture")
    Path("blank.txt").write_text("\n \n")
    before = names(tmp_path)
    done = run(*arguments.split())
    assert done.code == 2 and done.out == "" and words in done.err
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--model nowhere", "nowhere"),
        ("--dtype float8", "float8"),
        ("--device toaster", "toaster"),
    ],
)
def test_mistakes_about_the_model_are_one_line_too(run, model, tmp_path, arguments, words):
    done = run("generate", "x", "--model", model, *arguments.split())  # the last --model counts
    assert done.code == 2 and done.out == "" and words in done.err
    assert names(tmp_path) == []


@pytest.mark.parametrize("option", [(), ("--stream",)])
def test_too_little_memory_is_one_line_too(run, model, tmp_path, monkeypatch, option):
    monkeypatch.setattr("minidalle.pipeline.free_memory", lambda device: 1000)
    done = run("generate", "x", "--model", model, *option)
    assert done.code == 2 and done.out == "" and len(done.err.splitlines()) == 1
    assert "MiB of memory besides the weights, 0 MiB are free" in done.err
    assert names(tmp_path) == []


def test_a_mistake_cannot_act_on_the_terminal(run):
    assert "\x1b" not in run("generate", "x", "-o", "\x1b[2J.txt").err


def test_interrupted(run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(MiniDalle, "from_pretrained", stop)
    assert run("generate", "x") == (130, "", "minidalle: stopped\n")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, model):
    """No file may become longer than 1,000 bytes, as if the disk had no more room."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    arguments = ["generate", "x", "-n", "4", "-o", "a.png", "--model", model]
    done = subprocess.run(
        COMMAND + arguments, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("minidalle: ") and "a.png" in line and "too large" in line
    assert names(tmp_path) == []
