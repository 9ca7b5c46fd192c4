// SPDX-License-Identifier: GPL-2.0

//! What FS-Cache hands to a cache: the cache's, volume's and cookie's records, as counted or
//! borrowed references.
//!
//! The table of operations through which FS-Cache calls is in `fscache_ops.rs`, the service of a
//! cache in `service.rs`.

use super::bindings;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::error::{from_err_ptr, to_result, Result};
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};
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

/// How a netfs uses its file, at one moment: a user that comes or goes changes the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uses {
    active: i32,
    unused_at: kernel::ffi::c_ulong,
}

impl Uses {
    /// Whether there is a user.
    pub(crate) fn any(self) -> bool {
        self.active > 0
    }
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

    fn flags(&self) -> *mut kernel::ffi::c_ulong {
        // SAFETY: A place in the cookie, which is valid.
        unsafe { core::ptr::addr_of_mut!((*self.0.get()).flags) }
    }

    /// Whether the flag is set.
    pub(crate) fn is(&self, flag: CookieFlag) -> bool {
        // SAFETY: As C's test_bit(): one read of a word that may change at any time.
        unsafe { self.flags().read_volatile() & (1 << flag as u32) != 0 }
    }

    /// Sets the flag.
    pub(crate) fn set(&self, flag: CookieFlag) {
        // SAFETY: The word lives as long as the cookie, and is only changed atomically.
        unsafe { bindings::cfrs_set_bit(flag as u32, self.flags()) }
    }

    /// Clears the flag.
    pub(crate) fn clear(&self, flag: CookieFlag) {
        // SAFETY: As for `set`.
        unsafe { bindings::cfrs_clear_bit(flag as u32, self.flags()) }
    }

    /// Clears the flag and tells whether it was set.
    pub(crate) fn take(&self, flag: CookieFlag) -> bool {
        // SAFETY: As for `set`.
        unsafe { bindings::cfrs_test_and_clear_bit(flag as u32, self.flags()) }
    }

    /// What [`LookingUp::made`] has stored, while it is there.
    ///
    /// # Safety
    ///
    /// The caller must have access to the cookie for `'a`, and its object be an `Arc<O>`.
    pub(super) unsafe fn object<'a, O>(&self) -> Option<ArcBorrow<'a, O>> {
        // SAFETY: While there is access, the object is not taken away.
        unsafe {
            let object = (*self.0.get()).cache_priv;
            (!object.is_null()).then(|| ArcBorrow::from_raw(object.cast_const().cast()))
        }
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
        // SAFETY: Never changes.
        unsafe { (*self.0.get()).advice & bindings::FSCACHE_ADV_WANT_CACHE_SIZE as u8 != 0 }
    }

    /// How many invalidations there were.
    pub(crate) fn invalidations(&self) -> u32 {
        // SAFETY: The field lives as long as the cookie and is one word.
        unsafe { core::ptr::addr_of!((*self.0.get()).inval_counter).read_volatile() }
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

    /// Has a netfs that uses the file be served again, if the cookie has lost its cache and there is one
    /// of that name now. FS-Cache would wait until the netfs begins to use it anew. May sleep.
    pub(crate) fn look_up_again(&self) {
        // SAFETY: The cookie is valid; the shim looks whether there is anything to do.
        unsafe { bindings::cfrs_cookie_look_up_again(self.0.get()) }
    }

    /// Its place in the order in which cookies are made.
    pub(crate) fn age(&self) -> Age {
        Age(self.debug_id())
    }

    /// Asks FS-Cache to withdraw the cookie, in its own time, from its own worker.
    pub(crate) fn withdraw(&self) {
        // SAFETY: The cookie is valid. In whatever state it is, FS-Cache's worker looks at the request
        // when it comes to it.
        unsafe { bindings::fscache_withdraw_cookie(self.0.get()) }
    }
}

/// A cookie that FS-Cache's worker is looking up, for as long as that takes.
///
/// # Invariants
///
/// The cookie is being looked up by this task for `'a`, and has no object.
pub(crate) struct LookingUp<'a, O> {
    cookie: &'a Cookie,
    _object: PhantomData<fn(Arc<O>)>,
}

impl<'a, O> LookingUp<'a, O> {
    /// # Safety
    ///
    /// This task must be looking the cookie up for `'a`. If the cookie has an object at the end, its
    /// reference to that, and its count of it, belong to the cookie.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::fscache_cookie) -> Self {
        LookingUp {
            // SAFETY: FS-Cache holds a reference to what it looks up.
            cookie: unsafe { Cookie::from_raw(ptr) },
            _object: PhantomData,
        }
    }

    /// Has `object` stand for the cookie, from before others are let begin operations until these have
    /// ended and FS-Cache withdraws the cookie, also if it cannot be cached.
    pub(crate) fn made(self, object: Arc<O>) -> Made<'a> {
        let cookie = self.cookie.0.get();
        // SAFETY: The field is this task's by the type invariant: others look at it when the state lets
        // operations begin, which is after this. The cookie has its volume, and this its cache.
        unsafe {
            bindings::cfrs_count_object((*(*cookie).volume).cache);
            (*cookie).cache_priv = Arc::into_raw(object).cast_mut().cast();
        }
        Made(self.cookie)
    }
}

impl<O> Deref for LookingUp<'_, O> {
    type Target = Cookie;

    fn deref(&self) -> &Cookie {
        self.cookie
    }
}

/// A cookie that is being looked up and has its object.
pub(crate) struct Made<'a>(&'a Cookie);

impl Made<'_> {
    /// Lets tasks go on that wait for data, of which there is none (`fscache_cookie_lookup_negative()`).
    pub(crate) fn lookup_negative(&self) {
        // SAFETY: The cookie is being looked up by this task while `self` lives, and has an object.
        unsafe { bindings::fscache_cookie_lookup_negative(self.0 .0.get()) }
    }
}

impl Deref for Made<'_> {
    type Target = Cookie;

    fn deref(&self) -> &Cookie {
        self.0
    }
}

/// A cookie whose data FS-Cache has us invalidate.
pub(crate) struct Invalidating<'a>(&'a Cookie);

/// That I/O goes on after an invalidation.
pub(crate) struct Resumed<'a>(PhantomData<&'a Cookie>);

impl<'a> Invalidating<'a> {
    /// # Safety
    ///
    /// FS-Cache's worker must be invalidating the cookie in this task for `'a`.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::fscache_cookie) -> Self {
        // SAFETY: FS-Cache holds a reference meanwhile.
        Invalidating(unsafe { Cookie::from_raw(ptr) })
    }

    /// Lets I/O go on (`fscache_resume_after_invalidation()`).
    pub(crate) fn resume(self) -> Resumed<'a> {
        // SAFETY: The cookie is being invalidated by this task, as `from_raw` asks for.
        unsafe { bindings::fscache_resume_after_invalidation(self.0 .0.get()) }
        Resumed(PhantomData)
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

/// Tells how old cookies are. To be made while no cache is live: then none is asked for its volume.
///
/// # Invariants
///
/// `volume` is valid, and the reference that acquiring it gave is ours.
pub(crate) struct CookieClock {
    volume: NonNull<bindings::fscache_volume>,
}

impl CookieClock {
    /// Acquires a volume, for cookies that are not used.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: May be called where sleeping is allowed.
        let volume = from_err_ptr(unsafe { bindings::cfrs_acquire_volume() })?;
        // INVARIANT: The reference is ours.
        let volume = NonNull::new(volume).ok_or(ENOMEM)?;
        Ok(CookieClock { volume })
    }

    /// The age of a cookie that is newer than all that the netfs have now.
    pub(crate) fn now(&self) -> Result<Age> {
        let mut number = 0;
        // SAFETY: The volume is valid by the type invariant, and `number` is writable for the call.
        to_result(unsafe { bindings::cfrs_newest_cookie(self.volume.as_ptr(), &mut number) })?;
        Ok(Age(number))
    }
}

impl Drop for CookieClock {
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
    pub(crate) fn acquire(name: &CStr) -> Result<Preparing> {
        // SAFETY: `name` is a C string, which the callee copies.
        let ptr = unsafe { bindings::fscache_acquire_cache(name.as_char_ptr().cast()) };
        let ptr = NonNull::new(from_err_ptr(ptr)?).ok_or(ENOMEM)?;
        // INVARIANT: The reference is ours. It is relinquished if the allocation fails.
        Ok(Preparing(Arc::new(CacheCookie { ptr }, GFP_KERNEL)?))
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
}

impl Drop for CacheCookie {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant. A cache in service has one to `self`
        // until it is withdrawn.
        unsafe { bindings::fscache_relinquish_cache(self.ptr.as_ptr()) }
    }
}

/// A record of a cache that is not added yet.
///
/// # Invariants
///
/// There is one for a record that was acquired, until it is added.
pub(crate) struct Preparing(Arc<CacheCookie>);

impl Preparing {
    /// The record.
    pub(crate) fn cookie(&self) -> &Arc<CacheCookie> {
        &self.0
    }

    pub(super) fn into_cookie(self) -> Arc<CacheCookie> {
        self.0
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
