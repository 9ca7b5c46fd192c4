# SPDX-License-Identifier: GPL-2.0
#
# What a person types.  Every target is one script of scripts/, which says what
# it does; nothing is decided here.  The targets `modules` and `modules_install`
# are kbuild's own and come from scripts/kbuild.mk.
#
# PEER=1 lets demo, check and shell use the kernel's C module instead of ours.

export PEER
.DEFAULT_GOAL := help

help:	## this list
	@sed -n 's/^\([a-z_-]*\):.*## /  \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo "  modules             cachefiles.ko for the kernel tree KDIR=..., then modules_install"
	@echo "With PEER=1, demo, check and shell use the kernel's C module."

demo:	## run a program from an image that is fetched on demand
	@scripts/demo

check:	## all tests; T=name runs one selftest, T=name:subtest a part of it
	@scripts/check $(strip $(T))

check-debug: ## the kselftests on a kernel that finds memory and locking bugs
	@FLAVOUR=$${FLAVOUR:-debug} scripts/check $(strip $(T))

check-power: ## CUTS=20 power cuts of the VM while it fills a cache; SEED=number
	@CUTS=$${CUTS:-20} scripts/check power_cut

known-bugs: ## run the tests of the known bugs here and on C, for their table
	@scripts/known-bugs

fuzz:	## a daemon gone mad in the VM, for SECONDS=... or until a failure
	@scripts/fuzz $(SECONDS)

fuzz-host: ## the command and message code under libFuzzer, likewise
	@FUZZ_SECONDS=$(SECONDS) scripts/fuzz-host $(strip $(T))

bench:	## what reads and fills cost, in instructions, here and in C
	@scripts/bench

kernel:	## build the test kernel
	@scripts/kernel build test

module:	## build cachefiles.ko for the test kernel
	@scripts/module build

shell:	## a prompt in the test VM, with the module loaded
	@[ -n "$(PEER)" ] || scripts/module build
	@scripts/vm shell

fmt:	## format the sources
	@scripts/lint fmt

lint:	## rustfmt, clippy, shellcheck, checkpatch, rustdoc
	@scripts/lint

daemon:	## build the sample daemon
	@scripts/toolchain ensure
	@scripts/toolchain run cargo build -q --release --target x86_64-unknown-linux-gnu -p ondemandd

# For scripts: nothing but NAME=path lines on stdout.  What takes seconds is built
# if it is not there; the toolchain and the kernel are not.
paths:	## where the products are, one NAME=path a line
	@kernel=$$(scripts/kernel dir test) && module=$$(scripts/module path) && \
	daemon=$(CURDIR)/build/target/x86_64-unknown-linux-gnu/release/ondemandd && \
	if [ -e "$$kernel/.complete" ]; then \
		[ -e "$$module" ] || scripts/module build >&2; \
		[ -e "$$daemon" ] || $(MAKE) --no-print-directory daemon >&2; \
	fi && \
	printf '%s\n' "KERNEL=$$kernel/arch/x86/boot/bzImage" \
		"MODULE=$$module" \
		"PEER_MODULE=$$kernel/fs/cachefiles/cachefiles.ko" \
		"MODULES=$$kernel" \
		"DAEMON=$$daemon" \
		"TOOLCHAIN=$$(scripts/toolchain path)"
	@debug=$$(scripts/kernel dir debug) && \
	printf '%s\n' "DEBUG_KERNEL=$$debug/arch/x86/boot/bzImage" \
		"DEBUG_MODULE=$$(scripts/module path debug)" \
		"DEBUG_MODULES=$$debug"

clean:	## remove what was built in this tree (the cache of slow products stays)
	@rm -rf build

.PHONY: help demo check check-debug check-power known-bugs fuzz fuzz-host bench kernel module daemon shell fmt lint paths clean

-include scripts/kbuild.mk
