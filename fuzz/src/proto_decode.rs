// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as messages.

use legacy_vf_proto::client::{Client, Received, State};
use legacy_vf_proto::limits::MAX_QUEUED;
use legacy_vf_proto::{
    decode_incoming, flags, Incoming, Name, Open, Proof, Request, Space, HEADER_LEN, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, EncodeEvent, EncodeReply};

/// What was decoded, encoded again, decodes to the same.
fn round_trips(data: &[u8]) {
    let mut buf = [0; MAX_MESSAGE];
    match decode_request(data) {
        Ok((header, request)) => {
            let len = if header.flags & flags::NO_REPLY != 0 {
                request.encode_no_reply(header.seq, &mut buf)
            } else {
                request.encode(header.seq, &mut buf)
            };
            assert_eq!(len, data.len());
            let (again, same) = decode_request(&buf[..len]).unwrap();
            assert_eq!((again.seq, same), (header.seq, request));
        }
        Err(e) => {
            let _text = e.to_string();
            assert_ne!(e.code(), legacy_vf_proto::ErrorCode::OK);
            assert_eq!(
                e.header.is_some(),
                (HEADER_LEN..=MAX_MESSAGE).contains(&data.len())
            );
        }
    }
    match decode_incoming(data) {
        Ok(Incoming::Reply(header, reply)) => {
            let len = reply.encode(header.seq, &mut buf);
            match decode_incoming(&buf[..len]).unwrap() {
                Incoming::Reply(again, same) => assert_eq!((again.seq, same), (header.seq, reply)),
                Incoming::Event(_) => panic!("a reply became an event"),
            }
        }
        Ok(Incoming::Event(event)) => {
            let len = event.encode(&mut buf);
            assert_eq!(decode_incoming(&buf[..len]), Ok(Incoming::Event(event)));
        }
        Err(e) => drop(e.to_string()),
    }
}

/// A client that sends what it may and is answered with anything.
fn client(data: &[u8]) {
    let mut c = Client::new(Name::new("fuzz"), 0);
    let mut buf = [0; MAX_MESSAGE];
    let mut rest = data;
    let _sent = c.request(&c.hello(), &mut buf);
    for round in 0..64 {
        let Some((len, tail)) = rest.split_first() else {
            break;
        };
        let (message, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        // With the number of the last request, or of the oldest that was given up before it, a guess
        // has a chance to be taken for its reply.
        let mut message = message.to_vec();
        if round % 2 == 0 {
            if let (Some(seq), Some(last)) = (message.get_mut(4..8), buf.get(4..8)) {
                seq.copy_from_slice(last);
                let before = u8::try_from(c.owed()).unwrap_or(0);
                seq[0] = seq[0].wrapping_sub(if round % 4 == 0 { before } else { 0 });
            }
        }
        let was_lost = matches!(c.state(), State::Lost(_));
        match c.receive(&message) {
            Received::Lost(reason) => drop(reason.to_string()),
            _ => assert!(!was_lost),
        }
        let open = Open {
            member: 1,
            proof: Proof::NONE,
            virtio_id: 0,
            serial: 0,
        };
        let read = Request::Read {
            space: Space::Common,
            offset: 0,
            len: 4,
        };
        let _sent = match c.state() {
            State::Start => c.request(&c.hello(), &mut buf),
            State::Greeted => c.request(&Request::Open(open), &mut buf),
            State::Ready => c.request(&read, &mut buf),
            State::Lost(_) if round % 5 == 0 => {
                c = Client::new(Name::new("fuzz"), 0);
                c.request(&c.hello(), &mut buf)
            }
            State::Lost(_) => continue,
        };
        // Given up before it is ready, a connection is lost; that happens now and then only.
        if round % 3 == 0 && (c.state() == State::Ready || round % 9 == 0) {
            c.abandon();
        }
        assert!(c.owed() < MAX_QUEUED);
    }
}

/// One run.
pub fn run(data: &[u8]) {
    round_trips(data);
    client(data);
}
