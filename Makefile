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
	@sed -n 's/^\([a-z_]*\):.*## /  \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo "With PEER=1, demo, check and shell use the kernel's C module."

demo:	## run a program from an image that is fetched on demand
	@scripts/demo

check:	## all tests; T=name runs one selftest, T=name:subtest a part of it
	@scripts/check $(T)

check-debug: ## the kselftests on a kernel that finds memory and locking bugs
	@FLAVOUR=debug VM_TIMEOUT=3000 scripts/check $(T)

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

# For scripts: nothing but NAME=path lines on stdout.
paths:	## where the products are, one NAME=path a line
	@kernel=$$(scripts/kernel dir test) && module=$$(scripts/module path) && \
	printf '%s\n' "KERNEL=$$kernel/arch/x86/boot/bzImage" \
		"MODULE=$$module" \
		"PEER_MODULE=$$kernel/fs/cachefiles/cachefiles.ko" \
		"MODULES=$$kernel" \
		"DAEMON=$(CURDIR)/build/target/x86_64-unknown-linux-gnu/release/ondemandd" \
		"TOOLCHAIN=$$(scripts/toolchain path)"

clean:	## remove what was built in this tree (the cache of slow products stays)
	@rm -rf build

.PHONY: help demo check check-debug kernel module shell fmt lint paths clean

-include scripts/kbuild.mk
