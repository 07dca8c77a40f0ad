// SPDX-License-Identifier: GPL-2.0-or-later
//! Each attempt is made in a process of its own, this test program again, since a filter cannot be
//! taken off.

use super::*;
use std::fs::{File, OpenOptions};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{exit, Command};

use rustix::fs::{statx, AtFlags, StatxFlags};

/// Names the attempt to the process that makes it.
const ATTEMPT: &str = "CONFINE_TEST_ATTEMPT";
/// A file that may be removed.
const SOCKET: &str = "CONFINE_TEST_SOCKET";
const SIGSYS: i32 = libc::SIGSYS;
/// FIONREAD, which stands for a number on the list.
const LISTED: u64 = 0x541b;

/// What a process under the filter tries. `true`: it went as a helper needs it.
fn attempt(name: &str) -> bool {
    let null = File::open("/dev/null");
    match name {
        "read" => std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
            status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1")
        }),
        // As a file is looked at that a client sent.
        "proof" => null.is_ok_and(|file| {
            let own = std::path::Path::new("/proc/self");
            let fd = file.as_raw_fd().to_string();
            rustix::fs::fcntl_getfl(&file).is_ok()
                && std::fs::read_link(own.join("fd").join(&fd)).is_ok()
                && std::fs::read_to_string(own.join("fdinfo").join(&fd)).is_ok()
                && std::fs::read_dir("/sys/class").is_ok_and(|entries| entries.count() > 0)
                && std::fs::symlink_metadata("/sys/class").is_ok()
                && statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).is_ok()
        }),
        "socket file" => std::env::var_os(SOCKET).is_some_and(|path| {
            std::fs::symlink_metadata(&path).is_ok() && std::fs::remove_file(&path).is_ok()
        }),
        "write" => OpenOptions::new().write(true).open("/dev/null").is_err(),
        "create" => File::create(std::env::temp_dir().join("confine-test")).is_err(),
        "thread" => std::thread::Builder::new().spawn(|| ()).is_err(),
        "memory" => std::hint::black_box(vec![1u8; 64 << 20]).len() == 64 << 20,
        "listed ioctl" => null.is_ok_and(|file| rustix::io::ioctl_fionread(file).is_err()),
        "unlisted ioctl" => null.is_ok_and(|file| rustix::io::ioctl_fionbio(file, true).is_ok()),
        "unix socket" => std::os::unix::net::UnixDatagram::unbound().is_ok(),
        "inet socket" => UdpSocket::bind("127.0.0.1:0").is_ok(),
        "exec" => {
            let _only_on_failure = Command::new("/bin/true").exec();
            false
        }
        "chmod" => rustix::fs::fchmod(std::io::stderr(), rustix::fs::Mode::RWXU).is_ok(),
        "kill" => rustix::process::test_kill_process(rustix::process::getpid()).is_ok(),
        _ => false,
    }
}

/// What [`tried`] runs.
#[test]
fn in_a_process_of_its_own() {
    let Ok(name) = std::env::var(ATTEMPT) else {
        return;
    };
    let (name, unlisted) = match name.strip_prefix("log ") {
        Some(name) => (name, Unlisted::Log),
        None => (name.as_str(), Unlisted::Kill),
    };
    let (name, unix_sockets) = match name.strip_prefix("notify ") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let allowed = Allowed {
        ioctls: &[LISTED, LISTED + 1],
        unix_sockets,
    };
    filter(allowed, unlisted).unwrap();
    exit(if attempt(name) { 0 } else { 1 });
}

/// Exit code and signal.
fn tried(name: &str) -> (Option<i32>, Option<i32>) {
    let socket = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "calls::tests::in_a_process_of_its_own"])
        .env(ATTEMPT, name)
        .env(SOCKET, socket.path())
        .output()
        .unwrap()
        .status;
    (status.code(), status.signal())
}

#[test]
fn what_serving_needs_goes_on() {
    for name in [
        "read",
        "proof",
        "socket file",
        "memory",
        "listed ioctl",
        "notify unix socket",
    ] {
        assert_eq!(tried(name), (Some(0), None), "{name}");
    }
}

#[test]
fn what_code_that_serves_may_try_is_refused() {
    for name in ["write", "create", "thread"] {
        assert_eq!(tried(name), (Some(0), None), "{name}");
    }
}

#[test]
fn any_other_call_ends_the_process() {
    for name in [
        "inet socket",
        "notify inet socket",
        "unix socket",
        "exec",
        "unlisted ioctl",
        "chmod",
        "kill",
    ] {
        assert_eq!(tried(name), (None, Some(SIGSYS)), "{name}");
    }
}

#[test]
fn with_log_it_is_carried_out() {
    for name in ["log inet socket", "log unlisted ioctl"] {
        assert_eq!(tried(name), (Some(0), None), "{name}");
    }
}

#[test]
fn the_list_fits_a_filter() {
    for unlisted in [Unlisted::Kill, Unlisted::Log] {
        let allowed = Allowed {
            ioctls: &[LISTED],
            unix_sockets: true,
        };
        // The kernel's limit.
        assert!(list(allowed, unlisted).unwrap().len() < 4096);
    }
}
