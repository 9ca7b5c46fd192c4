// SPDX-License-Identifier: GPL-2.0

//! The anonymous fd: the daemon's handle on one object, for writing, seeking and answering.

use super::object::DemandObject;
use super::state::ObjectId;
use super::table::RequestTable;
use crate::protocol::message::{Layout, READ_COMPLETE};
use crate::sys::anon_file::AnonFile;
use crate::sys::iov_iter::IovIter;
use crate::sys::trace;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::{Arc, ArcBorrow};

/// What an anonymous file owns. Its number lives exactly as long.
pub(crate) struct AnonFd {
    table: Arc<RequestTable>,
    object: Arc<DemandObject>,
    id: ObjectId,
    /// Whether a READ is answered through this fd, which v5 does not have.
    answers_reads: bool,
    /// The session, which goes on until the last of its fds is closed. Dropped last.
    _keep: Arc<dyn Send + Sync>,
}

impl AnonFd {
    /// A handle on `object` with a new number.
    pub(super) fn new(
        table: &Arc<RequestTable>,
        object: &Arc<DemandObject>,
        layout: Layout,
        keep: Arc<dyn Send + Sync>,
    ) -> Result<Arc<Self>> {
        let id = table.new_object_id()?;
        let this = AnonFd {
            table: table.clone(),
            object: object.clone(),
            id,
            answers_reads: layout == Layout::Mainline,
            _keep: keep,
        };
        Ok(Arc::new(this, GFP_KERNEL)?)
    }

    /// The number.
    pub(super) fn id(&self) -> ObjectId {
        self.id
    }
}

impl Drop for AnonFd {
    fn drop(&mut self) {
        self.table.free_object_id(self.id);
    }
}

impl AnonFile for AnonFd {
    const NAME: &'static CStr = kernel::c_str!("[cachefiles]");

    fn write(this: ArcBorrow<'_, Self>, at: u64, from: &mut IovIter<'_>) -> Result<usize> {
        this.object.store.write(this.object.debug_id, at, from)
    }

    fn seek(this: ArcBorrow<'_, Self>, offset: i64, whence: i32) -> Result<u64> {
        this.object.store.seek(offset, whence)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, command: u32, arg: usize) -> Result {
        if command != READ_COMPLETE || !this.answers_reads {
            return Err(EINVAL);
        }
        // CAST: `usize` is 64 bits wide on what we build for.
        this.table.answer_read(Some(&this.object), arg as u64)
    }

    fn release(this: ArcBorrow<'_, Self>) {
        trace::ondemand_fd_release(this.object.debug_id, this.id);
        this.table.fd_released(&this.object, this.id);
    }
}
