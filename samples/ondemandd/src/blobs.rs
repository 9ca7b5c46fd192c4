// SPDX-License-Identifier: GPL-2.0

//! Where blobs come from.
//!
//! Lives here: the two traits that a source of blobs implements, and the source that is a
//! directory of files.  Never here: cache files, requests, or anything that knows the kernel's
//! protocol; another source (HTTP ranges, an object store) is another implementation of
//! [`BlobSource`] and touches nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::name::BlobName;

/// Something that blobs can be opened in.
pub trait BlobSource: Send + Sync {
    /// Opens the blob of this name.  An unknown one is [`io::ErrorKind::NotFound`].
    fn open(&self, name: &BlobName) -> io::Result<Arc<dyn Blob>>;
}

/// One open blob.  Its size is fixed for as long as it is open, and so are its bytes.
pub trait Blob: Send + Sync {
    /// How many bytes it has.
    fn size(&self) -> u64;

    /// Reads some bytes from `offset` on into the beginning of `buf`; 0 only at the blob's end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// The blobs are the regular files of one directory, each under its cookie key.
#[derive(Debug)]
pub struct Directory {
    directory: File,
}

impl Directory {
    /// Opens the directory; it stays the one served even if its path is renamed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            directory: File::from(directory),
        })
    }
}

impl BlobSource for Directory {
    fn open(&self, name: &BlobName) -> io::Result<Arc<dyn Blob>> {
        // O_NONBLOCK: a FIFO under this name must not stop a worker for ever before the check
        // below refuses it.  A regular file ignores it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, name.as_path(), flags, Mode::empty())?;
        let file = File::from(file);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from(Errno::INVAL));
        }
        Ok(Arc::new(FileBlob {
            size: metadata.len(),
            file,
        }))
    }
}

/// A blob in a regular file.
struct FileBlob {
    file: File,
    size: u64,
}

impl Blob for FileBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // A file that has grown since is still the blob of the size that the kernel was told.
        let left = self.size.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if len == 0 {
            return Ok(0); // pread(2) refuses offsets beyond 2^63, and this may be one.
        }
        self.file.read_at(&mut buf[..len], offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> BlobName {
        BlobName::new(key.as_bytes()).unwrap()
    }

    #[test]
    fn a_directory_serves_its_regular_files_only() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("blob"), b"0123456789").unwrap();
        std::fs::create_dir(tmp.path().join("sub")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tmp.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let source = Directory::open(tmp.path()).unwrap();

        let blob = source.open(&name("blob")).unwrap();
        assert_eq!(blob.size(), 10);
        let mut buf = [0; 8];
        assert_eq!(blob.read_at(&mut buf, 6).unwrap(), 4);
        assert_eq!(&buf[..4], b"6789");
        assert_eq!(blob.read_at(&mut buf, 10).unwrap(), 0);
        assert_eq!(blob.read_at(&mut buf, u64::MAX).unwrap(), 0);

        let kind = |key| source.open(&name(key)).err().unwrap().kind();
        assert_eq!(kind("absent"), io::ErrorKind::NotFound);
        assert_eq!(kind("sub"), io::ErrorKind::InvalidInput);
        assert_eq!(kind("fifo"), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_blob_keeps_its_size_while_it_is_open() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("blob");
        std::fs::write(&path, b"short").unwrap();
        let blob = Directory::open(tmp.path())
            .unwrap()
            .open(&name("blob"))
            .unwrap();
        std::fs::write(&path, b"much longer").unwrap();
        let mut buf = [0; 16];
        assert_eq!(blob.size(), 5);
        assert_eq!(blob.read_at(&mut buf, 0).unwrap(), 5);
    }
}
