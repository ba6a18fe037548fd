"""The site: `make docs` writes it to docs/_build."""

import wichan

project = "wichan"
author = "The wichan developers"
version = release = wichan.__version__

extensions = ["myst_parser", "sphinxcontrib.bibtex"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]

html_theme = "furo"
html_title = f"wichan {release}"
exclude_patterns = ["_build"]
