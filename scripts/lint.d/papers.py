# SPDX-License-Identifier: GPL-2.0
"""Checks documents: reStructuredText for its syntax, links to files for whether
the file is there, and names of the module's code for whether it has them.

Sphinx is not needed: its few directives and roles that we use are known here.
"""

import pathlib
import re
import sys

from docutils import nodes, utils
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles


class Toctree(Directive):
    """A list of documents, each of which must be there."""

    has_content = True
    option_spec = {"maxdepth": directives.nonnegative_int, "caption": directives.unchanged}

    def run(self):
        here = pathlib.Path(self.state.document.current_source).parent
        for name in self.content:
            if not (here / f"{name}.rst").exists():
                raise self.error(f"there is no {name}.rst")
        return []


def doc_role(_name, rawtext, text, _lineno, inliner, _options=None, _content=None):
    """:doc:`name`: another document beside this one."""
    here = pathlib.Path(inliner.document.current_source).parent
    match = re.fullmatch(r".*<(.*)>|(.*)", text, re.S)
    name = match[1] or match[2]
    if not (here / f"{name}.rst").exists():
        return [], [inliner.reporter.error(f"there is no {name}.rst")]
    return [nodes.literal(rawtext, text)], []


def check_rst(path, text):
    """Returns whether the text is well-formed; complaints are printed."""
    settings = {"report_level": 2, "halt_level": 5, "file_insertion_enabled": False}
    tree = publish_doctree(text, source_path=str(path), settings_overrides=settings)
    return not any(
        message["level"] >= utils.Reporter.WARNING_LEVEL
        for message in tree.findall(nodes.system_message)
    )


def check_links(path, text):
    """Returns whether all links to files lead somewhere."""
    pattern = r"\]\(([^)\s]+)\)" if path.suffix == ".md" else r"`[^`<]*<([^>`]+)>`_"
    good = True
    for target in re.findall(pattern, text):
        if re.match(r"[a-z]+:|#", target):
            continue
        if not (path.parent / target.split("#")[0]).exists():
            print(f"{path}: there is no {target}")
            good = False
    return good


def check_length(path, text):
    """Tables, links and quotations may be long; sentences may not."""
    good, quoting = True, False
    for number, line in enumerate(text.splitlines(), 1):
        quoting ^= line.startswith("```")
        if not quoting and len(line) > 100 and not re.match(r"\s*[|+]|.*https?:|\s*\.\. ", line):
            print(f"{path}:{number}: {len(line)} columns")
            good = False
    return good


def check_names(path, text):
    """Returns whether the module has each ``Type::name`` of a document, and each
    ``function()`` of the known bugs, whose functions are all the module's."""
    files = [file.read_text(encoding="utf-8") for file in pathlib.Path("rust").rglob("*.rs")]
    good = True
    for kind, name in sorted(set(re.findall(r"``([A-Z]\w+)::(\w+)(?:\(\))?``", text))):
        defined = re.compile(rf"\b(?:struct|enum|trait) {kind}\b")
        if not any(defined.search(file) and re.search(rf"\b{name}\b", file) for file in files):
            print(f"{path}: there is no {kind}::{name} in rust/")
            good = False
    functions = re.findall(r"``(\w+)\(\)``", text) if path.stem == "known-bugs" else []
    for name in sorted(set(functions)):
        if not any(re.search(rf"\bfn {name}\b", file) for file in files):
            print(f"{path}: there is no {name}() in rust/")
            good = False
    return good


def main():
    """Checks every file that is named; the status tells whether all are good."""
    directives.register_directive("toctree", Toctree)
    roles.register_canonical_role("doc", doc_role)
    good = True
    for name in sys.argv[1:]:
        path = pathlib.Path(name)
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".rst":
            good &= check_rst(path, text)
            good &= check_names(path, text)
        good &= check_links(path, text)
        good &= check_length(path, text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
