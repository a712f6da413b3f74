"""The whole page in Gradio, and its server.

People wait in one line for the model, which draws for one of them at a time; each browser tab has
one place in it. Looking at pictures and tokens does not wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from minidalle.app.api import endpoints
from minidalle.app.draw_tab import DrawTab
from minidalle.app.edit_tab import EditTab
from minidalle.app.limits import MAX_WAITING
from minidalle.app.parts import HIDDEN, ICON, MODEL, STYLE, TOUCH, gr, guards, spoken, theme
from minidalle.app.studio import Studio
from minidalle.pipeline import MiniDalle

SESSIONS = 200  # browser tabs whose last pictures are kept
HEADER = "<h1>minidalle</h1><p>A prompt becomes pictures, one image token at a time.</p>"


def build(studio: Studio) -> gr.Blocks:
    """The page for the loaded checkpoints, ready to be launched."""
    with gr.Blocks(title="minidalle", analytics_enabled=False) as page:
        gr.HTML(HEADER, elem_id="header")
        model = gr.Radio(
            studio.names,
            value=studio.names[0],
            label="Model",
            info="Which of the loaded checkpoints draws.",
            visible=len(studio.names) > 1,
            elem_id="model",
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Draw", id="draw"):
                draw = DrawTab(studio, model)
            with gr.Tab("Picture and tokens", id="edit"):
                edit = EditTab(studio, model)
        taken = draw.edit.click(
            edit.begin_with_drawn, [draw.drawn, draw.picture], edit.shown, **TOUCH, **HIDDEN
        )
        taken.success(lambda: gr.Tabs(selected="edit"), None, tabs, queue=False, **HIDDEN)
        for name, function in endpoints(studio).items():
            gr.api(spoken(function), api_name=name, **(MODEL if name == "generate" else TOUCH))
    return page.queue(max_size=MAX_WAITING)


def launch(
    models: Sequence[MiniDalle], *, host: str = "127.0.0.1", port: int | None = None
) -> gr.Blocks:
    """Serve the page in threads of its own, and come back; `close()` of what is returned ends it.

    models: what the page offers, the first by default.
    host: "127.0.0.1" is this machine alone, "0.0.0.0" whoever can reach it.
    port: None for the first free one from 7860 on. Raises OSError where it is taken.
    """
    page = build(Studio(models))
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        inline=False,
        prevent_thread_lock=True,
        theme=theme(),
        css=STYLE,
        favicon_path=str(ICON),
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        state_session_capacity=SESSIONS,
        app_kwargs={"middleware": guards()},
    )
    return page
