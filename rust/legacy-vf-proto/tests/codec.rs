// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Encode and decode: layouts, round trips, and any bytes at all.

#![allow(clippy::unwrap_used, clippy::panic)]

use legacy_vf_proto::flags;
use legacy_vf_proto::{
    decode_incoming, ErrorCode, ErrorReply, Event, EventKind, Header, Hello, HelloReply, Incoming,
    MessageType, Name, NotifyKind, Open, OpenReply, Proof, QueryKind, Reason, Reply, Request,
    Space, HEADER_LEN, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, EncodeEvent, EncodeReply};
use proptest::prelude::*;

fn requests() -> Vec<Request> {
    vec![
        Request::Hello(Hello {
            version: 1,
            max_message: 4096,
            features: 0x0102_0304_0506_0708,
            name: Name::new("test"),
        }),
        Request::Open(Open {
            member: 3,
            proof: Proof::VFIO_FD,
            virtio_id: 1,
            serial: 0x1122_3344_5566_7788,
        }),
        Request::Token { member: 7 },
        Request::Read {
            space: Space::Common,
            offset: 14,
            len: 2,
        },
        Request::Write {
            space: Space::Device,
            offset: 0,
            len: 8,
            data: [1, 2, 3, 4, 5, 6, 7, 8],
        },
        Request::Notify { queue: 0x1234 },
        Request::Query {
            what: QueryKind::COUNTERS,
            member: 2,
        },
    ]
}

fn replies() -> Vec<Reply<'static>> {
    vec![
        Reply::Hello(HelloReply {
            version: 1,
            max_message: 4096,
            features: 0,
            name: Name::new("helper"),
        }),
        Reply::Open(OpenReply {
            member: 3,
            virtio_id: 1,
            num_vfs: 4,
            notify_kind: NotifyKind::Member,
            notify_bar: 4,
            notify_offset: 0x3000,
            commands: 0x7f,
            deadline_ms: 2500,
            session: 0xaabb_ccdd_eeff_0011,
        }),
        Reply::Token { uuid: [9; 16] },
        Reply::Read {
            data: [1, 2, 3, 4, 5, 6, 7, 8],
        },
        Reply::Write,
        Reply::Notify,
        Reply::Query { json: "{\"a\":1}" },
        Reply::Error(ErrorReply {
            kind: 4,
            code: ErrorCode::DEVICE,
            admin_status: 22,
            admin_qualifier: 3,
            text: "refused",
        }),
    ]
}

fn decode_reply(message: &[u8]) -> Result<(Header, Reply<'_>), Reason> {
    match decode_incoming(message)? {
        Incoming::Reply(header, reply) => Ok((header, reply)),
        Incoming::Event(_) => panic!("an event"),
    }
}

fn encoded(f: impl FnOnce(&mut [u8; MAX_MESSAGE]) -> usize) -> Vec<u8> {
    // Leftovers of an earlier message must never leak into the next one.
    let mut buf = [0xaa; MAX_MESSAGE];
    let len = f(&mut buf);
    buf[..len].to_vec()
}

/// The 16 bytes of a header, written by hand.
fn header(kind: u16, flags: u16, error: ErrorCode) -> Vec<u8> {
    let fields = [kind, flags, 1, 0, error.0, 0, 0, 0];
    fields.into_iter().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn every_message_has_its_documented_length() {
    let sizes = [48, 16, 8, 8, 16, 8, 8];
    for (r, size) in requests().iter().zip(sizes) {
        let bytes = encoded(|b| r.encode(1, b));
        assert_eq!(bytes.len(), HEADER_LEN + size, "{r:?}");
    }
    let sizes = [48, 40, 16, 8, 0, 0, 7, 7];
    for (r, size) in replies().iter().zip(sizes) {
        let bytes = encoded(|b| r.encode(1, b));
        assert_eq!(bytes.len(), HEADER_LEN + size, "{r:?}");
    }
}

#[test]
fn every_message_round_trips() {
    for (i, r) in requests().iter().enumerate() {
        let seq = 0xfff0_0000 + i as u32;
        let bytes = encoded(|b| r.encode(seq, b));
        let (h, back) = decode_request(&bytes).unwrap();
        assert_eq!((h.seq, h.flags, h.error), (seq, 0, ErrorCode::OK));
        assert_eq!(back, *r);
    }
    for r in &replies() {
        let bytes = encoded(|b| r.encode(77, b));
        let (h, back) = decode_reply(&bytes).unwrap();
        assert_eq!((h.seq, h.flags), (77, flags::REPLY));
        assert_eq!(back, *r);
    }
    let e = Event {
        kind: EventKind::VFS_CHANGED,
        detail: 64,
    };
    let bytes = encoded(|b| e.encode(b));
    assert_eq!(bytes.len(), HEADER_LEN + 8);
    assert_eq!(decode_incoming(&bytes).unwrap(), Incoming::Event(e));
}

/// Each type accepts one payload length; all others, from nothing to the largest message, are
/// refused with a reason that says so.
#[test]
fn every_length_of_every_type() {
    let want = [48, 16, 8, 8, 16, 8, 8];
    for kind in 0..=20u16 {
        for len in 0..=MAX_MESSAGE {
            let mut msg = vec![0u8; len];
            if len >= HEADER_LEN {
                msg[..2].copy_from_slice(&kind.to_le_bytes());
                // READ and WRITE: a valid length field.
                if len > HEADER_LEN + 2 {
                    msg[HEADER_LEN + 2] = 1;
                }
            }
            let got = decode_request(&msg);
            if len < HEADER_LEN {
                let e = got.unwrap_err();
                assert_eq!((e.header, e.reason), (None, Reason::TooShort(len)));
                assert!(e.closes() && e.code() == ErrorCode::BAD_MESSAGE);
                continue;
            }
            match usize::from(kind).checked_sub(1).and_then(|i| want.get(i)) {
                None => {
                    let e = got.unwrap_err();
                    assert_eq!(e.reason, Reason::UnknownType(kind));
                    assert!(!e.closes() && e.code() == ErrorCode::UNKNOWN_TYPE);
                }
                Some(&want) if want + HEADER_LEN == len => {
                    assert!(got.is_ok(), "type {kind}, {len} bytes: {got:?}");
                }
                Some(&want) => {
                    let e = got.unwrap_err();
                    let got = len - HEADER_LEN;
                    assert_eq!(e.reason, Reason::BadLength { got, want });
                    assert!(e.closes() && e.header.is_some());
                }
            }
        }
    }
    let e = decode_request(&[0; MAX_MESSAGE + 1]).unwrap_err();
    assert_eq!(e.reason, Reason::TooLong(4097));
}

#[test]
fn reply_lengths_are_checked_too() {
    let want = [48, 40, 16, 8, 0, 0];
    for (i, want) in want.into_iter().enumerate() {
        for len in 0..=256usize {
            let mut msg = header(i as u16 + 1, flags::REPLY, ErrorCode::OK);
            msg.resize(HEADER_LEN + len, 0);
            let got = decode_reply(&msg);
            assert_eq!(got.is_ok(), len == want, "type {} length {len}", i + 1);
        }
    }
    for (len, fine) in [(0, true), (512, true), (513, false), (4080, false)] {
        let mut msg = header(4, flags::REPLY, ErrorCode::TIMED_OUT);
        msg.resize(HEADER_LEN + len, b'x');
        assert_eq!(decode_reply(&msg).is_ok(), fine, "error text of {len}");
    }
}

#[test]
fn values_out_of_range_are_named() {
    let read = |space, len| {
        let mut msg = header(MessageType::Read as u16, 0, ErrorCode::OK);
        msg.extend([space, 255, len, 0, 0, 0, 0, 0]);
        decode_request(&msg)
    };
    assert!(read(1, 8).is_ok());
    for (space, len, field, value) in [(2, 1, "space", 2), (0, 0, "len", 0), (0, 9, "len", 9)] {
        let e = read(space, len).unwrap_err();
        assert_eq!(e.reason, Reason::BadField(field, value));
        assert_eq!(e.code(), ErrorCode::OUT_OF_RANGE);
        assert!(!e.closes());
        assert!(e.to_string().contains(field), "{e}");
    }
    let mut msg = encoded(|b| replies()[1].encode(1, b));
    msg[HEADER_LEN + 6] = 3;
    let e = decode_reply(&msg).unwrap_err();
    assert_eq!(e, Reason::BadField("notify_kind", 3));
}

#[test]
fn flags_that_do_not_fit_are_refused_and_unknown_ones_ignored() {
    for r in &requests() {
        let mut msg = encoded(|b| r.encode(1, b));
        for bad in [flags::REPLY, flags::EVENT, flags::REPLY | flags::EVENT] {
            msg[2] = bad as u8;
            let e = decode_request(&msg).unwrap_err();
            assert_eq!(e.reason, Reason::BadFlags(bad));
        }
        msg[2] = flags::NO_REPLY as u8;
        let may = matches!(r, Request::Notify { .. });
        assert_eq!(decode_request(&msg).is_ok(), may, "{r:?}");
        msg[2] = 0;
        msg[3] = 0x80;
        assert_eq!(decode_request(&msg).unwrap().1, *r);
        msg[14] = 0xff;
        assert_eq!(decode_request(&msg).unwrap().1, *r, "reserved bytes");
    }
    let r = Request::Notify { queue: 5 };
    let msg = encoded(|b| r.encode_no_reply(9, b));
    assert!(decode_request(&msg).unwrap().0.flags == flags::NO_REPLY);
}

#[test]
fn long_texts_are_cut_and_long_json_becomes_an_error() {
    let text = "\u{20ac}".repeat(400);
    let msg = encoded(|b| {
        Reply::Error(ErrorReply {
            kind: 99,
            code: ErrorCode::OK,
            admin_status: 0,
            admin_qualifier: 0,
            text: &text,
        })
        .encode(1, b)
    });
    let Ok((_, Reply::Error(e))) = decode_reply(&msg) else {
        panic!("not an error reply");
    };
    assert_eq!((e.kind, e.text.len()), (99, 510));
    assert_eq!(e.code, ErrorCode::BAD_STATE, "an error never looks like OK");

    for (len, fits) in [(4080, true), (4081, false), (100_000, false)] {
        let json = "x".repeat(len);
        let msg = encoded(|b| Reply::Query { json: &json }.encode(1, b));
        match decode_reply(&msg).unwrap().1 {
            Reply::Query { json: back } => assert!(fits && back == json),
            Reply::Error(e) => assert!(!fits && e.code == ErrorCode::OUT_OF_RANGE),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn texts_that_are_not_utf8_are_refused() {
    let mut msg = header(4, flags::REPLY, ErrorCode::BUSY);
    msg.extend([0xff, 0xfe]);
    assert_eq!(decode_reply(&msg).unwrap_err(), Reason::BadText);
}

#[test]
fn error_codes_have_names_and_numbers_without_gaps() {
    for (i, c) in ErrorCode::ALL.iter().enumerate() {
        assert_eq!(usize::from(c.0), i);
        assert_ne!(c.name(), "UNKNOWN");
    }
    assert_eq!(ErrorCode(999).to_string(), "UNKNOWN(999)");
    for t in (1..=8).filter_map(MessageType::from_u16) {
        assert_eq!(MessageType::from_u16(t as u16), Some(t));
    }
}

#[test]
fn bytes_behind_an_access_are_cleared() {
    for len in 1..=8u8 {
        let r = Request::Write {
            space: Space::Common,
            offset: 0,
            len,
            data: [0xff; 8],
        };
        let mut msg = encoded(|b| r.encode(1, b));
        assert!(msg[24 + usize::from(len)..].iter().all(|b| *b == 0));
        msg[24..].fill(0xee);
        let Ok((_, Request::Write { data, .. })) = decode_request(&msg) else {
            panic!("not a write");
        };
        assert!(data[usize::from(len)..].iter().all(|b| *b == 0));
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let space = prop_oneof![Just(Space::Common), Just(Space::Device)];
    prop_oneof![
        (any::<u32>(), any::<u32>(), any::<u64>(), "[ -~]{0,32}").prop_map(|(v, m, f, n)| {
            Request::Hello(Hello {
                version: v,
                max_message: m,
                features: f,
                name: Name::new(&n),
            })
        }),
        (any::<u16>(), any::<u16>(), any::<u16>(), any::<u64>()).prop_map(|(m, p, t, s)| {
            Request::Open(Open {
                member: m,
                proof: Proof(p),
                virtio_id: t,
                serial: s,
            })
        }),
        any::<u16>().prop_map(|member| Request::Token { member }),
        (space.clone(), any::<u8>(), 1..=8u8).prop_map(|(space, offset, len)| Request::Read {
            space,
            offset,
            len
        }),
        (space, any::<u8>(), 1..=8u8, any::<u64>()).prop_map(|(space, offset, len, v)| {
            let keep = u64::MAX >> (64 - 8 * u32::from(len));
            Request::Write {
                space,
                offset,
                len,
                data: (v & keep).to_le_bytes(),
            }
        }),
        any::<u16>().prop_map(|queue| Request::Notify { queue }),
        (any::<u16>(), any::<u16>()).prop_map(|(w, member)| Request::Query {
            what: QueryKind(w),
            member
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_request_round_trips(r in any_request(), seq in any::<u32>()) {
        let bytes = encoded(|b| r.encode(seq, b));
        let (h, back) = decode_request(&bytes).unwrap();
        prop_assert_eq!(h.seq, seq);
        prop_assert_eq!(back, r);
    }

    /// Any bytes give a value or an error; a value encodes to a message that decodes to it again.
    #[test]
    fn any_bytes_are_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0u16..12,
        flag in 0u16..8,
    ) {
        for patched in [false, true] {
            if patched && bytes.len() >= 4 {
                bytes[..2].copy_from_slice(&kind.to_le_bytes());
                bytes[2..4].copy_from_slice(&flag.to_le_bytes());
            }
            if let Ok((h, r)) = decode_request(&bytes) {
                let again = encoded(|b| r.encode(h.seq, b));
                prop_assert_eq!(decode_request(&again).unwrap().1, r);
            }
            if let Ok(Incoming::Reply(h, r)) = decode_incoming(&bytes) {
                let again = encoded(|b| r.encode(h.seq, b));
                prop_assert_eq!(decode_reply(&again).unwrap().1, r);
            }
        }
    }
}
