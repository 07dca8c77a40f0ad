// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as messages of the vfio-user protocol.

use vfio_user_wire::{Header, Limits, Reply, Request, HEADER_LEN};

/// Longest text of an error.
const MAX_TEXT: usize = 300;

/// What was decoded is encoded to bytes that decode to the same again, however often.
fn stable(header: &Header, payload: &[u8], limits: &Limits) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    match Request::decode(header, payload, limits) {
        Ok(request) => {
            assert_eq!(request.command(), header.command);
            request.encode(header.id, header.no_reply(), &mut first);
            let (again, rest) = split(&first, limits).expect("a request of our own");
            let same = Request::decode(&again, rest, limits).expect("a request of our own");
            same.encode(again.id, again.no_reply(), &mut second);
            assert_eq!(first, second);
            assert_eq!(again.no_reply(), header.no_reply());
        }
        Err(e) => assert!(e.to_string().len() < MAX_TEXT),
    }
    match Reply::decode(header, payload, limits) {
        Ok(reply) => {
            reply.encode(header, u32::MAX, &mut first);
            let Some((again, rest)) = split(&first, limits) else {
                return;
            };
            let same = Reply::decode(&again, rest, limits).expect("a reply of our own");
            same.encode(&again, u32::MAX, &mut second);
            assert_eq!(first, second);
        }
        Err(e) => assert!(e.to_string().len() < MAX_TEXT),
    }
}

/// Header and payload, as a receiver takes them from a stream; `None` without a whole message.
fn split<'a>(bytes: &'a [u8], limits: &Limits) -> Option<(Header, &'a [u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let header = Header::decode(head, limits).ok()?;
    assert!(header.payload_len() <= limits.max_message() as usize);
    Some((header, rest.get(..header.payload_len())?))
}

/// One run: a stream of messages.
pub fn run(data: &[u8]) {
    let limits = Limits::default();
    let mut rest = data;
    while let Some((header, payload)) = split(rest, &limits) {
        stable(&header, payload, &limits);
        let mut reply = header;
        reply.flags = Header::TYPE_REPLY;
        stable(&reply, payload, &limits);
        rest = rest.get(HEADER_LEN + payload.len()..).unwrap_or(&[]);
    }
    // What is left as the payload of each command, so that a size field need not be guessed.
    let Some((command, payload)) = data.split_first() else {
        return;
    };
    let header = Header {
        id: 7,
        command: vfio_user_wire::Command(u16::from(*command % 24)),
        size: (HEADER_LEN + payload.len()) as u32,
        flags: 0,
        errno: 0,
    };
    stable(&header, payload, &limits);
    let flags = Header::TYPE_REPLY;
    stable(&Header { flags, ..header }, payload, &limits);
}
