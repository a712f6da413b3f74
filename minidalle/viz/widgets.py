"""Things to play with in a notebook: a studio for prompts, a codebook, a token editor, sampling.

Each shows pictures as PNG bytes in an Image widget, so that a page saved with the widgets' state
shows them without Python. What they compute comes from functions that need no browser; what a user
enters wrong is said below the buttons. Needs ipywidgets (`pip install minidalle[lessons]`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from minidalle.pictures import image_grid, square, to_pil
from minidalle.pipeline import MiniDalle
from minidalle.sampling import SamplingConfig, filter_logits
from minidalle.scoring import to_tensor
from minidalle.viz.canvas import png_bytes, token_colour
from minidalle.viz.codebook import (
    code_tiles,
    count_codes,
    encode_all,
    mark_places,
    order_by_likeness,
    where_used,
)
from minidalle.viz.plots import logit_histogram
from minidalle.vqgan import VQGAN

try:
    import ipywidgets as widgets
except ImportError as error:
    raise ImportError(
        "minidalle's widgets need ipywidgets; install it by: pip install minidalle[lessons]"
    ) from error

SIDE = 128  # pixels: about the side at which a widget shows a picture
MOST_PICTURES = 16  # that the studio draws at once
WORDS = {"description_width": "110px"}  # room for the names left of sliders


def prompt_studio(model: MiniDalle, prompt: str = "red apple, twemoji style") -> PromptStudio:
    """A prompt, seed, temperature, condition scale and number; a button draws the grid."""
    return PromptStudio(model, prompt)


def codebook_explorer(
    vqgan: VQGAN, images: Tensor, *, tiles: Tensor | None = None
) -> CodebookExplorer:
    """A slider over the codes: what each looks like, how often it occurs, and where.

    images: (B, 3, S, S) in [0, 1] or uint8. tiles: (K, 3, s, s), where `code_tiles` was called
    already, which takes seconds.
    """
    return CodebookExplorer(vqgan, images, tiles)


def token_editor(vqgan: VQGAN, picture: Tensor | Image.Image) -> TokenEditor:
    """The token grid of a picture, (3, S, S) in [0, 1] or PIL: click a cell, choose its code."""
    return TokenEditor(vqgan, picture)


def sampling_explorer(logits: Tensor) -> SamplingExplorer:
    """What temperature, top-k and top-p make of logits (K,), as a histogram."""
    return SamplingExplorer(logits)


class PromptStudio(widgets.VBox):
    """The widget of `prompt_studio`; `result` is what was drawn last."""

    def __init__(self, model: MiniDalle, prompt: str):
        self.model, self.result = model, None
        defaults = model.sampling
        self.prompt = widgets.Text(prompt, description="prompt", style=WORDS, layout=wide())
        self.seed = widgets.IntText(0, description="seed", style=WORDS)
        self.temperature = float_slider(defaults.temperature, 0, 2, 0.05, "temperature")
        self.condition_scale = float_slider(defaults.condition_scale, 0, 12, 0.5, "condition scale")
        self.number = int_slider(4, 1, MOST_PICTURES, "pictures")
        self.button = widgets.Button(description="Draw", button_style="primary")
        self.message = widgets.HTML()
        self.picture = picture_field()
        self.button.on_click(lambda _: self.draw())
        knobs = [self.prompt, self.seed, self.temperature, self.condition_scale, self.number]
        super().__init__([*knobs, self.button, self.message, self.picture])
        self.draw()

    def draw(self) -> None:
        """Draw the pictures; where that fails, say below the button what was wrong."""
        self.button.disabled, self.message.value = True, "drawing …"
        try:
            self.result = self.model.generate(
                self.prompt.value,
                n=self.number.value,
                seed=self.seed.value,
                temperature=self.temperature.value,
                condition_scale=self.condition_scale.value,
            )
        except (ValueError, TypeError, RuntimeError) as error:
            self.message.value = complaint(error)
        else:
            self.picture.value = picture_bytes(self.result.images)
            seeds = " ".join(map(str, self.result.seeds))
            self.message.value = f"<i>{escape(self.result.prompt)}</i>, seeds {seeds}"
        finally:
            self.button.disabled = False


class CodebookExplorer(widgets.VBox):
    """The widget of `codebook_explorer`; `code` is the one that it shows."""

    def __init__(self, vqgan: VQGAN, images: Tensor, tiles: Tensor | None):
        self.images, self.side, k = images, vqgan.config.latent_side, vqgan.config.n_embed
        self.tiles = code_tiles(vqgan) if tiles is None else tiles  #     (K, 3, s, s)
        self.ids = encode_all(vqgan, images)  #                           (B, N)
        self.counts = count_codes(self.ids, k)  #                         (K,)
        self.places = where_used(self.ids, count=6)
        self.orders = {
            "by likeness": order_by_likeness(self.tiles),
            "by use": self.counts.sort(descending=True, stable=True).indices,
            "by number": torch.arange(k),
        }
        self.order = widgets.Dropdown(
            options=list(self.orders), description="codes sorted", style=WORDS
        )
        self.slider = int_slider(0, 0, k - 1, "place")
        self.message = widgets.HTML()
        self.picture = picture_field()
        for knob in (self.order, self.slider):
            knob.observe(lambda _: self.show(), names="value")
        super().__init__([self.order, self.slider, self.message, self.picture])
        self.show()

    @property
    def code(self) -> int:
        return int(self.orders[self.order.value][self.slider.value])

    def show(self) -> None:
        """Show the code at the slider's place: its tile, then pictures with it marked."""
        count, total, places = int(self.counts[self.code]), self.ids.numel(), {}
        for picture, _ in self.places.get(self.code, []):
            places[picture] = (self.ids[picture] == self.code).nonzero()[:, 0].tolist()
        marked = [mark_places(self.images[i], at, self.side, size=SIDE) for i, at in places.items()]
        tile = to_pil(self.tiles[self.code])
        tile = tile.resize(marked[0].size if marked else (SIDE, SIDE), Image.Resampling.NEAREST)
        self.picture.value = picture_bytes([tile, *marked], columns=1 + len(marked))
        self.message.value = (
            f"<b>code {self.code}</b>: {count:,} of the {total:,} tokens of "
            f"{len(self.images):,} pictures"
        )


class TokenEditor(widgets.VBox):
    """The widget of `token_editor`; `tokens`, (N,), are the edited ones."""

    def __init__(self, vqgan: VQGAN, picture: Tensor | Image.Image):
        self.vqgan, self.side, k = vqgan, vqgan.config.latent_side, vqgan.config.n_embed
        if isinstance(picture, Image.Image):
            picture = to_tensor(square(picture, vqgan.config.resolution))
        self.original = encode_all(vqgan, picture[None])[0]  #            (N,)
        self.before = self.decode(self.original)
        self.tokens, self.edits = self.original.clone(), []  # edits: (place, code before)
        self.order = order_by_likeness(vqgan.quantize.embedding.weight)
        self.selected = 0
        self.cells = [self.cell(place) for place in range(len(self.tokens))]
        self.code = widgets.BoundedIntText(0, 0, k - 1, description="code", style=WORDS)
        self.slider = int_slider(0, 0, k - 1, "by likeness")
        self.slider.layout.width = "380px"  # beside the grid
        self.undo_button = widgets.Button(description="Undo")
        self.reset_button = widgets.Button(description="Reset")
        self.message = widgets.HTML()
        self.picture = picture_field()
        self.code.observe(lambda change: self.choose(change.new), names="value")
        self.slider.observe(lambda change: self.choose(int(self.order[change.new])), names="value")
        self.undo_button.on_click(lambda _: self.undo())
        self.reset_button.on_click(lambda _: self.reset())
        columns = f"repeat({self.side}, auto)"
        grid = widgets.GridBox(
            self.cells, layout={"grid_template_columns": columns, "flex": "0 0 auto"}
        )
        buttons = widgets.HBox([self.undo_button, self.reset_button])
        knobs = widgets.VBox([self.picture, self.message, self.code, self.slider, buttons])
        super().__init__([widgets.HBox([grid, knobs])])
        self.show()

    def cell(self, place: int) -> widgets.Button:
        """The button of one token."""
        button = widgets.Button(layout=CELL)
        button.on_click(lambda _: self.select(place))
        return button

    def decode(self, tokens: Tensor) -> Tensor:
        """The picture of tokens (N,): (3, S, S) in [0, 1]."""
        place = self.vqgan.quantize.embedding.weight.device
        return self.vqgan.decode(tokens[None].to(place))[0].float().clamp(0, 1).cpu()

    def select(self, place: int) -> None:
        """Go to the cell of another token, which stays as it is."""
        self.selected = place
        self.show()

    def choose(self, code: int) -> None:
        """Give the selected cell another code."""
        if code == int(self.tokens[self.selected]):
            return  # the field follows the cell here, not the other way
        self.edits.append((self.selected, int(self.tokens[self.selected])))
        self.tokens[self.selected] = code
        self.show()

    def undo(self) -> None:
        """Take the last change back, and go to its cell."""
        if self.edits:
            self.selected, code = self.edits.pop()
            self.tokens[self.selected] = code
        self.show()

    def reset(self) -> None:
        """Take all changes back."""
        self.tokens, self.edits = self.original.clone(), []
        self.show()

    def show(self) -> None:
        """Make buttons, fields and picture say what the tokens are."""
        for place, (button, token) in enumerate(zip(self.cells, self.tokens.tolist(), strict=True)):
            chosen = place == self.selected
            button.description = f"[{token}]" if chosen else str(token)
            button.style.button_color = hex_colour(token)
            button.style.font_weight = "bold" if chosen else "normal"
        code = int(self.tokens[self.selected])
        self.code.value = code
        self.slider.value = int((self.order == code).nonzero()[0, 0])
        changed = int((self.tokens != self.original).sum())
        y, x = divmod(self.selected, self.side)
        self.message.value = (
            f"row {y}, column {x}; {changed} of {len(self.tokens)} tokens changed<br>"
            "left: the tokens as they were; right: as they are"
        )
        self.undo_button.disabled = self.reset_button.disabled = not self.edits
        after = mark_places(self.decode(self.tokens), [self.selected], self.side, size=2 * SIDE)
        before = mark_places(self.before, [], self.side, size=2 * SIDE)
        self.picture.value = picture_bytes([before, after], columns=2)


class SamplingExplorer(widgets.VBox):
    """The widget of `sampling_explorer`."""

    def __init__(self, logits: Tensor):
        self.logits = logits.detach().float().cpu().flatten()  #          (K,)
        self.temperature = float_slider(1.0, 0, 2, 0.05, "temperature")
        self.top_k = int_slider(0, 0, min(len(self.logits), 200), "top-k (0: all)")
        self.top_p = float_slider(1.0, 0.01, 1, 0.01, "top-p (1: all)")
        self.picture = picture_field()
        for knob in (self.temperature, self.top_k, self.top_p):
            knob.observe(lambda _: self.show(), names="value")
        super().__init__([self.temperature, self.top_k, self.top_p, self.picture])
        self.show()

    def show(self) -> None:
        """Draw the histogram that the sliders ask for."""
        config = SamplingConfig(self.temperature.value, self.top_k.value, self.top_p.value)
        kept = filter_logits(self.logits[None], config)[0]  #             (K,)
        self.picture.value = png_bytes(logit_histogram(self.logits, kept=kept))


# What the widgets share.

CELL = {"width": "48px", "height": "30px", "margin": "1px", "padding": "0"}


def wide() -> widgets.Layout:
    return widgets.Layout(width="480px")


def picture_field() -> widgets.Image:
    """A place for a picture at its own size, or smaller where there is no room."""
    layout = widgets.Layout(align_self="flex-start", max_width="100%", flex="0 0 auto")
    return widgets.Image(format="png", layout=layout)


def float_slider(
    value: float, low: float, high: float, step: float, name: str
) -> widgets.FloatSlider:
    """A slider that tells its value when it is let go."""
    return widgets.FloatSlider(
        min(max(value, low), high), min=low, max=high, step=step, description=name,
        continuous_update=False, style=WORDS, layout=wide(),
    )  # fmt: skip


def int_slider(value: int, low: int, high: int, name: str) -> widgets.IntSlider:
    """A slider that tells its value when it is let go."""
    return widgets.IntSlider(
        value, min=low, max=high, description=name,
        continuous_update=False, style=WORDS, layout=wide(),
    )  # fmt: skip


def picture_bytes(pictures: Sequence[Image.Image], columns: int | None = None) -> bytes:
    """Pictures of one size as one PNG file; small ones are enlarged by a whole number."""
    grid = image_grid(pictures, columns)
    factor = max(1, round(SIDE / pictures[0].width))
    grid = grid.resize((grid.width * factor, grid.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    grid.save(file, "PNG")
    return file.getvalue()


def hex_colour(token: int) -> str:
    """`token_colour` as CSS writes it."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in token_colour(token))


def complaint(error: Exception) -> str:
    """What was wrong, as HTML."""
    return f'<span style="color:#D55E00"><b>That does not work:</b> {escape(str(error))}</span>'
