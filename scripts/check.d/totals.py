# SPDX-License-Identifier: GPL-2.0
#
# Adds up what the tests said: the kselftests' KTAP through the kernel's own parser
# (tools/testing/kunit), cargo's own result lines.  Never: a judgement of its own.
#
#   totals.py KUNIT_DIR RESULTS_DIR [bad]

import glob
import io
import os
import re
import sys


def ktap(path):
    """The parser's counts of one log of the kselftest runner."""
    import kunit_parser
    import kunit_printer

    told = io.StringIO()
    kunit_parser.stdout = kunit_printer.Printer(output=told)
    with open(path, encoding="utf-8", errors="replace") as log:
        # The runner puts "# " before what a test prints; KTAP indents what is nested.
        lines = [re.sub(r"^# ", "  ", line.rstrip("\n")) for line in log]
    try:
        counts = kunit_parser.parse_run_tests(iter(lines)).counts
    except ValueError as error:
        # The parser does not expect a log that ends in the middle, as when the VM dies.
        print(f"{path}: {error}", file=sys.stderr)
        passed = sum(bool(re.match(r"  ok ", line)) for line in lines)
        return passed, 1 + sum(bool(re.match(r"  not ok ", line)) for line in lines), 0
    if counts.crashed or counts.errors:
        print(told.getvalue(), file=sys.stderr)
    return counts.passed, counts.failed + counts.crashed + counts.errors, counts.skipped


def cargo(path):
    """The sum of cargo's result lines."""
    with open(path, encoding="utf-8", errors="replace") as log:
        results = re.findall(r"^test result: .* (\d+) passed; (\d+) failed; (\d+) ignored", log.read(), re.M)
    return [sum(int(number) for number in column) for column in zip(*results)] or (0, 0, 0)


def main():
    kunit, results = sys.argv[1:3]
    bad = len(sys.argv) > 3 and sys.argv[3] != ""
    sys.dont_write_bytecode = True
    sys.path.insert(0, kunit)
    parts = [ktap(path) for path in sorted(glob.glob(os.path.join(results, "*.ktap")))]
    host = os.path.join(results, "host")
    if os.path.exists(host):
        parts.append(cargo(host))
    passed, failed, skipped = (sum(column) for column in zip(*parts))
    if bad and not failed:
        # A dirty kernel log, or a crate that does not compile, is a failure too.
        failed = 1
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(failed != 0)


main()
