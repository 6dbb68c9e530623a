"""The modules that build the site need Sphinx and are no place for examples: not collected."""

collect_ignore_glob = ["*.py"]
