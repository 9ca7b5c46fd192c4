/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads to make bindings_generated.rs.  Only the names listed in
 * bindgen_parameters come out; every other type is the kernel crate's own.
 */
#include "shims.h"
#include "shims_trace.h"
