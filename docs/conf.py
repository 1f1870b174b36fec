"""Sphinx: Markdown pages, and a reference that is generated from the code each time."""

import os
import re
import sys
from importlib import metadata
from pathlib import Path

from jupyter_client.manager import KernelManager
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generate
import notebooks

project = "diffuscope"
author = "The diffuscope authors"
project_copyright = "The diffuscope authors, Apache-2.0"
release = metadata.version("diffuscope")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_extra"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# A kernel warns where nothing is encrypted.
KernelManager.transport_encryption.default_value = "auto"
# The pages of the deep dive are run each time, or they are not true; "off" or "cache" while one writes.
nb_execution_mode = os.environ.get("DOCS_EXECUTION", "force")
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what a page writes stays out of the tree
nb_execution_timeout = 300  # seconds a cell: a page takes 20 on two cores
nb_merge_streams = True
# A type written by its short name may be one of several: then it is no link.
suppress_warnings = ["ref.python"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "diffuscope"
html_static_path = ["_static"]
html_extra_path = ["_extra"]  # written by write_generated
# Sphinx looks for it before that.
Path(__file__).with_name("_extra").mkdir(exist_ok=True)
html_css_files = ["pages.css"]
html_js_files = ["pages.js"]
html_theme_options = {"navigation_with_keys": True}
if repository := generate.repository():
    html_theme_options["source_repository"] = repository
    html_theme_options["source_branch"] = "main"
    html_theme_options["source_directory"] = "docs/"
html_show_sourcelink = False


def write_generated(app: Sphinx) -> None:
    """The pages of the reference, and the pages of the deep dive as notebooks."""
    source = Path(app.srcdir)
    generate.write(source / "reference" / "generated")
    pages = sorted((source / "deep-dive").glob("*.md"))
    notebooks.write(pages, source / "_extra" / "notebooks")


def offer_notebook(_: Sphinx, name: str, content: list[str]) -> None:
    """A line below the title of each page of the deep dive, with its notebook."""
    if name.startswith("deep-dive/"):
        stem = name.removeprefix("deep-dive/")
        line = (
            f'<p class="notebook"><a href="../notebooks/{stem}.ipynb" download>'
            "Download this page as a notebook</a>, and "
            '<a href="../how-to/run-the-notebooks.html">run it</a>.</p>'
        )
        content[0] = re.sub(
            r"^(# .+\n)", rf"\1\n{line}\n", content[0], count=1, flags=re.MULTILINE
        )


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_generated)
    app.connect("source-read", offer_notebook)
