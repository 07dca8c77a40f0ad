// SPDX-License-Identifier: GPL-2.0-or-later
//! The program from outside: options, texts, exit codes.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};
use std::time::Duration;

use helper_server::listener::{Listener, SocketOptions};
use test_kit::patience::OwnTime;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qemu-virtio-admin-helper"))
        .args(args)
        .env_remove("NOTIFY_SOCKET")
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

const PF: [&str; 4] = ["--pf-socket", "/nonexistent/pf.sock", "--vfs", "2"];

fn with<'a>(base: &[&'a str], extra: &[&'a str]) -> Vec<&'a str> {
    base.iter().chain(extra).copied().collect()
}

#[test]
fn wrong_command_lines_are_explained() {
    fails(&[], 2, "--pf <ADDRESS>");
    fails(&["--vfs", "2"], 2, "--pf-socket <PATH>");
    fails(&["--pf-socket", "/a", "--socket", "/b"], 2, "--vfs <N>");
    fails(&PF, 2, "--socket <PATH>");
    let base = with(&PF, &["--socket", "/nonexistent/helper.sock"]);
    for (extra, text) in [
        (&["--bad"][..], "unexpected argument '--bad'"),
        (
            &["--vfs", "0"],
            "the argument '--vfs <N>' cannot be used multiple times",
        ),
        (&["--retry", "x"], "invalid value 'x' for '--retry <N>'"),
        (&["--retry", "1001"], "1001 is not in 0..=1000"),
        (&["--max-connections", "0"], "0 is not in 1..=4096"),
        (
            &["--log-format", "xml"],
            "possible values: text, journal, json",
        ),
        (
            &["--existing-vfs", "maybe"],
            "possible values: same, adopt, replace",
        ),
        (
            &["--socket-mode", "0666"],
            "--socket-mode 0666: the owner must have, and others must not",
        ),
        (
            &["--command-timeout", "never"],
            "--command-timeout never: not a time",
        ),
        (&["--queue-size", "3"], "queue size 3 is not a power of two"),
        (
            &["--socket-group", "no-such-group"],
            "--socket-group no-such-group: no such group",
        ),
        (
            &["--user", "no-such-user"],
            "--user no-such-user: no such user",
        ),
        (
            &["--user", "4000001"],
            "--user 4000001: no account has this number, so give its group as well, as in \
             4000001:4000001",
        ),
        (&["--seccomp", "maybe"], "possible values: kill, log, off"),
        (&["--log", "a=b=c"], "--log a=b=c: not a log filter"),
    ] {
        fails(&with(&base, extra), 2, text);
    }
    fails(
        &["--pf-socket", "/a", "--vfs", "0", "--socket", "/b"],
        2,
        "0 is not in 1..=65535",
    );
    fails(
        &["--pf-socket", "/a", "--vfs", "1", "--socket", "/a"],
        2,
        "--socket and --pf-socket are the same file",
    );
    // Questions are another program's.
    fails(&["list"], 2, "unexpected argument 'list'");
}

#[test]
fn questions_are_for_the_other_program() {
    for question in ["list", "show", "stats"] {
        let hint = format!("virtio-legacy-vf {question}");
        fails(&[question, "--json"], 2, &hint);
    }
}

#[test]
fn options_of_a_pf_of_the_host() {
    let pf = ["--pf", "0000:ff:1f.7"];
    for (args, text) in [
        (
            &["--pf", "eth0"][..],
            "give DOMAIN:BUS:DEVICE.FUNCTION, as in",
        ),
        (
            &["--pf", "0000:ff:1f.7", "--pf-socket", "/a"],
            "cannot be used with",
        ),
        (
            &["--pf", "0000:ff:1f.7", "--vf-token", "1234"],
            "not a UUID; make one with uuidgen",
        ),
        (
            &["--pf", "0000:ff:1f.7", "--vfio-interface", "noiommu"],
            "possible values: auto, group, iommufd",
        ),
        (
            &["--pf", "0000:ff:1f.7", "--allow-unproven-uid", "no-such"],
            "--allow-unproven-uid no-such: no such user",
        ),
    ] {
        fails(args, 2, text);
    }
    for option in [
        &["--bind"][..],
        &["--vf-token", "14d63f20-8445-11ea-8900-1f9ce7d5650d"],
        &["--allow-unproven-uid", "0"],
    ] {
        let base = with(&PF, &["--socket", "/nonexistent/helper.sock"]);
        fails(&with(&base, option), 2, "cannot be used with");
    }
    // No such function here, which is said after the socket was made, and leaves nothing behind.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("pf.sock").display().to_string();
    let args = with(&pf, &["--socket", &socket]);
    fails(
        &args,
        3,
        "PF 0000:ff:1f.7: there is no such PCI function; list the virtio ones: lspci",
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // A kept token that others could have written is not used.
    let token = dir.path().join("0000:ff:1f.7.token");
    std::fs::write(&token, "14d63f20-8445-11ea-8900-1f9ce7d5650d").unwrap();
    fails(&args, 3, "mode 0600");
}

#[test]
fn help_and_version() {
    let o = run(&["--help"]);
    assert!(o.status.success());
    for text in ["--pf-socket", "--socket-mode", "[default: 0660]"] {
        assert!(stdout(&o).contains(text), "{text}");
    }
    let o = run(&["--version"]);
    assert_eq!(
        stdout(&o),
        format!("qemu-virtio-admin-helper {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn socket_trouble_comes_before_the_pf_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let missing = path("none/helper.sock");
    fails(
        &with(&PF, &["--socket", &missing]),
        4,
        &format!("create it first: mkdir -m 0755 -p {}", path("none")),
    );
    let file = path("file");
    std::fs::write(&file, "").unwrap();
    fails(
        &with(&PF, &["--socket", &file]),
        4,
        "exists and is not a socket",
    );
    let long = path(&"x".repeat(120));
    fails(
        &with(&PF, &["--socket", &long]),
        4,
        "can have at most 107 bytes",
    );
    let live = path("live.sock");
    let listener = Listener::bind(&SocketOptions {
        path: live.clone().into(),
        mode: 0o600,
        owner: None,
        group: None,
    })
    .unwrap();
    fails(
        &with(&PF, &["--socket", &live]),
        4,
        "Another helper serves this PF",
    );
    assert!(listener.path().exists());
}

#[test]
fn a_pf_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("helper.sock").display().to_string();
    let start = OwnTime::start();
    fails(
        &with(&PF, &["--socket", &socket, "--start-timeout", "300ms"]),
        3,
        "/nonexistent/pf.sock",
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    // Nothing stays behind.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    // A PF that accepts and says nothing.
    let mute = dir.path().join("mute.sock");
    let listener = std::os::unix::net::UnixListener::bind(&mute).unwrap();
    let mute = mute.display().to_string();
    let start = OwnTime::start();
    fails(
        &[
            "--pf-socket",
            &mute,
            "--vfs",
            "1",
            "--socket",
            &socket,
            "--start-timeout",
            "500ms",
        ],
        3,
        &mute,
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    drop(listener);
}
