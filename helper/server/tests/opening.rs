// SPDX-License-Identifier: GPL-2.0-or-later
//! HELLO and OPEN: versions, who may open what, and how each refusal reads.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{hello, open, query, read, write, Answer, Bench};
use helper_server::{HubConfig, Peer, Policy};
use legacy_vf_proto::{ErrorCode, Hello, Name, NotifyKind, Open, Proof, QueryKind, Request};
use virtio_modern_spec::admin::list::OpcodeSet;

fn open_with(change: impl FnOnce(&mut Open)) -> Request {
    let mut o = Open {
        member: 1,
        proof: Proof::NONE,
        virtio_id: 1,
        serial: 0x1122_3344_5566_7788,
    };
    change(&mut o);
    Request::Open(o)
}

#[test]
fn hello_open_write_read() {
    let mut b = Bench::new(4);
    let id = b.connect();
    assert_eq!(
        b.ask(id, &hello()),
        Answer::Hello {
            version: 1,
            max_message: 4096
        }
    );
    let Answer::Open(o) = b.ask(id, &open_with(|o| o.member = 3)) else {
        panic!()
    };
    assert_eq!((o.member, o.num_vfs, o.virtio_id), (3, 4, 1));
    assert_eq!(
        (o.notify_kind, o.notify_bar, o.notify_offset),
        (NotifyKind::Owner, 4, 12)
    );
    assert_eq!((o.commands, o.deadline_ms, o.session), (0x7f, 2000, 1));
    assert_eq!(b.ask(id, &write(4, 4, 0x1234_5678)), Answer::Write);
    assert_eq!(
        b.ask(id, &read(4, 4)),
        Answer::Read([0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0])
    );
    // Another VF has registers of its own.
    let other = b.opened(2);
    assert_eq!(b.ask(other, &read(4, 4)), Answer::Read([0; 8]));
    let c = b.hub.counters();
    assert_eq!(c.vf(3).unwrap().common_write, 1);
    assert_eq!(c.vf(2).unwrap().common_read, 1);
    assert_eq!(c.accesses.latency.total(), 3);
}

#[test]
fn order_of_messages_is_enforced() {
    let mut b = Bench::new(1);
    for request in [open(1), read(0, 4), query(QueryKind::HELPER, 0)] {
        let id = b.connect();
        let answer = b.ask(id, &request);
        assert_eq!(answer.code(), ErrorCode::BAD_STATE);
        assert_eq!(answer.text(), "HELLO must come first");
        assert!(b.finished(id));
        b.hub.disconnect(id, b.now);
    }
    let id = b.connect();
    b.ask(id, &hello());
    assert_eq!(b.ask(id, &hello()).code(), ErrorCode::BAD_STATE);
    for request in [read(0, 4), write(18, 1, 0), Request::Notify { queue: 0 }] {
        let answer = b.ask(id, &request);
        assert_eq!(answer.code(), ErrorCode::BAD_STATE);
        assert!(answer.text().contains("send OPEN first"));
    }
    assert!(matches!(b.ask(id, &open(1)), Answer::Open(_)));
    let answer = b.ask(id, &open(1));
    assert_eq!(answer.code(), ErrorCode::BAD_STATE);
    assert!(answer.text().contains("bound to VF 1 already"));
    assert_eq!(b.ask(id, &read(0, 4)), Answer::Read([0; 8]));
}

#[test]
fn versions_are_negotiated() {
    let mut b = Bench::new(1);
    let with = |version, max_message| {
        Request::Hello(Hello {
            version,
            max_message,
            features: u64::MAX,
            name: Name::new("x"),
        })
    };
    let id = b.connect();
    let answer = b.ask(id, &with(0, 4096));
    assert_eq!(answer.code(), ErrorCode::UNSUPPORTED_VERSION);
    assert!(answer.text().contains("speaks protocol versions 1 to 1"));
    assert!(b.finished(id));
    let id = b.connect();
    assert!(matches!(
        b.ask(id, &with(999, 4096)),
        Answer::Hello { version: 1, .. }
    ));
    let id = b.connect();
    let answer = b.ask(id, &with(1, 100));
    assert_eq!(answer.code(), ErrorCode::OUT_OF_RANGE);
    assert!(b.finished(id));
}

#[test]
fn each_wrong_open_has_its_code_and_text() {
    let mut b = Bench::new(4);
    let holder = b.opened(2);
    let me = Peer::myself();
    let id = b.connect();
    b.ask(id, &hello());
    let busy = format!("VF 2 is in use by {me} (\"test\") since 0 s");
    for (request, code, text) in [
        (
            open_with(|o| o.member = 5),
            ErrorCode::NO_SUCH_VF,
            "PF fake-pf has VFs 1 to 4, no VF 5",
        ),
        (
            open_with(|o| o.member = 0),
            ErrorCode::NO_SUCH_VF,
            "PF fake-pf has VFs 1 to 4, no VF 0",
        ),
        (
            open_with(|o| o.member = u16::MAX),
            ErrorCode::NO_SUCH_VF,
            "PF fake-pf has VFs 1 to 4, no VF 65535",
        ),
        (open_with(|o| o.member = 2), ErrorCode::BUSY, &busy),
        (
            open_with(|o| o.serial = 5),
            ErrorCode::WRONG_OWNER,
            "The VF shows the serial number 0000000000000005, PF fake-pf has 1122334455667788: \
             it is a VF of another PF; use that PF's helper",
        ),
        (
            open_with(|o| o.virtio_id = 2),
            ErrorCode::WRONG_TYPE,
            "The VFs of PF fake-pf have the virtio device ID 1, the client expects 2",
        ),
        (
            open_with(|o| o.proof = Proof::VFIO_FD),
            ErrorCode::BAD_PROOF,
            "The VFs of PF fake-pf are emulated by another process and have no VFIO device file; \
             open them without proof",
        ),
        (
            open_with(|o| o.proof = Proof(7)),
            ErrorCode::BAD_PROOF,
            "Unknown kind of proof 7; known are 0 (none) and 1 (VFIO device file)",
        ),
    ] {
        let answer = b.ask(id, &request);
        assert_eq!((answer.code(), answer.text()), (code, text));
    }
    // None of it did harm: the connection still works, and so does the holder's.
    assert!(matches!(b.ask(id, &open_with(|_| {})), Answer::Open(_)));
    assert_eq!(b.ask(holder, &read(0, 4)), Answer::Read([0; 8]));
    // A connection that goes frees its VF at once.
    b.hub.disconnect(holder, b.now);
    b.opened(2);
}

#[test]
fn strangers_may_ask_but_not_open() {
    let stranger = Peer {
        pid: 1,
        uid: 54321,
        gid: 54321,
    };
    let mut b = Bench::new(2);
    let id = b.connect_as(stranger);
    b.ask(id, &hello());
    let answer = b.ask(id, &open(1));
    assert_eq!(answer.code(), ErrorCode::ACCESS_DENIED);
    assert!(answer.text().contains("--allow-uid 54321"), "{answer:?}");
    assert!(matches!(
        b.ask(id, &query(QueryKind::HELPER, 0)),
        Answer::Json(_)
    ));
    assert_eq!(
        b.ask(id, &Request::Token { member: 1 }).code(),
        ErrorCode::ACCESS_DENIED
    );

    let config = HubConfig {
        policy: Policy {
            uids: vec![],
            gids: vec![54321],
            unproven_uids: vec![],
        },
        ..HubConfig::default()
    };
    let mut b = Bench::with(2, config, |_| {});
    let id = b.connect_as(stranger);
    b.ask(id, &hello());
    let answer = b.ask(id, &Request::Token { member: 1 });
    assert_eq!(answer.code(), ErrorCode::NOT_SUPPORTED);
    assert!(matches!(b.ask(id, &open(1)), Answer::Open(_)));
}

#[test]
fn with_device_files_proof_is_needed() {
    let mut b = Bench::with(2, HubConfig::default(), |f| f.served_mut().vfio_fds = true);
    let id = b.connect();
    b.ask(id, &hello());
    let answer = b.ask(id, &open(1));
    assert_eq!(answer.code(), ErrorCode::ACCESS_DENIED);
    assert!(answer.text().contains("VFIO device file"));
    let answer = b.ask(id, &open_with(|o| o.proof = Proof::VFIO_FD));
    assert_eq!(answer.code(), ErrorCode::BAD_PROOF);
    assert_eq!(answer.text(), "no file was sent as proof");
}

#[test]
fn a_pf_without_legacy_commands_is_named_as_such() {
    let mut b = Bench::with(2, HubConfig::default(), |f| {
        f.info_mut().commands = OpcodeSet(0x3)
    });
    let id = b.connect();
    b.ask(id, &hello());
    let answer = b.ask(id, &open(1));
    assert_eq!(answer.code(), ErrorCode::NOT_SUPPORTED);
    assert!(answer.text().contains("legacy register access commands"));
}
