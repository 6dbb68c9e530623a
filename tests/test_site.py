"""The site, as far as it can be tested without building it: formulas, navigation, names, links."""

import fnmatch
import json
import re
from xml.etree import ElementTree

import pytest

import jaxqr
from api_pages import PAGES, find_other_names, find_shown_names
from formulas import render_formula, split_tag
from site_faults import find_faults
from surroundings import ROOT

WRITTEN = [ROOT / "notebooks/derivations.md", *sorted(ROOT.glob("notebooks/*.ipynb"))]


def read_prose(path):
    """The text of a page or of a notebook's cells, without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def find_formulas(path):
    """The formulas of a page, each with how it is displayed."""
    text = read_prose(path)
    blocks = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL))
    return [(x, "block") for x in blocks] + [(x, "inline") for x in inline]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_every_formula_becomes_mathml(path):
    formulas = find_formulas(path)
    assert len(formulas) > (400 if path.stem == "derivations" else 5)
    for formula, display in formulas:
        found = [ElementTree.fromstring(x) for x in render_formula(split_tag(formula)[0], display)]
        assert {x.get("display") for x in found} == {display}
        assert len(found) == 1 or display == "inline"


@pytest.mark.parametrize("formula", [r"\unheardof{x}", "R^a^b", "a & b"])
def test_a_formula_that_is_not_understood_is_an_error(formula):
    with pytest.raises(ValueError, match="no MathML of"):
        render_formula(formula, "inline")


def test_formulas_are_of_the_mathml_that_browsers_share():
    def one(formula, display):
        (found,) = render_formula(formula, display)
        return found

    def children(formula):
        return [x.tag.partition("}")[2] for x in ElementTree.fromstring(formula)[0]]

    assert "<mi>slo</mi>" in one(r"\mathrm{slo} x", "inline")
    assert children(one(r"a \thinspace b", "inline")) == ["mi", "mspace", "mi"]
    aligned = one(r"\begin{aligned} a &= b \cr c &= d \end{aligned}", "block")
    assert aligned.count('class="right"') == aligned.count('class="left"') == 2
    assert "columnalign" not in aligned


def test_a_long_formula_in_a_line_may_break_after_its_relations():
    assert len(render_formula("a = b", "inline")) == 1
    long = "a + b + c + d + e + f = g + h + i + j + k + l"
    assert len(render_formula(long, "inline")) == 2
    assert len(render_formula(long, "block")) == 1


def test_the_navigation_reaches_every_page():
    text = (ROOT / "docs/navigation.txt").read_text(encoding="utf-8")
    entries = [x for x in text.splitlines() if re.fullmatch(r"[\w/*!\[\]]+", x)]
    patterns = ["*.md", "docs/*.md", "docs/api/*.md", "notebooks/*.md", "notebooks/*.ipynb"]
    patterns += ["examples/*.py", "benchmarks/*.md", "native/README.md", "native/gpu/README.md"]
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        name = str(path.relative_to(ROOT).with_suffix(""))
        found = [x for x in entries if x.count("/") == name.count("/") and fnmatch.fnmatch(name, x)]
        assert found or name == "README", name
        assert len({x for x in found if "*" not in x}) <= 1


def test_pages_show_public_names_once_and_one_page_shows_what_is_left():
    shown = find_shown_names()
    assert len(shown) == len(set(shown))
    assert set(shown) <= set(jaxqr.__all__)
    assert {*shown, *find_other_names()} == set(jaxqr.__all__)
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    assert text.count("```{other-public-names}") == 1


def test_what_is_loaded_from_elsewhere_and_dead_links_are_faults(tmp_path):
    page = tmp_path / "page.html"
    (tmp_path / "other.html").write_text('<p id="here"></p>', encoding="utf-8")
    page.write_text(
        '<link rel="canonical" href="https://a.b/c"><a href="https://a.b/">x</a>'
        '<a href="other.html#here">x</a><img src="data:image/png;base64,AA==">',
        encoding="utf-8",
    )
    assert find_faults(tmp_path) == []
    for fault, html in {
        "loads https://a.b/c.js": '<script src="https://a.b/c.js"></script>',
        "loads //a.b/c.css": '<link rel="stylesheet" href="//a.b/c.css">',
        "loads https://a.b/i.png": '<p style="background: url(https://a.b/i.png)">x</p>',
        "refers to none.html, which is not there": '<a href="none.html">x</a>',
        "refers to other.html#none, an anchor": '<a href="other.html#none">x</a>',
    }.items():
        page.write_text(html, encoding="utf-8")
        (found,) = find_faults(tmp_path)
        assert fault in found
    page.write_text("", encoding="utf-8")
    (tmp_path / "a.css").write_text('@import "https://a.b/font.css";', encoding="utf-8")
    assert find_faults(tmp_path) == ["a.css loads https://a.b/font.css"]
