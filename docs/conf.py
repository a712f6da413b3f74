"""The site: Sphinx with MyST-NB, built offline into build/docs by `make docs`.

What is computed at build time is in _ext: the lessons out of ../notebooks, tables of settings and
commands out of the code, the codebook atlas out of the embedded model. Nothing is fetched, when it
is built or when it is read.
"""

import sys
from importlib.metadata import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

import minidalle  # noqa: E402

(REPOSITORY,) = (  # from pyproject.toml
    line.removeprefix("Repository, ")
    for line in metadata("minidalle").get_all("Project-URL")
    if line.startswith("Repository, ")
)

project, author, copyright = "minidalle", "the minidalle authors", "the minidalle authors"
version = release = minidalle.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "lessons",
    "generated",
    "docstrings",
    "mathml",
    "atlas",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_ext", "images"]
nitpicky = False  # types such as Tensor have no page here

# Lessons are shown as `make notebooks` stored them; nbval guards those outputs.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
smartquotes_action = "qe"  # quotes and ellipses; two hyphens begin an option

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_inherit_docstrings = False
add_module_names = False
autodoc_default_options = {"exclude-members": "set"}  # which matplotlib adds to every Figure
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = "minidalle"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False  # a lesson's download is the notebook itself, not what was made of it
html_show_sourcelink = False
html_last_updated_fmt = ""
html_math_renderer = "mathml"
html_favicon = "../minidalle/app/icon.svg"
html_context = {"default_mode": "auto"}  # dark where the reader's system is
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the side bar has the search
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
