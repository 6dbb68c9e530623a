"""What is wrong with the HTML of a folder: things loaded from elsewhere, and dead links."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
LOADING |= {"video": "src", "audio": "src", "embed": "src", "object": "data", "input": "src"}
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)")


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        """Read the file."""
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element refers to and what refers to it."""
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.loads |= set(IN_STYLES.findall(found.get("style", "")))
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif tag in LOADING and LOADING[tag] in found and found.get("rel") != "canonical":
            self.loads.add(found[LOADING[tag]])


def find_faults(folder: Path) -> list[str]:
    """A line for each thing loaded from elsewhere, and for each link that leads nowhere."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    faults = []
    for style in folder.rglob("*.css"):
        for url in IN_STYLES.findall(style.read_text(encoding="utf-8")):
            if urlsplit(url).netloc:
                faults.append(f"{style.relative_to(folder)} loads {url}")
    for path, page in pages.items():
        name = path.relative_to(folder)
        faults += [f"{name} loads {url}" for url in page.loads if urlsplit(url).netloc]
        for url in page.links | page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else None
            if not target.exists():
                faults.append(f"{name} refers to {url}, which is not there")
            elif parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors:
                faults.append(f"{name} refers to {url}, an anchor that is not there")
    return faults
