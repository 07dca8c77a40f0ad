// SPDX-License-Identifier: GPL-2.0-or-later
//! The program with as many VFs as a PF of the simulator can have, each with a client.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use legacy_vf_proto::{
    decode_incoming, Hello, Incoming, Name, Open, Proof, QueryKind, Reply, Request, Space,
    MAX_MESSAGE, VERSION,
};
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

const VFS: u16 = 2048;
/// Memory of the helper: of itself, and for each VF with a client.
const BASE_KIB: u64 = 12 * 1024;
const KIB_PER_VF: u64 = 32;

/// `VLVF_SIM`, or the program beside this test.
fn simulator() -> PathBuf {
    if let Some(given) = std::env::var_os("VLVF_SIM") {
        return given.into();
    }
    let here = std::env::current_exe().unwrap();
    let beside = here.parent().and_then(Path::parent).unwrap();
    let beside = beside.join("virtio-pf-sim");
    assert!(
        beside.is_file(),
        "no simulator: `cargo build -p virtio_pf_sim`, or name the program in VLVF_SIM"
    );
    beside
}

/// A program that says `ready`; it ends with this.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let program = Program(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        program
    }

    /// Resident memory in KiB.
    fn resident(&self) -> u64 {
        let status = format!("/proc/{}/status", self.0.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

struct Client(OwnedFd);

impl Client {
    fn connect(path: &Path) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(60))).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let client = Client(socket);
        let hello = Request::Hello(Hello {
            version: VERSION,
            max_message: MAX_MESSAGE as u32,
            features: 0,
            name: Name::new("test"),
        });
        client.ask(&hello, |reply| assert!(matches!(reply, Reply::Hello(_))));
        client
    }

    fn ask<T>(&self, request: &Request, take: impl FnOnce(&Reply<'_>) -> T) -> T {
        let mut buf = [0; MAX_MESSAGE];
        let len = request.encode(1, &mut buf);
        send(&self.0, &buf[..len], SendFlags::NOSIGNAL).unwrap();
        let (_, len) = recv(&self.0, &mut buf[..], RecvFlags::empty()).unwrap();
        match decode_incoming(&buf[..len]).unwrap() {
            Incoming::Reply(_, reply) => take(&reply),
            Incoming::Event(e) => panic!("{e:?}"),
        }
    }
}

#[test]
fn memory_grows_with_the_number_of_vfs_and_no_more() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let vfs = VFS.to_string();
    let _sim = Program::start(
        Command::new(simulator())
            .arg("--dir")
            .arg(dir.path())
            .args(["--type", "net", "--log", "error", "--vfs", &vfs]),
    );
    let socket = dir.path().join("helper.sock");
    let helper = Program::start(
        Command::new(env!("CARGO_BIN_EXE_qemu-virtio-admin-helper"))
            .arg("--pf-socket")
            .arg(dir.path().join("pf.sock"))
            .arg("--socket")
            .arg(&socket)
            .args(["--log", "warn", "--command-timeout", "60s", "--vfs", &vfs])
            .env_remove("NOTIFY_SOCKET"),
    );
    let idle = helper.resident();
    let clients: Vec<Client> = (1..=VFS)
        .map(|member| {
            let client = Client::connect(&socket);
            let open = Request::Open(Open {
                member,
                proof: Proof::NONE,
                virtio_id: 1,
                serial: 0,
            });
            client.ask(&open, |reply| {
                let Reply::Open(opened) = reply else {
                    panic!("VF {member}: {reply:?}")
                };
                assert_eq!((opened.member, opened.num_vfs), (member, VFS));
                assert_ne!(opened.notify_bar, 0, "VF {member} has an address");
            });
            client
        })
        .collect();
    let read = Request::Read {
        space: Space::Common,
        offset: 18,
        len: 1,
    };
    for client in &clients {
        client.ask(&read, |reply| assert!(matches!(reply, Reply::Read { .. })));
    }
    let used = helper.resident();
    let most = BASE_KIB + KIB_PER_VF * u64::from(VFS);
    println!("{idle} KiB without clients, {used} KiB with {VFS}");
    assert!(used <= most, "{used} KiB, {most} are allowed");
    assert!(idle <= most);
    let counters = Request::Query {
        what: QueryKind::COUNTERS,
        member: 0,
    };
    let shown: serde_json::Value = clients[0].ask(&counters, |reply| match reply {
        Reply::Query { json } => serde_json::from_str(json).unwrap(),
        other => panic!("{other:?}"),
    });
    // Of the start, one each; of the VFs, one each.
    let pf = &shown["helper"]["pf"];
    for (name, count) in [
        ("LIST_QUERY", 1),
        ("LIST_USE", 1),
        ("LEGACY_NOTIFY_INFO", u64::from(VFS)),
        ("LEGACY_COMMON_CFG_READ", u64::from(VFS)),
        ("recoveries", 0),
    ] {
        assert_eq!(pf[name].as_u64().unwrap_or(0), count, "{name}: {pf}");
    }
}
