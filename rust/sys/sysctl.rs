// SPDX-License-Identifier: GPL-2.0

//! One unsigned number under /proc/sys.

use super::bindings;
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::types::Opaque;

/// A registered `/proc/sys/<directory>/<name>` that reads and writes a number.
///
/// # Invariants
///
/// `header` is registered and refers to `table`, which refers to `value`; all live until `drop`.
#[pin_data(PinnedDrop)]
pub(crate) struct Number {
    header: *mut bindings::ctl_table_header,
    #[pin]
    table: Opaque<bindings::ctl_table>,
    value: &'static AtomicU32,
}

// SAFETY: The number is atomic, and registration may be undone by any task.
unsafe impl Send for Number {}
// SAFETY: As above.
unsafe impl Sync for Number {}

impl Number {
    /// Registers the number with mode 0644.
    pub(crate) fn new(
        directory: &'static CStr,
        name: &'static CStr,
        value: &'static AtomicU32,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            table <- Opaque::ffi_init(|slot: *mut bindings::ctl_table| {
                // SAFETY: `slot` is writable memory for a table that is pinned from here on.
                unsafe {
                    slot.write(bindings::ctl_table {
                        procname: name.as_char_ptr().cast(),
                        data: value.as_ptr().cast(),
                        maxlen: core::mem::size_of::<u32>() as i32,
                        mode: 0o644,
                        proc_handler: Some(bindings::proc_douintvec),
                        ..Default::default()
                    });
                }
            }),
            header: {
                // SAFETY: `table` was initialised just above and is pinned with `this`.
                let header = unsafe {
                    bindings::register_sysctl_sz(
                        directory.as_char_ptr().cast(),
                        Opaque::raw_get(core::ptr::addr_of!((*this.as_ptr()).table)),
                        1,
                    )
                };
                if header.is_null() {
                    return Err(ENOMEM);
                }
                header
            },
            value,
        }? Error)
    }
}

#[pinned_drop]
impl PinnedDrop for Number {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by the type invariant.
        unsafe { bindings::unregister_sysctl_table(self.header) }
        self.value.store(0, Ordering::Relaxed);
    }
}
