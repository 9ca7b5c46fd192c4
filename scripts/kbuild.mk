# SPDX-License-Identifier: GPL-2.0
#
# The module for one's own kernel, as any external module is built:
#
#   make KDIR=<a built kernel tree> modules
#   make KDIR=<a built kernel tree> modules_install    (root; goes to updates/)
#   make KDIR=<a built kernel tree> modules_clean
#
# Without KDIR the tree is that of the running kernel.  Kbuild then writes its
# objects beside the sources; .gitignore knows them.  What is wrong with a tree
# or with the tools is said by scripts/kbuild.d/check before kbuild starts.

KDIR ?= /lib/modules/$(shell uname -r)/build

# A kernel that clang has built wants its modules from clang.
kbuild_llvm = $(if $(LLVM),,$(shell grep -qsx CONFIG_CC_IS_CLANG=y \
	$(KDIR)/include/config/auto.conf && echo LLVM=1))
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR) $(kbuild_llvm)

modules:
	@scripts/kbuild.d/check $(KDIR)
	+$(kbuild) modules

# Nothing is built here: this one is for root, who may lack the compilers.
modules_install:
	@[ -e cachefiles.ko ] || \
		{ echo "error: there is no cachefiles.ko yet: run 'make KDIR=$(KDIR) modules' first" >&2; exit 1; }
	+$(kbuild) modules_install

# Kbuild's own clean would go through all of the tree, build/ with its kernels'
# modules included.
modules_clean:
	@rm -f *.o .*.o *.ko *.mod *.mod.c .*.cmd .*.d modules.order Module.symvers
	@find rust \( -name '*.o' -o -name '.*.cmd' -o -name '.*.d' -o -name '*.rmeta' \
		-o -name bindings_generated.rs \) -delete

# With both on one command line and -j, the first comes first.
ifneq ($(filter modules,$(MAKECMDGOALS)),)
modules_install: modules
endif

.PHONY: modules modules_install modules_clean
