// SPDX-License-Identifier: GPL-2.0

//! EROFS images made by hand: files whose chunks lie at chosen blocks of chosen devices.
//!
//! Lives here: the few on-disk structures that such an image has.  mkfs.erofs cannot make one, as
//! it places chunks itself; tests of far offsets and of many blobs need to.  Never here: images
//! of real trees, see [`crate::tree`].

use crate::blob::Blob;

/// The block size.
pub const BLOCK: u64 = 4096;
/// The number of a block that is a hole.
pub const HOLE: u32 = u32::MAX;

const MAGIC: u32 = 0xE0F5_E1E2;
const SUPER_OFFSET: usize = 1024;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
const SLOT: usize = 128;
const NODE: usize = 32;
const INODE: usize = 64;
const DIRENT: usize = 12;
/// Extended inode, flat or by chunks.
const FORMAT_FLAT: u16 = 1;
const FORMAT_CHUNKED: u16 = 1 | (4 << 1);
const CHUNK_INDEXES: u16 = 0x20;
const TYPE_FILE: u8 = 1;
const TYPE_DIR: u8 = 2;

/// A file of an image: one chunk after another.
pub struct File {
    name: String,
    size: u64,
    chunk_blocks_log2: u16,
    /// For each chunk the device (0: the image itself, 1: the first device) and its first block.
    chunks: Vec<(u16, u32)>,
}

/// An image in the making.
#[derive(Default)]
pub struct Image {
    devices: Vec<String>,
    files: Vec<File>,
}

impl Image {
    /// An empty image.
    pub fn new() -> Image {
        Image::default()
    }

    /// One more device, with the tag that is its cookie's key unless the mount says otherwise.
    pub fn device(mut self, tag: impl Into<String>) -> Image {
        self.devices.push(tag.into());
        self
    }

    /// One more file, of whole chunks; files must be added in the order of their names.
    pub fn file(
        mut self,
        name: impl Into<String>,
        chunk_blocks_log2: u16,
        chunks: impl Into<Vec<(u16, u32)>>,
    ) -> Image {
        let chunks = chunks.into();
        let size = (BLOCK << chunk_blocks_log2) * chunks.len() as u64;
        self.files.push(File {
            name: name.into(),
            size,
            chunk_blocks_log2,
            chunks,
        });
        self
    }

    /// The finished image.
    pub fn build(&self) -> Blob {
        let block = BLOCK as usize;
        let table = block;
        let dir = (table + self.devices.len() * SLOT).next_multiple_of(block);
        let dir_bytes = self.directory(&[]);
        let meta = dir + dir_bytes.len();
        let inodes = self.inode_offsets();
        let end = (meta + inodes.last().copied().unwrap_or(0)).next_multiple_of(block);
        let mut image = vec![0; end];

        put(
            &mut image,
            SUPER_OFFSET,
            &self.super_block(meta / block, end / block),
        );
        for (number, tag) in self.devices.iter().enumerate() {
            let slot = table + number * SLOT;
            put(&mut image, slot, tag.as_bytes());
            put(&mut image, slot + 64, &u32::MAX.to_le_bytes());
        }
        put(&mut image, dir, &self.directory(&inodes));
        let root = inode(
            FORMAT_FLAT,
            0o40755,
            dir_bytes.len() as u64,
            (dir / block) as u32,
            1,
        );
        put(&mut image, meta, &root);
        for ((file, offset), ino) in self.files.iter().zip(&inodes).zip(2..) {
            let format = u32::from(CHUNK_INDEXES | file.chunk_blocks_log2);
            put(
                &mut image,
                meta + offset,
                &inode(FORMAT_CHUNKED, 0o100_755, file.size, format, ino),
            );
            for ((device, first), at) in
                file.chunks.iter().zip((meta + offset + INODE..).step_by(8))
            {
                put(&mut image, at + 2, &device.to_le_bytes());
                put(&mut image, at + 4, &first.to_le_bytes());
            }
        }
        Blob::Bytes(image.into())
    }

    /// Where each file's inode is in the metadata, behind the root's, and where they end.
    fn inode_offsets(&self) -> Vec<usize> {
        let mut at = INODE;
        let mut offsets = vec![];
        for file in &self.files {
            offsets.push(at);
            at = (at + INODE + 8 * file.chunks.len()).next_multiple_of(NODE);
        }
        offsets.push(at);
        offsets
    }

    fn super_block(&self, meta: usize, blocks: usize) -> Vec<u8> {
        let mut sb = vec![0; 128];
        put(&mut sb, 0, &MAGIC.to_le_bytes());
        sb[12] = 12; // log2 of the block size
        put(&mut sb, 16, &(self.files.len() as u64 + 1).to_le_bytes());
        put(&mut sb, 36, &(blocks as u32).to_le_bytes());
        put(&mut sb, 40, &(meta as u32).to_le_bytes());
        let mut incompat = INCOMPAT_CHUNKED_FILE;
        if !self.devices.is_empty() {
            incompat |= INCOMPAT_DEVICE_TABLE;
            put(&mut sb, 86, &(self.devices.len() as u16).to_le_bytes());
            put(&mut sb, 88, &((BLOCK as usize / SLOT) as u16).to_le_bytes());
        }
        put(&mut sb, 80, &incompat.to_le_bytes());
        sb
    }

    /// The root directory; without inodes only its size is right.
    fn directory(&self, inodes: &[usize]) -> Vec<u8> {
        let node = |number: usize| inodes.get(number).map_or(0, |offset| offset / NODE) as u64;
        let mut entries = vec![(".", 0, TYPE_DIR), ("..", 0, TYPE_DIR)];
        let files = self.files.iter().enumerate();
        entries.extend(files.map(|(number, file)| (file.name.as_str(), node(number), TYPE_FILE)));
        let mut blocks = vec![];
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let mut used = 0;
            let fitting = rest.iter().take_while(|(name, ..)| {
                used += DIRENT + name.len();
                used <= BLOCK as usize
            });
            let (now, later) = rest.split_at(fitting.count());
            blocks.extend(directory_block(now));
            rest = later;
        }
        blocks
    }
}

fn directory_block(entries: &[(&str, u64, u8)]) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    let mut name_at = entries.len() * DIRENT;
    for ((name, node, kind), at) in entries.iter().zip((0..).step_by(DIRENT)) {
        put(&mut block, at, &node.to_le_bytes());
        put(&mut block, at + 8, &(name_at as u16).to_le_bytes());
        put(&mut block, at + 10, &[*kind]);
        put(&mut block, name_at, name.as_bytes());
        name_at += name.len();
    }
    block
}

fn inode(format: u16, mode: u16, size: u64, union: u32, ino: u32) -> Vec<u8> {
    let mut inode = vec![0; INODE];
    put(&mut inode, 0, &format.to_le_bytes());
    put(&mut inode, 4, &mode.to_le_bytes());
    put(&mut inode, 8, &size.to_le_bytes());
    put(&mut inode, 16, &union.to_le_bytes());
    put(&mut inode, 20, &ino.to_le_bytes());
    put(&mut inode, 44, &1_u32.to_le_bytes());
    inode
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = to.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}
