// SPDX-License-Identifier: GPL-2.0-or-later
//! What the helper gives up before it serves, and that all it does then works without: each test
//! ends with a helper that was not killed by its filter of system calls.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use legacy_vf_proto::client::Client;
use legacy_vf_proto::{
    ErrorCode, EventKind, MessageBuf, Name, Open, Proof, QueryKind, Request, Space, MAX_MESSAGE,
};
use qtest_harness::{DeviceKind, Helper, HelperClient, Simulator, SimulatorBuilder, PATIENCE};
use qtest_tests::wait_for;
use rustix::net::{
    connect, sendmsg, socket_with, AddressFamily, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde_json::json;
use tempfile::TempDir;

/// Numbers that need no account.
const USER: u32 = 4_000_001;
const GROUP: u32 = 4_000_002;

struct Rig {
    sim: Simulator,
    helper: Helper,
    run: std::path::PathBuf,
    _dir: TempDir,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Real, effective, saved, and that of files.
fn four(id: u32) -> String {
    format!("{id} {id} {id} {id}")
}

impl Rig {
    /// As another user, if this one may choose.
    fn start(more: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
        let sim = SimulatorBuilder::new(DeviceKind::Net, 4).spawn(dir.path())?;
        let run = dir.path().join("run");
        fs::create_dir(&run)?;
        let user = format!("{USER}:{GROUP}");
        let mut args = more.to_vec();
        if is_root() {
            use std::os::unix::fs::chown;
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
            chown(&run, Some(USER), None)?;
            args.extend(["--user", &user]);
        }
        let helper = Helper::spawn(&run, "helper", &sim.pf_socket(), 4, &args)?;
        Ok(Rig {
            sim,
            helper,
            run,
            _dir: dir,
        })
    }

    fn client(&self) -> Result<HelperClient> {
        let mut client = HelperClient::connect(self.helper.socket())?;
        client.hello()?;
        Ok(client)
    }

    fn opened(&self, vf: u16) -> Result<HelperClient> {
        let mut client = self.client()?;
        let opened = client.open(vf)?;
        anyhow::ensure!(opened.is_ok(), "{opened:?}");
        Ok(client)
    }

    fn status(&self, key: &str) -> Result<String> {
        let path = format!("/proc/{}/status", self.helper.process.pid());
        let text = fs::read_to_string(path)?;
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        Ok(found.context(text.clone())?.trim().replace('\t', " "))
    }

    /// Ends it as a service manager does.
    fn end(mut self) -> Result<()> {
        let status = self.helper.process.terminate()?;
        let log = self.helper.process.log();
        assert_eq!(status.code(), Some(0), "{status}: {log}");
        let left: Vec<_> = fs::read_dir(&self.run)?
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().starts_with("helper.sock"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    }
}

#[test]
fn it_is_another_user_without_capabilities_and_with_few_system_calls() -> Result<()> {
    let rig = Rig::start(&[])?;
    assert!(rig.opened(1)?.read(Space::Common, 18, 1)?.is_ok());
    if is_root() {
        assert_eq!(rig.status("Uid")?, four(USER));
        assert_eq!(rig.status("Gid")?, four(GROUP));
        assert_eq!(rig.status("Groups")?, "");
        assert_eq!(rig.status("CapBnd")?, "0000000000000000");
    }
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(rig.status(set)?, "0000000000000000", "{set}");
    }
    assert_eq!(rig.status("NoNewPrivs")?, "1");
    assert_eq!(rig.status("Seccomp")?, "2");
    // All of its threads, that which closes files included.
    let tasks = format!("/proc/{}/task", rig.helper.process.pid());
    let mut threads = 0;
    for task in fs::read_dir(tasks)? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        for line in ["Seccomp:\t2\n", "CapEff:\t0000000000000000\n"] {
            assert!(status.contains(line), "{status}");
        }
        if is_root() {
            assert!(status.contains(&format!("Uid:\t{USER}\t")), "{status}");
        }
        threads += 1;
    }
    assert!(threads >= 2, "{threads}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", rig.helper.process.pid()))?;
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.context("no limit")?.split_whitespace().collect();
    assert_eq!(words.get(4..6), Some(&["0", "0"][..]), "{limits}");
    rig.end()
}

/// With the capabilities that the systemd unit leaves it.
#[test]
fn the_socket_gets_its_group_without_the_capability_to_give_files_away() -> Result<()> {
    use std::os::unix::fs::{chown, MetadataExt as _};
    let setpriv = std::process::Command::new("setpriv")
        .arg("--version")
        .output();
    if !is_root() || !setpriv.is_ok_and(|out| out.status.success()) {
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
    let sim = SimulatorBuilder::new(DeviceKind::Net, 1).spawn(dir.path())?;
    let run = dir.path().join("run");
    fs::create_dir(&run)?;
    chown(&run, Some(USER), Some(GROUP))?;
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let socket = run.join("helper.sock");
    let mut helper = std::process::Command::new("setpriv")
        .args([
            "--bounding-set",
            "-all,+dac_override,+fowner,+setgid,+setuid,+setpcap",
            "--",
        ])
        .arg(qtest_harness::artifacts::helper()?)
        .arg("--pf-socket")
        .arg(sim.pf_socket())
        .args(["--vfs", "1", "--socket-group", "4000003", "--socket"])
        .arg(&socket)
        .args(["--user", &format!("{USER}:{GROUP}")])
        .spawn()?;
    let begun = wait_for("the helper", PATIENCE, || {
        Ok(HelperClient::connect(&socket).ok())
    });
    let answered = begun.and_then(|mut client| client.hello());
    let group = fs::metadata(&socket).map(|meta| (meta.gid(), meta.mode() & 0o777));
    let status = fs::read_to_string(format!("/proc/{}/status", helper.id()))?;
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&helper),
        rustix::process::Signal::TERM,
    )?;
    let ended = helper.wait()?;
    answered?;
    assert_eq!(group?, (4_000_003, 0o660));
    assert!(status.contains("Groups:\t \n"), "{status}");
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert_eq!(fs::read_dir(&run)?.count(), 0);
    Ok(())
}

#[test]
fn without_a_filter_if_asked() -> Result<()> {
    for (mode, shown) in [("off", "0"), ("log", "2")] {
        let rig = Rig::start(&["--seccomp", mode])?;
        assert_eq!(rig.status("Seccomp")?, shown);
        assert!(rig.opened(1)?.read(Space::Common, 18, 1)?.is_ok());
        rig.end()?;
    }
    Ok(())
}

#[test]
fn accesses_questions_and_notifications() -> Result<()> {
    let rig = Rig::start(&[])?;
    let mut client = rig.opened(1)?;
    assert_eq!(client.write(Space::Common, 18, 1, 3)?, Ok(()));
    assert_eq!(client.read(Space::Common, 18, 1)?, Ok(3));
    assert!(client.read(Space::Device, 0, 4)?.is_ok());
    let _answer = client.request(&Request::Notify { queue: 0 })?;
    for what in [QueryKind::HELPER, QueryKind::COUNTERS] {
        assert!(client.query(what, 0)?.is_object());
    }
    assert!(client.query(QueryKind::VF, 1)?.is_object());
    // Somebody else's.
    let refused = rig.client()?.open(1)?.err();
    assert_eq!(refused.map(|r| r.code), Some(ErrorCode::BUSY));
    // None at all, twice, so that it is closed in between.
    for _ in 0..2 {
        let refused = rig.client()?.open(9)?.err();
        assert_eq!(refused.map(|r| r.code), Some(ErrorCode::NO_SUCH_VF));
    }
    rig.end()
}

/// Sends bytes with files attached.
fn send_with(socket: impl AsFd, bytes: &[u8], files: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

#[test]
fn clients_that_send_files_send_rubbish_and_go_away() -> Result<()> {
    let rig = Rig::start(&[])?;
    let file = fs::File::open("/dev/null")?;
    let (pipe, _other) = rustix::pipe::pipe()?;
    for round in 0..8 {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(rig.helper.socket())?)?;
        let mut client = Client::new(Name::new("files"), 0);
        let mut buffer: MessageBuf = [0; MAX_MESSAGE];
        let len = client.request(&client.hello(), &mut buffer)?;
        let hello = buffer.get(..len).unwrap_or_default();
        send_with(&socket, hello, &[file.as_fd(), pipe.as_fd()])?;
        let open = Open {
            member: 1,
            proof: Proof::VFIO_FD,
            virtio_id: 0,
            serial: 0,
        };
        // Whether it is taken does not matter here.
        let mut buffer: MessageBuf = [0; MAX_MESSAGE];
        if let Ok(len) = client.request(&Request::Open(open), &mut buffer) {
            let _gone = send_with(
                &socket,
                buffer.get(..len).unwrap_or_default(),
                &[file.as_fd()],
            );
        }
        if round % 2 == 0 {
            let mut reply = [0; MAX_MESSAGE];
            let _gone = rustix::net::recv(&socket, &mut reply[..], rustix::net::RecvFlags::empty());
        }
    }
    for bytes in [&b"x"[..], &[0xff; 5000], &[]] {
        let client = HelperClient::connect(rig.helper.socket())?;
        let _gone = client.send_raw(bytes);
    }
    assert!(rig.opened(1)?.read(Space::Common, 18, 1)?.is_ok());
    rig.end()
}

#[test]
fn a_pf_that_fails_recovers() -> Result<()> {
    let mut rig = Rig::start(&["--command-timeout", "500ms"])?;
    let mut client = rig.opened(1)?;
    rig.sim.control(&json!({"cmd": "needs-reset", "vf": 0}))?;
    // An access, as the PF is looked at then; of another client, which may see it fail.
    let _lost = rig.opened(2)?.read(Space::Common, 18, 1);
    wait_for("the reset of the PF", PATIENCE, || {
        Ok(match client.event(Duration::from_millis(200)) {
            Ok(event) if event.kind == EventKind::PF_RESET => Some(()),
            _ => None,
        })
    })
    .with_context(|| rig.helper.process.log())?;
    wait_for("an access after it", PATIENCE, || {
        Ok(client.read(Space::Common, 18, 1)?.ok())
    })?;
    rig.end()
}

#[test]
fn a_pf_that_goes_away_ends_it_with_code_3() -> Result<()> {
    let mut rig = Rig::start(&[])?;
    let client = rig.opened(1)?;
    rig.sim.process.kill()?;
    assert_eq!(client.event(PATIENCE)?.kind, EventKind::PF_FAILED);
    let status = rig.helper.process.wait_exit(PATIENCE)?;
    assert_eq!(
        status.code(),
        Some(3),
        "{status}: {}",
        rig.helper.process.log()
    );
    assert!(!rig.helper.socket().exists());
    Ok(())
}

#[test]
fn a_directory_that_is_not_the_users_is_refused() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("helper.sock");
    let out = std::process::Command::new(qtest_harness::artifacts::helper()?)
        .args(["--pf-socket", "/nonexistent", "--vfs", "1", "--socket"])
        .arg(&socket)
        .args(["--user", &format!("{USER}:{GROUP}")])
        .output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{text}");
    assert!(text.contains("could not remove the socket there"), "{text}");
    assert!(text.contains("chown 4000001 "), "{text}");
    assert_eq!(fs::read_dir(dir.path())?.count(), 0);
    Ok(())
}
