// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The client state machine against a helper that behaves, is late, or is hostile.

#![allow(clippy::unwrap_used, clippy::panic)]

use legacy_vf_proto::client::{Client, LostReason, Received, SendError, State};
use legacy_vf_proto::limits::MAX_QUEUED;
use legacy_vf_proto::{
    ErrorCode, ErrorReply, Event, EventKind, HelloReply, MessageBuf, Name, NotifyKind, Open,
    OpenReply, Proof, QueryKind, Reply, Request, Space, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, EncodeEvent, EncodeReply};
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

/// The number in the message that a function of the client has made.
fn seq(make: impl FnOnce(&mut MessageBuf) -> Result<usize, SendError>) -> Result<u32, SendError> {
    let mut buf = [0; MAX_MESSAGE];
    let len = make(&mut buf)?;
    let (header, _) = decode_request(&buf[..len]).unwrap();
    Ok(header.seq)
}

fn send(c: &mut Client, r: &Request) -> Result<u32, SendError> {
    seq(|buf| c.request(r, buf))
}

fn greeted() -> Client {
    let mut c = Client::new(Name::new("test"), 0);
    let mut buf = [0; MAX_MESSAGE];
    let len = c.request(&c.hello(), &mut buf).unwrap();
    let (h, r) = decode_request(&buf[..len]).unwrap();
    assert_eq!(h.seq, 1);
    assert!(matches!(r, Request::Hello(h) if h.version == 1 && h.max_message == 4096));
    let reply = bytes(hello_reply(1, 4096, 0), 1);
    assert!(matches!(
        c.receive(&reply),
        Received::Reply(Reply::Hello(_))
    ));
    assert_eq!(c.state(), State::Greeted);
    c
}

fn ready() -> Client {
    let mut c = greeted();
    let number = seq(|buf| c.request(&Request::Open(OPEN), buf)).unwrap();
    let reply = bytes(Reply::Open(OPENED), number);
    assert_eq!(c.receive(&reply), Received::Reply(Reply::Open(OPENED)));
    assert_eq!(c.state(), State::Ready);
    c
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
    assert!(send(&mut greeted(), &query).is_ok());
    assert!(send(&mut greeted(), &Request::Token { member: 1 }).is_ok());
    let mut c = greeted();
    assert_eq!(send(&mut c, &READ), Err(SendError::State(State::Greeted)));
    let again = Err(SendError::State(State::Greeted));
    assert_eq!(seq(|buf| c.request(&c.hello(), buf)), again);
    let mut c = ready();
    let again = Err(SendError::State(State::Ready));
    assert_eq!(seq(|buf| c.request(&Request::Open(OPEN), buf)), again);
    assert!(send(&mut ready(), &query).is_ok());
    assert!(send(&mut c, &READ).is_ok());
}

#[test]
fn requests_go_one_at_a_time_and_replies_are_cut_to_the_length_asked_for() {
    let mut c = ready();
    for fill in [0xaa, 0xbb] {
        let number = send(&mut c, &READ).unwrap();
        assert_eq!(send(&mut c, &READ), Err(SendError::Busy));
        let msg = bytes(Reply::Read { data: [fill; 8] }, number);
        let data = [fill, fill, 0, 0, 0, 0, 0, 0];
        assert_eq!(c.receive(&msg), Received::Reply(Reply::Read { data }));
    }
    let mut c = Client::new(Name::new("test"), 0);
    assert!(seq(|buf| c.request(&c.hello(), buf)).is_ok());
    assert_eq!(seq(|buf| c.request(&c.hello(), buf)), Err(SendError::Busy));
}

#[test]
fn late_replies_are_dropped() {
    let mut c = ready();
    let a = send(&mut c, &READ).unwrap();
    c.abandon();
    c.abandon();
    assert_eq!(c.owed(), 1);
    let b = send(&mut c, &READ).unwrap();
    assert_eq!(b, a + 1);
    let late = bytes(Reply::Read { data: [1; 8] }, a);
    assert_eq!(c.receive(&late), Received::Stale);
    assert_eq!(c.owed(), 0);
    let good = bytes(Reply::Read { data: [2; 8] }, b);
    let data = [2, 2, 0, 0, 0, 0, 0, 0];
    assert_eq!(c.receive(&good), Received::Reply(Reply::Read { data }));
    // The same late reply once more is not owed.
    assert_eq!(c.receive(&late), Received::Lost(LostReason::UnknownSeq(a)));
}

#[test]
fn late_replies_may_come_when_nobody_waits() {
    let mut c = ready();
    let a = send(&mut c, &READ).unwrap();
    c.abandon();
    let b = send(&mut c, &READ).unwrap();
    c.abandon();
    // An error is as late as anything else.
    let late = bytes(error(4, ErrorCode::TIMED_OUT), a);
    assert_eq!(c.receive(&late), Received::Stale);
    let late = bytes(Reply::Read { data: [1; 8] }, b);
    assert_eq!(c.receive(&late), Received::Stale);
    assert_eq!((c.owed(), c.state()), (0, State::Ready));
    assert!(send(&mut c, &READ).is_ok());
}

#[test]
fn replies_come_in_the_order_of_their_requests() {
    // The one that is waited for does not overtake those given up, nor do these one another.
    for answered in [1, 2] {
        let mut c = ready();
        let first = send(&mut c, &READ).unwrap();
        c.abandon();
        send(&mut c, &READ).unwrap();
        c.abandon();
        send(&mut c, &READ).unwrap();
        let number = first + answered;
        assert_eq!(
            c.receive(&bytes(Reply::Read { data: [0; 8] }, number)),
            Received::Lost(LostReason::UnknownSeq(number))
        );
        assert_eq!(c.owed(), 0);
    }
}

#[test]
fn late_replies_with_another_number_end_the_connection() {
    for wrong in [0, 1, 2, 5, u32::MAX] {
        let mut c = ready();
        assert_eq!(send(&mut c, &READ), Ok(3));
        c.abandon();
        assert_eq!(send(&mut c, &READ), Ok(4));
        assert_eq!(
            c.receive(&bytes(Reply::Read { data: [0; 8] }, wrong)),
            Received::Lost(LostReason::UnknownSeq(wrong))
        );
        assert_eq!(c.state(), State::Lost(LostReason::UnknownSeq(wrong)));
    }
}

#[test]
fn a_helper_that_answers_nothing_is_not_flooded() {
    let mut c = ready();
    let mut numbers = Vec::new();
    for owed in 1..MAX_QUEUED {
        numbers.push(send(&mut c, &READ).unwrap());
        c.abandon();
        assert_eq!(c.owed(), owed);
    }
    assert_eq!(send(&mut c, &READ), Err(SendError::TooMany));
    // One answer makes room for one request, and all are still told apart.
    let late = bytes(Reply::Read { data: [0; 8] }, numbers.remove(0));
    assert_eq!(c.receive(&late), Received::Stale);
    let last = send(&mut c, &READ).unwrap();
    for number in numbers {
        let late = bytes(Reply::Read { data: [0; 8] }, number);
        assert_eq!(c.receive(&late), Received::Stale);
    }
    let reply = bytes(Reply::Read { data: [0; 8] }, last);
    assert!(matches!(c.receive(&reply), Received::Reply(_)));
}

#[test]
fn without_an_answer_to_hello_or_open_the_connection_is_lost() {
    let mut c = Client::new(Name::new("test"), 0);
    c.abandon();
    assert_eq!(c.state(), State::Start, "nothing was sent");
    assert!(seq(|buf| c.request(&c.hello(), buf)).is_ok());
    c.abandon();
    assert_eq!(c.state(), State::Lost(LostReason::GivenUp));
    let mut c = greeted();
    let number = seq(|buf| c.request(&Request::Open(OPEN), buf)).unwrap();
    c.abandon();
    assert_eq!(c.owed(), 0);
    let late = bytes(Reply::Open(OPENED), number);
    assert_eq!(c.receive(&late), Received::Lost(LostReason::GivenUp));
    // A question before OPEN may be given up.
    let mut c = greeted();
    send(&mut c, &Request::Token { member: 1 }).unwrap();
    c.abandon();
    assert_eq!((c.owed(), c.state()), (1, State::Greeted));
}

#[test]
fn replies_of_another_type_or_to_nothing_end_the_connection() {
    let mut c = ready();
    let number = send(&mut c, &READ).unwrap();
    assert_eq!(
        c.receive(&bytes(Reply::Write, number)),
        Received::Lost(LostReason::WrongType {
            want: legacy_vf_proto::MessageType::Read,
            got: 5
        })
    );
    assert!(matches!(c.state(), State::Lost(_)));
    assert!(matches!(send(&mut c, &READ), Err(SendError::State(_))));

    // Not even the number of the next request is taken before it was sent.
    let mut c = ready();
    assert_eq!(
        c.receive(&bytes(Reply::Read { data: [0; 8] }, 3)),
        Received::Lost(LostReason::UnknownSeq(3))
    );
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
    let number = send(&mut c, &READ).unwrap();
    assert_eq!(c.receive(&buf[..len]), Received::Event(event));
    let reply = bytes(error(4, ErrorCode::TIMED_OUT), number);
    assert!(matches!(
        c.receive(&reply),
        Received::Reply(Reply::Error(_))
    ));
    assert_eq!(c.state(), State::Ready, "a failed read does not end it");
}

#[test]
fn a_refused_hello_or_open_is_reported_and_final() {
    let mut c = Client::new(Name::new("test"), 0);
    let number = seq(|buf| c.request(&c.hello(), buf)).unwrap();
    let reply = bytes(error(1, ErrorCode::UNSUPPORTED_VERSION), number);
    assert!(matches!(
        c.receive(&reply),
        Received::Reply(Reply::Error(e)) if e.text == "no"
    ));
    assert_eq!(
        c.state(),
        State::Lost(LostReason::Refused(ErrorCode::UNSUPPORTED_VERSION))
    );
    let mut c = greeted();
    let number = seq(|buf| c.request(&Request::Open(OPEN), buf)).unwrap();
    let reply = bytes(error(2, ErrorCode::BUSY), number);
    assert!(matches!(c.receive(&reply), Received::Reply(_)));
    assert!(matches!(c.state(), State::Lost(LostReason::Refused(_))));
}

#[test]
fn greetings_that_cannot_be_used_end_the_connection() {
    for (version, max, features) in [(0, 4096, 0), (2, 4096, 0), (1, 64, 0), (1, 4096, 2)] {
        let mut c = Client::new(Name::new("test"), 1);
        let number = seq(|buf| c.request(&c.hello(), buf)).unwrap();
        let reply = bytes(hello_reply(version, max, features), number);
        assert_eq!(c.receive(&reply), Received::Lost(LostReason::BadHello));
    }
    let mut c = greeted();
    let number = seq(|buf| c.request(&Request::Open(OPEN), buf)).unwrap();
    let other = Reply::Open(OpenReply {
        member: 3,
        ..OPENED
    });
    assert_eq!(
        c.receive(&bytes(other, number)),
        Received::Lost(LostReason::WrongMember { want: 2, got: 3 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever the helper sends, the client ends in a defined state, gives no more replies than it
    /// has sent requests, and drops no more than were abandoned.
    #[test]
    fn any_bytes_leave_a_defined_state(
        msgs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..20),
        abandoned in 0..3usize,
    ) {
        let mut c = ready();
        let oldest = 3;
        for _ in 0..abandoned {
            send(&mut c, &READ).unwrap();
            c.abandon();
        }
        send(&mut c, &READ).unwrap();
        let (mut replies, mut stale) = (0, 0);
        for mut m in msgs {
            if m.len() > 8 {
                m[0] = if m[0] % 8 == 0 { 5 } else { 4 };
                m[1] = 0;
                m[2] = 1;
                m[3] = 0;
                let number = oldest + stale + u32::from(m[8] % 8 == 0);
                m[4..8].copy_from_slice(&number.to_le_bytes());
                if m.len() >= 24 && m[15] % 4 != 0 {
                    // A reply without error and of the right length.
                    m[8..10].fill(0);
                    m.truncate(24);
                }
            }
            match c.receive(&m) {
                Received::Reply(_) => {
                    replies += 1;
                    prop_assert_eq!((replies, c.owed()), (1, 0));
                }
                Received::Stale => stale += 1,
                Received::Lost(_) => prop_assert!(matches!(c.state(), State::Lost(_))),
                Received::Event(_) => {}
            }
            prop_assert!(stale as usize <= abandoned);
            if c.state() == State::Ready {
                prop_assert_eq!(c.owed(), abandoned - stale as usize);
            }
        }
    }
}
