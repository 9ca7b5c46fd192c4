// SPDX-License-Identifier: GPL-2.0

//! `rust/protocol/message.rs`: the input is the bytes of a message, and then what a message is
//! made of.
//!
//! Lives here: that decoding takes what encoding writes, and nothing else; that it gives back what
//! was encoded; that lengths are as the layouts say, and buffers that are too small stay as they
//! were.

use crate::{assert_is_a_line, take::Take};
use purity::protocol::message::{decode, Body, Layout, Message, Opcode, MSG_MAX, NO_FD, NO_OBJECT};

/// Checks one input in both layouts.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(data: &[u8]) {
    for layout in [Layout::Mainline, Layout::V5] {
        decodes(data, layout);
        encodes(data, layout);
    }
}

/// As the bytes of a message.
fn decodes(data: &[u8], layout: Layout) {
    let message = match decode(data, layout) {
        Ok(message) => message,
        Err(error) => return assert_is_a_line(&error.to_string(), 200),
    };
    assert_eq!(message.encoded_len(layout), Some(data.len()));
    let mut buffer = vec![0xa5; data.len() + 8];
    let bytes = message
        .encode(layout, &mut buffer)
        .expect("there is room enough");
    // Four bytes that nobody looks at end a READ of v5.
    let seen = match (message.body, layout) {
        (Body::Read { .. }, Layout::V5) => data.len() - 4,
        _ => data.len(),
    };
    assert_eq!(bytes[..seen], data[..seen]);
    assert!(bytes[seen..].iter().all(|byte| *byte == 0));
}

/// As what a message is made of.
fn encodes(data: &[u8], layout: Layout) {
    let mut take = Take(data);
    let kind = take.u8();
    let (id, object_id, fd) = (take.u32(), take.u32(), take.u32());
    let body = match kind % 3 {
        0 => {
            let (flags, split) = (take.u32(), usize::from(take.u8()) * 4);
            Body::Open {
                volume_key: take.bytes(split),
                cookie_key: take.0,
                fd,
                flags,
            }
        }
        1 => Body::Close { fd },
        _ => Body::Read {
            offset: take.u64(),
            len: take.u64(),
            fd,
        },
    };
    let message = Message {
        id,
        object_id,
        body,
    };
    let len = message.encoded_len(layout).expect("a length");
    assert_eq!(len, expected_len(&body, layout));
    let mut buffer = [0xa5; 2 * MSG_MAX];
    // One byte too few is too few, and touches nothing.
    for room in [0, len / 2, len - 1] {
        let Some(out) = buffer.get_mut(..room) else {
            return;
        };
        let error = message.encode(layout, out).expect_err("there is no room");
        assert_eq!((error.need, error.have), (len, room));
        assert_is_a_line(&error.to_string(), 200);
    }
    assert!(buffer.iter().all(|byte| *byte == 0xa5));
    let Some(out) = buffer.get_mut(..len) else {
        return;
    };
    let bytes = message.encode(layout, out).expect("there is room").to_vec();
    assert_eq!(bytes.len(), len);
    let opcode = u32::from_ne_bytes(bytes[4..8].try_into().expect("four bytes"));
    assert_eq!(Opcode::from_number(opcode), Some(body.opcode()));
    assert_eq!(decode(&bytes, layout), Ok(as_decoded(message, layout)));
    // A byte more or less is no message.
    assert!(decode(&bytes[..len - 1], layout).is_err());
    assert!(decode(&[&bytes[..], &[0]].concat(), layout).is_err());
}

/// Bytes by the tables of the header.
fn expected_len(body: &Body<'_>, layout: Layout) -> usize {
    let header = match layout {
        Layout::Mainline => 16,
        Layout::V5 => 12,
    };
    header
        + match (body, layout) {
            (
                Body::Open {
                    volume_key,
                    cookie_key,
                    ..
                },
                _,
            ) => 16 + volume_key.len() + 1 + cookie_key.len(),
            (Body::Close { .. }, Layout::Mainline) => 0,
            (Body::Close { .. }, Layout::V5) => 4,
            (Body::Read { .. }, Layout::Mainline) => 16,
            (Body::Read { .. }, Layout::V5) => 24,
        }
}

/// What of a message the layout carries.
fn as_decoded(mut message: Message<'_>, layout: Layout) -> Message<'_> {
    match (&mut message.body, layout) {
        (Body::Close { fd } | Body::Read { fd, .. }, Layout::Mainline) => *fd = NO_FD,
        (_, Layout::V5) => message.object_id = NO_OBJECT,
        (Body::Open { .. }, Layout::Mainline) => {}
    }
    message
}
