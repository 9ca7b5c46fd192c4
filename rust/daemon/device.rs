// SPDX-License-Identifier: GPL-2.0

//! The device's file operations, each turned over to the session.

use super::session::{DeviceFile, Session};
use crate::protocol::command::MAX_LINE;
use crate::sys::chardev::Device;
use crate::sys::creds;
use crate::sys::errno::{EMSGSIZE, EOPNOTSUPP};
use crate::sys::poll::{self, PollQueue};
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};
use kernel::uaccess::{UserSliceReader, UserSliceWriter};

/// `/dev/cachefiles`.
pub(crate) enum CacheFilesDevice {}

impl Device for CacheFilesDevice {
    const NAME: &'static CStr = kernel::c_str!("cachefiles");
    type Session = DeviceFile;

    fn open() -> Result<Arc<DeviceFile>> {
        if !creds::is_sys_admin() {
            return Err(EPERM);
        }
        DeviceFile::open()
    }

    fn read(file: ArcBorrow<'_, DeviceFile>, mut out: UserSliceWriter) -> Result<usize> {
        let session = &file.session;
        let Some(cache) = session.cache() else {
            return Ok(0);
        };
        if let Some(layout) = cache.on_demand {
            let keep = || -> Arc<dyn Send + Sync> { session.clone() };
            return session.requests.deliver(layout, keep, out);
        }
        cache.disk.report(|line| {
            let text = kernel::str::CString::try_from_fmt(kernel::fmt!("{}", line))?;
            let bytes = text.as_bytes();
            if bytes.len() > out.len() {
                return Err(EMSGSIZE);
            }
            out.write_slice(bytes)?;
            Ok(bytes.len())
        })
    }

    fn write(file: ArcBorrow<'_, DeviceFile>, data: UserSliceReader) -> Result {
        let session: &Session = &file.session;
        if session.requests.is_dead() {
            return Err(EIO);
        }
        if data.len() > MAX_LINE {
            crate::sys::log::warn_limited!(
                "a command of {} bytes is longer than {}",
                data.len(),
                MAX_LINE
            );
            return Err(EOPNOTSUPP);
        }
        let mut line = KVec::new();
        data.read_all(&mut line, GFP_KERNEL)?;
        session.command(&line)
    }

    fn pollers(file: &DeviceFile) -> &PollQueue {
        &file.session.requests.pollers
    }

    fn poll(file: ArcBorrow<'_, DeviceFile>) -> u32 {
        let session = &file.session;
        let Some(cache) = session.cache() else {
            return 0;
        };
        let readable = if cache.on_demand.is_some() {
            session.requests.has_deliverable()
        } else {
            cache.disk.has_changed()
        };
        let mut events = 0;
        if readable {
            events |= poll::READABLE;
        }
        if cache.disk.is_culling() {
            events |= poll::WRITABLE;
        }
        events
    }
}
