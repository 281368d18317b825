"""Sphinx configuration: ``tox -e docs`` builds the site, with warnings as errors."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from goproxyai import __version__  # noqa: E402

project = "goproxyai"
author = "the goproxyai maintainers"
release = version = __version__
extensions = ["myst_parser"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # those of GitHub
nitpicky = True

html_theme = "furo"
html_title = f"goproxyai {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_extra_path = ["llms.txt"]
html_show_sourcelink = False
html_show_copyright = False

LOADED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//""")
"""A tag that makes a browser load something from another host."""


def check_hosts(app: Sphinx, failure: Exception | None) -> None:
    """Fail if a page loads a script, style, font or image from another host."""
    for page in sorted(Path(app.outdir).rglob("*.html")):
        if failure is None and (found := LOADED.search(page.read_text("utf-8"))):
            raise RuntimeError(f"{page} loads from another host: {found.group()}")


def copy_pages(app: Sphinx, failure: Exception | None) -> None:
    """Copy the pages in Markdown, to which ``llms.txt`` links."""
    if failure is None:
        for name in sorted(app.project.docnames):
            shutil.copy(Path(app.srcdir, f"{name}.md"), Path(app.outdir, f"{name}.md"))


def setup(app: Sphinx) -> None:
    app.connect("build-finished", check_hosts)
    app.connect("build-finished", copy_pages)
