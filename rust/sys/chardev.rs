// SPDX-License-Identifier: GPL-2.0

//! A misc character device whose open files each own a counted session.

use super::bindings;
use super::module;
use super::poll::PollQueue;
use core::marker::PhantomData;
use core::ptr::null_mut;
use kernel::error::{to_result, Result};
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::{ForeignOwnable, Opaque};
use kernel::uaccess::{UserSlice, UserSliceReader, UserSliceWriter};

/// What a device does.
pub(crate) trait Device: 'static {
    /// Its name under /dev.
    const NAME: &'static CStr;
    /// What an open file owns. It is dropped at the last close, where sleeping is allowed.
    type Session: Send + Sync + 'static;

    /// A new opener.
    fn open() -> Result<Arc<Self::Session>>;
    /// read(2): fills `out` and returns the bytes written.
    fn read(session: ArcBorrow<'_, Self::Session>, out: UserSliceWriter) -> Result<usize>;
    /// write(2) of one whole command.
    fn write(session: ArcBorrow<'_, Self::Session>, data: UserSliceReader) -> Result;
    /// The queue that pollers of the file sleep on. It is part of the session, so that it lives as
    /// long as the file does.
    fn pollers(session: &Self::Session) -> &PollQueue;
    /// poll(2): the events that are there.
    fn poll(session: ArcBorrow<'_, Self::Session>) -> u32;
}

/// A registered device; dropping it takes it away. Open files keep the module loaded.
///
/// # Invariants
///
/// `inner` is registered from `new` to `drop`.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<D: Device> {
    #[pin]
    inner: Opaque<bindings::miscdevice>,
    _device: PhantomData<D>,
}

// SAFETY: Registration and deregistration may happen in different tasks.
unsafe impl<D: Device> Send for Registration<D> {}
// SAFETY: Nothing is done through a shared reference.
unsafe impl<D: Device> Sync for Registration<D> {}

impl<D: Device> Registration<D> {
    /// Registers the device with mode 0600.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::miscdevice| {
                // SAFETY: `slot` is writable memory for a miscdevice that is pinned from here on.
                unsafe {
                    slot.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as i32,
                        name: D::NAME.as_char_ptr().cast(),
                        fops: &Table::<D>::FOPS,
                        mode: 0o600,
                        ..Default::default()
                    });
                }
            }),
            _device: {
                // SAFETY: `inner` was initialised just above and is pinned with `this`.
                to_result(unsafe {
                    bindings::misc_register(Opaque::raw_get(core::ptr::addr_of!(
                        (*this.as_ptr()).inner
                    )))
                })?;
                PhantomData
            },
        }? Error)
    }
}

#[pinned_drop]
impl<D: Device> PinnedDrop for Registration<D> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered by the type invariant.
        unsafe { bindings::misc_deregister(self.inner.get()) }
    }
}

struct Table<D: Device>(PhantomData<D>);

#[expect(
    clippy::missing_safety_doc,
    reason = "the kernel calls each as it does any table of this kind"
)]
impl<D: Device> Table<D> {
    const FOPS: bindings::file_operations = bindings::file_operations {
        owner: module::owner(),
        open: Some(Self::open),
        release: Some(Self::release),
        read: Some(Self::read),
        write: Some(Self::write),
        poll: Some(Self::poll),
        llseek: Some(bindings::noop_llseek),
        // SAFETY: All other operations may be null.
        ..unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
    };

    /// # Safety
    ///
    /// `file` must be an open file of this device.
    unsafe fn session<'a>(file: *mut bindings::file) -> ArcBorrow<'a, D::Session> {
        // SAFETY: `open` stored an `Arc` there, which `release` alone takes back, after every
        // other operation.
        unsafe { <Arc<D::Session> as ForeignOwnable>::borrow((*file).private_data) }
    }

    unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> i32 {
        match D::open() {
            Ok(session) => {
                // SAFETY: The file is being opened, so that its private data is ours to set.
                unsafe { (*file).private_data = session.into_foreign().cast_mut() };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> i32 {
        // SAFETY: `open` stored the `Arc`, and this is the file's last operation.
        let session = unsafe {
            let raw = (*file).private_data;
            (*file).private_data = null_mut();
            <Arc<D::Session> as ForeignOwnable>::from_foreign(raw)
        };
        drop(session);
        0
    }

    unsafe extern "C" fn read(
        file: *mut bindings::file,
        buf: *mut kernel::ffi::c_char,
        len: usize,
        _pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: The VFS hands us an open file of this device.
        let session = unsafe { Self::session(file) };
        let out = UserSlice::new(buf as usize, len).writer();
        match D::read(session, out) {
            Ok(count) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    unsafe extern "C" fn write(
        file: *mut bindings::file,
        buf: *const kernel::ffi::c_char,
        len: usize,
        _pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: The VFS hands us an open file of this device.
        let session = unsafe { Self::session(file) };
        let data = UserSlice::new(buf as usize, len).reader();
        match D::write(session, data) {
            Ok(()) => len as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The VFS hands us an open file of this device, and a table for this call.
        let session = unsafe { Self::session(file) };
        // SAFETY: File and table are the arguments of this `poll`; the queue lives as long as the
        // session, which the file owns.
        unsafe { D::pollers(&session).register(file, table) };
        D::poll(session)
    }
}
