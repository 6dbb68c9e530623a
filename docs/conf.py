"""The site: Sphinx reads the Markdown pages, the notebooks and the examples where they are.

The source folder is the root of the repository, so that links lead to the same files here and on
GitHub. CONTRIBUTING.md has the command. Nothing is fetched, neither when the site is built nor when
it is read: formulas become MathML, fonts are those of the reader's system.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
URLS = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "urls"
]
sys.path[:0] = [str(HERE / "building"), str(HERE.parent)]

import jaxqr  # noqa: E402

project = "jaxqr"
author = "The jaxqr developers"
project_copyright = "The jaxqr developers. Apache-2.0"
version = release = jaxqr.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",  # these are in building/
    "equation_numbers",
    "public_names",
    "markdown_pages",
    "scripts",
    "start_page",
    "gallery",
    "check_site",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".py": "python-script"}
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "notebooks/*.md",
    "notebooks/*.ipynb",
    "examples/*.py",
    "benchmarks/*.md",
    "native/**.md",
]
exclude_patterns = [".*", "build", "dist", "jaxqr", "tests", "**/.ipynb_checkpoints"]
suppress_warnings = ["config.cache"]  # functions in the configuration are not pickled; none matters

myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

default_role = "public"
add_module_names = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpick_ignore = [("py:exc", name) for name in ("ImportError", "TypeError", "ValueError")]

html_theme = "furo"
html_title = f"jaxqr {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_baseurl = URLS["Documentation"]
html_theme_options = {
    "navigation_with_keys": True,
    "source_repository": URLS["Source"],
    "source_branch": "main",
    "source_directory": "",
    "top_of_page_buttons": ["view"],
}
