// SPDX-License-Identifier: GPL-2.0-or-later
//! What a bad client does. Each attack runs in a process of its own, since the helper tells clients
//! apart by their process, until its standard input ends.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Result};
use legacy_vf_proto::{
    Hello, MessageBuf, Name, Open, Proof, QueryKind, Request, Space, MAX_MESSAGE,
};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{
    connect, recv, send, sendmsg, socket_with, AddressFamily, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The VF that an attacker opens where it needs one; it may.
pub(crate) const OWN: u16 = 3;
/// Most files that one message can have (SCM_MAX_FD).
const MOST_FILES: usize = 253;

/// An attack.
pub(crate) struct Attack {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it does, for the table.
    pub(crate) what: &'static str,
    /// What keeps others out of it, for the table.
    pub(crate) defence: &'static str,
    /// What is wrong with its VF, as the simulator's fault rules.
    pub(crate) faults: &'static [&'static str],
    /// One round of it. What is in the list stays open until the attacker ends.
    pub(crate) round: fn(&Path, &mut Vec<OwnedFd>) -> Result<()>,
}

/// All of them.
pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "nested-linger",
        what: "sends, with OPEN, a socket in which a TCP connection with unsent data lingers",
        defence: "unwanted files are not received; closers have an account per peer and interrupt",
        faults: &[],
        round: nested_linger,
    },
    Attack {
        name: "linger-before-accept",
        what: "leaves the same in connections that it ends before they are accepted",
        defence: "the same; accept is paused while much waits to be closed",
        faults: &[],
        round: linger_before_accept,
    },
    Attack {
        name: "many-files",
        what: "sends messages with 253 files each",
        defence: "unwanted files are not received, the sender is hung up",
        faults: &[],
        round: many_files,
    },
    Attack {
        name: "idle",
        what: "makes connections, says HELLO, and then nothing",
        defence: "deadlines; the longest idle connection of who has most makes room",
        faults: &[],
        round: idle,
    },
    Attack {
        name: "connects",
        what: "connects and leaves as fast as it can",
        defence: "connections of a peer that come too fast wait, then are refused",
        faults: &[],
        round: connects,
    },
    Attack {
        name: "reads",
        what: "keeps 16 register reads of its VF queued",
        defence: "one command of a VF is under way; a share of each turn",
        faults: &[],
        round: reads,
    },
    Attack {
        name: "queries",
        what: "keeps 16 questions queued",
        defence: "one answer per turn",
        faults: &[],
        round: queries,
    },
    Attack {
        name: "notifications",
        what: "notifies without waiting",
        defence: "one message per turn while others wait; 20,000 a second",
        faults: &[],
        round: notifications,
    },
    Attack {
        name: "never-reads",
        what: "asks and never reads an answer",
        defence: "no more is read from it; it is cut off after 5 s",
        faults: &[],
        round: never_reads,
    },
    Attack {
        name: "garbage",
        what: "sends random bytes of every length",
        defence: "the first malformed message ends its connection",
        faults: &[],
        round: garbage,
    },
    Attack {
        name: "killed",
        what: "is gone at every step: after connect, HELLO, OPEN, and with requests under way",
        defence: "the VF is free, late answers go to nobody",
        faults: &[],
        round: killed,
    },
    Attack {
        name: "refused-opens",
        what: "asks for VFs that others have, again and again",
        defence: "one OPEN per turn; its log lines have their own limit",
        faults: &[],
        round: refused_opens,
    },
    Attack {
        name: "silent-vf",
        what: "reads registers of a VF that answers no command",
        defence: "that VF's requests fail at once after the second; a probe shows that the PF is well",
        faults: &[r#"{"member":3,"do":"drop"}"#],
        round: slow_reads,
    },
    Attack {
        name: "lying-vf",
        what: "reads registers of a VF that answers with every error, short replies, and never an end to EAGAIN",
        defence: "an error is its own; a command is asked again until its deadline, and no longer",
        faults: &[
            r#"{"member":3,"first":20,"do":{"status":{"status":22,"qualifier":3}}}"#,
            r#"{"member":3,"first":20,"do":{"status":{"status":16,"qualifier":1}}}"#,
            r#"{"member":3,"first":20,"do":{"status":{"status":28,"qualifier":0}}}"#,
            r#"{"member":3,"first":20,"do":{"status":{"status":6,"qualifier":1}}}"#,
            r#"{"member":3,"first":20,"do":{"status":{"status":65520,"qualifier":153}}}"#,
            r#"{"member":3,"first":20,"do":{"short_reply":{"len":0}}}"#,
            r#"{"member":3,"first":20,"do":{"short_reply":{"len":8}}}"#,
            r#"{"member":3,"do":{"status":{"status":11,"qualifier":0}}}"#,
        ],
        round: slow_reads,
    },
];

fn raw(path: &Path) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    // The helper may hang up at any time, and hold this one back.
    let timeout = Some(Duration::from_millis(500));
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        timeout,
    )?;
    Ok(socket)
}

fn bytes(request: &Request) -> Vec<u8> {
    let mut buffer: MessageBuf = [0; MAX_MESSAGE];
    let len = request.encode(1, &mut buffer);
    buffer.get(..len).unwrap_or_default().to_vec()
}

fn hello() -> Vec<u8> {
    bytes(&Request::Hello(Hello {
        version: 1,
        max_message: MAX_MESSAGE as u32,
        features: 0,
        name: Name::new("attacker vf=1 pid=1"),
    }))
}

fn open(member: u16, proof: Proof) -> Vec<u8> {
    bytes(&Request::Open(Open {
        member,
        proof,
        virtio_id: 0,
        serial: 0,
    }))
}

fn query() -> Vec<u8> {
    bytes(&Request::Query {
        what: QueryKind::COUNTERS,
        member: 0,
    })
}

fn read() -> Vec<u8> {
    bytes(&Request::Read {
        space: Space::Common,
        offset: 18,
        len: 1,
    })
}

/// Whether the helper still takes something on this connection.
fn put(socket: &OwnedFd, message: &[u8]) -> bool {
    send(socket, message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

fn get(socket: &OwnedFd) -> bool {
    let mut buffer = [0; MAX_MESSAGE];
    matches!(recv(socket, &mut buffer[..], RecvFlags::empty()), Ok((_, len)) if len > 0)
}

fn with_files(socket: impl AsFd, message: &[u8], files: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    control.push(SendAncillaryMessage::ScmRights(files))
        && sendmsg(socket, &[IoSlice::new(message)], &mut control, flags).is_ok()
}

/// A connection that was bound to the attacker's VF, or at least tried to be.
fn opened(path: &Path) -> Result<OwnedFd> {
    let socket = raw(path)?;
    for message in [hello(), open(OWN, Proof::NONE)] {
        if put(&socket, &message) {
            get(&socket);
        }
    }
    Ok(socket)
}

/// A socket in which a TCP connection is in flight that lingers when it is closed. Its other end
/// stays open, and reads nothing.
fn nested(keep: &mut Vec<OwnedFd>) -> Result<UnixStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let slow = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    set_socket_linger(&slow, Some(Duration::from_secs(30_000)))?;
    slow.set_nonblocking(true)?;
    while (&slow).write(&[0; 65536]).is_ok() {}
    keep.push(peer.into());
    let (outer, inner) = UnixStream::pair()?;
    ensure!(with_files(&inner, b"z", &[slow.as_fd()]), "not sent");
    Ok(outer)
}

/// Closes it without waiting for that: if the helper was faster, it is this process that lingers.
fn leave(file: UnixStream) {
    std::thread::spawn(move || drop(file));
}

fn nested_linger(path: &Path, keep: &mut Vec<OwnedFd>) -> Result<()> {
    let file = nested(keep)?;
    let socket = raw(path)?;
    put(&socket, &hello());
    // The helper is kept busy with this connection, so that the file is closed here before it is
    // looked at there.
    for _ in 0..12 {
        put(&socket, &query());
    }
    with_files(&socket, &open(1, Proof::VFIO_FD), &[file.as_fd()]);
    leave(file);
    while get(&socket) {}
    Ok(())
}

fn linger_before_accept(path: &Path, keep: &mut Vec<OwnedFd>) -> Result<()> {
    let file = nested(keep)?;
    let socket = raw(path)?;
    with_files(&socket, &hello(), &[file.as_fd()]);
    leave(file);
    Ok(())
}

fn many_files(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    let socket = raw(path)?;
    put(&socket, &hello());
    for _ in 0..8 {
        with_files(
            &socket,
            &open(1, Proof::VFIO_FD),
            &[null.as_fd(); MOST_FILES],
        );
    }
    while get(&socket) {}
    Ok(())
}

fn idle(path: &Path, keep: &mut Vec<OwnedFd>) -> Result<()> {
    let socket = raw(path)?;
    put(&socket, &hello());
    keep.push(socket);
    Ok(())
}

fn connects(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    for _ in 0..100 {
        raw(path)?;
    }
    Ok(())
}

/// Sends `message` 16 deep, and as many again as are answered, up to `more`.
fn deep(path: &Path, message: &[u8], more: u32) -> Result<()> {
    let socket = opened(path)?;
    for _ in 0..16 {
        put(&socket, message);
    }
    for _ in 0..more {
        if !get(&socket) || !put(&socket, message) {
            break;
        }
    }
    Ok(())
}

fn reads(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    deep(path, &read(), 500)
}

/// Each answer may take until a deadline.
fn slow_reads(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    deep(path, &read(), 8)
}

fn queries(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    deep(path, &query(), 500)
}

fn notifications(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    let socket = opened(path)?;
    let mut buffer: MessageBuf = [0; MAX_MESSAGE];
    let len = Request::Notify { queue: 0 }.encode_no_reply(1, &mut buffer);
    let message = buffer.get(..len).unwrap_or_default();
    for _ in 0..2000 {
        // Waits for room.
        if send(&socket, message, SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    Ok(())
}

fn never_reads(path: &Path, keep: &mut Vec<OwnedFd>) -> Result<()> {
    let socket = raw(path)?;
    put(&socket, &hello());
    for _ in 0..5000 {
        if !put(&socket, &query()) {
            break;
        }
    }
    keep.push(socket);
    Ok(())
}

fn garbage(path: &Path, keep: &mut Vec<OwnedFd>) -> Result<()> {
    let _none = keep;
    let mut state = u64::from(std::process::id()) << 20 | 0x9e37_79b9;
    for len in (0..MAX_MESSAGE + 200).step_by(211) {
        let socket = raw(path)?;
        if len % 2 == 0 {
            put(&socket, &hello());
        }
        let message: Vec<u8> = (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 24) as u8
            })
            .collect();
        put(&socket, &message);
    }
    Ok(())
}

fn killed(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    for step in 0..4 {
        let socket = raw(path)?;
        let messages = [hello(), open(OWN, Proof::NONE), read()];
        for message in messages.iter().take(step) {
            put(&socket, message);
        }
        // Closed without waiting for anything.
    }
    Ok(())
}

fn refused_opens(path: &Path, _keep: &mut Vec<OwnedFd>) -> Result<()> {
    let socket = raw(path)?;
    put(&socket, &hello());
    get(&socket);
    for _ in 0..200 {
        if !put(&socket, &open(1, Proof::NONE)) || !get(&socket) {
            break;
        }
    }
    Ok(())
}

/// The attack of this name, on the helper at `path`: tells when the first round is done, and goes on.
///
/// # Errors
/// If there is no such attack, or what it needs.
pub(crate) fn attack(name: &str, path: &Path) -> Result<()> {
    let Some(attack) = ATTACKS.iter().find(|a| a.name == name) else {
        bail!("no attack {name}");
    };
    let mut keep = Vec::new();
    let mut rounds = 0u64;
    loop {
        // Being refused is what an attacker has to expect, and running out of files.
        if (attack.round)(path, &mut keep).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if keep.len() > 300 {
            keep.drain(..100);
        }
        rounds += 1;
        if rounds == 1 {
            println!("begun");
            std::io::stdout().flush()?;
        }
    }
}
