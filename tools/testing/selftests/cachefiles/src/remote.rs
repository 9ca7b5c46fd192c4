// SPDX-License-Identifier: GPL-2.0

//! Network file systems with a cache, and the servers that they come from: NFS over loopback, 9P
//! from the machine that runs the VM.
//!
//! Lives here: exporting, mounting, and looking at the server's side.  Never here: what is cached.

use crate::{
    backing::Backing,
    kernel::run,
    ktap::Skip,
    lab::{eventually, Lab},
};
use anyhow::{Context, Result};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use std::{
    ffi::CString,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How the client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NFS of this version.
    Nfs(u32),
    /// 9P over virtio.
    NineP,
}

/// A server with a directory of files.
pub struct Remote {
    kind: Kind,
    base: PathBuf,
    dir: PathBuf,
    // Dropped in this order.
    _nfsd: Option<Nfsd>,
    _direct: Option<Client>,
    _fs: Option<Backing>,
}

impl Remote {
    /// A server whose directory is empty.
    pub fn new(lab: &Lab, kind: Kind) -> Result<Remote> {
        match kind {
            Kind::Nfs(_) => Remote::nfs(lab, kind),
            Kind::NineP => Remote::ninep(lab),
        }
    }

    fn nfs(lab: &Lab, kind: Kind) -> Result<Remote> {
        let fs = Backing::ext4(lab.base(), 1, 128)?;
        let mut remote = Remote::exporting(lab, kind, fs.dir())?;
        remote._fs = Some(fs);
        Ok(remote)
    }

    /// NFS of this version, with the files of a directory.
    pub fn over(lab: &Lab, version: u32, dir: &Path) -> Result<Remote> {
        Remote::exporting(lab, Kind::Nfs(version), dir)
    }

    fn exporting(lab: &Lab, kind: Kind, dir: &Path) -> Result<Remote> {
        Ok(Remote {
            kind,
            base: lab.base().to_owned(),
            dir: dir.to_owned(),
            _nfsd: Some(Nfsd::start(dir)?),
            _direct: None,
            _fs: None,
        })
    }

    fn ninep(lab: &Lab) -> Result<Remote> {
        let remote = Remote::of_before(lab)?;
        for entry in fs::read_dir(&remote.dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            }
            .with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(remote)
    }

    /// 9P, with the files that are there from the time before.
    pub fn of_before(lab: &Lab) -> Result<Remote> {
        // There is one channel for the client, and one for whoever looks at the server's side.
        let direct = Client::mount_9p(lab.base(), "share-direct", "cache=none")?;
        Ok(Remote {
            kind: Kind::NineP,
            base: lab.base().to_owned(),
            dir: direct.dir().to_owned(),
            _nfsd: None,
            _direct: Some(direct),
            _fs: None,
        })
    }

    /// How the client reaches it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The server's own file of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Mounts 9P with this option, which says what is cached.
    pub fn mount_9p_with(&self, option: &str) -> Result<Client> {
        Client::mount_9p(&self.base, "share", option)
    }

    /// Mounts it with a cache.
    pub fn mount(&self) -> Result<Client> {
        match self.kind {
            Kind::Nfs(version) => Client::mount_nfs(&self.base, &self.dir, version),
            Kind::NineP => Client::mount_9p(&self.base, "share", "cache=fscache"),
        }
    }
}

/// A program that serves as long as this lives.
struct Server {
    name: &'static str,
    child: Child,
}

impl Server {
    /// Starts it in the foreground: what makes a daemon of itself goes on with the descriptors of
    /// the runner's pipes, which then never end.
    fn start(name: &'static str, args: &[&str]) -> Result<Server> {
        let child = Command::new(name)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(name)?;
        Ok(Server { name, child })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            crate::lab::cleanup_failed(&format!("ending {}: {error}", self.name));
        }
    }
}

/// The kernel's NFS server, exporting one directory, with the programs that it needs.
struct Nfsd {
    // Dropped in this order.
    _mountd: Server,
    _rpcbind: Server,
}

impl Nfsd {
    const CONTROL: &str = "/proc/fs/nfsd";

    fn start(dir: &Path) -> Result<Nfsd> {
        if !Path::new("/sys/module/nfsd").exists() {
            run("modprobe", &["-a", "nfsd", "nfs", "nfsv3", "nfsv4"])?;
        }
        if !Path::new(Self::CONTROL).join("threads").exists() {
            run("mount", &["-t", "nfsd", "nfsd", Self::CONTROL])?;
        }
        fs::create_dir_all("/var/lib/nfs/v4recovery")?;
        // NFSv3's mount asks for the port of mountd.
        let rpcbind = Server::start("rpcbind", &["-f"])?;
        eventually("rpcbind answers", || {
            UnixStream::connect("/run/rpcbind.sock").is_ok()
        })?;
        let export = format!("127.0.0.1:{}", dir.display());
        let options = "rw,sync,no_root_squash,no_subtree_check,fsid=0,insecure";
        run("exportfs", &["-i", "-o", options, &export])?;
        let nfsd = Nfsd {
            _mountd: Server::start("rpc.mountd", &["-F", "-N", "2"])?,
            _rpcbind: rpcbind,
        };
        // Until it serves, nobody tells the kernel what is exported.
        eventually("mountd answers", || {
            run("rpcinfo", &["-t", "127.0.0.1", "mountd", "3"]).is_ok()
        })?;
        run("rpc.nfsd", &["-H", "127.0.0.1", "-G", "10", "2"])?;
        // Nobody has anything to reclaim.
        fs::write(Path::new(Self::CONTROL).join("v4_end_grace"), "Y")?;
        Ok(nfsd)
    }

    fn stop() -> Result<()> {
        run("rpc.nfsd", &["0"])?;
        run("exportfs", &["-au"])?;
        // What it has cached of exports holds the file system.
        run("exportfs", &["-f"]).map(drop)
    }
}

impl Drop for Nfsd {
    fn drop(&mut self) {
        if let Err(error) = Nfsd::stop() {
            crate::lab::cleanup_failed(&format!("{error:#}"));
        }
    }
}

/// A mounted client; dropping it unmounts it.
pub struct Client {
    dir: PathBuf,
    mounted: bool,
}

impl Client {
    fn place(base: &Path) -> Result<PathBuf> {
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let dir = base.join(format!("net-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn mount_nfs(base: &Path, export: &Path, version: u32) -> Result<Client> {
        let dir = Client::place(base)?;
        let (source, options) = match version {
            // The export is the root of the server's tree.
            4 => ("127.0.0.1:/".to_owned(), "fsc,vers=4.0,soft,timeo=100"),
            _ => (
                format!("127.0.0.1:{}", export.display()),
                "fsc,vers=3,nolock,tcp,soft,timeo=100",
            ),
        };
        let target = dir.to_str().context("a mount point in UTF-8")?;
        run(
            "mount",
            &["-t", "nfs", "-o", options, source.as_str(), target],
        )?;
        Ok(Client { dir, mounted: true })
    }

    fn mount_9p(base: &Path, tag: &str, more: &str) -> Result<Client> {
        run("modprobe", &["-a", "9pnet_virtio", "9p"])?;
        let dir = Client::place(base)?;
        let options = CString::new(format!("trans=virtio,version=9p2000.L,msize=262144,{more}"))?;
        let mounted = mount(
            tag,
            &dir,
            "9p",
            MountFlags::empty(),
            Some(options.as_c_str()),
        );
        match mounted {
            Ok(()) => {
                let client = Client { dir, mounted: true };
                // A user is attached to the server at the first lookup. If two are the first, one of
                // them may look for the root's own name in the root (v9fs_fid_lookup_with_uid()): ENOENT.
                let root = fs::File::open(client.dir());
                root.with_context(|| format!("opening the root of 9P {tag}"))?;
                Ok(client)
            }
            Err(rustix::io::Errno::NOENT) => {
                Err(Skip(format!("the VM has no 9P share {tag}")).into())
            }
            Err(error) => Err(error).with_context(|| format!("mounting 9P {tag} ({more})")),
        }
    }

    /// Its root.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts it.
    pub fn unmount(&mut self) -> Result<()> {
        let mut error = None;
        // A reply of the server may still be on its way to a worker.
        let done = eventually("unmounting", || {
            error = unmount(&self.dir, UnmountFlags::empty()).err();
            error.is_none()
        });
        done.with_context(|| format!("unmounting {}: {error:?}", self.dir.display()))?;
        self.mounted = false;
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.mounted {
            if let Err(error) = self.unmount() {
                crate::lab::cleanup_failed(&format!("{error:#}"));
            }
        }
    }
}

/// While this lives nfsd delegates nothing.  It does so by leases, which it has to break for who looks
/// at the server's side; when the client is slow to give one back, nfsd of 6.12 warns in
/// `revoke_delegation()`.
pub struct NoLeases(String);

impl NoLeases {
    const SWITCH: &str = "/proc/sys/fs/leases-enable";

    /// From now on.
    pub fn begin() -> Result<NoLeases> {
        let before = fs::read_to_string(Self::SWITCH)?;
        fs::write(Self::SWITCH, "0")?;
        Ok(NoLeases(before))
    }
}

impl Drop for NoLeases {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SWITCH, &self.0) {
            crate::lab::cleanup_failed(&format!("{}: {error}", Self::SWITCH));
        }
    }
}
