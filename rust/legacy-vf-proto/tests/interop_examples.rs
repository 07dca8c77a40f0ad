// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The hex examples of the protocol description are what this crate sends, and decode again.

#![allow(clippy::unwrap_used, clippy::panic)]

use legacy_vf_proto::{
    decode_incoming, ErrorCode, ErrorReply, Event, EventKind, Hello, HelloReply, Incoming, Name,
    NotifyKind, Open, OpenReply, Proof, QueryKind, Reply, Request, Space, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, EncodeEvent, EncodeReply};
use std::collections::BTreeMap;

enum Message {
    Request(u32, Request),
    Silent(u32, Request),
    Reply(u32, Reply<'static>),
    Event(Event),
}

use Message as M;

/// The examples of the document, by the name in their fence.
fn examples() -> Vec<(&'static str, Message)> {
    vec![
        (
            "hello",
            M::Request(
                1,
                Request::Hello(Hello {
                    version: 1,
                    max_message: 4096,
                    features: 0,
                    name: Name::new("qemu"),
                }),
            ),
        ),
        (
            "hello-reply",
            M::Reply(
                1,
                Reply::Hello(HelloReply {
                    version: 1,
                    max_message: 4096,
                    features: 0,
                    name: Name::new("qemu-virtio-admin-helper"),
                }),
            ),
        ),
        (
            "open",
            M::Request(
                2,
                Request::Open(Open {
                    member: 3,
                    proof: Proof::VFIO_FD,
                    virtio_id: 1,
                    serial: 0x0054_5200_00ab_cdef,
                }),
            ),
        ),
        (
            "open-reply",
            M::Reply(
                2,
                Reply::Open(OpenReply {
                    member: 3,
                    virtio_id: 1,
                    num_vfs: 4,
                    notify_kind: NotifyKind::Member,
                    notify_bar: 4,
                    notify_offset: 0x1000,
                    commands: 0x7f,
                    deadline_ms: 2500,
                    session: 0x0102_0304_0506_0708,
                }),
            ),
        ),
        ("token", M::Request(3, Request::Token { member: 3 })),
        (
            "read",
            M::Request(
                4,
                Request::Read {
                    space: Space::Common,
                    offset: 12,
                    len: 2,
                },
            ),
        ),
        (
            "read-reply",
            M::Reply(
                4,
                Reply::Read {
                    data: [0, 1, 0, 0, 0, 0, 0, 0],
                },
            ),
        ),
        (
            "write",
            M::Request(
                5,
                Request::Write {
                    space: Space::Common,
                    offset: 8,
                    len: 4,
                    data: [0x34, 0x12, 0, 0, 0, 0, 0, 0],
                },
            ),
        ),
        ("write-reply", M::Reply(5, Reply::Write)),
        (
            "write-error",
            M::Reply(
                5,
                Reply::Error(ErrorReply {
                    kind: 5,
                    code: ErrorCode::DEVICE,
                    admin_status: 22,
                    admin_qualifier: 3,
                    text: "VF 3: refused",
                }),
            ),
        ),
        ("notify", M::Silent(6, Request::Notify { queue: 1 })),
        (
            "query",
            M::Request(
                7,
                Request::Query {
                    what: QueryKind::VF,
                    member: 3,
                },
            ),
        ),
        (
            "event",
            M::Event(Event {
                kind: EventKind::VFS_CHANGED,
                detail: 8,
            }),
        ),
    ]
}

fn encode(message: &Message) -> Vec<u8> {
    let mut buf = [0; MAX_MESSAGE];
    let len = match message {
        M::Request(seq, r) => r.encode(*seq, &mut buf),
        M::Silent(seq, r) => r.encode_no_reply(*seq, &mut buf),
        M::Reply(seq, r) => r.encode(*seq, &mut buf),
        M::Event(e) => e.encode(&mut buf),
    };
    buf[..len].to_vec()
}

fn dump(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(16)
        .map(|c| {
            c.iter()
                .map(|b| format!("{b:02x}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    lines.join("\n")
}

/// The fenced blocks that start with "hex NAME".
fn documented() -> BTreeMap<String, Vec<u8>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/interop/legacy-vf-helper.md"
    );
    let text = std::fs::read_to_string(path).unwrap();
    let mut out = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else {
            continue;
        };
        let bytes = lines
            .by_ref()
            .take_while(|l| *l != "```")
            .flat_map(str::split_whitespace)
            .map(|b| u8::from_str_radix(b, 16).unwrap())
            .collect();
        assert!(out.insert(name.to_owned(), bytes).is_none(), "{name} twice");
    }
    out
}

#[test]
fn the_examples_of_the_description_are_right() {
    let mut documented = documented();
    for (name, message) in examples() {
        let want = encode(&message);
        let got = documented
            .remove(name)
            .unwrap_or_else(|| panic!("no example \"{name}\"; it is\n{}", dump(&want)));
        assert_eq!(got, want, "example \"{name}\" must be\n{}", dump(&want));
        match message {
            M::Request(seq, r) | M::Silent(seq, r) => {
                let (h, back) = decode_request(&got).unwrap();
                assert_eq!((h.seq, back), (seq, r));
            }
            M::Reply(seq, r) => match decode_incoming(&got).unwrap() {
                Incoming::Reply(h, back) => assert_eq!((h.seq, back), (seq, r)),
                Incoming::Event(e) => panic!("{e:?}"),
            },
            M::Event(e) => assert_eq!(decode_incoming(&got).unwrap(), Incoming::Event(e)),
        }
    }
    assert!(documented.is_empty(), "unknown examples: {documented:?}");
}

#[test]
fn the_error_table_of_the_description_is_complete() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/interop/legacy-vf-helper.md"
    );
    let text = std::fs::read_to_string(path).unwrap();
    for code in ErrorCode::ALL.iter().skip(1) {
        let row = format!("| {} | {} |", code.0, code.name());
        assert!(text.contains(&row), "no row \"{row}\"");
    }
}
#[test]
#[ignore = "prints the examples for the description"]
fn print_examples() {
    for (name, message) in examples() {
        println!("@@{name}\n{}", dump(&encode(&message)));
    }
}
