"""The finished site loads nothing from elsewhere, and no link and no public name is missing."""

from pathlib import Path
from typing import Any

from sphinx.errors import SphinxError

import jaxqr
from site_faults import find_faults


class FaultySite(SphinxError):
    """A fault of the site, not of the program that builds it."""

    category = "The site is not whole"


def check_site(app: Any, exception: Exception | None) -> None:
    """Fail the build of a site that is not whole."""
    if exception is not None or app.builder.name != "html":
        return
    faults = find_faults(Path(app.outdir).resolve())
    described = app.env.get_domain("py").objects
    faults += [f"no entry of jaxqr.{x}" for x in jaxqr.__all__ if f"jaxqr.{x}" not in described]
    if faults:
        raise FaultySite("\n" + "\n".join(faults))


def setup(app: Any) -> dict[str, bool]:
    """Work on the finished site, after all others."""
    app.connect("build-finished", check_site, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
