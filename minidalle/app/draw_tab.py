"""The first tab: prompt, settings, the grid that forms, the chosen picture."""

from __future__ import annotations

from collections.abc import Iterator

from minidalle.app import html
from minidalle.app.limits import MAX_PICTURES, MAX_PROMPT
from minidalle.app.parts import HIDDEN, MODEL, TOUCH, board, gr, spoken
from minidalle.app.studio import Drawn, Studio, chosen, finished

HINT = '<p class="hint">Choose a picture to see it large, with its tokens.</p>'
LINE = "In line for the model."
# Draw, Stop, More, status: changed in the browser, so at once, also while waiting in the line.
UPDATE = "() => [{}, {}, {}, {}].map(change => ({{__type__: 'update', ...change}}))"
WORKING = UPDATE.format(
    "{visible: false}", "{visible: true}", "{interactive: false}", f"{{value: '{LINE}'}}"
)
RESTING = UPDATE.format("{visible: true}", "{visible: false}", "{interactive: true}", "{}")


class DrawTab:
    """The tab's parts and what they do; made inside a `gr.Tab`.

    `drawn` and `picture` hold what this browser tab drew last, and which of it is chosen.
    """

    def __init__(self, studio: Studio, model: gr.Radio):
        self.studio, self.model = studio, model
        self.drawn, self.picture = gr.State(None), gr.State(None)
        with gr.Row(elem_id="ask"):
            self.prompt = prompt_field()
            self.draw_button = gr.Button("Draw", variant="primary", min_width=120, elem_id="draw")
            self.stop_button = gr.Button("Stop", visible=False, min_width=120, elem_id="stop")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            self.count, self.seed, *self.knobs = settings(studio)
        with gr.Row(elem_id="pictures"):
            with gr.Column(min_width=300):
                self.status = gr.HTML("Ready.", elem_id="status")
                self.grid = board(html.blank_grid(), elem_id="grid")
                self.best = gr.Button("Best first", visible=False, size="sm", elem_id="best")
            with gr.Column(min_width=300):
                self.detail = board(HINT, elem_id="detail")
                with gr.Row():
                    self.more = gr.Button("More like this", visible=False, size="sm")
                    self.edit = gr.Button("Edit its tokens", visible=False, size="sm")
                self.mosaic = gr.HTML("", elem_id="tokens")
        self.of_chosen = [self.picture, self.detail, self.mosaic, self.more, self.edit]
        self.wire()

    def wire(self) -> None:
        """Say which press calls what."""
        asked = [self.draw_button.click, self.prompt.submit]
        buttons = [self.draw_button, self.stop_button, self.more, self.status]
        at_once = {**HIDDEN, "queue": False}
        gr.on([*asked, self.more.click], None, None, buttons, js=WORKING, **at_once)  # goes first
        outputs = [self.grid, self.status, self.drawn, self.best, *self.of_chosen]
        inputs = [self.model, self.prompt, self.count, self.seed, *self.knobs]
        waiting = {**MODEL, **HIDDEN, "show_progress": "minimal", "show_progress_on": self.status}
        drawing = gr.on(asked, self.draw, inputs, outputs, **waiting)
        drawing_more = self.more.click(
            self.draw_more, [self.drawn, self.picture], outputs, **waiting
        )
        for event in (drawing, drawing_more):
            event.then(None, None, buttons, js=RESTING, **at_once)
            event.failure(lambda: "Nothing was drawn.", None, self.status, **at_once)
        stopped = self.stop_button.click(None, cancels=[drawing, drawing_more], **at_once)
        stopped.then(None, None, buttons, js=RESTING, **at_once)
        stopped.then(lambda: "Stopped.", None, self.status, **at_once)
        looks = [self.grid, *self.of_chosen]
        self.grid.select(self.choose, self.drawn, looks, **TOUCH, **HIDDEN)
        self.best.click(self.rank, self.drawn, [self.drawn, self.status, *looks], **TOUCH, **HIDDEN)
        self.model.change(self.studio.defaults, self.model, self.knobs, **TOUCH, **HIDDEN)

    @spoken
    def draw(
        self, model, prompt, count, seed, temperature, top_k, top_p, condition_scale
    ) -> Iterator[dict]:
        """Draw, and show frames of it."""
        yield from self.frames(
            self.studio.draw(
                prompt,
                count,
                seed,
                model=model,
                temperature=temperature,
                top_k=int(top_k),
                top_p=top_p,
                condition_scale=condition_scale,
            )
        )

    @spoken
    def draw_more(self, drawn: Drawn | None, picture: int | None) -> Iterator[dict]:
        """Draw pictures with the first half of the chosen one."""
        yield from self.frames(self.studio.more(finished(drawn), picture))

    def frames(self, steps: Iterator[Drawn]) -> Iterator[dict]:
        """What changes on the page with each frame; the first forgets what was drawn before."""
        update = {self.drawn: None, self.best: gr.update(visible=False)}
        update |= dict(zip(self.of_chosen, nothing_chosen(), strict=True))
        for now in steps:
            update |= {self.grid: html.grid(now), self.status: html.status(now)}
            if now.finished:
                can_rank = self.studio.model(now.model).clip is not None
                several = len(now.result.images) > 1
                update |= {self.drawn: now, self.best: gr.update(visible=can_rank and several)}
            yield update
            update = {}

    @spoken
    def choose(self, drawn: Drawn | None, event: gr.EventData) -> list:
        """Show the picture that was pressed."""
        i = chosen(finished(drawn), event.picture)
        mosaic = html.tokens_of(drawn, i, self.studio.tiles[drawn.model])
        return [
            html.grid(drawn, i),
            i,
            html.detail(drawn, i),
            mosaic,
            *[gr.update(visible=True)] * 2,
        ]

    @spoken
    def rank(self, drawn: Drawn | None) -> list:
        """Sort the pictures by the model's CLIP."""
        ranked = self.studio.rerank(finished(drawn))
        return [ranked, html.status(ranked), html.grid(ranked), *nothing_chosen()]


def prompt_field() -> gr.Textbox:
    """Where the prompt is typed; Enter draws."""
    return gr.Textbox(
        "red apple, twemoji style",
        label="Prompt",
        placeholder="What shall be drawn?",
        max_length=MAX_PROMPT,
        max_lines=3,
        scale=5,
        min_width=220,
        elem_id="prompt",
    )


def settings(studio: Studio) -> list[gr.components.Component]:
    """The knobs, with one line of explanation each; first the number of pictures and the seed."""
    temperature, top_k, top_p, scale = studio.defaults()
    return [
        gr.Slider(1, MAX_PICTURES, 9, step=1, label="Pictures", info="How many are drawn at once."),
        gr.Number(
            0, precision=0, minimum=0, label="Seed",
            info="Where chance begins: the same seed draws the same picture; the others count on.",
        ),
        gr.Slider(
            0, 2, temperature, step=0.05, label="Temperature",
            info="Above 1 more varied, below 1 safer; 0 always takes the likeliest token.",
        ),
        gr.Slider(
            0, 256, top_k, step=1, label="Top-k",
            info="Draw from so many of the likeliest tokens; 0 takes all.",
        ),
        gr.Slider(
            0.01, 1, top_p, step=0.01, label="Top-p",
            info="Draw from the likeliest tokens, up to this probability together; 1 takes all.",
        ),
        gr.Slider(
            0, 20, scale, step=0.5, label="Condition scale",
            info="How strongly to follow the prompt: 1 as learned, higher more literal.",
        ),
    ]  # fmt: skip


def nothing_chosen() -> list:
    """Values of the chosen picture's parts while there is none."""
    return [None, HINT, "", gr.update(visible=False), gr.update(visible=False)]
