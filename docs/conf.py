"""Sphinx: Markdown pages, and a reference that is generated from the code each time."""

import sys
from importlib import metadata
from pathlib import Path

from jupyter_client.manager import KernelManager
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generate

project = "diffuscope"
author = "The diffuscope authors"
project_copyright = "The diffuscope authors, Apache-2.0"
release = metadata.version("diffuscope")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
KernelManager.transport_encryption.default_value = (
    "auto"  # a kernel warns where nothing is encrypted
)
nb_execution_mode = (
    "force"  # the pages of the deep dive are run each time, or they are not true
)
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what a page writes stays out of the tree
nb_execution_timeout = 300  # seconds a cell: a page takes 20 on two cores
nb_merge_streams = True
suppress_warnings = [
    "ref.python"
]  # a type written by its short name may be one of several: then it is no link

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "alabaster"
html_theme_options = {
    "description": "Stable Diffusion you can see through",
    "page_width": "1280px",
    "code_font_size": "0.8em",
}
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    app.connect(
        "builder-inited",
        lambda app: generate.write(Path(app.srcdir) / "reference" / "generated"),
    )
