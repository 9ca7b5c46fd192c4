// SPDX-License-Identifier: GPL-2.0

//! The client against a socket that plays the device: it keeps the borders of messages, as the
//! driver does, and hands back what was written.
//!
//! Lives here: what needs no kernel module.  Never here: the module's behaviour; that is tested
//! in the VM.

use cachefiles_client::{
    protocol::message::{Body, Layout, Message},
    Device, Errno, ObjectFd, Request, SeekFrom,
};
use std::{
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    time::{Duration, Instant},
};

/// A device, and the other end of it.
fn device() -> (Device, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (OwnedFd::from(ours).into(), theirs)
}

fn send(kernel: &UnixDatagram, body: Body<'_>) {
    send_in(Layout::Mainline, kernel, body);
}

fn send_in(layout: Layout, kernel: &UnixDatagram, body: Body<'_>) {
    let mut buf = [0; 1024];
    let message = Message {
        id: 7,
        object_id: 9,
        body,
    };
    kernel
        .send(message.encode(layout, &mut buf).unwrap())
        .unwrap();
}

fn line(kernel: &UnixDatagram) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    let len = kernel.recv(&mut buf).unwrap();
    buf.truncate(len);
    buf
}

#[test]
fn commands_are_written_as_they_are() {
    let (device, kernel) = device();
    device.command(b"tag x \n").unwrap();
    assert_eq!(line(&kernel), b"tag x \n");
    device.bind_ondemand().unwrap();
    assert_eq!(line(&kernel), b"bind ondemand");
    device.restore().unwrap();
    assert_eq!(line(&kernel), b"restore mainline");
    device.copen(3, Ok(1 << 40)).unwrap();
    assert_eq!(line(&kernel), b"copen 3,1099511627776");
    device.copen(u32::MAX, Err(Errno::NOENT)).unwrap();
    assert_eq!(line(&kernel), b"copen 4294967295,-2");
    device.open_reply(4, Ok(0)).unwrap();
    assert_eq!(line(&kernel), b"copen 4,0");
}

#[test]
fn commands_of_v5() {
    let (device, kernel) = device();
    let device = device.with_layout(Layout::V5);
    device.bind_ondemand().unwrap();
    assert_eq!(line(&kernel), b"bind ondemand v5");
    device.restore().unwrap();
    assert_eq!(line(&kernel), b"restore v5");
    device.open_reply(3, Ok(1 << 40)).unwrap();
    assert_eq!(line(&kernel), b"cinit 3,1099511627776");
    device.open_reply(u32::MAX, Err(Errno::NOENT)).unwrap();
    assert_eq!(line(&kernel), b"cinit 4294967295");
    device.cread(5).unwrap();
    assert_eq!(line(&kernel), b"cread 5");
}

/// In v5 it is the fd that says which object is meant.
#[test]
fn requests_of_v5_name_the_fd() {
    let (device, kernel) = device();
    let device = device.with_layout(Layout::V5);
    let read = Body::Read {
        offset: 8192,
        len: 4096,
        fd: 11,
    };
    send_in(Layout::V5, &kernel, read);
    send_in(Layout::V5, &kernel, Body::Close { fd: 12 });
    assert!(matches!(
        device.next_request().unwrap(),
        Some(Request::Read {
            msg_id: 7,
            object_id: 11,
            offset: 8192,
            len: 4096
        })
    ));
    assert!(matches!(
        device.next_request().unwrap(),
        Some(Request::Close {
            msg_id: 7,
            object_id: 12
        })
    ));
    send(&kernel, read);
    let error = device.next_request().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn requests_arrive_and_then_there_are_none() {
    let (device, kernel) = device();
    assert!(device.next_request().unwrap().is_none());
    send(
        &kernel,
        Body::Read {
            offset: 1 << 50,
            len: 4096,
            fd: 0,
        },
    );
    send(&kernel, Body::Close { fd: 0 });
    let request = device.next_request().unwrap().unwrap();
    assert_eq!((request.msg_id(), request.object_id()), (7, 9));
    assert!(matches!(
        request,
        Request::Read { offset, len: 4096, .. } if offset == 1 << 50
    ));
    assert!(matches!(
        device.next_request().unwrap(),
        Some(Request::Close {
            msg_id: 7,
            object_id: 9
        })
    ));
    assert!(device.next_request().unwrap().is_none());
}

#[test]
fn what_is_no_message_is_invalid_data() {
    let (device, kernel) = device();
    kernel.send(b"rubbish").unwrap();
    let error = device.next_request().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

/// A number in a message that is not the driver's is not ours to own, nor to close.
#[test]
fn an_fd_is_taken_from_a_character_device_only() {
    let (device, kernel) = device();
    let file = tempfile::tempfile().unwrap();
    send(
        &kernel,
        Body::Open {
            volume_key: b"v",
            cookie_key: b"c",
            fd: u32::try_from(file.as_raw_fd()).unwrap(),
            flags: 0,
        },
    );
    let error = device.next_request().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    (&file).write_all(b"still open").unwrap();
}

#[test]
fn waiting_ends_with_a_request_or_with_the_time() {
    let (device, kernel) = device();
    let start = Instant::now();
    assert!(!device.wait(Some(Duration::from_millis(30))).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert!(!device.wait(Some(Duration::ZERO)).unwrap());
    send(&kernel, Body::Close { fd: 0 });
    assert!(device.wait(None).unwrap());
    assert!(device.wait(Some(Duration::MAX)).unwrap());
}

#[test]
fn an_object_is_written_at_offsets_and_at_its_position() {
    let file = tempfile::tempfile().unwrap();
    let object = ObjectFd::from(OwnedFd::from(file.try_clone().unwrap()));
    object.write_all_at(b"far", 1 << 20).unwrap();
    assert_eq!(object.write_at(b"near", 4).unwrap(), 4);
    assert_eq!(object.write(b"ab").unwrap(), 2);
    assert_eq!(object.write(b"cd").unwrap(), 2);
    assert_eq!(object.seek(SeekFrom::Current(0)).unwrap(), 4);
    assert_eq!(object.seek(SeekFrom::Data(512 << 10)).unwrap(), 1 << 20);
    let mut start = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut start, 0).unwrap();
    assert_eq!(&start, b"abcdnear");
    // This file knows no such ioctl, and says so.
    let error = object.complete_read(1).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
}
