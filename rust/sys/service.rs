// SPDX-License-Identifier: GPL-2.0

//! A cache in service: what FS-Cache's records of it and of its volumes point to, and the order in
//! which that comes to its end.
//!
//! Never here: the calls of FS-Cache, which are in `fscache_ops.rs`.

use super::bindings;
use super::completion::Completion;
use super::fscache::{CacheCookie, Preparing, VolumeCookie};
use super::fscache_ops::{Backend, Table};
use core::mem::ManuallyDrop;
use core::ptr::{from_ref, null_mut, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex, SpinLock};
use kernel::{new_mutex, new_spinlock};

/// A cache that FS-Cache calls. Dropping it takes the cache out of service, and waits until no call
/// is under way, no cookie has an object, and no volume refers to the cache.
///
/// # Invariants
///
/// FS-Cache's record, which was added and is not withdrawn, points to the [`Service`].
pub(crate) struct Active<B: Backend>(Pin<KBox<Service<B>>>);

/// What FS-Cache's record of a cache points to, from when it is added until it is withdrawn and the
/// links of its volumes are broken.
#[pin_data]
pub(super) struct Service<B: Backend> {
    pub(super) cache: Arc<B::Cache>,
    cookie: Arc<CacheCookie>,
    #[pin]
    volumes: Mutex<KVec<Arc<Link<B>>>>,
}

impl<B: Backend> Active<B> {
    /// Declares the cache open for business (`fscache_add_cache()`).
    pub(crate) fn add(record: Preparing, cache: Arc<B::Cache>) -> Result<Self> {
        let cookie = record.into_cookie();
        let ptr = cookie.ptr.as_ptr();
        let service = KBox::pin_init(
            pin_init!(Service {
                cache,
                cookie,
                volumes <- new_mutex!(KVec::new(), "Service::volumes"),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The record is being prepared, as `Preparing` was, which is used up. The service
        // stays where it is until `drop` has withdrawn the record.
        to_result(unsafe {
            let service: *const Service<B> = &*service;
            bindings::fscache_add_cache(ptr, &Table::<B>::CACHE_OPS, service.cast_mut().cast())
        })?;
        // INVARIANT: As just added.
        Ok(Active(service))
    }

    /// The cache.
    pub(crate) fn cache(&self) -> &Arc<B::Cache> {
        &self.0.cache
    }
}

/// A place for one cache in service, for a static.
///
/// # Invariants
///
/// The pointer is null, or that of the box of an [`Active`] that was put here and is not taken.
pub(crate) struct Slot<B: Backend>(AtomicPtr<Service<B>>);

impl<B: Backend> Slot<B> {
    /// With nothing in it.
    pub(crate) const fn empty() -> Self {
        Slot(AtomicPtr::new(null_mut()))
    }

    /// Puts a cache there, and returns the one that was there.
    pub(crate) fn put(&self, active: Active<B>) -> Option<Active<B>> {
        let active = ManuallyDrop::new(active);
        let service: *const Service<B> = &*active.0;
        self.exchange(service.cast_mut())
    }

    /// Takes the cache that is there.
    pub(crate) fn take(&self) -> Option<Active<B>> {
        self.exchange(null_mut())
    }

    fn exchange(&self, new: *mut Service<B>) -> Option<Active<B>> {
        // INVARIANT: `new` is null or was the box of an `Active` that will not be dropped. The old
        // pointer is this call's.
        let old = self.0.swap(new, Ordering::AcqRel);
        // SAFETY: By the type invariant it came from a pinned box, and it is this call's alone.
        (!old.is_null()).then(|| Active(unsafe { Pin::new_unchecked(KBox::from_raw(old)) }))
    }
}

impl<B: Backend> Drop for Active<B> {
    fn drop(&mut self) {
        let record = self.0.cookie.ptr.as_ptr();
        // SAFETY: Added and not withdrawn by the type invariant. From here on FS-Cache begins no
        // access to the cache or its volumes, and those to the cache are over.
        unsafe { bindings::fscache_withdraw_cache(record) }
        // Volumes are made with access to the cache: there will be no others.
        let volumes = core::mem::take(&mut *self.0.volumes.lock());
        for link in &volumes {
            if let Some(volume) = link.try_get() {
                // SAFETY: Counted; the pin is that of `acquire`, which is only given up here, once for
                // each link. From here on no lookup is under way.
                unsafe { bindings::fscache_withdraw_volume(volume.0.as_ptr()) }
            }
        }
        B::withdraw_objects(self.0.cache.as_arc_borrow());
        // SAFETY: The record is valid.
        unsafe { bindings::cfrs_wait_for_objects(record) }
        for link in &volumes {
            link.detach();
        }
    }
}

impl<B: Backend> Service<B> {
    /// The service of a cache that the caller has access to.
    ///
    /// # Safety
    ///
    /// `record` must have been added by [`Active`], and until `'a` ends its service must not: there is
    /// access to the cache, or a link to it that is not broken.
    pub(super) unsafe fn of<'a>(record: *mut bindings::fscache_cache) -> &'a Self {
        // SAFETY: The caller promises that the record points to a service.
        unsafe { &*(*record).cache_priv.cast_const().cast() }
    }

    /// Has the volume represented, and links FS-Cache's record to that.
    ///
    /// # Safety
    ///
    /// FS-Cache must have called for it.
    pub(super) unsafe fn acquire(&self, raw: NonNull<bindings::fscache_volume>) -> Result {
        // SAFETY: The volume is valid for the call.
        let cookie = unsafe { VolumeCookie::from_raw(raw.as_ptr()) };
        let volume = B::acquire_volume(self.cache.as_arc_borrow(), &cookie)?;
        // INVARIANT: FS-Cache calls `free_volume` before it frees a volume with a link.
        let link = Arc::pin_init(
            pin_init!(Link {
                record <- new_spinlock!(Some(VolumePtr(raw)), "Link::record"),
                freed <- Completion::new(),
                volume,
            }),
            GFP_KERNEL,
        )?;
        self.volumes.lock().push(link.clone(), GFP_KERNEL)?;
        // SAFETY: FS-Cache lets one task at a time make a volume, so the field is ours. The volume is
        // kept from waking waiters until it is withdrawn, as FS-Cache asks for.
        unsafe {
            bindings::cfrs_pin_volume(raw.as_ptr());
            (*raw.as_ptr()).cache_priv = Arc::into_raw(link).cast_mut().cast();
        }
        Ok(())
    }

    /// Breaks the link because FS-Cache frees its volume.
    pub(super) fn free(&self, link: Arc<Link<B>>) {
        *link.record.lock() = None;
        let listed = {
            let mut volumes = self.volumes.lock();
            let place = volumes.iter().position(|listed| Arc::ptr_eq(listed, &link));
            place.and_then(|place| {
                let last = volumes.len() - 1;
                volumes.as_mut_slice().swap(place, last);
                super::vec::pop(&mut volumes)
            })
        };
        drop(listed);
        // The last use of `self`.
        link.freed.complete();
    }
}

/// What FS-Cache's record of a volume points to, with a reference of its own, until FS-Cache frees
/// the volume or the cache is withdrawn, whichever comes first.
///
/// # Invariants
///
/// While `record` is set, it is valid memory.
#[pin_data]
pub(super) struct Link<B: Backend> {
    #[pin]
    record: SpinLock<Option<VolumePtr>>,
    #[pin]
    freed: Completion,
    pub(super) volume: Arc<B::Volume>,
}

struct VolumePtr(NonNull<bindings::fscache_volume>);
// SAFETY: Only dereferenced under the rules of `Link`.
unsafe impl Send for VolumePtr {}

impl<B: Backend> Link<B> {
    /// A counted reference, unless the volume is already on its way out.
    fn try_get(&self) -> Option<VolumeRef> {
        let record = self.record.lock();
        let ptr = record.as_ref()?.0.as_ptr();
        // SAFETY: Valid by the type invariant while the lock is held.
        let counted = unsafe { bindings::cfrs_try_get_volume(ptr) };
        // INVARIANT: A non-null result carries a reference, which is ours.
        NonNull::new(counted).map(VolumeRef)
    }

    /// Breaks the link because the cache is withdrawn: no call is inside the volume any more.
    fn detach(&self) {
        let Some(counted) = self.try_get() else {
            // FS-Cache is freeing it, and is about to call `Service::free`.
            return self.freed.wait();
        };
        let volume = counted.0.as_ptr();
        // SAFETY: Counted for longer than the borrow.
        let cookie = unsafe { VolumeCookie::from_raw(volume) };
        B::withdraw_volume(self.volume.as_arc_borrow(), &cookie);
        *self.record.lock() = None;
        // SAFETY: The volume is counted, so that it is not freed, and withdrawn, so that no lookup
        // looks at the field. Its reference to the link is `acquire`'s, and given up with the field.
        unsafe {
            let ours = core::mem::replace(&mut (*volume).cache_priv, null_mut());
            debug_assert!(core::ptr::eq(ours.cast_const().cast(), from_ref(self)));
            drop(Arc::<Self>::from_raw(ours.cast_const().cast()));
        }
    }
}

/// A counted reference to FS-Cache's record of a volume.
///
/// # Invariants
///
/// It is valid, and one reference to it is ours.
struct VolumeRef(NonNull<bindings::fscache_volume>);

impl Drop for VolumeRef {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::cfrs_put_volume(self.0.as_ptr()) }
    }
}
