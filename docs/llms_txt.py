"""llms.txt, the list of the pages for language models, from the navigation.

``python docs/llms_txt.py > docs/llms.txt`` writes the file; a test holds it to the pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
TOCTREE = re.compile(r"(?ms)^```\{toctree\}\n(.*?)^```")


def entries(page: str) -> Iterator[str]:
    """Yield the pages in the navigation of *page*, as paths in ``docs/``."""
    here = (DOCS / page).parent
    for content in TOCTREE.findall((DOCS / page).read_text("utf-8")):
        for line in content.splitlines():
            if line.startswith(":") or not line:
                continue
            if "*" in line:
                found = sorted(here.glob(f"{line}.md"))
            else:
                found = [(here / f"{line}.md").resolve()]
            yield from (str(path.relative_to(DOCS)) for path in found)


def title(page: str) -> str:
    return (DOCS / page).read_text("utf-8").partition("\n")[0].removeprefix("# ")


def pages_below(page: str) -> Iterator[str]:
    for entry in entries(page):
        yield entry
        yield from pages_below(entry)


def llms_txt() -> str:
    """Return the file: a section for each entry of the index, a link for each page below."""
    introduction = (DOCS / "index.md").read_text("utf-8").split("\n\n")[1].replace("\n", " ")
    parts = [f"# goproxyai\n\n> {introduction}\n"]
    for section in entries("index.md"):
        links = [f"- [{title(page)}]({page})" for page in pages_below(section)]
        parts.append("\n".join([f"## {title(section)}\n", *links, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    print(llms_txt(), end="")
