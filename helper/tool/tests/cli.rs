// SPDX-License-Identifier: GPL-2.0-or-later
//! Questions to a helper with a fake PF: tables, JSON, texts, exit codes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use helper_server::fake::FakeBackend;
use helper_server::listener::{Listener, SocketOptions};
use helper_server::{Ended, Hub, HubConfig, Reactor, ReactorConfig};
use legacy_vf_proto::client::{Client, Received};
use legacy_vf_proto::{Name, Open, Proof, Reply, Request, Space, MAX_MESSAGE};
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_virtio-legacy-vf"))
        .args(args)
        .output()
        .unwrap()
}

fn stderr(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

fn stdout(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn fails(args: &[&str], code: i32, text: &str) {
    let o = run(args);
    let err = stderr(&o);
    assert_eq!(o.status.code(), Some(code), "{args:?}: {err}");
    assert!(err.contains(text), "{args:?}: {err}");
    assert!(!err.contains("panicked"), "{err}");
}

/// A helper with a fake PF in a thread of this process.
struct Server {
    path: PathBuf,
    dir: tempfile::TempDir,
    stop: UnixStream,
    thread: Option<JoinHandle<Ended>>,
}

impl Server {
    fn start(vfs: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fake.sock");
        let listener = Listener::bind(&SocketOptions {
            path: path.clone(),
            mode: 0o600,
            owner: None,
            group: None,
        })
        .unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let hub = Hub::new(FakeBackend::new(vfs).unwrap(), HubConfig::default());
            let config = ReactorConfig::default();
            Reactor::new(hub, listener, stopped.into(), config)
                .unwrap()
                .run(|_| {})
        });
        Server {
            path,
            dir,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _sent = rustix::io::write(&self.stop, &[1]);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn wrong_command_lines_are_explained() {
    fails(&["show"], 2, "--socket <PATH>");
    fails(&["stats"], 2, "--socket <PATH>");
    fails(&["dance"], 2, "unrecognized subcommand 'dance'");
    fails(&[], 2, "Usage: virtio-legacy-vf <COMMAND>");
    fails(
        &["stats", "--socket", "/a", "--watch", "1ms"],
        2,
        "--watch 1ms: give a time from 10ms on",
    );
}

#[test]
fn help_and_version() {
    let o = run(&["--help"]);
    assert!(o.status.success());
    for text in ["list", "show", "stats"] {
        assert!(stdout(&o).contains(text), "{text}");
    }
    let o = run(&["--version"]);
    assert_eq!(
        stdout(&o),
        format!("virtio-legacy-vf {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn list_shows_who_serves_and_who_does_not() {
    let server = Server::start(4);
    let stale = server.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let dir = server.dir.path().display().to_string();
    let o = run(&["list", "--dir", &dir]);
    assert!(o.status.success(), "{}", stderr(&o));
    let text = stdout(&o);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("SOCKET"));
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        words[1..6],
        ["fake-pf", "net", "4", "0", "serving"],
        "{text}"
    );
    assert!(lines[2].contains("unreachable"), "{text}");
    let o = run(&["list", "--dir", &dir, "--json"]);
    let v: serde_json::Value = serde_json::from_str(&stdout(&o)).unwrap();
    assert_eq!(v[0]["answer"]["pf"]["id"], "fake-pf");
    assert!(v[1]["error"].as_str().unwrap().contains("stale.sock"));

    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().display().to_string();
    let o = run(&["list", "--dir", &empty]);
    assert_eq!(stdout(&o), format!("No helper serves in {empty}.\n"));
    fails(
        &["list", "--dir", "/nonexistent"],
        4,
        "Directory /nonexistent:",
    );
}

#[test]
fn show_and_stats_in_both_forms() {
    let server = Server::start(2);
    let path = server.path.display().to_string();
    let o = run(&["show", "--socket", &path]);
    let text = stdout(&o);
    for part in [
        "fake-pf",
        "1af4:1041 net, serial number 1122334455667788",
        "LEGACY_COMMON_CFG_READ",
        "2 enabled, 0 open",
        "owner BAR4+0x8",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().filter(|l| l.contains("free")).count(), 2);
    let o = run(&["show", "--socket", &path, "--json"]);
    let v: serde_json::Value = serde_json::from_str(&stdout(&o)).unwrap();
    assert_eq!(v["vfs"][1]["member"], 2);
    assert_eq!(v["helper"]["pid"], std::process::id());
    let o = run(&["show", "--socket", &path, "--vf", "2"]);
    assert_eq!(stdout(&o).lines().count(), 2);
    fails(
        &["show", "--socket", &path, "--vf", "3"],
        1,
        "The helper answered NO_SUCH_VF: PF fake-pf has VFs 1 to 2, no VF 3",
    );
    let o = run(&["stats", "--socket", &path]);
    assert!(
        stdout(&o).contains("Common register reads"),
        "{}",
        stdout(&o)
    );
    let o = run(&["stats", "--socket", &path, "--vf", "1", "--json"]);
    let v: serde_json::Value = serde_json::from_str(&stdout(&o)).unwrap();
    assert_eq!(
        (&v["member"], &v["accesses"]["failed"]),
        (&1.into(), &0.into())
    );
    let o = run(&[
        "stats", "--socket", &path, "--watch", "10ms", "--count", "3",
    ]);
    assert_eq!(stdout(&o).lines().count(), 4, "{}", stdout(&o));
}

#[test]
fn questions_without_a_helper_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock").display().to_string();
    fails(&["show", "--socket", &path], 4, "no helper serves there");
    let stream = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fails(&["show", "--socket", &path], 4, "not a helper's socket");
    drop(stream);
    fails(&["stats", "--socket", &path], 4, "gone without removing it");
}

/// A client that has opened a VF and read a register of it.
fn opened(path: &std::path::Path, member: u16) -> OwnedFd {
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let mut client = Client::new(Name::new("test"), 0);
    let open = Request::Open(Open {
        member,
        proof: Proof::NONE,
        virtio_id: 1,
        serial: 0,
    });
    let read = Request::Read {
        space: Space::Common,
        offset: 0,
        len: 4,
    };
    for request in [client.hello(), open, read] {
        let mut buf = [0; MAX_MESSAGE];
        let len = client.request(&request, &mut buf).unwrap();
        send(&socket, &buf[..len], SendFlags::empty()).unwrap();
        let (len, _) = recv(&socket, &mut buf[..], RecvFlags::empty()).unwrap();
        match client.receive(&buf[..len]) {
            Received::Reply(Reply::Error(e)) => panic!("{e:?}"),
            Received::Reply(_) => {}
            other => panic!("{other:?}"),
        }
    }
    socket
}

/// A value by the whole name of its sample.
fn value(text: &str, sample: &str) -> f64 {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found
        .unwrap_or_else(|| panic!("no {sample} in:\n{text}"))
        .parse()
        .unwrap()
}

#[test]
fn all_vfs_at_once_for_monitoring() {
    // More VFs than fit into a message.
    let server = Server::start(300);
    let socket = server.path.to_str().unwrap().to_owned();
    let _open: Vec<_> = (1..=100).map(|vf| opened(&server.path, vf)).collect();
    let o = run(&["stats", "--socket", &socket, "--openmetrics"]);
    let text = stdout(&o);
    assert_eq!(o.status.code(), Some(0), "{}", stderr(&o));
    assert!(text.ends_with("\n# EOF\n"));
    let pf = "pf=\"fake-pf\"";
    assert_eq!(
        value(&text, &format!("virtio_legacy_vf_vfs_enabled{{{pf}}}")),
        300.0
    );
    assert_eq!(
        value(&text, &format!("virtio_legacy_vf_vfs_open{{{pf}}}")),
        100.0
    );
    let opens = format!("virtio_legacy_vf_opens_total{{{pf}}}");
    assert_eq!(value(&text, &opens), 100.0);
    for vf in [1, 57, 100] {
        let of = |name: &str, more: &str| {
            value(
                &text,
                &format!("virtio_legacy_vf_{name}{{{pf},vf=\"{vf}\"{more}}}"),
            )
        };
        assert_eq!(of("vf_open", ""), 1.0);
        assert_eq!(of("vf_operations_total", ",operation=\"common_read\""), 1.0);
        assert_eq!(of("vf_latency_seconds_count", ""), 1.0);
        assert_eq!(of("vf_latency_seconds_bucket", ",le=\"+Inf\""), 1.0);
        assert!(of("vf_latency_seconds_sum", "") > 0.0);
        let buckets: Vec<f64> = text
            .lines()
            .filter(|l| {
                l.starts_with("virtio_legacy_vf_vf_latency_seconds_bucket")
                    && l.contains(&format!("vf=\"{vf}\""))
            })
            .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(buckets.len() == 12 && buckets.is_sorted(), "{buckets:?}");
    }
    assert!(!text.contains("vf=\"101\""), "never used");
    // Each family is described once, and its samples are together.
    let mut families: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE "))
        .collect();
    let all = families.len();
    families.dedup();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), all);
    fails(
        &["stats", "--socket", &socket, "--openmetrics", "--watch"],
        2,
        "cannot be used with",
    );
}
