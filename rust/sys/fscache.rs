// SPDX-License-Identifier: GPL-2.0

//! What FS-Cache hands to a cache: the cache's, volume's and cookie's records, as counted or
//! borrowed references.
//!
//! The table of operations through which FS-Cache calls is in `fscache_ops.rs`.

use super::bindings;
use super::bits::Flags;
use super::completion::Completion;
use super::time::Tick;
use core::ptr::NonNull;
use kernel::error::{from_err_ptr, to_result, Result};
use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, SpinLock};
use kernel::types::{ARef, AlwaysRefCounted, Opaque};

/// A data cookie: FS-Cache's record of one cached file.
#[repr(transparent)]
pub(crate) struct Cookie(Opaque<bindings::fscache_cookie>);

// SAFETY: Cookies are counted atomically and lock themselves.
unsafe impl Send for Cookie {}
// SAFETY: As above.
unsafe impl Sync for Cookie {}

// SAFETY: The two functions count references to the cookie.
unsafe impl AlwaysRefCounted for Cookie {
    fn inc_ref(&self) {
        // SAFETY: `self` is a valid cookie with a reference.
        unsafe { bindings::cfrs_get_cookie(self.0.get()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference to a valid cookie.
        unsafe { bindings::cfrs_put_cookie(obj.as_ptr().cast()) }
    }
}

/// How a netfs uses its file, at one moment: who begins or ceases to makes it another value, unless
/// one does the one and another one the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uses {
    active: i32,
    unused_at: kernel::ffi::c_ulong,
}

/// What the netfs says of its file, at one moment.
pub(crate) struct Snapshot {
    /// Size in bytes.
    pub(crate) size: u64,
    /// What tells one version of the file from another.
    pub(crate) coherency: KVec<u8>,
    /// How many invalidations there were.
    pub(crate) invalidations: u32,
}

/// Bits of a cookie's flags word that a cache looks at or sets.
#[derive(Clone, Copy)]
pub(crate) enum CookieFlag {
    /// The netfs has given the cookie up for good; its data is to be deleted.
    Retired = bindings::FSCACHE_COOKIE_RETIRED as isize,
    /// The cache holds no data of it.
    NoData = bindings::FSCACHE_COOKIE_NO_DATA_TO_READ as isize,
    /// Its attributes have to be stored.
    NeedsUpdate = bindings::FSCACHE_COOKIE_NEEDS_UPDATE as isize,
    /// Something has been written to the cache since the netfs looked last.
    HaveData = bindings::FSCACHE_COOKIE_HAVE_DATA as isize,
    /// It was modified locally.
    LocalWrite = bindings::FSCACHE_COOKIE_LOCAL_WRITE as isize,
}

impl Cookie {
    /// # Safety
    ///
    /// `ptr` must be a valid cookie for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::fscache_cookie) -> &'a Self {
        // SAFETY: The types have one layout, and the caller promises validity.
        unsafe { &*ptr.cast() }
    }

    fn flags(&self) -> Flags<'_> {
        // SAFETY: The word lives as long as the cookie and is only accessed atomically.
        unsafe { Flags::from_raw(core::ptr::addr_of_mut!((*self.0.get()).flags)) }
    }

    /// Whether the flag is set.
    pub(crate) fn is(&self, flag: CookieFlag) -> bool {
        self.flags().test(flag as u32)
    }

    /// Sets the flag.
    pub(crate) fn set(&self, flag: CookieFlag) {
        self.flags().set(flag as u32)
    }

    /// Clears the flag.
    pub(crate) fn clear(&self, flag: CookieFlag) {
        self.flags().clear(flag as u32)
    }

    /// Clears the flag and tells whether it was set.
    pub(crate) fn take(&self, flag: CookieFlag) -> bool {
        self.flags().take(flag as u32)
    }

    /// A new counted reference.
    pub(crate) fn grab(&self) -> ARef<Cookie> {
        self.into()
    }

    /// The key, which never changes.
    pub(crate) fn key(&self) -> &[u8] {
        // SAFETY: A cookie has its key from its making to its end, `key_len` bytes.
        unsafe {
            let key: *mut kernel::ffi::c_void = bindings::cfrs_cookie_key(self.0.get()).cast();
            core::slice::from_raw_parts(key.cast_const().cast(), (*self.0.get()).key_len.into())
        }
    }

    /// Size, coherency data and count of invalidations as they belong together.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        // SAFETY: Never changes.
        let len = unsafe { (*self.0.get()).aux_len };
        let mut coherency = KVec::from_elem(0, len.into(), GFP_KERNEL)?;
        let (mut size, mut invalidations) = (0, 0);
        // SAFETY: The cookie is valid, and `coherency` has room for `aux_len` bytes.
        unsafe {
            bindings::cfrs_cookie_snapshot(
                self.0.get(),
                coherency.as_mut_ptr().cast(),
                &mut size,
                &mut invalidations,
            );
        }
        Ok(Snapshot {
            size: u64::try_from(size).unwrap_or(0),
            coherency,
            invalidations,
        })
    }

    /// The hash of volume and key, whose lowest byte chooses the fan-out directory.
    pub(crate) fn hash(&self) -> u32 {
        // SAFETY: Never changes.
        unsafe { (*self.0.get()).key_hash }
    }

    /// The number that traces show.
    pub(crate) fn debug_id(&self) -> u32 {
        // SAFETY: Never changes.
        unsafe { (*self.0.get()).debug_id }
    }

    /// Size of the netfs's file in bytes.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: The field lives as long as the cookie and is one word.
        let size = unsafe { core::ptr::addr_of!((*self.0.get()).object_size).read_volatile() };
        u64::try_from(size).unwrap_or(0)
    }

    /// Sets the size, which must fit a file offset.
    pub(crate) fn set_size(&self, size: u64) -> Result {
        let size = i64::try_from(size).map_err(|_| EFBIG)?;
        // SAFETY: The field lives as long as the cookie and is one word.
        unsafe { core::ptr::addr_of_mut!((*self.0.get()).object_size).write_volatile(size) };
        Ok(())
    }

    /// Whether the netfs wants the cache to tell the size.
    pub(crate) fn wants_size(&self) -> bool {
        // SAFETY: The cookie is valid.
        unsafe { bindings::cfrs_cookie_wants_size(self.0.get()) }
    }

    /// How many invalidations there were.
    pub(crate) fn invalidations(&self) -> u32 {
        // SAFETY: The field lives as long as the cookie and is one word.
        unsafe { core::ptr::addr_of!((*self.0.get()).inval_counter).read_volatile() }
    }

    /// Whether the netfs uses the file, or has since `when`.
    pub(crate) fn used_since(&self, when: Tick) -> bool {
        // SAFETY: The cookie is valid; the shim takes its lock.
        unsafe { bindings::cfrs_cookie_used_since(self.0.get(), when.0 as kernel::ffi::c_ulong) }
    }

    /// How the netfs uses the file.
    pub(crate) fn uses(&self) -> Uses {
        // SAFETY: The fields live as long as the cookie and are a word each.
        unsafe {
            Uses {
                active: core::ptr::addr_of!((*self.0.get()).n_active.counter).read_volatile(),
                unused_at: core::ptr::addr_of!((*self.0.get()).unused_at).read_volatile(),
            }
        }
    }

    /// Its place in the order in which cookies are made.
    pub(crate) fn age(&self) -> Age {
        Age(self.debug_id())
    }

    /// Tells those who wait that there is no data (`fscache_cookie_lookup_negative()`).
    pub(crate) fn lookup_negative(&self) {
        // SAFETY: The cookie is valid and being looked up by our caller.
        unsafe { bindings::fscache_cookie_lookup_negative(self.0.get()) }
    }

    /// Lets I/O go on after an invalidation (`fscache_resume_after_invalidation()`).
    pub(crate) fn resume(&self) {
        // SAFETY: The cookie is valid and being invalidated by our caller.
        unsafe { bindings::fscache_resume_after_invalidation(self.0.get()) }
    }

    /// Puts the cookie out of service (`fscache_caching_failed()`).
    pub(crate) fn caching_failed(&self) {
        // SAFETY: The cookie is valid.
        unsafe { bindings::fscache_caching_failed(self.0.get()) }
    }

    /// Asks FS-Cache to withdraw the cookie, in its own time, from its own worker.
    pub(crate) fn withdraw(&self) {
        // SAFETY: The cookie is valid and counted by our caller.
        unsafe { bindings::fscache_withdraw_cookie(self.0.get()) }
    }
}

/// A place in the order in which cookies are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age(pub(crate) u32);

impl Age {
    /// Whether it was not made after `other`.
    pub(crate) fn is_as_old_as(self, other: Age) -> bool {
        // CAST: The numbers go round; of two, the newer is ahead by less than half of them.
        (other.0.wrapping_sub(self.0) as i32) >= 0
    }

    /// That of a cookie that will not be made for long.
    pub(crate) fn far_ahead(self) -> Age {
        Age(self.0.wrapping_add(1 << 30))
    }
}

/// What tells how old cookies are. To be made while no cache is live: then it is nothing to a cache.
///
/// # Invariants
///
/// `volume` is valid, and the reference that acquiring it gave is ours.
pub(crate) struct Calendar {
    volume: NonNull<bindings::fscache_volume>,
}

impl Calendar {
    /// Acquires a volume, for cookies that nobody uses.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: May be called where sleeping is allowed.
        let volume = from_err_ptr(unsafe { bindings::cfrs_acquire_volume() })?;
        // INVARIANT: The reference is ours.
        let volume = NonNull::new(volume).ok_or(ENOMEM)?;
        Ok(Calendar { volume })
    }

    /// The age of a cookie that is newer than all that the netfs have now.
    pub(crate) fn today(&self) -> Result<Age> {
        let mut number = 0;
        // SAFETY: The volume is valid by the type invariant, and `number` is writable for the call.
        to_result(unsafe { bindings::cfrs_newest_cookie(self.volume.as_ptr(), &mut number) })?;
        Ok(Age(number))
    }
}

impl Drop for Calendar {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant, and no cookie is left in the volume.
        unsafe { bindings::cfrs_relinquish_volume(self.volume.as_ptr()) }
    }
}

/// A volume cookie, borrowed from FS-Cache.
pub(crate) struct VolumeCookie<'a>(&'a Opaque<bindings::fscache_volume>);

impl VolumeCookie<'_> {
    /// # Safety
    ///
    /// `ptr` must be a valid volume for as long as the result lives.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::fscache_volume) -> Self {
        // SAFETY: The types have one layout, and the caller promises validity.
        VolumeCookie(unsafe { &*ptr.cast() })
    }

    /// The key, without the length before it and the NUL behind it. It never changes.
    pub(crate) fn key(&self) -> &[u8] {
        // SAFETY: `key[0]` is the length of the string that follows, for the volume's whole life.
        unsafe {
            let key = (*self.0.get()).key.cast_const();
            core::slice::from_raw_parts(key.add(1), usize::from(*key))
        }
    }

    /// The number that traces show.
    pub(crate) fn debug_id(&self) -> u32 {
        // SAFETY: Never changes.
        unsafe { (*self.0.get()).debug_id }
    }

    /// Copies the coherency data to the end of `out`.
    pub(crate) fn copy_coherency(&self, out: &mut KVec<u8>) -> Result {
        let volume = self.0.get();
        // SAFETY: There are `coherency_len` bytes behind the record as long as it lives; they are
        // only changed when the netfs gives the volume up, so that each is read volatile.
        unsafe {
            let data = core::ptr::addr_of!((*volume).coherency).cast::<u8>();
            for i in 0..usize::from((*volume).coherency_len) {
                out.push(data.add(i).read_volatile(), GFP_KERNEL)?;
            }
        }
        Ok(())
    }
}

/// A counted reference to a volume cookie.
///
/// # Invariants
///
/// `ptr` is valid and one reference to it is ours.
pub(crate) struct VolumeRef {
    ptr: NonNull<bindings::fscache_volume>,
}

impl VolumeRef {
    /// The volume.
    pub(crate) fn cookie(&self) -> VolumeCookie<'_> {
        // SAFETY: Our reference keeps it for as long as `self` is borrowed.
        unsafe { VolumeCookie::from_raw(self.ptr.as_ptr()) }
    }

    /// Ends the volume's service and waits until nobody accesses it (`fscache_withdraw_volume()`).
    pub(crate) fn withdraw(&self) {
        // SAFETY: The volume is valid. Our pin is dropped only where it still stands.
        unsafe {
            if bindings::cfrs_volume_accesses(self.ptr.as_ptr()) != 0 {
                bindings::fscache_withdraw_volume(self.ptr.as_ptr());
            }
        }
    }
}

impl Drop for VolumeRef {
    fn drop(&mut self) {
        // SAFETY: One reference is ours by the type invariant.
        unsafe { bindings::cfrs_put_volume(self.ptr.as_ptr()) }
    }
}

/// A cache's uncounted link to a volume cookie, from acquisition until FS-Cache frees the volume
/// or the cache is withdrawn, whichever comes first.
///
/// # Invariants
///
/// While `volume` is set, it is valid memory: `detach` is called before FS-Cache frees it. What its
/// `cache_priv` points to, if to anything, is a reference that `put` drops.
#[pin_data]
pub(crate) struct VolumeLink {
    #[pin]
    volume: SpinLock<Option<VolumePtr>>,
    #[pin]
    freed: Completion,
    put: unsafe fn(*const kernel::ffi::c_void),
}

#[derive(Clone, Copy)]
struct VolumePtr(NonNull<bindings::fscache_volume>);
// SAFETY: Only dereferenced under the rules of `VolumeLink`.
unsafe impl Send for VolumePtr {}

impl VolumeLink {
    /// # Safety
    ///
    /// `volume` must stay valid until `detach` or `volume_freed` was called, and its `cache_priv` be null or
    /// come from an `Arc<V>`.
    pub(super) unsafe fn new<V>(volume: NonNull<bindings::fscache_volume>) -> Result<Arc<Self>> {
        // INVARIANT: The caller promises it.
        Arc::pin_init(
            pin_init!(VolumeLink {
                volume <- new_spinlock!(Some(VolumePtr(volume)), "VolumeLink::volume"),
                freed <- Completion::new(),
                put: put::<V>,
            }),
            GFP_KERNEL,
        )
    }

    /// A counted reference, unless the volume is already on its way out.
    pub(crate) fn try_get(&self) -> Option<VolumeRef> {
        let guard = self.volume.lock();
        let VolumePtr(ptr) = (*guard)?;
        // SAFETY: Valid by the type invariant while the lock is held.
        let ptr = unsafe { bindings::cfrs_try_get_volume(ptr.as_ptr()) };
        // INVARIANT: A non-null result carries a reference, which is ours.
        NonNull::new(ptr).map(|ptr| VolumeRef { ptr })
    }

    /// Breaks the link because FS-Cache frees the volume.
    pub(super) fn volume_freed(&self) {
        *self.volume.lock() = None;
        self.freed.complete();
    }

    /// Waits until FS-Cache has freed the volume, which it must be doing already: `try_get` failed.
    pub(crate) fn wait_freed(&self) {
        self.freed.wait()
    }

    /// Breaks the link because the cache is withdrawn, and has FS-Cache forget the cache's record of the
    /// volume; `volume`, which this link gave, keeps FS-Cache from freeing its own meanwhile.
    pub(crate) fn detach(&self, volume: &VolumeRef) {
        let linked = self.volume.lock().take();
        if linked.map(|VolumePtr(ptr)| ptr) != Some(volume.ptr) {
            return;
        }
        // SAFETY: The volume is counted. Nobody is inside the volume any more: our caller has
        // withdrawn it, so that the field is ours to clear.
        let raw = unsafe {
            core::mem::replace(
                &mut (*volume.ptr.as_ptr()).cache_priv,
                core::ptr::null_mut(),
            )
        };
        if !raw.is_null() {
            // SAFETY: This is what `put` is for, by the type invariant; the reference was the volume's.
            unsafe { (self.put)(raw) }
        }
    }
}

/// # Safety
///
/// `raw` must come from an `Arc<V>`, whose reference passes to us.
unsafe fn put<V>(raw: *const kernel::ffi::c_void) {
    // SAFETY: The caller's promise.
    drop(unsafe { Arc::<V>::from_raw(raw.cast()) })
}

/// FS-Cache's record of a cache, acquired by name. Dropping the last reference relinquishes it.
///
/// # Invariants
///
/// `ptr` is valid, and the reference that `fscache_acquire_cache()` gave is ours.
pub(crate) struct CacheCookie {
    pub(super) ptr: NonNull<bindings::fscache_cache>,
}

// SAFETY: The record is counted and locks itself.
unsafe impl Send for CacheCookie {}
// SAFETY: As above.
unsafe impl Sync for CacheCookie {}

impl CacheCookie {
    /// Acquires the record named `name`; `EBUSY` if there is a cache of that name.
    pub(crate) fn acquire(name: &CStr) -> Result<Arc<Self>> {
        // SAFETY: `name` is a C string, which the callee copies.
        let ptr = unsafe { bindings::fscache_acquire_cache(name.as_char_ptr().cast()) };
        let ptr = NonNull::new(from_err_ptr(ptr)?).ok_or(ENOMEM)?;
        // INVARIANT: The reference is ours. It is relinquished if the allocation fails.
        Ok(Arc::new(CacheCookie { ptr }, GFP_KERNEL)?)
    }

    /// The name it was acquired by.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: The record has its name from its making to its end, which our reference puts off.
        unsafe { CStr::from_char_ptr((*self.ptr.as_ptr()).name.cast()) }
    }

    /// Takes the cache out of service because its disk failed.
    pub(crate) fn io_error(&self) {
        // SAFETY: The record is valid.
        unsafe { bindings::fscache_io_error(self.ptr.as_ptr()) }
    }

    /// Stops new accesses and waits for those under way (`fscache_withdraw_cache()`).
    pub(crate) fn withdraw(&self) {
        // SAFETY: The record is valid and was added.
        unsafe { bindings::fscache_withdraw_cache(self.ptr.as_ptr()) }
    }

    /// Waits until no [`ObjectCount`] is left.
    pub(crate) fn wait_for_objects(&self) {
        // SAFETY: The record is valid.
        unsafe { bindings::cfrs_wait_for_objects(self.ptr.as_ptr()) }
    }
}

impl Drop for CacheCookie {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant, and nobody uses the cache any more.
        unsafe { bindings::fscache_relinquish_cache(self.ptr.as_ptr()) }
    }
}

/// One live object, as FS-Cache counts them to know when a cache is empty.
///
/// # Invariants
///
/// The object was counted and is not uncounted yet. The cookie is set until `drop`.
pub(crate) struct ObjectCount(Option<Arc<CacheCookie>>);

impl ObjectCount {
    /// Counts one more.
    pub(crate) fn new(cache: &Arc<CacheCookie>) -> Self {
        // SAFETY: The record is valid.
        unsafe { bindings::cfrs_count_object(cache.ptr.as_ptr()) };
        // INVARIANT: Just counted.
        ObjectCount(Some(cache.clone()))
    }
}

impl Drop for ObjectCount {
    fn drop(&mut self) {
        let Some(cookie) = self.0.take() else {
            return;
        };
        let ptr = cookie.ptr;
        // Before the count, so that whoever waits for the count has the last reference.
        drop(cookie);
        // SAFETY: Counted by the type invariant; whoever waits until nothing is counted holds a
        // reference to the record meanwhile.
        unsafe { bindings::cfrs_uncount_object(ptr.as_ptr()) }
    }
}

/// Counters of /proc/fs/fscache/stats that a cache keeps.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    /// A read from the cache.
    Read,
    /// A write to the cache.
    Write,
    /// No room for data.
    NoSpaceToWrite,
    /// No room for a file.
    NoSpaceToCreate,
    /// A file was culled.
    Culled,
    /// Data that is not in whole blocks.
    Misfit,
}

impl Count {
    /// Counts one.
    pub(crate) fn bump(self) {
        // SAFETY: The shims count atomically.
        unsafe {
            match self {
                Count::Read => bindings::cfrs_count_io(false),
                Count::Write => bindings::cfrs_count_io(true),
                Count::NoSpaceToWrite => bindings::cfrs_count_no_space(false),
                Count::NoSpaceToCreate => bindings::cfrs_count_no_space(true),
                Count::Culled => bindings::cfrs_count_culled(),
                Count::Misfit => bindings::cfrs_count_dio_misfit(),
            }
        }
    }
}
