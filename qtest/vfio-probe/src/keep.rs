// SPDX-License-Identifier: GPL-2.0-or-later
//! As much of a service manager as a helper that leaves its files with one needs: it keeps them while
//! the helper is killed and started again (`sd_pid_notify_with_fds(3)`, `sd_listen_fds(3)`).

use std::fmt::Write as _;
use std::io::{self, IoSliceMut, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{fcntl_dupfd_cloexec, fcntl_setfd, FdFlags};
use rustix::net::{
    bind, recvmsg, socket, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SocketAddrUnix, SocketType,
};

/// Where the program reports to.
const SOCKET: &str = "/tmp/vlvf-keep.sock";
/// The first descriptor that a program is passed.
const FIRST: usize = 3;
/// Where kept files are, out of the way of those numbers.
const HIGH: i32 = 64;
/// How often it is looked whether the program has ended.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// Largest report.
const MAX_REPORT: usize = 4096;

/// Runs `program` until it ends by itself; starts it again, with the files that it left, when it is
/// killed. Says `started=PID` and `ended=STATUS` each time, and how many files it keeps.
pub(crate) fn keep(program: &[&str]) -> io::Result<()> {
    let _ = std::fs::remove_file(SOCKET);
    let reports = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    bind(&reports, &SocketAddrUnix::new(SOCKET)?)?;
    // As systemd's: a service may have become another user.
    std::fs::set_permissions(SOCKET, std::fs::Permissions::from_mode(0o777))?;
    let mut files: Vec<(String, OwnedFd)> = Vec::new();
    loop {
        let mut child = start(program, &files)?;
        println!("started={} files={}", child.id(), files.len());
        io::stdout().flush()?;
        let status = loop {
            let mut fds = [PollFd::new(&reports, PollFlags::IN)];
            if poll(&mut fds, Some(&LOOK))? > 0 {
                take(&reports, &mut files)?;
            } else if let Some(status) = child.try_wait()? {
                break status;
            }
        };
        // Its last words.
        while poll(&mut [PollFd::new(&reports, PollFlags::IN)], Some(&NOW))? > 0 {
            take(&reports, &mut files)?;
        }
        println!("ended={status}, files={}", files.len());
        if status.signal().is_none() {
            return Ok(());
        }
    }
}

/// Starts the program with the files as its descriptors from [`FIRST`] on. A shell puts them there,
/// and knows the process's number, which has to be told.
fn start(program: &[&str], files: &[(String, OwnedFd)]) -> io::Result<Child> {
    let mut script = "export LISTEN_PID=$$; exec \"$@\"".to_owned();
    for (number, (_, fd)) in (FIRST..).zip(files) {
        // Writing to a String cannot fail.
        let _ = write!(script, " {number}<&{}", fd.as_raw_fd());
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &script, "keep"])
        .args(program)
        .env("NOTIFY_SOCKET", SOCKET);
    if !files.is_empty() {
        command
            .env("LISTEN_FDS", files.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
    }
    command.spawn()
}

/// Takes a report with the files attached to it.
fn take(reports: &OwnedFd, files: &mut Vec<(String, OwnedFd)>) -> io::Result<()> {
    let mut text = [0; MAX_REPORT];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        reports.as_fd(),
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let text = String::from_utf8_lossy(text.get(..got.bytes).unwrap_or_default()).into_owned();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let name = value("FDNAME").unwrap_or("stored").to_owned();
    if value("FDSTOREREMOVE") == Some("1") {
        files.retain(|(kept, _)| *kept != name);
    }
    for message in ancillary.drain() {
        let RecvAncillaryMessage::ScmRights(attached) = message else {
            continue;
        };
        for fd in attached {
            if value("FDSTORE") == Some("1") {
                let high = fcntl_dupfd_cloexec(&fd, HIGH)?;
                // The program is to have it.
                fcntl_setfd(&high, FdFlags::empty())?;
                files.push((name.clone(), high));
            }
        }
    }
    Ok(())
}
