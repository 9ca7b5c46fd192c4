# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What every script here shares: where things are kept, how we speak to the
# person, and how a command is run inside the toolchain root.  Never: anything
# that builds something; each product has a script of its own.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Slow products (toolchain root, kernels, images) live outside the tree, each in
# a directory whose name holds a hash of all that it depends on.
CACHE=${CACHEFILES_RS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cachefiles-rs}
BUILD=$TOP/build

say()  { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }

# as_root CMD...: run CMD as root, through sudo where we are not.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		die "this step needs root: run it as root or install sudo"
	fi
}

# hash_of FILE...: a short key of these files' contents (names do not count).
hash_of() { cat -- "$@" | sha256sum | cut -c1-12; }

# progress LABEL LOG CMD...: run CMD with its output in LOG and a line that says
# how long it has been going; on failure show the end of LOG.
progress() {
	local label=$1 log=$2 start=$SECONDS rc=0 pid
	shift 2
	mkdir -p "$(dirname "$log")"
	say "$label (log: $log)"
	"$@" >"$log" 2>&1 &
	pid=$!
	if [ -t 2 ]; then
		while kill -0 $pid 2>/dev/null; do
			printf '\r    %4d s  %-80.80s' $((SECONDS - start)) \
				"$(tail -n1 "$log" | tr -d '\r\033')" >&2
			sleep 1
		done
		printf '\r%90s\r' '' >&2
	fi
	wait $pid || rc=$?
	if [ $rc != 0 ]; then
		tail -n 40 "$log" >&2
		die "$label failed with status $rc; the whole log is $log"
	fi
	note "done in $((SECONDS - start)) s"
}

# locked NAME CMD...: run CMD alone; two makes at once must not build one product
# twice into the same directory.
locked() {
	local name=$1
	shift
	mkdir -p "$CACHE"
	(
		flock 9
		"$@" 9>&-
	) 9>"$CACHE/.lock-$name"
}

need_host() {
	[ "$(uname -s)" = Linux ] && [ "$(uname -m)" = x86_64 ] ||
		die "this project builds on x86_64 Linux only; this is $(uname -s) $(uname -m)"
	[ -f /etc/debian_version ] ||
		die "this machine is not Debian: the scripts install what they need with apt-get"
}
