// SPDX-License-Identifier: GPL-2.0

//! XArrays of counted references under numbers that are given out in turn.
//!
//! The kernel crate's XArray (where there is one) has no cyclic allocation.

use super::bindings;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use kernel::error::{to_result, Result};
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::Opaque;

/// Numbered, counted references.
///
/// Each method takes the array's own lock for itself; a rule that spans several of them needs a
/// lock of the owner around them, which may be a spinlock: only [`reserve`](Self::reserve) sleeps.
///
/// # Invariants
///
/// Every non-null entry is a pointer from [`Arc::into_raw`] whose reference belongs to the array.
/// `next` is only accessed under the array's lock.
#[pin_data(PinnedDrop)]
pub(crate) struct XArray<T: Send + Sync> {
    #[pin]
    inner: Opaque<bindings::xarray>,
    next: UnsafeCell<u32>,
    first: u32,
    last: u32,
    _entries: PhantomData<Arc<T>>,
}

// SAFETY: An XArray locks itself, and what it holds may be sent and shared.
unsafe impl<T: Send + Sync> Send for XArray<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for XArray<T> {}

impl<T: Send + Sync> XArray<T> {
    /// An empty array whose numbers go from `first` (0 or 1) to `last`.
    pub(crate) fn new(first: u32, last: u32) -> impl PinInit<Self> {
        // INVARIANT: There are no entries yet.
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is memory for an xarray that is pinned from here on.
                unsafe { bindings::cfrs_xa_init(slot, first != 0) }
            }),
            next: UnsafeCell::new(first),
            first,
            last,
            _entries: PhantomData,
        })
    }

    /// Takes the next free number, cyclically, so that one is not used again soon. May sleep.
    pub(crate) fn reserve(&self) -> Result<Reservation<'_, T>> {
        let mut id = 0;
        // SAFETY: The array is initialised; `next` is handed over to be used under its lock.
        to_result(unsafe {
            bindings::cfrs_xa_reserve_cyclic(
                self.inner.get(),
                &mut id,
                self.first,
                self.last,
                self.next.get(),
            )
        })?;
        // INVARIANT: `id` is reserved, for this.
        Ok(Reservation { array: self, id })
    }

    /// The entry at `id`.
    pub(crate) fn get(&self, id: u32) -> Option<Arc<T>> {
        let _locked = self.lock();
        // SAFETY: The array is initialised and locked.
        let entry = unsafe { bindings::xa_load(self.inner.get(), index(id)) };
        // SAFETY: By the type invariant, and no one can remove it while the lock is held.
        unsafe { clone_entry(entry) }
    }

    /// Removes the entry, or the bare reservation, at `id`.
    pub(crate) fn remove(&self, id: u32) -> Option<Arc<T>> {
        // SAFETY: The array is initialised.
        let entry = unsafe { bindings::xa_erase(self.inner.get(), index(id)) };
        if entry.is_null() {
            return None;
        }
        // SAFETY: By the type invariant the entry's reference was the array's, which gives it up.
        Some(unsafe { Arc::from_raw(entry.cast()) })
    }

    /// The first entry at `from` or later.
    pub(crate) fn next(&self, from: u32) -> Option<(u32, Arc<T>)> {
        let mut found = index(from);
        let _locked = self.lock();
        // SAFETY: The array is initialised and `found` is writable.
        let entry = unsafe { bindings::cfrs_xa_find(self.inner.get(), &mut found) };
        // SAFETY: By the type invariant, and no one can remove it while the lock is held.
        let entry = unsafe { clone_entry(entry) }?;
        Some((u32::try_from(found).ok()?, entry))
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.visit_next(0, |_| ()).is_none()
    }

    /// Calls `f` with the first entry at `from` or later and returns its id. Under the array's lock:
    /// the entry is not removed meanwhile, and `f` must not sleep nor come back here.
    pub(crate) fn visit_next(&self, from: u32, f: impl FnOnce(&T)) -> Option<u32> {
        let _locked = self.lock();
        let mut found = index(from);
        // SAFETY: The array is initialised and `found` is writable.
        let entry = unsafe { bindings::cfrs_xa_find(self.inner.get(), &mut found) };
        if entry.is_null() {
            return None;
        }
        // SAFETY: A `T` by the type invariant, and no one can remove it while the lock is held.
        f(unsafe { &*entry.cast_const().cast::<T>() });
        u32::try_from(found).ok()
    }

    fn lock(&self) -> XaLock<'_> {
        // SAFETY: The array is initialised; the guard unlocks it.
        unsafe { bindings::cfrs_xa_lock(self.inner.get()) };
        XaLock(&self.inner)
    }
}

/// An id as the array's functions take it.
fn index(id: u32) -> kernel::ffi::c_ulong {
    // CAST: An `unsigned long` is at least 32 bits wide.
    id as kernel::ffi::c_ulong
}

struct XaLock<'a>(&'a Opaque<bindings::xarray>);

impl Drop for XaLock<'_> {
    fn drop(&mut self) {
        // SAFETY: Made by `lock`, which took the lock in this task.
        unsafe { bindings::cfrs_xa_unlock(self.0.get()) }
    }
}

/// # Safety
///
/// `entry` must be null or point to a value in an [`Arc`] that is held for the whole call.
unsafe fn clone_entry<T>(entry: *mut kernel::ffi::c_void) -> Option<Arc<T>> {
    if entry.is_null() {
        return None;
    }
    // SAFETY: The caller promises that a reference is held meanwhile.
    Some(unsafe { ArcBorrow::<T>::from_raw(entry.cast_const().cast()) }.into())
}

#[pinned_drop]
impl<T: Send + Sync> PinnedDrop for XArray<T> {
    fn drop(self: Pin<&mut Self>) {
        while let Some((id, entry)) = self.next(0) {
            drop(entry);
            drop(self.remove(id));
        }
        // SAFETY: The array is initialised and empty but for reservations, which own nothing.
        unsafe { bindings::xa_destroy(self.inner.get()) }
    }
}

/// A number that is taken but has no entry yet. Dropping it frees the number.
///
/// # Invariants
///
/// `id` is reserved in `array`, and nothing else is stored there.
#[must_use = "the number is free again when the reservation is dropped"]
pub(crate) struct Reservation<'a, T: Send + Sync> {
    array: &'a XArray<T>,
    id: u32,
}

impl<T: Send + Sync> Reservation<'_, T> {
    /// Stores `entry` under the number. Does not sleep. On failure the entry comes
    /// back, to be dropped where sleeping is allowed.
    pub(crate) fn fill(self, entry: Arc<T>) -> Result<u32, Arc<T>> {
        let id = self.id;
        let array = self.array;
        let raw = Arc::into_raw(entry);
        // INVARIANT: A pointer from `into_raw` whose reference goes to the array.
        // SAFETY: The array is initialised. The slot exists, so that nothing is allocated.
        let ret = unsafe {
            bindings::cfrs_xa_store_reserved(array.inner.get(), index(id), raw.cast_mut().cast())
        };
        if ret != 0 {
            // SAFETY: The array has not taken it, so the reference is still ours.
            return Err(unsafe { Arc::from_raw(raw) });
        }
        core::mem::forget(self);
        Ok(id)
    }

    /// The number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Keeps the number taken, without an entry, until [`XArray::remove`] frees it.
    pub(crate) fn keep(self) -> u32 {
        let id = self.id;
        core::mem::forget(self);
        id
    }
}

impl<T: Send + Sync> Drop for Reservation<'_, T> {
    fn drop(&mut self) {
        self.array.remove(self.id);
    }
}
