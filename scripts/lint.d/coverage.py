# SPDX-License-Identifier: GPL-2.0
#
# Whether Documentation/coverage.rst has a row for all that C's module has, and every
# row a place and a test that exist; and whether the tests that the other papers name
# exist.  Never: whether the test shows it.
#
#   coverage.py COVERAGE.rst KERNEL-SOURCE TEST.rs...

import re
import sys
from pathlib import Path

paper, source, *tests = map(Path, sys.argv[1:])
bad = []


def say(what):
    bad.append(f"{paper}: {what}")


def rows():
    """The rows of all tables: lists of cells."""
    row = None
    for line in paper.read_text().splitlines():
        if line.startswith("   * - "):
            row = [line[7:]]
            yield row
        elif row and line.startswith("     - "):
            row.append(line[7:])
        elif row and line.startswith("       "):
            row[-1] += " " + line.strip()
        else:
            row = None


def c_has():
    """What C's sources name, each as the table's first column begins."""
    c = source / "fs/cachefiles"
    for file, table in [("interface.c", "fscache_cache_ops"), ("io.c", "netfs_cache_ops")]:
        body = re.search(rf"const struct {table} \w+ = \{{(.*?)\n\}};", (c / file).read_text(), re.S)
        yield from (name for name in re.findall(r"\.(\w+)\s*=", body[1]) if name != "name")
    commands = re.search(r"cachefiles_daemon_cmds\[\] = \{(.*?)\n\};", (c / "daemon.c").read_text(), re.S)
    yield from re.findall(r'\{ "(\w+)"', commands[1])
    yield from re.findall(r"module_param_named\((\w+)", (c / "main.c").read_text())
    yield from re.findall(r'procname\s*= "(\w+)"', (c / "error_inject.c").read_text())
    yield from re.findall(r'XATTR_USER_PREFIX "([\w.]+)"', (c / "xattr.c").read_text())
    events = (source / "include/trace/events/cachefiles.h").read_text()
    yield from re.findall(r"TRACE_EVENT\((\w+)", events)
    for file in c.glob("*.c"):
        yield from re.findall(r"\b(fscache_count_\w+)\(", file.read_text())


known = set()
for test in tests:
    for name, cases in re.findall(r'group!\((?:\w+, )?"(\w+)":([^)]*)\)', test.read_text()):
        known |= {f"{name}:{case}" for case in re.findall(r"^\s*(\w+),", cases, re.M)}

table = list(rows())
for row in table:
    if len(row) != 3 or not all(cell.strip() for cell in row):
        say(f"an empty place in the row of {row[0]}")
    for name in re.findall(r"``(\w+:\w+)``", row[-1]):
        if name not in known:
            say(f"there is no test {name}")
first = {re.match(r"[\w.]+", row[0])[0] for row in table}
for name in sorted(set(c_has()) - first):
    say(f"no row for {name}")
groups = {name.split(":")[0] for name in known}
for other in sorted(set(paper.parent.glob("*.rst")) - {paper}):
    for group, case in re.findall(r"``(?:v5_)?(\w+):(\w+)``", other.read_text()):
        if group in groups and f"{group}:{case}" not in known:
            bad.append(f"{other}: there is no test {group}:{case}")
print("\n".join(bad), end="\n" if bad else "")
sys.exit(bool(bad))
