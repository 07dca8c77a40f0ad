// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The client state machine against a helper that behaves, is late, or is hostile.

#![allow(clippy::unwrap_used, clippy::panic)]

use legacy_vf_proto::client::{Client, LostReason, Received, SendError, State};
use legacy_vf_proto::limits::MAX_QUEUED;
use legacy_vf_proto::{
    decode_request, ErrorCode, ErrorReply, Event, EventKind, HelloReply, Name, NotifyKind, Open,
    OpenReply, Proof, QueryKind, Reply, Request, Space, MAX_MESSAGE,
};
use proptest::prelude::*;

const OPEN: Open = Open {
    member: 2,
    proof: Proof::NONE,
    virtio_id: 1,
    serial: 0,
};

const OPENED: OpenReply = OpenReply {
    member: 2,
    virtio_id: 1,
    num_vfs: 4,
    notify_kind: NotifyKind::Member,
    notify_bar: 4,
    notify_offset: 0,
    commands: 0x7f,
    deadline_ms: 2000,
    session: 1,
};

fn hello_reply(version: u32, max_message: u32, features: u64) -> Reply<'static> {
    Reply::Hello(HelloReply {
        version,
        max_message,
        features,
        name: Name::new("helper"),
    })
}

fn bytes(reply: Reply<'_>, seq: u32) -> Vec<u8> {
    let mut buf = [0; MAX_MESSAGE];
    let len = reply.encode(seq, &mut buf);
    buf[..len].to_vec()
}

fn error(kind: u16, code: ErrorCode) -> Reply<'static> {
    Reply::Error(ErrorReply {
        kind,
        code,
        admin_status: 0,
        admin_qualifier: 0,
        text: "no",
    })
}

const READ: Request = Request::Read {
    space: Space::Common,
    offset: 12,
    len: 2,
};

fn greeted() -> Client {
    let mut c = Client::new(Name::new("test"), 0);
    let mut buf = [0; MAX_MESSAGE];
    let sent = c.hello(&mut buf).unwrap();
    let (h, r) = decode_request(&buf[..sent.len]).unwrap();
    assert_eq!(h.seq, sent.seq);
    assert!(matches!(r, Request::Hello(h) if h.version == 1 && h.max_message == 4096));
    let reply = bytes(hello_reply(1, 4096, 0), sent.seq);
    assert!(matches!(c.receive(&reply), Received::Reply { .. }));
    assert_eq!(c.state(), State::Greeted);
    c
}

fn ready() -> Client {
    let mut c = greeted();
    let sent = c.open(OPEN, &mut [0; MAX_MESSAGE]).unwrap();
    assert_eq!(c.state(), State::OpenSent);
    let reply = bytes(Reply::Open(OPENED), sent.seq);
    assert!(matches!(c.receive(&reply), Received::Reply { .. }));
    assert_eq!(c.state(), State::Ready);
    assert_eq!(c.open_reply(), Some(&OPENED));
    c
}

fn send(c: &mut Client, r: &Request) -> Result<u32, SendError> {
    c.request(r, &mut [0; MAX_MESSAGE]).map(|s| s.seq)
}

#[test]
fn requests_need_their_state() {
    let mut c = Client::new(Name::new("test"), 0);
    assert_eq!(send(&mut c, &READ), Err(SendError::State(State::Start)));
    let query = Request::Query {
        what: QueryKind::HELPER,
        member: 0,
    };
    assert_eq!(send(&mut c, &query), Err(SendError::State(State::Start)));
    let mut c = greeted();
    assert!(send(&mut c, &query).is_ok());
    assert!(send(&mut c, &Request::Token { member: 1 }).is_ok());
    assert_eq!(send(&mut c, &READ), Err(SendError::State(State::Greeted)));
    assert!(c.hello(&mut [0; MAX_MESSAGE]).is_err());
    let mut c = ready();
    assert!(c.open(OPEN, &mut [0; MAX_MESSAGE]).is_err());
    assert!(send(&mut c, &READ).is_ok());
}

#[test]
fn replies_are_matched_by_number_and_cut_to_the_length_asked_for() {
    let mut c = ready();
    let a = send(&mut c, &READ).unwrap();
    let b = send(&mut c, &READ).unwrap();
    assert_eq!(c.outstanding(), 2);
    for (seq, fill) in [(b, 0xbb), (a, 0xaa)] {
        let msg = bytes(Reply::Read { data: [fill; 8] }, seq);
        let want = [fill, fill, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            c.receive(&msg),
            Received::Reply {
                seq,
                reply: Reply::Read { data: want }
            }
        );
    }
    assert_eq!(c.outstanding(), 0);
}

#[test]
fn late_replies_are_counted_and_dropped() {
    let mut c = ready();
    let a = send(&mut c, &READ).unwrap();
    assert!(c.abandon(a));
    assert!(!c.abandon(a));
    assert_eq!(c.outstanding(), 0);
    let b = send(&mut c, &READ).unwrap();
    let late = bytes(Reply::Read { data: [1; 8] }, a);
    assert_eq!(c.receive(&late), Received::Stale { seq: a });
    let good = bytes(Reply::Read { data: [2; 8] }, b);
    assert!(matches!(c.receive(&good), Received::Reply { seq, .. } if seq == b));
    assert_eq!(c.counters().stale, 1);
    // The same late reply once more was never asked for.
    assert_eq!(c.receive(&late), Received::Lost(LostReason::UnknownSeq(a)));
}

#[test]
fn a_helper_that_answers_nothing_is_not_flooded() {
    let mut c = ready();
    for _ in 0..MAX_QUEUED {
        let seq = send(&mut c, &READ).unwrap();
        c.abandon(seq);
    }
    assert_eq!(send(&mut c, &READ), Err(SendError::TooMany));
    c.closed();
    c.reset();
    assert_eq!(c.state(), State::Start);
    assert!(c.hello(&mut [0; MAX_MESSAGE]).is_ok());
}

#[test]
fn replies_of_another_connection_or_type_end_it() {
    let mut c = ready();
    let seq = send(&mut c, &READ).unwrap();
    assert_eq!(
        c.receive(&bytes(Reply::Write, seq)),
        Received::Lost(LostReason::WrongType {
            want: legacy_vf_proto::MessageType::Read,
            got: 5
        })
    );
    assert!(matches!(c.state(), State::Lost(_)));
    assert!(matches!(send(&mut c, &READ), Err(SendError::State(_))));

    let mut c = ready();
    let old = send(&mut c, &READ).unwrap();
    c.reset();
    let hello = c.hello(&mut [0; MAX_MESSAGE]).unwrap();
    assert_ne!(hello.seq, old);
    assert!(matches!(
        c.receive(&bytes(Reply::Read { data: [0; 8] }, old)),
        Received::Lost(LostReason::UnknownSeq(_))
    ));
}

#[test]
fn bad_bytes_and_end_of_file_lose_the_connection() {
    let mut c = ready();
    assert!(matches!(
        c.receive(&[1, 2, 3]),
        Received::Lost(LostReason::BadBytes(_))
    ));
    let mut c = ready();
    assert_eq!(c.receive(&[]), Received::Lost(LostReason::Closed));
    assert_eq!(c.state(), State::Lost(LostReason::Closed));
    let mut c = ready();
    let mut request = [0; MAX_MESSAGE];
    let len = READ.encode(1, &mut request);
    assert!(matches!(
        c.receive(&request[..len]),
        Received::Lost(LostReason::BadBytes(_))
    ));
}

#[test]
fn events_come_at_any_time() {
    let event = Event {
        kind: EventKind(1234),
        detail: 5,
    };
    let mut buf = [0; MAX_MESSAGE];
    let len = event.encode(&mut buf);
    let mut c = Client::new(Name::new("test"), 0);
    assert_eq!(c.receive(&buf[..len]), Received::Event(event));
    let mut c = ready();
    let seq = send(&mut c, &READ).unwrap();
    assert_eq!(c.receive(&buf[..len]), Received::Event(event));
    let reply = bytes(error(4, ErrorCode::TIMED_OUT), seq);
    assert!(matches!(c.receive(&reply), Received::Reply { .. }));
    assert_eq!(c.state(), State::Ready, "a failed read does not end it");
    assert_eq!((c.counters().events, c.counters().errors), (1, 1));
}

#[test]
fn a_refused_hello_or_open_is_reported_and_final() {
    let mut c = Client::new(Name::new("test"), 0);
    let sent = c.hello(&mut [0; MAX_MESSAGE]).unwrap();
    let reply = bytes(error(1, ErrorCode::UNSUPPORTED_VERSION), sent.seq);
    assert!(matches!(
        c.receive(&reply),
        Received::Reply { reply: Reply::Error(e), .. } if e.text == "no"
    ));
    assert_eq!(
        c.state(),
        State::Lost(LostReason::Refused(ErrorCode::UNSUPPORTED_VERSION))
    );
    let mut c = greeted();
    let sent = c.open(OPEN, &mut [0; MAX_MESSAGE]).unwrap();
    let reply = bytes(error(2, ErrorCode::BUSY), sent.seq);
    assert!(matches!(c.receive(&reply), Received::Reply { .. }));
    assert!(matches!(c.state(), State::Lost(LostReason::Refused(_))));
}

#[test]
fn greetings_that_cannot_be_used_end_the_connection() {
    for (version, max, features) in [(0, 4096, 0), (2, 4096, 0), (1, 64, 0), (1, 4096, 2)] {
        let mut c = Client::new(Name::new("test"), 1);
        let sent = c.hello(&mut [0; MAX_MESSAGE]).unwrap();
        let reply = bytes(hello_reply(version, max, features), sent.seq);
        assert_eq!(c.receive(&reply), Received::Lost(LostReason::BadHello));
    }
    let mut c = greeted();
    let sent = c.open(OPEN, &mut [0; MAX_MESSAGE]).unwrap();
    let other = Reply::Open(OpenReply {
        member: 3,
        ..OPENED
    });
    assert_eq!(
        c.receive(&bytes(other, sent.seq)),
        Received::Lost(LostReason::WrongMember { want: 2, got: 3 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the helper sends, the client ends in a defined state and never gives a reply to a
    /// request that is not outstanding.
    #[test]
    fn any_bytes_leave_a_defined_state(
        msgs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..20),
    ) {
        let mut c = ready();
        let seq = send(&mut c, &READ).unwrap();
        for mut m in msgs {
            if m.len() > 8 {
                m[0] %= 10;
                m[1] = 0;
                m[2] = 1;
                m[3] = 0;
                let number = seq + u32::from(m[8] & 1);
                m[4..8].copy_from_slice(&number.to_le_bytes());
            }
            match c.receive(&m) {
                Received::Reply { seq: got, .. } => prop_assert_eq!(got, seq),
                Received::Lost(_) => prop_assert!(matches!(c.state(), State::Lost(_))),
                Received::Stale { .. } => prop_assert!(false, "nothing was abandoned"),
                Received::Event(_) => {}
            }
        }
    }
}
