// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines in systemd's journal: each event with fields of its own, also from the confined helper.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use legacy_vf_proto::Space;
use qtest_harness::process::Process;
use qtest_harness::{artifacts, DeviceKind, HelperClient, SimulatorBuilder, PATIENCE};
use test_kit::patience::until;

const LOOK: Duration = Duration::from_millis(5);

/// The fields of an entry as they are sent: `NAME=value`, or the name, the value's length in 8 bytes and the
/// value, each with a newline.
fn fields(mut entry: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = entry.split_at(end);
        entry = &rest[1..];
        let line = String::from_utf8_lossy(line).into_owned();
        if line.contains('=') {
            fields.push(line);
            continue;
        }
        let Some((len, rest)) = entry.split_first_chunk::<8>() else {
            break;
        };
        let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let value = rest.get(..len).unwrap_or_default();
        fields.push(format!("{line}={}", String::from_utf8_lossy(value)));
        entry = rest.get(len + 1..).unwrap_or_default();
    }
    fields
}

/// The next entry, if there is one.
fn entry(socket: &UnixDatagram) -> Result<Option<Vec<String>>> {
    let mut buf = vec![0; 65536];
    match socket.recv(&mut buf) {
        Ok(len) => Ok(Some(fields(buf.get(..len).unwrap_or_default()))),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[test]
fn who_opened_which_vf_is_told_in_fields() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: the journal's place can be taken in a mount namespace by root only");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
    let journal = UnixDatagram::bind(dir.path().join("socket"))?;
    journal.set_nonblocking(true)?;
    let sim = SimulatorBuilder::new(DeviceKind::Net, 2).spawn(dir.path())?;
    let socket = dir.path().join("helper.sock");
    // The journal is where it always is, for this process alone.
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
                  mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    let mut args = vec!["--mount".to_owned(), "sh".to_owned(), "-c".to_owned()];
    args.extend([script.to_owned(), dir.path().display().to_string()]);
    args.push(artifacts::helper()?.display().to_string());
    for (option, path) in [
        ("--pf-socket", sim.pf_socket()),
        ("--socket", socket.clone()),
    ] {
        args.extend([option.to_owned(), path.display().to_string()]);
    }
    args.extend(["--vfs", "2", "--log-format", "journal"].map(str::to_owned));
    let mut helper = Process::spawn("helper", Path::new("unshare"), &args, dir.path())?;
    helper.wait_log("ready", PATIENCE)?;
    let mut client = HelperClient::connect(&socket)?;
    client.hello()?;
    anyhow::ensure!(client.open(2)?.is_ok());
    anyhow::ensure!(client.read(Space::Common, 18, 1)?.is_ok());
    let mut seen = Vec::new();
    let opened = until(PATIENCE, LOOK, || {
        let entry = entry(&journal)?;
        seen.extend(entry.clone());
        Ok(entry.filter(|fields| fields.iter().any(|field| field == "VLVF_VF=2")))
    });
    let opened = opened.with_context(|| format!("{seen:?}; {}", helper.log()))?;
    let has = |wanted: &str| opened.iter().any(|field| field == wanted);
    let pf = format!("VLVF_PF={}", sim.pf_socket().display());
    let pid = format!("VLVF_PID={}", std::process::id());
    for wanted in ["MESSAGE=VF opened", "PRIORITY=6", "VLVF_UID=0", &pf, &pid] {
        assert!(has(wanted), "no {wanted} in {opened:?}");
    }
    // Told there, and not on a stream that the journal reads as well.
    assert!(!helper.log().contains("VF opened"), "{}", helper.log());
    let status = helper.terminate()?;
    assert_eq!(status.code(), Some(0), "{}", helper.log());
    Ok(())
}
