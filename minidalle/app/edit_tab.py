"""The second tab: a picture, its tokens, and what can be put in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidalle.app import editor, html
from minidalle.app.editor import Edit
from minidalle.app.limits import MAX_UPLOAD, read_upload, too_large
from minidalle.app.parts import HIDDEN, TOUCH, board, gr, spoken
from minidalle.app.studio import Drawn, Studio, codes_like

DROP = (
    f'<label class="drop"><input type="file" accept="image/*" data-limit="{MAX_UPLOAD}"><span>'
    "<b>Drop a picture here</b>, "
    f"paste one, or press to choose a file.<br><small>At most {MAX_UPLOAD // 2**20} MB; its "
    "middle square is taken. It is not kept.</small></span></label>"
)


class EditTab:
    """The tab's parts and what they do; made inside a `gr.Tab`."""

    def __init__(self, studio: Studio, model: gr.Radio):
        self.studio, self.model, self.edit = studio, model, gr.State(None)
        self.drop = board(DROP, elem_id="drop")
        with gr.Row(elem_id="edit"):
            with gr.Column(min_width=300):
                self.view = board("", elem_id="editor")
            with gr.Column(min_width=300):
                self.figures = gr.HTML("", elem_id="figures")
                self.status = gr.HTML("", elem_id="edit-status")
                self.palette = board("", elem_id="palette")
                with gr.Row(visible=False, elem_id="edit-knobs") as self.row:
                    self.code = code_field()
                    self.undo = gr.Button("Undo", size="md", min_width=70)
                    self.reset = gr.Button("Reset", size="md", min_width=70)
        looks = [self.view, self.figures, self.status, self.palette]
        self.shown = [self.edit, *looks, self.code, self.row]
        self.wire()

    def wire(self) -> None:
        """Say which press calls what."""
        where = {"outputs": self.shown, **TOUCH, **HIDDEN}
        slow = where | {"show_progress": "minimal", "show_progress_on": self.status}
        self.drop.upload(self.begin, self.model, **slow)
        self.view.select(self.select, self.edit, **where)
        self.palette.select(self.put, self.edit, **where)
        self.code.submit(self.paint, [self.edit, self.code], **where)
        self.undo.click(self.take_back, self.edit, **where)
        self.reset.click(self.take_all_back, self.edit, **where)

    @spoken
    def begin(self, model: str, event: gr.EventData) -> list:
        """Encode a picture that came as a data URL, or say how much too large it is."""
        if size := getattr(event, "size", 0):
            raise ValueError(too_large(size))
        return self.show(editor.begin(self.studio, model, read_upload(event.url)))

    @spoken
    def begin_with_drawn(self, drawn: Drawn | None, picture: int | None) -> list:
        """Take over a drawn picture's tokens."""
        return self.show(editor.begin_with_drawn(self.studio, drawn, picture))

    @spoken
    def select(self, edit: Edit | None, event: gr.EventData) -> list:
        return self.step(edit, editor.select, event.place)

    @spoken
    def put(self, edit: Edit | None, event: gr.EventData) -> list:
        return self.step(edit, self.painted, event.code)

    @spoken
    def paint(self, edit: Edit | None, code: int | None) -> list:
        return self.step(edit, self.painted, code)

    @spoken
    def take_back(self, edit: Edit | None) -> list:
        return self.step(edit, lambda edit: editor.undo(self.studio, edit))

    @spoken
    def take_all_back(self, edit: Edit | None) -> list:
        return self.step(edit, editor.reset)

    def painted(self, edit: Edit, code: Any) -> Edit:
        return editor.paint(self.studio, edit, code)

    def step(self, edit: Edit | None, function: Callable[..., Edit], *values: Any) -> list:
        """What the page shows after a step; ValueError where there is no picture yet."""
        if edit is None:
            raise ValueError("there is no picture yet: drop one first")
        return self.show(function(edit, *values))

    def show(self, edit: Edit) -> list:
        """The edit, and values of the tab's parts that show it."""
        tiles, code = self.studio.tiles[edit.model], int(edit.tokens[edit.selected])
        vqgan = self.studio.model(edit.model).vqgan
        like = codes_like(vqgan, code, html.PALETTE_SIZE)
        return [
            edit,
            html.editor(edit, tiles),
            html.figures(edit),
            html.editor_status(edit),
            html.palette(edit, tiles, like),
            gr.update(value=code, maximum=vqgan.config.n_embed - 1),
            gr.update(visible=True),
        ]


def code_field() -> gr.Number:
    """Where a code's number is typed."""
    return gr.Number(
        0,
        label="Code",
        precision=0,
        minimum=0,
        min_width=140,
        info="By its number, then Enter.",
    )
