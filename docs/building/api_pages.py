"""Which public names the pages of `docs/api/` show."""

import re
from pathlib import Path

import jaxqr

PAGES = Path(__file__).resolve().parents[1] / "api"


def find_shown_names() -> list[str]:
    """The names of `jaxqr` that the pages show by directives of autodoc, in their order."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md")))
    return re.findall(r"^\.\. auto(?:function|class):: jaxqr\.(\w+)$", text, re.MULTILINE)


def find_other_names() -> list[str]:
    """The public names that no page shows."""
    return sorted(set(jaxqr.__all__) - set(find_shown_names()))
