// SPDX-License-Identifier: GPL-2.0-or-later
//! The simulator against code that is not ours: QEMU's stock `vfio-user-pci` and Linux's modern
//! virtio drivers, on VFs and on the PF itself. No leniency is switched on.
//!
//! Not run by default, because it needs programs from elsewhere:
//!
//! * `VLVF_QEMU`: qemu-system-x86_64 with vfio-user-pci (an unchanged one will do);
//! * `VLVF_GUEST_ROOT`: a directory into which a Debian kernel package, busybox-static and SeaBIOS
//!   (seabios, qemu-system-data) were unpacked.
//!
//! `cargo test -p virtio_pf_sim --test guest -- --ignored`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_virtio-pf-sim");
/// A boot and the transfers take about a minute under TCG on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in $(cat /modules); do insmod /m/$m || echo "NO MODULE $m"; done
sleep 1
for d in /sys/bus/virtio/devices/*; do
  p=$(readlink -f $d/..)
  echo "VIRTIO $(cat $d/device) status $(cat $d/status) pci $(cat $p/device) rev $(cat $p/revision)"
done
n=2
for i in /sys/class/net/eth*; do
  [ -e $i ] || continue
  e=$(basename $i); ip link set $e up; ip addr add 10.0.77.$n/24 dev $e; sleep 0.3
  echo "NET $e $(cat $i/address) carrier $(cat $i/carrier)"
  echo "PING $(ping -c 100 -i 0.01 10.0.77.1 | grep received)"
  dd if=/dev/urandom of=/tmp/f bs=1M count=64 2>/dev/null
  [ "$(sha256sum </tmp/f | cut -c1-64)" = "$(nc 10.0.77.1 9001 </tmp/f)" ] && echo "UP OK" || echo "UP BAD"
  [ "$(echo 64 | nc 10.0.77.1 9002 | sha256sum | cut -c1-64)" = "$(echo 64 | nc 10.0.77.1 9003)" ] \
    && echo "DOWN OK" || echo "DOWN BAD"
  ip link set $e down; n=$((n+1))
done
for i in /sys/block/vd*; do
  [ -e $i ] || continue
  b=$(basename $i); echo "BLK $(cat $i/size) ro $(cat $i/ro)"
  dd if=/dev/urandom of=/tmp/f bs=1M count=32 2>/dev/null; s=$(sha256sum </tmp/f)
  dd if=/tmp/f of=/dev/$b bs=1M conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches
  [ "$s" = "$(dd if=/dev/$b bs=1M count=32 2>/dev/null | sha256sum)" ] && echo "DISK OK" || echo "DISK BAD"
done
grep virtio /proc/interrupts
echo "GUEST DONE"; poweroff -f
"#;

fn env(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set; see the file's head"))
        .into()
}

fn find(root: &Path, name: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).ok()?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type().ok()?);
            if kind.is_dir() {
                dirs.push(path);
            } else if entry.file_name().to_str().is_some_and(name) {
                return Some(path);
            }
        }
    }
    None
}

/// An initial file system in the "newc" format.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        let device = if mode & 0o170_000 == 0o20_000 {
            (5, 1)
        } else {
            (0, 0)
        };
        let size = data.len() as u32;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1];
        let mut head = "070701".to_owned();
        for field in fields.into_iter().chain([name.len() as u32 + 1, 0]) {
            head.push_str(&format!("{field:08x}"));
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

const MODULES: [&str; 9] = [
    "virtio_ring.ko",
    "virtio.ko",
    "virtio_pci_modern_dev.ko",
    "virtio_pci_legacy_dev.ko",
    "virtio_pci.ko",
    "failover.ko",
    "net_failover.ko",
    "virtio_net.ko",
    "virtio_blk.ko",
];

fn initrd(root: &Path) -> Vec<u8> {
    let mut cpio = Cpio::default();
    for dir in ["bin", "m", "proc", "sys", "dev", "tmp"] {
        cpio.add(dir, 0o40_755, &[]);
    }
    cpio.add("dev/console", 0o20_600, &[]);
    let busybox = find(root, &|n| n == "busybox").expect("no busybox below VLVF_GUEST_ROOT");
    // The directory of initramfs hooks has a file of that name, too.
    let busybox = match fs::metadata(&busybox).unwrap().len() {
        0..=100_000 => root.join("bin/busybox"),
        _ => busybox,
    };
    cpio.add("bin/busybox", 0o100_755, &fs::read(busybox).unwrap());
    let mut there = String::new();
    for module in MODULES {
        // What is not a module is built in.
        if let Some(path) = find(&root.join("lib/modules"), &|n| n == module) {
            cpio.add(&format!("m/{module}"), 0o100_644, &fs::read(path).unwrap());
            there.push_str(module);
            there.push('\n');
        }
    }
    cpio.add("modules", 0o100_644, there.as_bytes());
    cpio.add("init", 0o100_755, INIT.as_bytes());
    cpio.add("TRAILER!!!", 0, &[]);
    cpio.bytes
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn simulator(dir: &Path, args: &[&str]) -> Killed {
    let mut child = Command::new(PROGRAM)
        .arg("--dir")
        .arg(dir)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    Killed(child)
}

/// Boots a guest with stock vfio-user-pci devices on these sockets; what it said.
fn boot(work: &Path, sockets: &[PathBuf]) -> String {
    let root = env("VLVF_GUEST_ROOT");
    let kernel = find(&root.join("boot"), &|n| n.starts_with("vmlinuz")).expect("no kernel");
    fs::write(work.join("initrd"), initrd(&root)).unwrap();
    let firmware = work.join("firmware");
    let _ = fs::create_dir(&firmware);
    for name in ["bios-256k.bin", "linuxboot_dma.bin", "kvmvapic.bin"] {
        let path = find(&root.join("usr/share"), &|n| n == name).expect("no SeaBIOS");
        fs::copy(path, firmware.join(name)).unwrap();
    }
    let mut qemu = Command::new(env("VLVF_QEMU"));
    qemu.arg("-L").arg(&firmware);
    qemu.args([
        "-machine",
        "q35,memory-backend=ram",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "768",
    ]);
    qemu.args([
        "-object",
        "memory-backend-memfd,id=ram,size=768M,share=on",
        "-nodefaults",
    ]);
    qemu.args([
        "-display",
        "none",
        "-monitor",
        "none",
        "-no-reboot",
        "-serial",
    ]);
    qemu.arg(format!("file:{}", work.join("console").display()));
    qemu.arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(work.join("initrd"));
    qemu.args(["-append", "console=ttyS0 quiet panic=-1"]);
    for path in sockets {
        let socket = serde_json::json!({ "type": "unix", "path": path });
        let device = serde_json::json!({ "driver": "vfio-user-pci", "socket": socket });
        qemu.arg("-device").arg(device.to_string());
    }
    let mut qemu = Killed(qemu.stdin(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + LIMIT;
    while qemu.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the guest did not end in time");
        std::thread::sleep(Duration::from_millis(200));
    }
    let text = fs::read(work.join("console")).unwrap();
    String::from_utf8_lossy(&text).replace('\r', "")
}

fn counters(dir: &Path) -> Value {
    let out = Command::new(PROGRAM)
        .arg("ctl")
        .arg("--dir")
        .arg(dir)
        .arg("counters")
        .output();
    serde_json::from_slice(&out.unwrap().stdout).unwrap()
}

fn check(said: &str, wants: &[&str]) {
    for want in wants.iter().chain(&["GUEST DONE"]) {
        assert!(said.contains(want), "{want:?} is missing in:\n{said}");
    }
    for bad in ["BAD", "NO MODULE", "Call Trace", "BUG"] {
        assert!(!said.contains(bad), "{bad:?} is in:\n{said}");
    }
}

/// One function of each kind; `name` is the socket's.
fn modern_driver_on(name: &str) {
    let work = tempfile::tempdir().unwrap();
    let (net, blk) = (work.path().join("n"), work.path().join("b"));
    let live = ["--vfs", "2", "--vfs-at-start", "2"];
    let _a = simulator(&net, &[&["--type", "net"][..], &live].concat());
    let _b = simulator(
        &blk,
        &[&["--type", "blk", "--blk-ram", "48M"][..], &live].concat(),
    );
    let sockets = [net.join(name), blk.join(name)];
    let said = boot(work.path(), &sockets);
    check(
        &said,
        &[
            "VIRTIO 0x0001 status 0x0000000f pci 0x1041 rev 0x01",
            "VIRTIO 0x0002 status 0x0000000f pci 0x1042 rev 0x01",
            "carrier 1",
            "PING 100 packets transmitted, 100 packets received",
            "UP OK",
            "DOWN OK",
            "BLK 98304 ro 0",
            "DISK OK",
            "virtio0-input.0",
            "virtio1-req.0",
        ],
    );
    let function = name.trim_end_matches(".sock");
    for (dir, used) in [(&net, "tx_frames"), (&blk, "flushes")] {
        let c = counters(dir);
        assert_eq!(
            c["hardware"]["device"]["violations"],
            serde_json::json!({}),
            "{c}"
        );
        assert_eq!(c["front"]["interrupts_lost"], 0, "{c}");
        assert!(
            c["hardware"]["functions"][function][used].as_u64() > Some(0),
            "{c}"
        );
    }
}

#[test]
#[ignore = "needs QEMU and a guest: VLVF_QEMU, VLVF_GUEST_ROOT"]
fn linux_modern_drivers_on_vfs() {
    modern_driver_on("vf1.sock");
}

#[test]
#[ignore = "needs QEMU and a guest: VLVF_QEMU, VLVF_GUEST_ROOT"]
fn linux_modern_drivers_on_the_pf() {
    modern_driver_on("pf.sock");
}
