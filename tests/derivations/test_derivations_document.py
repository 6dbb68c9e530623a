"""Every numbered rule of the document has a test, and every number that is named is a rule's."""

import ast
import re
import tokenize
from pathlib import Path

import jaxqr

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "notebooks" / "derivations.md"
PACKAGE = Path(jaxqr.__file__).parent


def decorated():
    """Each function with decorators `@rule(...)` in the tests of the document, and its numbers."""
    for path in HERE.glob("test_derivations_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "rule":
                    yield node.name, [ast.literal_eval(argument) for argument in call.args]


def rules():
    """The numbers of the document's rules, in their order."""
    text = DOCUMENT.read_text(encoding="utf-8")
    tags = re.findall(r"\\tag\{(\d+\.\d+)\}|\*\*\((\d+\.\d+)\)\*\*", text)
    return [a or b for a, b in tags]


def test_no_number_is_given_twice():
    assert len(rules()) == len(set(rules()))


def test_every_numbered_rule_has_a_test():
    found = list(decorated())
    assert [name for name, _ in found if not name.startswith("test_")] == []
    assert {number for _, numbers in found for number in numbers} == set(rules())


def test_every_reference_in_the_document_is_to_a_rule():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert set(re.findall(r"\((\d+\.\d+)\)", text)) <= set(rules())


def prose(path):
    """The comments and the docstrings of a file."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT or token.string.startswith('"""'):
                yield token.string


def test_every_equation_that_the_package_names_is_a_rule():
    text = "\n".join(line for path in PACKAGE.rglob("*.py") for line in prose(path))
    named = set(re.findall(r"\((\d{1,2}\.[1-9]\d?|9\.0)\)", text))  # the others are numbers
    assert {"1.1", "8.5", "11.2"} <= named <= set(rules())
