# SPDX-License-Identifier: GPL-2.0
"""Checks that no kselftest lets C's module differ without a row that says why.

Each function of the tests that asks `is_peer()` must be reached by a case that is
named in the table of differences.
"""

import pathlib
import re
import sys


def functions(text):
    """The functions at the top level or in an impl, by name, with their bodies."""
    starts = [
        (match.start(), match["name"])
        for match in re.finditer(r"^(?: {4})?(?:pub(?:\(super\))? )?fn (?P<name>\w+)", text, re.M)
    ]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return {name: text[start:end] for (start, name), end in zip(starts, ends)}


def reached(name, bodies):
    """The functions of this file that end in `name`, and itself."""
    found, new = set(), {name}
    while new:
        found |= new
        called = re.compile(r"\b(?:%s)\(" % "|".join(new))
        new = {caller for caller, body in bodies.items() if called.search(body)} - found
    return found


def cases(text):
    """The group's name and its cases."""
    match = re.search(r'group!\("(\w+)":([^)]*)\)', text)
    return (match[1], set(re.findall(r"\w+", match[2]))) if match else (None, set())


def named(document):
    """The cases that the document names; one without a group has that of the one before."""
    group, found = None, set()
    for word in re.findall(r"``([\w:]+)``", document):
        if ":" in word:
            group, word = word.split(":")[:2]
        found.add((group, word))
    return found


def main():
    """The first argument is the document, the others are the tests."""
    rows = named(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    good = True
    for path in map(pathlib.Path, sys.argv[2:]):
        text = path.read_text(encoding="utf-8")
        group, known = cases(text)
        bodies = functions(text)
        for name, body in bodies.items():
            if "is_peer()" not in body:
                continue
            tests = reached(name, bodies) & known
            if not any((group, test) in rows for test in tests):
                print(f"{path}: {name}() asks is_peer(), but {sys.argv[1]} has no row for it:"
                      f" {', '.join(sorted(tests)) or 'no case'}")
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
