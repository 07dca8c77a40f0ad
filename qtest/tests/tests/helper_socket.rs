// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper's socket against clients that send anything.

use std::time::Duration;

use anyhow::Result;
use legacy_vf_proto::{
    ErrorCode, Hello, MessageBuf, Name, Open, Proof, QueryKind, Reply, Request, Space, MAX_MESSAGE,
};
use qtest_harness::{decode_reply, DeviceKind, HelperClient, Stack, PATIENCE};

/// Small, fast, and the same every time.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// A well-behaved client on VF 1 that must not notice anything.
fn bystander(stack: &Stack) -> Result<HelperClient> {
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    let opened = client.open(1)?;
    assert!(opened.is_ok(), "{opened:?}");
    assert_eq!(client.write(Space::Common, 18, 1, 3)?, Ok(()));
    Ok(client)
}

fn undisturbed(client: &mut HelperClient) -> Result<()> {
    assert_eq!(client.read(Space::Common, 18, 1)?, Ok(3));
    Ok(())
}

/// Sends `message` on a new connection, after HELLO if `greeted`. The helper must answer with an
/// error, or close, or both; it must not answer with success.
fn refused(stack: &Stack, message: &[u8], greeted: bool) -> Result<()> {
    let mut client = HelperClient::connect(stack.helper.socket())?;
    if greeted {
        client.hello()?;
    }
    if message.is_empty() {
        // An empty packet looks like end of file to the receiver.
        drop(client);
        return Ok(());
    }
    client.send_raw(message)?;
    let answer = client.receive_raw(PATIENCE)?;
    if answer.is_empty() {
        return Ok(());
    }
    let (header, reply) = decode_reply(&answer)?;
    let Reply::Error(e) = reply else {
        anyhow::bail!("{} bytes were answered with {reply:?}", message.len());
    };
    assert!(!e.text.is_empty(), "error {} without a text", e.code);
    if let Some(seq) = message.get(4..8) {
        assert_eq!(
            header.seq.to_le_bytes(),
            *seq,
            "the reply names its request"
        );
    }
    if e.code == ErrorCode::BAD_MESSAGE {
        let end = client.receive_raw(PATIENCE)?;
        assert!(end.is_empty(), "the helper closes after BAD_MESSAGE");
    }
    Ok(())
}

#[test]
fn messages_of_every_length_with_random_bytes() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = bystander(&stack)?;
    let mut random = Random(0x5eed_1234_5678_9abc);
    for len in 0..=MAX_MESSAGE {
        let mut message = random.bytes(len);
        if len > 4 && len % 2 == 0 {
            // A type that exists, without flags: so its length is what is wrong (or its content).
            message[0] = (len % 9) as u8;
            message[1] = 0;
            message[2] = 0;
            message[3] = 0;
        }
        if message.first() == Some(&1) && len == 64 {
            continue;
        }
        refused(&stack, &message, len % 4 < 2)?;
        if len % 256 == 0 {
            undisturbed(&mut other)?;
        }
    }
    undisturbed(&mut other)?;
    assert!(stack.helper.process.is_running()?);
    Ok(())
}

#[test]
fn messages_that_are_longer_than_any() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut other = bystander(&stack)?;
    for len in [4097, 5000, 65536] {
        refused(&stack, &vec![7; len], false)?;
        let mut hello: MessageBuf = [0; MAX_MESSAGE];
        let request = Request::Hello(Hello {
            version: 1,
            max_message: 4096,
            features: 0,
            name: Name::new("long"),
        });
        let _ = request.encode(1, &mut hello);
        let mut message = hello.to_vec();
        message.resize(len, 0);
        refused(&stack, &message, false)?;
    }
    undisturbed(&mut other)
}

#[test]
fn requests_out_of_turn() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = bystander(&stack)?;
    let read = Request::Read {
        space: Space::Common,
        offset: 18,
        len: 1,
    };
    let raw = |client: &HelperClient, request: &Request| -> Result<ErrorCode> {
        let mut buffer: MessageBuf = [0; MAX_MESSAGE];
        let len = request.encode(77, &mut buffer);
        client.send_raw(buffer.get(..len).unwrap_or_default())?;
        let answer = client.receive_raw(PATIENCE)?;
        match decode_reply(&answer)?.1 {
            Reply::Error(e) => Ok(e.code),
            other => anyhow::bail!("{other:?}"),
        }
    };
    let hello = Request::Hello(Hello {
        version: 1,
        max_message: 4096,
        features: 0,
        name: Name::new("impatient"),
    });
    let open = Request::Open(Open {
        member: 2,
        proof: Proof::NONE,
        virtio_id: 0,
        serial: 0,
    });
    let client = HelperClient::connect(stack.helper.socket())?;
    assert_eq!(
        raw(&client, &read)?,
        ErrorCode::BAD_STATE,
        "READ before HELLO"
    );
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    assert_eq!(
        raw(&client, &hello)?,
        ErrorCode::BAD_STATE,
        "a second HELLO"
    );
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    assert_eq!(
        raw(&client, &read)?,
        ErrorCode::BAD_STATE,
        "READ before OPEN"
    );
    let notify = Request::Notify { queue: 0 };
    assert_eq!(
        raw(&client, &notify)?,
        ErrorCode::BAD_STATE,
        "NOTIFY before OPEN"
    );
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    assert!(client.open(2)?.is_ok());
    assert_eq!(raw(&client, &open)?, ErrorCode::BAD_STATE, "a second OPEN");
    undisturbed(&mut other)
}

#[test]
fn a_vf_has_one_owner_and_is_free_when_it_leaves() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut first = bystander(&stack)?;
    let mut second = HelperClient::connect(stack.helper.socket())?;
    second.hello()?;
    let Err(busy) = second.open(1)? else {
        anyhow::bail!("VF 1 has two owners");
    };
    assert_eq!(busy.code, ErrorCode::BUSY);
    let pid = std::process::id().to_string();
    assert!(busy.text.contains(&pid), "the owner's pid: {}", busy.text);
    undisturbed(&mut first)?;
    drop(first);
    let mut third = HelperClient::connect(stack.helper.socket())?;
    third.hello()?;
    let opened = third.open(1)?;
    assert!(opened.is_ok(), "{opened:?}");
    assert_eq!(
        third.read(Space::Common, 18, 1)?,
        Ok(3),
        "the VF is as it was"
    );
    Ok(())
}

#[test]
fn bad_values_are_refused_and_the_connection_goes_on() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut client = bystander(&stack)?;
    // (space, offset, length): outside, over the border of a field.
    for (space, offset, len) in [
        (Space::Common, 200u8, 1u8),
        (Space::Common, 18, 2),
        (Space::Common, 2, 4),
        (Space::Device, 4, 4),
        (Space::Device, 250, 8),
    ] {
        let answer = client.read(space, offset, len)?;
        let Err(e) = answer else {
            anyhow::bail!("read of {len} at {offset} of {space:?} gave {answer:?}");
        };
        assert!(
            [ErrorCode::DEVICE, ErrorCode::OUT_OF_RANGE].contains(&e.code),
            "{e:?}"
        );
    }
    undisturbed(&mut client)?;
    let mut tool = HelperClient::connect(stack.helper.socket())?;
    tool.hello()?;
    let unknown = Request::Query {
        what: QueryKind(77),
        member: 0,
    };
    let Err(e) = tool.request(&unknown)? else {
        anyhow::bail!("an unknown question was answered");
    };
    assert_eq!(e.code, ErrorCode::NOT_SUPPORTED);
    let Err(e) = tool.request(&Request::Token { member: 1 })? else {
        anyhow::bail!("there is no VF token with vfio-user");
    };
    assert_eq!(e.code, ErrorCode::NOT_SUPPORTED);
    for what in [QueryKind::HELPER, QueryKind::VF, QueryKind::COUNTERS] {
        assert!(tool.query(what, 1)?.is_object());
    }
    Ok(())
}

#[test]
fn a_client_that_does_not_read_is_no_problem_for_others() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut other = bystander(&stack)?;
    let mut greedy = HelperClient::connect(stack.helper.socket())?;
    greedy.hello()?;
    let mut buffer: MessageBuf = [0; MAX_MESSAGE];
    let request = Request::Query {
        what: QueryKind::HELPER,
        member: 0,
    };
    let sender = std::thread::spawn(move || {
        // Ends when the helper closes the connection or stops reading for a while.
        for seq in 100..20_000u32 {
            let len = request.encode(seq, &mut buffer);
            let Some(message) = buffer.get(..len) else {
                return;
            };
            if !greedy.try_send(message) {
                return;
            }
        }
    });
    for _ in 0..50 {
        undisturbed(&mut other)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = sender.join();
    undisturbed(&mut other)
}

#[test]
fn many_connections_come_to_an_end_somewhere() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut other = bystander(&stack)?;
    let mut open = Vec::new();
    for _ in 0..400 {
        match HelperClient::connect(stack.helper.socket()) {
            Ok(client) => open.push(client),
            Err(_) => break,
        }
    }
    undisturbed(&mut other)?;
    drop(open);
    let mut client = HelperClient::connect(stack.helper.socket())?;
    qtest_tests::wait_for("a free place", PATIENCE, || {
        if client.hello().is_ok() {
            return Ok(Some(()));
        }
        client = HelperClient::connect(stack.helper.socket())?;
        Ok(None)
    })?;
    undisturbed(&mut other)?;
    assert!(stack.helper.process.is_running()?);
    Ok(())
}

/// The examples of the protocol description, by name.
fn examples() -> Result<std::collections::BTreeMap<String, Vec<u8>>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/interop/legacy-vf-helper.md"
    );
    let text = std::fs::read_to_string(path)?;
    let mut out = std::collections::BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("```hex ") {
            let mut bytes = Vec::new();
            for word in lines
                .by_ref()
                .take_while(|l| *l != "```")
                .flat_map(str::split_whitespace)
            {
                bytes.push(u8::from_str_radix(word, 16)?);
            }
            out.insert(name.to_owned(), bytes);
        }
    }
    Ok(out)
}

/// A client made of the description alone: its examples as bytes, its tables as offsets.
#[test]
fn the_description_is_enough_to_talk_to_the_helper() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 4)?;
    let examples = examples()?;
    let client = HelperClient::connect(stack.helper.socket())?;
    let ask = |name: &str, change: &[(usize, u8)]| -> Result<Vec<u8>> {
        let mut message = examples.get(name).cloned().unwrap_or_default();
        for (at, value) in change {
            if let Some(b) = message.get_mut(*at) {
                *b = *value;
            }
        }
        client.send_raw(&message)?;
        let answer = client.receive_raw(PATIENCE)?;
        // The type, REPLY, and the number of the request.
        assert_eq!(answer.get(..2), message.get(..2), "{name}");
        assert_eq!(answer.get(2), Some(&1), "{name}");
        assert_eq!(answer.get(4..8), message.get(4..8), "{name}");
        Ok(answer)
    };
    let error = |answer: &[u8]| answer.get(8).copied();
    let hello = ask("hello", &[])?;
    assert_eq!((hello.len(), error(&hello)), (64, Some(0)));
    assert_eq!(hello.get(16..20), Some(&[1, 0, 0, 0][..]));
    assert!(hello
        .get(32..)
        .is_some_and(|n| n.starts_with(b"qemu-virtio-admin-helper")));
    // The example's proof is a file, which is not attached; and its serial number is another PF's.
    let refused = ask("open", &[])?;
    assert_ne!(error(&refused), Some(0));
    let no_serial: Vec<(usize, u8)> = (24..32).map(|at| (at, 0)).collect();
    let mut change = no_serial.clone();
    change.push((18, 0));
    let opened = ask("open", &change)?;
    assert_eq!((opened.len(), error(&opened)), (56, Some(0)), "{opened:?}");
    assert_eq!(opened.get(16..18), Some(&[3, 0][..]), "member");
    assert_eq!(opened.get(18..20), Some(&[1, 0][..]), "virtio id");
    assert_eq!(opened.get(20..22), Some(&[4, 0][..]), "VFs");
    assert_eq!(
        opened.get(22..24),
        Some(&[2, 4][..]),
        "notifications go to BAR 4 of the VF"
    );
    assert_eq!(opened.get(32), Some(&0x7f), "commands");
    assert_eq!(error(&ask("token", &[])?), Some(12));
    let read = ask("read", &[])?;
    assert_eq!(
        read.get(16..),
        Some(&[0, 1, 0, 0, 0, 0, 0, 0][..]),
        "queue size 256"
    );
    let written = ask("write", &[])?;
    assert_eq!((written.len(), error(&written)), (16, Some(0)));
    // NOTIFY wants no reply, so the next message is that of the READ behind it.
    client.send_raw(examples.get("notify").map_or(&[], Vec::as_slice))?;
    let back = ask("read", &[(17, 8), (18, 4), (4, 77)])?;
    assert_eq!(back.get(16..20), Some(&[0x34, 0x12, 0, 0][..]));
    let query = ask("query", &[])?;
    assert_eq!((query.get(16), query.last()), (Some(&b'{'), Some(&b'}')));
    // The field at 8 has 4 bytes: 2 at 10 are inside, 4 at 10 are not.
    let bad = ask("read", &[(17, 10), (18, 4)])?;
    assert!([Some(10), Some(13)].contains(&error(&bad)), "{bad:?}");
    Ok(())
}
