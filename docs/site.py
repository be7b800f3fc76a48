"""What the site adds to the pages: links that leave `docs/`, and the architecture page."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = "architecture.md"


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Return the page with the architecture in its place, and links that lead somewhere."""
    if page.file.src_uri == ARCHITECTURE:
        markdown = (ROOT / "wsiseg" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    markdown = markdown.replace("](../wsiseg/ARCHITECTURE.md", f"]({ARCHITECTURE}")
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)  # files of the repository
