"""Sphinx: Markdown pages, and a reference that is generated from the code each time."""

import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generate

project = "diffuscope"
author = "The diffuscope authors"
project_copyright = "The diffuscope authors, Apache-2.0"
release = metadata.version("diffuscope")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # a type written by its short name may be one of several: then it is no link

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "alabaster"
html_theme_options = {"description": "Stable Diffusion you can see through", "page_width": "1100px"}
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda app: generate.write(Path(app.srcdir) / "reference" / "generated"))
