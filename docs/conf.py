"""The site: `make docs` writes it to docs/_build/html. What can be read off the code and the data is written by generate.py."""

from __future__ import annotations

import sys
from pathlib import Path

import wichan

sys.path.insert(0, str(Path(__file__).parent))
import generate

project = "wichan"
author = "The wichan developers"
version = release = wichan.__version__

extensions = [
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]
# Warnings that say nothing: the recipe cards of the catalogue keep the headings that they have in their own files.
suppress_warnings = ["myst.header", "toc.empty_glob"]

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks hold their outputs; tests run them
nb_merge_streams = True

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "author_year"

autodoc_typehints = "none"  # the docstrings give shape, dtype and unit, which the annotations do not
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # an attribute that a docstring lists is described there and not once more
default_role = "py:obj"
html_math_renderer = "mathml"
nitpicky = True
nitpick_ignore_regex = generate.NITPICK_IGNORE

html_theme = "pydata_sphinx_theme"
html_title = f"wichan {release}"
html_static_path = ["_static"]
html_css_files = ["wichan.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "wichan"},
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
}
html_sidebars = {"index": [], "results": [], "_generated/benchmarks": [], "references": []}
project_copyright = "The wichan developers, Apache-2.0"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

generate.write_pages()


def setup(app):
    """Connect what turns our docstrings into what Sphinx reads."""
    app.connect("autodoc-process-docstring", generate.prepare_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", generate.skip_member)
    app.connect("source-read", generate.adapt_source)
    app.connect("missing-reference", generate.resolve)
