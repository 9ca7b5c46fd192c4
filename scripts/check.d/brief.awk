# SPDX-License-Identifier: GPL-2.0
#
# Makes one line of a kselftest's KTAP, and shows the cases that failed with what
# they said.  Never: a count that anybody adds up; that is totals.py's.
#
#   awk -v name=GROUP -f brief.awk GROUP.ktap

# What a case says comes before its result.
/^(# |    )# / {
	sub(/^ *#? *# /, "")
	said = said "        " $0 "\n"
	next
}
/^(# |    )ok [0-9]+ / {
	cases++
	if (match($0, /# [0-9]+ ms$/))
		ms += substr($0, RSTART + 2)
	if (/ # SKIP /)
		skipped++
	said = ""
}
/^(# |    )not ok [0-9]+ / {
	sub(/^ *#? */, "")
	cases++
	failed++
	shown = shown "        " $0 "\n" said
	said = ""
	next
}
/^(ok|not ok) [0-9]+ / {
	result = $0
}
END {
	bad = result !~ /^ok/
	# A group that died, or was stopped, has told nothing itself.
	if (bad && !failed)
		shown = shown said "        " (result ? result : "no result") "\n"
	printf "    %s %-20s %3d cases %7.1f s", bad ? "FAILED" : "ok    ", name, cases, ms / 1000
	if (failed)
		printf ", %d failed", failed
	if (skipped)
		printf ", %d skipped", skipped
	printf "\n%s", shown
}
