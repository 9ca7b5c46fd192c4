# SPDX-License-Identifier: GPL-2.0
"""Writes into the table of known bugs what became of each row's test.

The first word of a row's last two cells is the result: here, and on C's module.  What
follows it tells how, and is left as it is.
"""

import pathlib
import re
import sys

CELLS = re.compile(
    r"(?P<test>^     - ``(?P<group>\w+):(?P<case>\w+)``\n)"
    r"     - (?P<here>\w+)(?P<how>(?:.*\n(?:       .*\n)*))"
    r"     - (?P<peer>\w+)",
    re.M,
)


def results(directory):
    """The word for each case, by group and case."""
    found = {}
    for path in pathlib.Path(directory).glob("*.ktap"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.match(r"# (not )?ok \d+ (\w+)(?: # (SKIP)?)?", line)
            if match:
                word = "fails" if match[1] else "skipped" if match[3] else "passes"
                found[path.stem, match[2]] = word
    return found


def main():
    """The document, then the directories with the KTAP of the two runs."""
    document = pathlib.Path(sys.argv[1])
    here, peer = map(results, sys.argv[2:4])
    told = []

    def row(match):
        test = match["group"], match["case"]
        if test[0].startswith("v5"):
            peer[test] = "skipped"
        if test not in here or test not in peer:
            sys.exit(f"{':'.join(test)} was not run")
        told.append((here[test], peer[test]))
        return f"{match['test']}     - {here[test]}{match['how']}     - {peer[test]}"

    before = document.read_text(encoding="utf-8")
    after = CELLS.sub(row, before)
    if len(told) != len(re.findall(r"^   \* - ", after, re.M)) - 1:
        sys.exit(f"{document}: a row without a test and two results")
    document.write_text(after, encoding="utf-8")
    for number, who in enumerate(("here", "C")):
        words = [words[number] for words in told]
        counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
        print(f"{who}: {counts}")
    print(f"{document}: {'as it was' if before == after else 'changed'}")


main()
