// SPDX-License-Identifier: GPL-2.0

//! The requests that a daemon reads from `/dev/cachefiles`, in the two layouts there are.
//!
//! Lives here: what a message holds, and its bytes: `struct cachefiles_msg`, `cachefiles_open`,
//! `cachefiles_close` and `cachefiles_read`.  Never here: which request is sent when, or to whom.
//!
//! All numbers are native-endian and 32 bits unless said otherwise.  Payloads follow the header
//! without a gap, and so are unaligned in [`Layout::V5`], whose header is 12 bytes.
//!
//! | | [`Layout::Mainline`] | [`Layout::V5`] |
//! |---|---|---|
//! | header | id, opcode, len, object id | id, opcode, len |
//! | OPEN | volume key size, cookie key size, fd, flags, volume key, NUL, cookie key | the same |
//! | CLOSE | nothing | fd |
//! | READ | offset, length (64 bits each) | offset, length (64 bits each), fd, 4 zero bytes |

use core::fmt;

/// The largest message in bytes; daemons give buffers of this size (`CACHEFILES_MSG_MAX_SIZE`).
pub const MSG_MAX: usize = 1024;

/// `CACHEFILES_IOC_READ_COMPLETE`, `_IOW(0x98, 1, int)`, whose argument is the id of a READ itself
/// and no pointer to it.
pub const READ_COMPLETE: u32 = 0x4004_9801;

/// Flag of an OPEN in v5: the answer has to state the size.  The posted code declares the *bit
/// number* 0.  Mainline's OPEN has no flags and always wants the size.
pub const OPEN_WANT_CACHE_SIZE: u32 = 1 << 0;

/// The fd of a decoded CLOSE or READ whose layout carries none.
pub const NO_FD: u32 = u32::MAX;

/// The object id of a decoded message whose layout carries none.
pub const NO_OBJECT: u32 = 0;

/// Which protocol a daemon speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// That of Linux 5.19 to 7.2 and its UAPI header.
    Mainline,
    /// That of the series' fifth version.
    V5,
}

impl Layout {
    /// Bytes of the header.
    pub const fn header_len(self) -> usize {
        match self {
            Layout::Mainline => 16,
            Layout::V5 => 12,
        }
    }

    /// The name as in `bind ondemand <name>`.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::Mainline => "mainline",
            Layout::V5 => "v5",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is asked for; the same numbers in both layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Opcode {
    /// A cache file was looked up: the daemon gets an fd for it and answers with its size.
    Open = 0,
    /// A cache file is dropped; there is no answer.
    Close = 1,
    /// A range is missing: the daemon writes it and says so.
    Read = 2,
}

impl Opcode {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Opcode::Open => 0,
            Opcode::Close => 1,
            Opcode::Read => 2,
        }
    }

    /// The opcode of a number on the wire.
    pub const fn from_number(number: u32) -> Option<Opcode> {
        match number {
            0 => Some(Opcode::Open),
            1 => Some(Opcode::Close),
            2 => Some(Opcode::Read),
            _ => None,
        }
    }
}

/// A message, without its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What the daemon answers to.
    pub id: u32,
    /// The object concerned; [`NO_OBJECT`] after decoding v5, which does not carry it.
    pub object_id: u32,
    /// The opcode and its payload.
    pub body: Body<'a>,
}

/// The opcode and its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// See [`Opcode::Open`].
    Open {
        /// The volume's key, without the NUL that follows it on the wire and is counted there.
        volume_key: &'a [u8],
        /// The cookie's key: any bytes.
        cookie_key: &'a [u8],
        /// The anonymous fd, valid in the process that reads the message.
        fd: u32,
        /// [`OPEN_WANT_CACHE_SIZE`] in v5; 0 in mainline.
        flags: u32,
    },
    /// See [`Opcode::Close`].
    Close {
        /// The fd of the OPEN; v5 only, [`NO_FD`] after decoding mainline.
        fd: u32,
    },
    /// See [`Opcode::Read`].
    Read {
        /// Where the range starts, in bytes.
        offset: u64,
        /// How many bytes it has.
        len: u64,
        /// The fd of the OPEN; v5 only, [`NO_FD`] after decoding mainline.
        fd: u32,
    },
}

impl Body<'_> {
    /// The opcode of this payload.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Body::Open { .. } => Opcode::Open,
            Body::Close { .. } => Opcode::Close,
            Body::Read { .. } => Opcode::Read,
        }
    }

    /// Bytes of the payload, or `None` if a key is beyond all measure.
    fn encoded_len(&self, layout: Layout) -> Option<usize> {
        match (self, layout) {
            (
                Body::Open {
                    volume_key,
                    cookie_key,
                    ..
                },
                _,
            ) => OPEN_LEN
                .checked_add(volume_key.len())?
                .checked_add(1)?
                .checked_add(cookie_key.len()),
            (Body::Close { .. }, Layout::Mainline) => Some(0),
            (Body::Close { .. }, Layout::V5) => Some(4),
            (Body::Read { .. }, Layout::Mainline) => Some(16),
            (Body::Read { .. }, Layout::V5) => Some(24),
        }
    }
}

/// Bytes of an OPEN's payload before its keys: `sizeof(struct cachefiles_open)`.
const OPEN_LEN: usize = 16;

/// A buffer is too small for a message.  C: `-EMSGSIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Bytes that the message has; [`usize::MAX`] if no message can be that long.
    pub need: usize,
    /// Bytes that the buffer has.
    pub have: usize,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a buffer of {} bytes for a message of {}",
            self.have, self.need
        )
    }
}

impl Message<'_> {
    /// Bytes of the whole message, or `None` if they are more than its `len` field can say.
    pub fn encoded_len(&self, layout: Layout) -> Option<usize> {
        let len = self
            .body
            .encoded_len(layout)?
            .checked_add(layout.header_len())?;
        u32::try_from(len).is_ok().then_some(len)
    }

    /// Writes the message to the front of `out` and returns that part.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if `out` is shorter than [`Message::encoded_len`]; `out` is then as it was.
    pub fn encode<'o>(&self, layout: Layout, out: &'o mut [u8]) -> Result<&'o [u8], TooSmall> {
        let have = out.len();
        let need = self.encoded_len(layout);
        let too_small = TooSmall {
            need: need.unwrap_or(usize::MAX),
            have,
        };
        let len = need.filter(|len| *len <= have).ok_or(too_small)?;
        let mut writer = Writer { out, at: 0 };
        self.write(layout, len, &mut writer).ok_or(too_small)?;
        writer.out.get(..len).ok_or(too_small)
    }

    fn write(&self, layout: Layout, len: usize, w: &mut Writer<'_>) -> Option<()> {
        w.u32(self.id)?;
        w.u32(self.body.opcode().number())?;
        w.u32(u32::try_from(len).ok()?)?;
        if layout == Layout::Mainline {
            w.u32(self.object_id)?;
        }
        match (self.body, layout) {
            (
                Body::Open {
                    volume_key,
                    cookie_key,
                    fd,
                    flags,
                },
                _,
            ) => {
                w.u32(u32::try_from(volume_key.len()).ok()?.checked_add(1)?)?;
                w.u32(u32::try_from(cookie_key.len()).ok()?)?;
                w.u32(fd)?;
                w.u32(flags)?;
                w.bytes(volume_key)?;
                w.bytes(&[0])?;
                w.bytes(cookie_key)
            }
            (Body::Close { .. }, Layout::Mainline) => Some(()),
            (Body::Close { fd }, Layout::V5) => w.u32(fd),
            (Body::Read { offset, len, .. }, Layout::Mainline) => {
                w.u64(offset)?;
                w.u64(len)
            }
            (Body::Read { offset, len, fd }, Layout::V5) => {
                w.u64(offset)?;
                w.u64(len)?;
                w.u32(fd)?;
                // C's structure ends on a multiple of 8 and is sent whole.
                w.u32(0)
            }
        }
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// There are fewer bytes than the header and the fixed part of the payload need.
    Short {
        /// Bytes that there are.
        have: usize,
        /// Bytes that it would take.
        need: usize,
    },
    /// The header's `len` is not the number of bytes.
    Length {
        /// What the header says.
        header: u32,
        /// Bytes that there are.
        have: usize,
    },
    /// No request has this number.
    Opcode(u32),
    /// The payload is not as long as its opcode, or the key sizes in it, make it.
    Payload {
        /// Bytes that there are.
        have: usize,
        /// Bytes that there should be.
        need: usize,
    },
    /// The volume key does not end with a NUL.
    VolumeKey,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Short { have, need } => {
                write!(f, "a message of {have} bytes, cut short of {need}")
            }
            DecodeError::Length { header, have } => {
                write!(f, "a message of {have} bytes that says it has {header}")
            }
            DecodeError::Opcode(number) => write!(f, "a message with the opcode {number}"),
            DecodeError::Payload { have, need } => {
                write!(f, "a message with a payload of {have} bytes, not {need}")
            }
            DecodeError::VolumeKey => {
                f.write_str("an OPEN whose volume key does not end with a NUL")
            }
        }
    }
}

/// Reads one message, which has to be all of `bytes`.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are not what [`Message::encode`] writes; padding is not looked at.
pub fn decode(bytes: &[u8], layout: Layout) -> Result<Message<'_>, DecodeError> {
    let have = bytes.len();
    let mut r = Reader {
        rest: bytes,
        taken: 0,
    };
    let id = r.u32()?;
    let opcode = r.u32()?;
    let header = r.u32()?;
    let object_id = match layout {
        Layout::Mainline => r.u32()?,
        Layout::V5 => NO_OBJECT,
    };
    if usize::try_from(header) != Ok(have) {
        return Err(DecodeError::Length { header, have });
    }
    let payload = r.rest.len();
    let body = match Opcode::from_number(opcode).ok_or(DecodeError::Opcode(opcode))? {
        Opcode::Open => r.open()?,
        Opcode::Close => Body::Close {
            fd: match layout {
                Layout::Mainline => NO_FD,
                Layout::V5 => r.u32()?,
            },
        },
        Opcode::Read => Body::Read {
            offset: r.u64()?,
            len: r.u64()?,
            fd: match layout {
                Layout::Mainline => NO_FD,
                Layout::V5 => {
                    let fd = r.u32()?;
                    r.u32()?;
                    fd
                }
            },
        },
    };
    match r.rest.len() {
        0 => Ok(Message {
            id,
            object_id,
            body,
        }),
        more => Err(DecodeError::Payload {
            have: payload,
            need: payload.saturating_sub(more),
        }),
    }
}

/// The bytes not yet read.
struct Reader<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = match (
            self.rest.get(..N).and_then(|part| part.try_into().ok()),
            self.rest.get(N..),
        ) {
            (Some(array), Some(rest)) => (array, rest),
            _ => {
                return Err(DecodeError::Short {
                    have: self.taken.saturating_add(self.rest.len()),
                    need: self.taken.saturating_add(N),
                })
            }
        };
        self.rest = rest;
        self.taken = self.taken.saturating_add(N);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_ne_bytes)
    }

    /// An OPEN's payload; takes all that is left, which has to be what the sizes in it say.
    fn open(&mut self) -> Result<Body<'a>, DecodeError> {
        let payload = self.rest.len();
        let volume_key_size = self.size()?;
        let cookie_key_size = self.size()?;
        let fd = self.u32()?;
        let flags = self.u32()?;
        let keys = self.rest;
        let wrong = DecodeError::Payload {
            have: payload,
            need: OPEN_LEN
                .saturating_add(volume_key_size)
                .saturating_add(cookie_key_size),
        };
        let volume_key = keys.get(..volume_key_size).ok_or(wrong)?;
        let cookie_key = keys.get(volume_key_size..).ok_or(wrong)?;
        if cookie_key.len() != cookie_key_size {
            return Err(wrong);
        }
        self.rest = &[];
        Ok(Body::Open {
            volume_key: volume_key
                .strip_suffix(&[0])
                .ok_or(DecodeError::VolumeKey)?,
            cookie_key,
            fd,
            flags,
        })
    }

    fn size(&mut self) -> Result<usize, DecodeError> {
        // Only a machine with pointers of 16 bits could fail here, and nothing fits there anyway.
        self.u32()
            .map(|size| usize::try_from(size).unwrap_or(usize::MAX))
    }
}

/// A buffer and how much of it is written.
struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        self.out.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }

    fn u32(&mut self, number: u32) -> Option<()> {
        self.bytes(&number.to_ne_bytes())
    }

    fn u64(&mut self, number: u64) -> Option<()> {
        self.bytes(&number.to_ne_bytes())
    }
}
