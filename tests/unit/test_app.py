"""The web page without a browser: what it refuses, what its buttons do, its HTTP API.

The server runs in this process, at a free port of this machine, with a small random model. What
needs a browser is in tests/browser/test_app.py.
"""

import asyncio
import base64
import io
import json
import re
import socket
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
import torch
from PIL import Image

from minidalle.app import editor, html, limits
from minidalle.app import studio as studio_module
from minidalle.app.studio import FRAME, KEEP, Drawn, Studio, Tiles, codes_like
from minidalle.bart import Bart, BartConfig
from minidalle.clip import CLIP, CLIPConfig
from minidalle.pictures import read_metadata, write_picture
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig
from minidalle.tokenizer import ByteLevelBPE
from minidalle.vqgan import VQGAN, VQGANConfig

WAIT = 120  # seconds, for everything: the machine may be busy


class Slow(MiniDalle):
    """A model that takes its time for each token, and knows how many it has drawn."""

    drawn, pause, slow_prompt = 0, 0.0, ""
    sleep = staticmethod(time.sleep)

    def stream_batch(self, prompts, *args):
        for tokens in super().stream_batch(prompts, *args):
            self.drawn += 1
            self.sleep(1.0 if prompts == [self.slow_prompt] else self.pause)
            yield tokens


def make_model(clip: bool = False, name: str = "small") -> Slow:
    torch.manual_seed(0)
    vqgan = VQGAN(VQGANConfig.tiny()).eval()
    with torch.no_grad():
        vqgan.decoder.conv_out.weight *= 5
        vqgan.quantize.embedding.weight *= 3
    tokenizer = ByteLevelBPE.train(["a small red circle"] * 5, vocab_size=300)
    config = replace(CLIPConfig.tiny(), vocab_size=tokenizer.vocab_size)
    return Slow(
        bart=Bart(BartConfig.tiny()).eval(),
        vqgan=vqgan,
        tokenizer=tokenizer,
        clip=CLIP(config).eval() if clip else None,
        sampling=SamplingConfig(temperature=1.2, condition_scale=2.0),
        name=name,
    )


@pytest.fixture(scope="module")
def studio():
    return Studio([make_model(clip=True), make_model(name="other")])


@pytest.fixture(scope="module")
def drawn(studio) -> Drawn:
    """Four finished pictures."""
    *_, last = studio.draw("red <b>circle</b>", n=4, seed=7)
    return last


def bytes_of(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


def picture_of(url: str) -> Image.Image:
    return Image.open(io.BytesIO(bytes_of(url)))


# What is refused.


def test_limits_are_said_with_what_was_found():
    assert limits.check_prompt("x" * limits.MAX_PROMPT)
    with pytest.raises(ValueError, match=r"501 characters; this page takes at most 500"):
        limits.check_prompt("x" * (limits.MAX_PROMPT + 1))
    with pytest.raises(ValueError, match="must be a text"):
        limits.check_prompt(None)
    assert limits.check_count(9.0) == 9
    for n in (0, limits.MAX_PICTURES + 1, -1):
        with pytest.raises(ValueError, match=f"{n} pictures were asked for"):
            limits.check_count(n)
    for n in (1.5, "9", None, True, float("nan")):
        with pytest.raises(ValueError, match="must be a whole number"):
            limits.check_count(n)
    for seed in (-1, 2**53):
        with pytest.raises(ValueError, match=f"the seed is {seed}"):
            limits.check_seed(seed)


def test_uploads_are_bounded_and_read_safely():
    url = html.data_url(Image.new("RGB", (5, 3), "red"))
    assert limits.read_upload(url).getpixel((0, 0)) == (255, 0, 0)
    large = "data:image/png;base64," + "A" * (limits.MAX_UPLOAD * 4 // 3 + 8)
    with pytest.raises(ValueError, match=r"has 10\.0 MB; this page takes at most 10 MB"):
        limits.read_upload(large)
    with pytest.raises(ValueError, match="no PNG, JPEG"):
        limits.read_upload("data:image/png;base64," + base64.b64encode(b"no picture").decode())
    with pytest.raises(ValueError, match="no base64"):
        limits.read_upload("data:image/png;base64,???")
    for junk in (None, 7, "/etc/passwd", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="data URL"):
            limits.read_upload(junk)


def pass_gate(path="/", headers=(), chunks=(b"",), limit=10):
    """What the gate lets through to the app, and the status that it answers itself."""
    seen, answered, queue = [], [], [{"type": "http.request", "body": c} for c in chunks]

    async def app(scope, receive, send):
        seen.extend([await receive() for _ in chunks])

    async def receive():
        return queue.pop(0)

    async def send(message):
        answered.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers)}
    asyncio.run(limits.Gate(app, limit)(scope, receive, send))
    return seen, answered[0]["status"] if answered else None


def test_the_gate_turns_away_large_requests_and_file_uploads():
    assert pass_gate(chunks=[b"1234567890"]) == (
        [{"type": "http.request", "body": b"1234567890"}],
        None,
    )
    assert pass_gate(headers=[(b"content-length", b"11")]) == ([], 413)
    assert pass_gate(headers=[(b"content-length", b"-3")]) == ([], 413)
    for name in ("upload", "file=/etc/passwd", "file=https://example.com/a.png", "proxy=a.b"):
        assert pass_gate(path=f"/gradio_api/{name}") == ([], 404)
    assert pass_gate(path="/assets/upload.js")[1] is None
    seen, _ = pass_gate(chunks=[b"12345", b"67890", b"more"])  # which says no length
    assert [message["type"] for message in seen] == ["http.request"] * 2 + ["http.disconnect"]


# What the buttons do.


def test_frames_end_with_what_generate_draws(studio):
    model = studio.model()
    frames = list(studio.draw("red circle", n=3, seed=5, temperature=0.7, top_k=4))
    steps = [frame.result.step for frame in frames]
    assert steps == sorted(steps) and steps[0] == 0 and not frames[0].finished
    expected = model.generate("red circle", n=3, seed=5, temperature=0.7, top_k=4)
    last = frames[-1]
    assert last.finished and last.result.metadata() == expected.metadata()
    assert torch.equal(last.result.tokens, expected.tokens)
    assert [i.tobytes() for i in last.result.images] == [i.tobytes() for i in expected.images]


def test_frames_come_as_the_clock_says(monkeypatch):
    """A fast model shows few frames, a slow one each token."""
    model, clock = make_model(), [0.0]
    monkeypatch.setattr(studio_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    model.sleep = lambda pause: clock.__setitem__(0, clock[0] + pause)
    for share, expected in ((4, [0, 4, 8, 12, 16]), (1, list(range(17))), (1000, [0, 16])):
        model.pause = FRAME / share
        assert [frame.result.step for frame in Studio([model]).draw("x", n=1)] == expected


def test_more_like_this_keeps_the_first_half(studio, drawn):
    *_, more = studio.more(drawn, 2)
    tokens, length = drawn.result.tokens[2], drawn.result.length
    half = round(KEEP * length)
    assert more.result.seeds == [9, 10, 11, 12]
    assert (more.result.tokens[:, :half] == tokens[:half]).all()
    assert torch.equal(more.result.tokens[0], tokens), "the first is the chosen one itself"
    assert not torch.equal(more.result.tokens[1], tokens)
    assert more.metadata()["keep"] == KEEP
    assert more.metadata()["image_prompt"] == "red <b>circle</b>, seed 9"
    with pytest.raises(ValueError, match="there is no picture 4"):
        next(studio.more(drawn, 4))
    with pytest.raises(ValueError, match="not drawn yet"):
        next(studio.more(None, 0))


def test_rerank_sorts_or_says_that_there_is_no_clip(studio, drawn):
    ranked = studio.rerank(drawn)
    assert ranked.result.scores == sorted(ranked.result.scores, reverse=True)
    assert sorted(ranked.result.seeds) == drawn.result.seeds
    assert "best first" in html.status(ranked)
    *_, other = studio.draw("x", model="other")
    with pytest.raises(ValueError, match="no CLIP"):
        studio.rerank(other)


def test_models_are_chosen_by_name():
    studio = Studio([make_model(name="a"), make_model(name="a"), make_model(name="b")])
    assert studio.names == ["a", "a (2)", "b"]
    assert studio.model() is studio.models["a"] and studio.model("b").name == "b"
    with pytest.raises(ValueError, match="no model 'c'; loaded are a, a"):
        next(studio.draw("x", model="c"))
    with pytest.raises(ValueError, match="no model to show"):
        Studio([])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"condition_scale": float("nan")},
        {"kept": [0] * 99},
        {"kept": [10**6]},
        {"kept": "ab"},
        {"n": 17},
        {"seed": -1},
    ],
)
def test_bad_knobs_are_refused_before_anything_is_drawn(studio, wrong):
    before = studio.model().drawn
    with pytest.raises(ValueError):
        next(studio.draw("x", **wrong))
    assert studio.model().drawn == before


def test_tiles_are_drawn_once(studio):
    vqgan = studio.model().vqgan
    tiles = Tiles(vqgan)
    first = tiles([3, 1, 3])
    assert first.keys() == {1, 3} and first[1].size == (vqgan.config.factor,) * 2
    assert tiles([1])[1] is first[1]
    assert first[1].tobytes() != first[3].tobytes()


def test_codes_alike_are_the_nearest_ones(studio):
    vqgan = studio.model().vqgan
    like = codes_like(vqgan, 5, 4)
    codebook = vqgan.quantize.embedding.weight.detach()
    distances = (codebook - codebook[5]).norm(dim=1)
    assert like[0] == 5 and set(like) == set(distances.argsort()[:4].tolist())
    assert len(codes_like(vqgan, 5, 10**6)) == len(codebook)


# What is shown.


def test_the_grid_has_buttons_once_it_is_finished(studio, drawn):
    grid = html.grid(drawn, selected=1)
    assert grid.count("<button") == 4 and grid.count('aria-pressed="true"') == 1
    assert grid.count('alt="red &lt;b&gt;circle&lt;/b&gt;, seed 7"') == 1 and "<b>" not in grid
    forming = next(studio.draw("x", n=4))
    assert "<button" not in html.grid(forming) and "0 of" in html.status(forming)


def test_a_downloaded_picture_is_the_file_that_generate_writes(drawn, tmp_path):
    detail = html.detail(drawn, 2)
    url = detail.split('<img src="')[1].split('"')[0]
    assert f'href="{url}"' in detail and 'download="red-b-circle-b-9.png"' in detail
    write_picture(drawn.result.images[2], tmp_path / "a.png", drawn.result.metadata(2))
    assert bytes_of(url) == (tmp_path / "a.png").read_bytes()
    assert read_metadata(tmp_path / "a.png")["seeds"] == [9]
    drawn.result.save(tmp_path / "all.png")
    whole = html.status(drawn).split('href="')[1].split('"')[0]
    assert bytes_of(whole) == (tmp_path / "all.png").read_bytes()


def test_odd_prompts_give_sane_file_names(drawn):
    def named(prompt):
        *_, last = Studio([make_model()]).draw(prompt, n=1)
        return html.file_name(last, 0)

    assert named("../../etc/passwd") == "etc-passwd-0.png"
    assert named("") == "minidalle-0.png" and named("🍎") == "minidalle-0.png"
    assert named('a" onclick="x') == "a-onclick-x-0.png"


def test_tokens_edited_one_by_one(studio):
    model = studio.model()
    picture = model.decode(torch.randint(0, 8, (model.bart.config.image_length,)))
    start = editor.begin(studio, None, picture.resize((40, 33)))
    assert torch.equal(start.tokens, start.original) and start.changed == 0
    edit = editor.paint(studio, editor.select(start, 0), (int(start.tokens[0]) + 1) % 8)
    edit = editor.paint(studio, editor.select(edit, 3), (int(start.tokens[3]) + 1) % 8)
    assert edit.changed == 2 and edit.metadata()["tokens"] == edit.tokens.tolist()
    assert edit.after.tobytes() == model.decode(edit.tokens).tobytes()
    assert edit.after.tobytes() != edit.before.tobytes()
    back = editor.undo(studio, editor.select(edit, 1))
    assert (back.changed, back.selected) == (1, 3)
    back = editor.undo(studio, editor.undo(studio, back))  # once more than there are changes
    assert torch.equal(back.tokens, start.original)
    assert back.after.tobytes() == start.before.tobytes()
    assert editor.reset(edit).changed == 0 and editor.reset(edit).past == ()
    for place in (-1, len(start.tokens), "0", None):
        with pytest.raises(ValueError, match="no place"):
            editor.select(start, place)
    for code in (-1, model.vqgan.config.n_embed, "x", None, 1.5):
        with pytest.raises(ValueError, match="code"):
            editor.paint(studio, start, code)


def test_a_drawn_picture_keeps_its_tokens_in_the_editor(studio, drawn):
    edit = editor.begin_with_drawn(studio, drawn, 1)
    assert torch.equal(edit.tokens, drawn.result.tokens[1])
    assert edit.before.tobytes() == drawn.result.images[1].tobytes()
    page = html.editor(edit, studio.tiles[edit.model])
    assert html.figures(edit).count("<figure>") == 3
    assert page.count("data-place=") == len(edit.tokens) and page.count('tabindex="0"') == 1
    assert f"code {int(edit.tokens[edit.selected])}" in html.editor_status(edit)
    palette = html.palette(edit, studio.tiles[edit.model], [5, 6])
    assert 'data-code="5"' in palette and "<img" in palette


# The tabs' callbacks, called as plain functions.


@pytest.fixture(scope="module")
def tabs(studio):
    """The two tabs, of a page that is not served."""
    gr = pytest.importorskip("gradio", reason="needs minidalle[app]")
    from minidalle.app.draw_tab import DrawTab
    from minidalle.app.edit_tab import EditTab

    with gr.Blocks(analytics_enabled=False):
        model = gr.Radio(studio.names)
        return gr, DrawTab(studio, model), EditTab(studio, model)


def test_the_draw_tab_shows_frames_then_the_chosen_picture(tabs, studio):
    _, tab, _ = tabs
    first, *_, last = tab.draw("small", "red circle", 4, 7, 1.0, 0, 1.0, 1.0)
    assert first[tab.drawn] is None and first[tab.picture] is None
    assert "Drawing: 0 of 16" in first[tab.status] and "4 pictures" in last[tab.status]
    drawn = last[tab.drawn]
    assert last[tab.best]["visible"] and drawn.result.seeds == [7, 8, 9, 10]
    grid, picture, detail, mosaic, *_ = tab.choose(drawn, SimpleNamespace(picture=1))
    assert picture == 1 and "Seed 8" in detail and "16 image tokens" in mosaic
    assert grid.count('aria-pressed="true"') == 1
    *_, more = tab.draw_more(drawn, 1)
    assert more[tab.drawn].result.seeds == [8, 9, 10, 11]
    ranked, status, *_ = tab.rank(drawn)
    assert ranked.result.scores and "best first" in status
    assert studio.defaults("other") == [1.2, 0, 1.0, 2.0]
    *_, other = tab.draw("other", "x", 2, 0, 1.0, 0, 1.0, 1.0)
    assert not other[tab.best]["visible"], "it has no CLIP"


def test_the_edit_tab_takes_a_picture_and_changes_a_token(tabs, drawn):
    _, _, tab = tabs
    edit, view, figures, status, palette, code, row = tab.begin_with_drawn(drawn, 0)
    assert "0 of 16" in status and row["visible"] and code["maximum"] == 63
    assert view.count("data-place") == 16 and "data-code" in palette and "edited" in figures
    edit, *_ = tab.select(edit, SimpleNamespace(place=3))
    new = (int(edit.tokens[3]) + 1) % 64
    edit, _, _, status, *_ = tab.put(edit, SimpleNamespace(code=new))
    assert f"Row 1, column 4: code {new}" in status and "1 of 16" in status
    assert tab.take_back(edit)[0].changed == tab.take_all_back(edit)[0].changed == 0
    upload = html.data_url(drawn.result.images[0])
    assert len(tab.begin("small", SimpleNamespace(url=upload))[0].tokens) == 16


def test_mistakes_become_messages(tabs, drawn):
    gr, draw, edit = tabs
    wrong = [
        (lambda: list(draw.draw("small", "x" * 501, 1, 0, 1, 0, 1, 1)), "501 characters"),
        (lambda: list(draw.draw("small", "x", 1, None, 1, 0, 1, 1)), "The seed is None"),
        (lambda: draw.choose(None, SimpleNamespace(picture=0)), "not drawn yet"),
        (lambda: draw.choose(drawn, SimpleNamespace(picture=4)), "no picture 4"),
        (lambda: edit.select(None, SimpleNamespace(place=0)), "drop one first"),
        (lambda: edit.begin("small", SimpleNamespace(size=30 * 2**20)), "has 30.0 MB"),
        (lambda: edit.begin("small", SimpleNamespace(url="x")), "data URL"),
    ]
    for act, said in wrong:
        with pytest.raises(gr.Error) as caught:
            act()
        assert said in caught.value.message


# The server.


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page's address, its models, and where gradio would put files."""
    pytest.importorskip("gradio", reason="needs minidalle[app]")
    from minidalle.app.page import launch

    files = tmp_path_factory.mktemp("gradio")
    models = [make_model(clip=True), make_model(name="other")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(files))
        page = launch(models)
        yield page, models, files
        page.close(verbose=False)


@pytest.fixture
def call(served):
    """Call the HTTP API in its two steps; give all answers, the last one last."""
    page, _, _ = served

    def start(name, **values) -> str:
        url = f"{page.local_url}gradio_api/call/v2/{name}"
        answer = httpx.post(url, json=values, timeout=WAIT)
        assert answer.status_code == 200, answer.text
        return f"{url}/{answer.json()['event_id']}"

    def run(name, **values) -> list:
        with httpx.stream("GET", start(name, **values), timeout=WAIT) as stream:
            return list(events(stream))

    run.start = start
    return run


def events(stream):
    """The data of each server-sent event; RuntimeError for an error."""
    kind = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: ") and kind != "heartbeat":
            data = json.loads(line.removeprefix("data: "))
            if kind == "error":
                raise RuntimeError(data)
            yield data[0] if isinstance(data, list) and data else data


def test_the_same_call_through_the_http_api(call, served, tmp_path):
    _, (model, _), files = served
    answers = call("generate", prompt="red circle", n=2, seed=7, temperature=0.5)
    expected = model.generate("red circle", n=2, seed=7, temperature=0.5)
    answer = answers[-1]
    assert answer["tokens"] == expected.tokens.tolist()
    assert {name: answer[name] for name in expected.metadata()} == expected.metadata()
    (tmp_path / "b.png").write_bytes(bytes_of(answer["images"][1]))
    assert read_metadata(tmp_path / "b.png") == expected.metadata(1)
    assert picture_of(answer["images"][1]).tobytes() == expected.images[1].tobytes()
    assert call("models")[-1] == ["small", "other"]
    ranked = call("generate", prompt="red circle", n=3, rerank=True)[-1]
    assert ranked["scores"] == sorted(ranked["scores"], reverse=True)
    assert not list(files.iterdir()), "nothing is put on the disk"


def test_pictures_to_tokens_and_back_through_the_http_api(call, served):
    _, (model, _), _ = served
    tokens = call("generate", prompt="x")[-1]["tokens"][0]
    picture = call("decode", tokens=tokens)[-1]
    assert picture_of(picture).tobytes() == model.decode(torch.tensor(tokens)).tobytes()
    assert call("encode", picture=picture)[-1] == model.encode(picture_of(picture)).tolist()
    half = tokens[: len(tokens) // 2]
    kept = call("generate", prompt="y", n=2, seed=5, kept=half)[-1]
    assert [row[: len(half)] for row in kept["tokens"]] == [half, half]
    assert kept["kept_tokens"] == half


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("generate", {"prompt": "x" * 501}, "501 characters"),
        ("generate", {"prompt": "x", "n": 17}, "17 pictures were asked for"),
        ("generate", {"prompt": "x", "seed": -1}, "seed is -1"),
        ("generate", {"prompt": "x", "temperature": -0.5}, "Temperature is -0.5"),
        ("generate", {"prompt": None}, "must be a text"),
        ("generate", {"prompt": "x", "model": "mega"}, "no model 'mega'"),
        ("generate", {"prompt": "x", "model": "other", "rerank": True}, "no CLIP"),
        ("encode", {"picture": "/etc/passwd"}, "data URL"),
        ("decode", {"tokens": [1, 2]}, "Tokens have shape (2,)"),
        ("decode", {"tokens": [10**6]}, "an image token is from 0 to"),
    ],
)
def test_bad_input_is_answered_with_what_was_wrong(call, name, values, said):
    with pytest.raises(RuntimeError, match=re.escape(said)):
        call(name, **values)


def test_gradio_client_gets_the_finished_pictures(served):
    client = pytest.importorskip("gradio_client", reason="needs minidalle[app]")
    page, (model, _), _ = served
    caller = client.Client(page.local_url, verbose=False, analytics_enabled=False)
    answer = caller.predict("red circle", n=2, seed=3, api_name="/generate")
    assert answer["tokens"] == model.generate("red circle", n=2, seed=3).tokens.tolist()
    named = caller.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/generate", "/encode", "/decode", "/models"}


def test_who_goes_away_frees_the_model(call, served):
    _, (model, _), _ = served
    length = model.bart.config.image_length
    model.drawn, model.slow_prompt = 0, "long"
    try:
        with httpx.stream("GET", call.start("generate", prompt="long"), timeout=WAIT) as stream:
            next(events(stream))
        assert call("generate", prompt="next")[-1]["step"] == length
        assert model.drawn < 2 * length, "the abandoned pictures were drawn to the end"
    finally:
        model.slow_prompt = ""


def test_people_wait_in_one_line_in_the_order_they_came(call, served):
    _, (model, _), _ = served
    done, threads = [], []
    model.pause = 0.2
    try:
        for name in ("first", "second", "third"):
            url = call.start("generate", prompt=name)

            def wait(name=name, url=url):
                with httpx.stream("GET", url, timeout=WAIT) as stream:
                    last = list(events(stream))[-1]
                done.append((name, last["prompt"]))

            threads.append(threading.Thread(target=wait))
            threads[-1].start()
        for thread in threads:
            thread.join()
    finally:
        model.pause = 0.0
    assert done == [(name, name) for name in ("first", "second", "third")]


def test_it_asks_nothing_of_other_machines_and_is_reached_from_this_one_alone(served):
    page, _, _ = served
    assert page.server_name == "127.0.0.1" and page.local_url.startswith("http://127.0.0.1:")
    sheet = httpx.get(f"{page.local_url}theme.css", timeout=WAIT)
    assert sheet.status_code == 200 and "system-ui" in sheet.text
    assert not re.search(r"@import|url\(.?https?:", sheet.text)
    config = httpx.get(f"{page.local_url}config", timeout=WAIT).json()
    assert config["analytics_enabled"] is False and not config["stylesheets"]
    assert "<svg" in httpx.get(f"{page.local_url}favicon.ico", timeout=WAIT).text


def test_large_requests_and_uploads_are_turned_away(served):
    page, _, files = served
    url = f"{page.local_url}gradio_api/"
    answer = httpx.post(f"{url}upload", files={"files": b"x"}, timeout=WAIT)
    assert answer.status_code == 404 and "no file uploads" in answer.text
    answer = httpx.get(f"{url}file=https://example.com/a.png", timeout=WAIT)
    assert answer.status_code == 404 and "gives no files" in answer.text
    large = httpx.post(f"{url}call/encode", content=b"x" * (limits.MAX_BODY + 1), timeout=WAIT)
    assert large.status_code == 413 and "a picture 10,485,760" in large.text
    assert not list(files.iterdir())


# The command.


def test_the_command_names_the_extra_that_is_missing(run, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("minidalle.app.", "gradio")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("app")
    assert done.code == 2 and "pip install minidalle[app]" in done.err


def test_the_command_says_that_a_port_is_taken(run, tmp_path):
    pytest.importorskip("gradio", reason="needs minidalle[app]")
    make_model().save_pretrained(tmp_path / "small")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("app", tmp_path / "small", "--port", port)
    assert done.code == 2 and str(port) in done.err
