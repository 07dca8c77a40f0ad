// SPDX-License-Identifier: GPL-2.0-or-later
//! As many VFs as a PF can have: sockets, files, threads, memory, start.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use rustix::time::{clock_gettime, ClockId};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use vfio_user_wire::{DeviceInfo, Reply, Request, REGION_CONFIG};
use virtio_modern_spec::sriov;
use virtio_pci_spec::{ids, DeviceType};
use virtio_pf_model::net::config::NetSettings;
use virtio_pf_model::{ModelConfig, MAX_VFS};
use virtio_pf_sim::descriptors;
use virtio_pf_sim::device::config::{DeviceOptions, TypeOptions};
use virtio_pf_sim::device::Device;

const PROGRAM: &str = env!("CARGO_BIN_EXE_virtio-pf-sim");
/// Where the model has its SR-IOV capability.
const SRIOV: u64 = 0x140;

/// A simulator of the program, begun by a shell after `before`.
struct Program {
    child: Child,
    dir: tempfile::TempDir,
}

fn command(before: &str, dir: &tempfile::TempDir, vfs: u16, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before}; exec \"$@\""), "sh", PROGRAM])
        .args(["--vfs", &vfs.to_string(), "--log", "warn"])
        .arg("--dir")
        .arg(dir.path())
        .args(args);
    command
}

impl Program {
    fn start(before: &str, vfs: u16, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = command(before, &dir, vfs, args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, dir }
    }

    fn client(&self, name: &str) -> Client {
        let mut client = Client::connect(&self.dir.path().join(name));
        client.hello();
        client
    }

    fn proc(&self, what: &str) -> String {
        format!("/proc/{}/{what}", self.child.id())
    }

    fn entries(&self, what: &str) -> u64 {
        std::fs::read_dir(self.proc(what)).unwrap().count() as u64
    }

    /// Resident memory in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    fn ctl(&self, words: &[&str]) -> serde_json::Value {
        let mut ctl = Command::new(PROGRAM);
        ctl.args(["ctl", "--dir"]).arg(self.dir.path()).args(words);
        serde_json::from_slice(&ctl.output().unwrap().stdout).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config16(client: &mut Client, at: u64) -> u16 {
    let b = client.read(REGION_CONFIG, at, 2);
    u16::from_le_bytes([b[0], b[1]])
}

// Covers: SRV-01, GRP-02
#[test]
fn every_vf_has_its_socket_and_may_have_its_client() {
    descriptors::raise_fully();
    // A soft limit that is too low is raised.
    let sim = Program::start("ulimit -S -n 256", MAX_VFS, &["--type", "net"]);
    let unused = sim.entries("fd");
    let mut pf = sim.client("pf.sock");
    assert_eq!(config16(&mut pf, SRIOV + sriov::TOTAL_VFS as u64), MAX_VFS);
    let num = SRIOV + sriov::NUM_VFS as u64;
    pf.write(REGION_CONFIG, num, &MAX_VFS.to_le_bytes());
    let on = sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE;
    let control = SRIOV + sriov::CONTROL as u64;
    pf.write(REGION_CONFIG, control, &on.to_le_bytes());
    let mut clients = Vec::new();
    for n in 1..=MAX_VFS {
        let mut client = sim.client(&format!("vf{n}.sock"));
        assert_eq!(config16(&mut client, 0), ids::VENDOR, "VF {n}");
        // Each keeps what was written to it alone.
        client.write(REGION_CONFIG, 0x3c, &[n as u8]);
        clients.push(client);
    }
    for (client, n) in clients.iter_mut().zip(1..=MAX_VFS) {
        assert_eq!(client.read(REGION_CONFIG, 0x3c, 1), [n as u8], "VF {n}");
        let answer = client.ask(&Request::GetInfo { argsz: 16 });
        let Reply::Info(DeviceInfo { num_regions, .. }) = client.decode(&answer) else {
            panic!("VF {n}: {answer:?}")
        };
        assert_eq!(num_regions, 9);
    }
    let functions = u64::from(MAX_VFS) + 1;
    assert_eq!(sim.entries("fd"), unused + functions, "one for each client");
    assert!(sim.entries("fd") <= descriptors::needed(MAX_VFS, 0));
    assert_eq!(sim.entries("task"), 1, "threads");
    drop(clients);
    let last = sim.ctl(&["counters", "vf=2048"]);
    let of = last.pointer("/hardware/functions").unwrap();
    assert_eq!(of.as_object().map(|m| m.len()), Some(1), "{last}");
    assert!(of["vf2048"].is_object(), "{last}");
    assert_eq!(last.pointer("/hardware/live_vfs").unwrap(), MAX_VFS);
}

#[test]
fn an_unused_vf_takes_little_memory() {
    let live = |vfs: u16| {
        Program::start(
            "true",
            vfs,
            &["--type", "net", "--vfs-at-start", &vfs.to_string()],
        )
    };
    let (few, many) = (live(255), live(MAX_VFS));
    let more = many.memory().saturating_sub(few.memory());
    let each = more / u64::from(MAX_VFS - 255);
    assert!(each < 8 << 10, "{each} bytes each");
}

#[test]
fn a_hard_limit_that_is_too_low_is_explained() {
    for (kind, need) in [("net", 64 + 2049 * 2), ("console", 64 + 2049 * (2 + 2 + 2))] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command("ulimit -n 1000", &dir, MAX_VFS, &["--type", kind]);
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let text = String::from_utf8_lossy(&stderr);
        assert!(!status.success() && stdout.is_empty(), "{kind}");
        let want = format!("{need} file descriptors are needed for 2048 VFs, the limit is 1000");
        assert!(text.contains(&want), "{text}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left"
        );
    }
}

/// Processor time of this thread for building a device whose VFs all live, in nanoseconds.
fn effort(vfs: u16) -> i64 {
    let now = || {
        let t = clock_gettime(ClockId::ThreadCPUTime);
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    };
    let mut model = ModelConfig::new(DeviceType::Net, vfs);
    model.vfs_at_start = vfs;
    let options = DeviceOptions {
        model,
        device: TypeOptions::Net {
            settings: NetSettings::default(),
            capture: false,
        },
        faults: Vec::new(),
    };
    let before = now();
    let mut device = Device::new(&options).unwrap();
    let spent = now() - before;
    assert_eq!(device.model().live_vfs(), vfs);
    spent
}

#[test]
fn the_start_takes_as_much_for_each_vf_however_many_there_are() {
    let least = |vfs| (0..5).map(|_| effort(vfs)).min().unwrap_or(0);
    let (few, many) = (least(MAX_VFS / 16), least(MAX_VFS));
    // 16 if the effort is linear, 256 if it is quadratic. Sockets are left out: what one of them takes
    // is the file system's, which is not ours to count.
    let ratio = many / few.max(1);
    assert!(
        ratio < 64,
        "{few} ns for {}, {many} ns for {MAX_VFS}",
        MAX_VFS / 16
    );
}
