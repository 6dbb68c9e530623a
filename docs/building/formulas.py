"""Formulas in TeX translated to MathML.

latex2mathml translates; what it writes is brought to MathML Core, the part of MathML that all
browsers show alike.
"""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
TAG = re.compile(r"\s*\\tag\{(\d+\.\d+)\}")
# What latex2mathml does not know, by what it does. GitHub takes \cr for \\, which Markdown eats.
EQUIVALENTS = {
    r"\thinspace": r"\,",
    r"\cr": r"\\",
    r"\begin{aligned}": r"\begin{align*}",
    r"\end{aligned}": r"\end{align*}",
    r"\begin{gathered}": r"\begin{array}{c}",
    r"\end{gathered}": r"\end{array}",
}
RELATIONS = set("=<>\u2264\u2265\u2260\u2248\u2190\u2192\u21a6\u2208\u27f9")
LONG = 20  # characters: a formula within a line that is longer may break at its relations
ElementTree.register_namespace("", NAMESPACE)


def split_tag(formula: str) -> tuple[str, str | None]:
    r"""Separate a formula from the number that its `\tag` gives it."""
    found = TAG.search(formula)
    return (TAG.sub("", formula), found[1]) if found else (formula, None)


def equation_id(number: str) -> str:
    """The anchor of the equation with this number."""
    return "equation-" + number.replace(".", "-")


def render_formula(formula: str, display: str) -> list[str]:
    """Translate a formula in TeX to MathML.

    Args:
        formula: without the dollars.
        display: "inline" or "block".

    Returns:
        The formula; if it is long and inline its pieces, between which a line may end.

    Raises:
        ValueError: if the formula is not understood.
    """
    known = formula
    for tex, equivalent in EQUIVALENTS.items():
        known = re.sub(re.escape(tex) + r"(?![A-Za-z])", lambda _, x=equivalent: x, known)
    try:
        root = ElementTree.fromstring(convert(known, display=display))
    except Exception as error:  # its errors have no base class of their own
        raise ValueError(f"no MathML of the formula {formula!r}: {error!r}") from error
    unknown = [text for text in root.itertext() if "\\" in text or "&" in text]
    if unknown:
        raise ValueError(f"no MathML of {unknown} in the formula {formula!r}")
    for element in root.iter():
        _bring_to_core(element)
    roots = _split_at_relations(root) if display == "inline" else [root]
    return [ElementTree.tostring(root, encoding="unicode") for root in roots]


def _split_at_relations(root: Element) -> list[Element]:
    """Cut a long formula after its relations, as browsers break no line within one."""
    row = root[0]
    cuts = [k + 1 for k, child in enumerate(row[:-1]) if (child.text or "") in RELATIONS]
    if len("".join(root.itertext())) <= LONG or not cuts:
        return [root]
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, len(row)], strict=True):
        piece = Element(root.tag, root.attrib)
        piece.append(Element(row.tag, row.attrib))
        piece[0].extend(row[start:stop])
        pieces.append(piece)
    return pieces


def _bring_to_core(element: Element) -> None:
    """Mend one element and its children."""
    tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    text = element.text or ""
    if tag == "mrow" and len(element) > 1:
        _join_letters(element)
    elif tag == "mtd":
        # Core knows no columnalign: site.css says what the class means
        element.set("class", element.attrib.pop("columnalign", "center"))
    elif tag == "mo" and text.isalpha() and text.isascii():  # min, det: spaced as names are
        element.tag = f"{{{NAMESPACE}}}mi"
    elif tag == "mo" and text in "|\u2016":  # bars open and close, and are spaced as brackets
        element.attrib.update(lspace="0", rspace="0")
    elif tag == "mo" and text == "\u2015":  # \overline: a bar that grows
        element.text = "\u00af"
        element.set("stretchy", "true")


def _join_letters(row: Element) -> None:
    r"""Make one name of the upright letters of \mathrm{name}."""
    letters = [child.text or "" for child in row]
    if all(child.get("mathvariant") == "normal" for child in row):
        attributes = dict(row.attrib)
        row.clear()
        row.attrib.update(attributes)
        row.append(Element(f"{{{NAMESPACE}}}mi"))
        row[0].text = "".join(letters)
