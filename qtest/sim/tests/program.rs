// SPDX-License-Identifier: GPL-2.0-or-later
//! The program: start, end, messages, files it writes.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_virtio-pf-sim");

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

/// Starts the simulator and waits until it is ready.
fn start(dir: &Path, args: &[&str]) -> Child {
    let mut child = Command::new(PROGRAM)
        .arg("--dir")
        .arg(dir)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_ready(&mut child);
    child
}

fn wait_ready(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn it_serves_when_it_says_so_and_cleans_up_on_a_signal() {
    use rustix::process::Signal;
    for number in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("made/by/it");
        let mut child = start(&sub, &["--type", "net", "--vfs", "4"]);
        for name in ["pf.sock", "vf1.sock", "vf4.sock", "ctl.sock"] {
            UnixStream::connect(sub.join(name)).unwrap();
        }
        assert!(!sub.join("vf5.sock").exists());
        signal(&child, number);
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read_dir(&sub).unwrap().count(), 0);
    }
}

#[test]
fn consoles_have_their_sockets_even_where_few_descriptors_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("made/by/it");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -S -n 128; exec \"$@\"", "sh", PROGRAM])
        .args(["--type", "console", "--vfs", "60", "--console-ports", "3"])
        .arg("--dir")
        .arg(&sub)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.as_mut().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let clients: Vec<_> = (1..=60)
        .flat_map(|vf| [format!("vf{vf}.console"), format!("vf{vf}.port3")])
        .map(|name| UnixStream::connect(sub.join(name)).unwrap())
        .collect();
    assert_eq!(clients.len(), 120);
    signal(&child, rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(&sub).unwrap().count(), 0);
}

#[test]
fn the_control_client_tells_success_by_its_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let out = run(&["ctl", "--dir", path, "ping"]);
    assert!(!out.status.success());
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(text.contains("is the simulator running?"), "{text}");

    let mut child = start(dir.path(), &["--type", "blk", "--blk-ram", "1M"]);
    let out = run(&["ctl", "--dir", path, "resize", "vf=1", "bytes=2097152"]);
    assert!(out.status.success(), "{out:?}");
    let out = run(&["ctl", "--dir", path, "resize", "vf=1"]);
    assert!(!out.status.success());
    let reply: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(reply["ok"], false);
    let out = run(&["ctl", "--dir", path, "quit"]);
    assert!(out.status.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn files_are_written_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (log, pcap) = (dir.path().join("log"), dir.path().join("pcap"));
    let args = [
        "--type",
        "net",
        "--vfs-at-start",
        "1",
        "--event-log",
        log.to_str().unwrap(),
    ];
    let more = ["--pcap", pcap.to_str().unwrap(), "--event-limit", "1"];
    let mut child = start(&dir.path().join("s"), &[&args[..], &more[..]].concat());
    signal(&child, rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].contains("limit_reached"));
    assert_eq!(std::fs::read(&pcap).unwrap().len(), 24);
}

/// Turns of the loop while nothing happens for a moment.
fn idle_turns(args: &[&str]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut child = start(dir.path(), &[&["--type", "rng"], args].concat());
    let turns = || {
        let out = run(&["ctl", "--dir", path, "counters"]);
        let reply: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        reply.pointer("/front/turns").unwrap().as_u64().unwrap()
    };
    let before = turns();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let passed = turns() - before;
    signal(&child, rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
    passed
}

#[test]
fn it_sleeps_when_idle_unless_it_is_to_stay_awake() {
    let asleep = idle_turns(&[]);
    let awake = idle_turns(&["--busy-poll", "1000000"]);
    assert!(asleep < 20, "{asleep} turns while idle");
    assert!(awake > 200, "{awake} turns while awake");
}

#[test]
fn wrong_use_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let cases: [(&[&str], &str); 11] = [
        (&[], "--dir <DIR>"),
        (
            &["--dir", path, "--type", "tape"],
            "possible values: net, blk",
        ),
        (&["--dir", path, "--type", "net", "--vfs", "0"], "1 to 2048"),
        (
            &["--dir", path, "--type", "net", "--read-only"],
            "no sense with --type net",
        ),
        (
            &[
                "--dir",
                path,
                "--type",
                "blk",
                "--blk-file",
                "/nonexistent/x",
            ],
            "/nonexistent/x",
        ),
        (
            &["--dir", path, "--type", "net", "--knob", "x=1"],
            "unknown knob",
        ),
        (
            &["--dir", "/proc/nowhere", "--type", "net"],
            "cannot create directory /proc/nowhere",
        ),
        (
            &["--dir", path, "--type", "net", "--fault", "{}"],
            "--fault {}",
        ),
        (
            &["--dir", path, "--type", "9p", "--share", "/nonexistent/x"],
            "/nonexistent/x",
        ),
        (
            &["--dir", path, "--type", "blk", "--tag", "x"],
            "--tag makes no sense with --type blk",
        ),
        (
            &["--dir", path, "--type", "scsi", "--scsi-block-size", "100"],
            "block size 100",
        ),
    ];
    for (args, want) in cases {
        let out = run(args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "{args:?}");
        assert!(text.contains(want), "{args:?}: {text}");
        assert!(out.stdout.is_empty());
    }
    let long = dir.path().join("x".repeat(120));
    let out = run(&["--dir", long.to_str().unwrap(), "--type", "net"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot listen on"));
}

#[test]
fn a_small_descriptor_limit_is_raised_or_explained() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "ulimit -n 64; exec {PROGRAM} --dir {}/s --type net --vfs 64",
        dir.path().display()
    );
    let out = Command::new("sh").arg("-c").arg(&script).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success());
    assert!(
        text.contains("194 file descriptors are needed for 64 VFs, the limit is 64"),
        "{text}"
    );
    let script = script.replace("ulimit -n 64", "ulimit -Sn 64");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_ready(&mut child);
    signal(&child, rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
}
