"""The web page: a prompt, a button, nine pictures forming; and the same through an HTTP API.

    minidalle app                       # the embedded model, at http://127.0.0.1:7860
    minidalle app runs/emoji mega       # a choice of checkpoints

`limits` says what is refused, `studio` and `editor` do the work, `html` shows it, `api` gives it to
programs; `parts`, `draw_tab`, `edit_tab` and `page` are the page in Gradio
(`pip install minidalle[app]`).
"""
