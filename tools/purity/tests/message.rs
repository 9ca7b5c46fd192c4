// SPDX-License-Identifier: GPL-2.0

//! `protocol::message`: bytes worked out by hand from the structures in C, and round trips.

use proptest::prelude::*;
use purity::protocol::message::{
    decode, Body, DecodeError, Layout, Message, Opcode, TooSmall, MSG_MAX, NO_FD, NO_OBJECT,
    OPEN_WANT_CACHE_SIZE, READ_COMPLETE,
};

use Layout::{Mainline, V5};

const OPEN: Message<'static> = Message {
    id: 1,
    object_id: 2,
    body: Body::Open {
        volume_key: b"erofs,a",
        cookie_key: b"b\0c",
        fd: 3,
        flags: OPEN_WANT_CACHE_SIZE,
    },
};
const CLOSE: Message<'static> = Message {
    id: 4,
    object_id: 5,
    body: Body::Close { fd: 6 },
};
const READ: Message<'static> = Message {
    id: 7,
    object_id: 8,
    body: Body::Read {
        offset: 0x0123_4567_89ab_cdef,
        len: 0xfedc_ba98_7654_3210,
        fd: 9,
    },
};

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn encoded(message: &Message<'_>, layout: Layout) -> Vec<u8> {
    let mut out = [0xee; MSG_MAX];
    message.encode(layout, &mut out).unwrap().to_vec()
}

#[test]
fn the_bytes_of_mainline() {
    let open = [words(&[1, 0, 43, 2, 8, 3, 3, 1]), b"erofs,a\0b\0c".to_vec()].concat();
    assert_eq!(encoded(&OPEN, Mainline), open);
    assert_eq!(encoded(&CLOSE, Mainline), words(&[4, 1, 16, 5]));
    let read = [
        words(&[7, 2, 32, 8]),
        0x0123_4567_89ab_cdef_u64.to_ne_bytes().to_vec(),
        0xfedc_ba98_7654_3210_u64.to_ne_bytes().to_vec(),
    ]
    .concat();
    assert_eq!(encoded(&READ, Mainline), read);
}

#[test]
fn the_bytes_of_v5() {
    let open = [words(&[1, 0, 39, 8, 3, 3, 1]), b"erofs,a\0b\0c".to_vec()].concat();
    assert_eq!(encoded(&OPEN, V5), open);
    assert_eq!(encoded(&CLOSE, V5), words(&[4, 1, 16, 6]));
    let read = [
        words(&[7, 2, 36]),
        0x0123_4567_89ab_cdef_u64.to_ne_bytes().to_vec(),
        0xfedc_ba98_7654_3210_u64.to_ne_bytes().to_vec(),
        words(&[9, 0]),
    ]
    .concat();
    assert_eq!(encoded(&READ, V5), read);
}

#[test]
fn constants_of_the_uapi_header() {
    // _IOW(type, nr, int): direction 1 (write) in the top bits, then size, type, number.
    assert_eq!(READ_COMPLETE, (1 << 30) | (4 << 16) | (0x98 << 8) | 1);
    assert_eq!(MSG_MAX, 1024);
    for (number, opcode) in [Opcode::Open, Opcode::Close, Opcode::Read]
        .into_iter()
        .enumerate()
    {
        assert_eq!(usize::try_from(opcode.number()), Ok(number));
        assert_eq!(opcode as u32, opcode.number());
        assert_eq!(Opcode::from_number(opcode.number()), Some(opcode));
    }
    assert_eq!(Opcode::from_number(3), None);
}

/// fscache's longest keys fit the buffer that daemons give.
#[test]
fn the_longest_open_fits() {
    let message = Message {
        body: Body::Open {
            volume_key: &[b'v'; 255],
            cookie_key: &[0; 255],
            fd: 0,
            flags: 0,
        },
        ..OPEN
    };
    assert_eq!(message.encoded_len(Mainline), Some(16 + 16 + 256 + 255));
    assert!(encoded(&message, Mainline).len() < MSG_MAX);
}

#[test]
fn errors_of_decoding() {
    let open = encoded(&OPEN, Mainline);
    for len in 0..16 {
        assert!(
            matches!(
                decode(&open[..len], Mainline),
                Err(DecodeError::Short { have, .. }) if have == len
            ),
            "{len}"
        );
    }
    let longer = [open.clone(), vec![0]].concat();
    assert_eq!(
        decode(&longer, Mainline),
        Err(DecodeError::Length {
            header: 43,
            have: 44
        })
    );
    assert_eq!(
        decode(&words(&[1, 3, 16, 1]), Mainline),
        Err(DecodeError::Opcode(3))
    );
    // A READ without its length, and one with a word too many.
    assert_eq!(
        decode(&words(&[1, 2, 24, 1, 0, 0]), Mainline),
        Err(DecodeError::Short { have: 24, need: 32 })
    );
    assert_eq!(
        decode(&words(&[1, 2, 36, 1, 0, 0, 0, 0, 0]), Mainline),
        Err(DecodeError::Payload { have: 20, need: 16 })
    );
    // Key sizes that do not add up, in both directions and beyond 32 bits.
    for (volume, cookie) in [(1, 0), (0, 1), (2, 1), (u32::MAX, u32::MAX)] {
        let bytes = [words(&[1, 0, 34, 1, volume, cookie, 0, 0]), vec![0, 0]].concat();
        assert_eq!(
            decode(&bytes, Mainline),
            Err(DecodeError::Payload {
                have: 18,
                need: 16 + volume as usize + cookie as usize
            })
        );
    }
    let unterminated = [words(&[1, 0, 34, 1, 1, 1, 0, 0]), b"vc".to_vec()].concat();
    assert_eq!(decode(&unterminated, Mainline), Err(DecodeError::VolumeKey));
    let no_volume = words(&[1, 0, 32, 1, 0, 0, 0, 0]);
    assert_eq!(decode(&no_volume, Mainline), Err(DecodeError::VolumeKey));
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Mainline), Just(V5)]
}

/// A message with its keys, for a body to borrow.
#[derive(Clone, Debug)]
enum Owned {
    Open(Vec<u8>, Vec<u8>, u32, u32),
    Close(u32),
    Read(u64, u64, u32),
}

impl Owned {
    fn body(&self) -> Body<'_> {
        match self {
            Owned::Open(volume_key, cookie_key, fd, flags) => Body::Open {
                volume_key,
                cookie_key,
                fd: *fd,
                flags: *flags,
            },
            Owned::Close(fd) => Body::Close { fd: *fd },
            Owned::Read(offset, len, fd) => Body::Read {
                offset: *offset,
                len: *len,
                fd: *fd,
            },
        }
    }
}

fn bodies() -> impl Strategy<Value = Owned> {
    let key = || prop::collection::vec(any::<u8>(), 0..=255);
    prop_oneof![
        (key(), key(), any::<u32>(), any::<u32>())
            .prop_map(|(v, c, fd, flags)| Owned::Open(v, c, fd, flags)),
        any::<u32>().prop_map(Owned::Close),
        any::<(u64, u64, u32)>().prop_map(|(offset, len, fd)| Owned::Read(offset, len, fd)),
    ]
}

/// What a layout does not carry is lost on the way.
fn carried(message: Message<'_>, layout: Layout) -> Message<'_> {
    match (layout, message.body) {
        (V5, _) => Message {
            object_id: NO_OBJECT,
            ..message
        },
        (Mainline, Body::Open { .. }) => message,
        (Mainline, Body::Close { .. }) => Message {
            body: Body::Close { fd: NO_FD },
            ..message
        },
        (Mainline, Body::Read { offset, len, .. }) => Message {
            body: Body::Read {
                offset,
                len,
                fd: NO_FD,
            },
            ..message
        },
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(id: u32, object_id: u32, body in bodies(), layout in layouts()) {
        let message = Message { id, object_id, body: body.body() };
        let bytes = encoded(&message, layout);
        prop_assert_eq!(Some(bytes.len()), message.encoded_len(layout));
        prop_assert_eq!(decode(&bytes, layout), Ok(carried(message, layout)));
    }

    #[test]
    fn what_is_decoded_is_encoded_again(
        head in prop::array::uniform4(0u32..64),
        tail in prop::collection::vec(0u8..4, 0..64),
        layout in layouts(),
    ) {
        let mut bytes = [words(&head), tail].concat();
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[8..12].copy_from_slice(&len.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(head[1] % 3).to_ne_bytes());
        if let Ok(message) = decode(&bytes, layout) {
            let again = encoded(&message, layout);
            // All but v5's padding is the same.
            let same = match (layout, message.body) {
                (V5, Body::Read { .. }) => bytes.len() - 4,
                _ => bytes.len(),
            };
            prop_assert_eq!(&again[..same], &bytes[..same]);
        }
    }

    #[test]
    fn a_small_buffer_is_left_alone(body in bodies(), layout in layouts(), cut in 1usize..64) {
        let message = Message { id: 1, object_id: 2, body: body.body() };
        let need = message.encoded_len(layout).unwrap();
        let have = need.saturating_sub(cut);
        let mut out = vec![0xee; have];
        prop_assert_eq!(message.encode(layout, &mut out), Err(TooSmall { need, have }));
        prop_assert!(out.iter().all(|byte| *byte == 0xee));
        let mut exact = vec![0xee; need];
        prop_assert_eq!(message.encode(layout, &mut exact).map(<[u8]>::len), Ok(need));
    }

    #[test]
    fn no_bytes_are_too_strange(
        bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..128),
        layout in layouts(),
        honest: bool,
    ) {
        let mut bytes = bytes;
        let len = u32::try_from(bytes.len()).unwrap();
        // A message whose opcode or length is wrong would get no further.
        if let (true, Some(fields)) = (honest, bytes.get_mut(4..12)) {
            fields.copy_from_slice(&words(&[u32::from(fields[0] % 3), len]));
        }
        if let Err(error) = decode(&bytes, layout) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
