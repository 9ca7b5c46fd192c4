#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0
#
# The program that the demo starts from an image that is not there yet.
#
# Lives here: an ordinary Python program that imports a good dozen modules, some
# with C libraries behind them, and does a little with each.  Never here:
# anything that knows where its files come from.
"""A little tour of the system that this runs on."""

import bz2
import collections
import csv
import datetime
import decimal
import fractions
import hashlib
import json
import lzma
import pathlib
import re
import sqlite3
import statistics
import sys
import zlib
import zoneinfo


def release():
    """The name that the system gives itself."""
    text = pathlib.Path("/etc/os-release").read_text(encoding="utf-8")
    return re.search(r'^PRETTY_NAME="(.*)"', text, re.M)[1]


def packages():
    """A database of the installed packages, made of dpkg's own records."""
    db = sqlite3.connect(":memory:")
    db.execute("create table package(name text, section text, kib integer)")
    status = pathlib.Path("/var/lib/dpkg/status").read_text(encoding="utf-8")
    for record in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Section|Installed-Size): (.*)$", record, re.M))
        if fields:
            row = fields["Package"], fields["Section"], int(fields.get("Installed-Size", 0))
            db.execute("insert into package values (?, ?, ?)", row)
    return db


def bars(db):
    """The sections of Debian by size, as people like to see it."""
    rows = db.execute(
        "select section, count(*), sum(kib) from package group by section order by 3 desc limit 5"
    ).fetchall()
    for section, count, kib in rows:
        bar = "█" * max(1, 30 * kib // rows[0][2])
        yield f"{section:<8} {bar:<30} {kib / 1024:5.1f} MiB in {count} packages"


def pi(digits):
    """Machin's formula."""

    def arctan_inverse(x):
        total = power = decimal.Decimal(1) / x
        n, sign = 1, -1
        while abs(power) > decimal.Decimal(10) ** -(digits + 5):
            power /= x * x
            n += 2
            total += sign * power / n
            sign = -sign
        return total

    with decimal.localcontext(prec=digits + 5):
        value = 4 * (4 * arctan_inverse(decimal.Decimal(5)) - arctan_inverse(decimal.Decimal(239)))
    return str(value)[: digits + 2]


def users():
    """Who may log in here, by the shell that they get."""
    with open("/etc/passwd", encoding="ascii", newline="") as file:
        return collections.Counter(row[6] for row in csv.reader(file, delimiter=":"))


def main():
    """The tour."""
    version = ".".join(map(str, sys.version_info[:3]))
    loaded = sum(1 for m in sys.modules.values() if getattr(m, "__file__", None))
    print(f"Hello from Python {version} on {release()}, {loaded} module files loaded", flush=True)

    db = packages()
    print(*bars(db), sep="\n")
    sizes = [kib for (kib,) in db.execute("select kib from package")]
    print(f"{len(sizes)} packages, half of them below {statistics.median(sizes) / 1024:.1f} MiB;",
          f"SQLite {sqlite3.sqlite_version} says so")
    print(f"pi = {pi(60)}, about {fractions.Fraction(pi(10)).limit_denominator(1000)}")
    text = pathlib.Path("/usr/share/common-licenses/GPL-2").read_bytes()
    small = {m.__name__: len(m.compress(text)) for m in (zlib, bz2, lzma)}
    print(f"the GPL: {len(text)} bytes, SHA-256 {hashlib.sha256(text).hexdigest()[:16]}…,",
          f"compressed {json.dumps(small)}")
    noon = datetime.datetime(2026, 6, 1, 12, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo"))
    there = noon.astimezone(zoneinfo.ZoneInfo("America/Lima"))
    print(f"noon in Tokyo is {there:%H:%M} in Lima the day before; shells: {dict(users())}")


if __name__ == "__main__":
    main()
