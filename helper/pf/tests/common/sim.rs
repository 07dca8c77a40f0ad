// SPDX-License-Identifier: GPL-2.0-or-later
//! A simulator process.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pci_transport::vfio_user::VfioUserFunction;
use pci_transport::Deadlines;
use serde_json::{json, Value};
use virtio_pf::{Pf, PfConfig, PfError};

/// `VLVF_SIM`, or the program beside this test.
fn program() -> PathBuf {
    if let Some(given) = std::env::var_os("VLVF_SIM") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "VLVF_SIM names {}", given.display());
        return given;
    }
    let here = std::env::current_exe().unwrap();
    let target = here.parent().and_then(Path::parent).unwrap();
    let beside = target.join("virtio-pf-sim");
    assert!(
        beside.is_file(),
        "no simulator: `cargo build -p virtio_pf_sim`, or name the program in VLVF_SIM"
    );
    beside
}

pub(crate) struct Sim {
    child: Child,
    dir: tempfile::TempDir,
}

impl Sim {
    /// Starts a simulator.
    pub(crate) fn start(args: &[&str]) -> Sim {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(program())
            .arg("--dir")
            .arg(dir.path())
            .args(["--log", "warn"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Sim { child, dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("pf.sock")
    }

    pub(crate) fn connect(&self) -> VfioUserFunction {
        // Long enough for a busy machine.
        let deadlines = Deadlines {
            connect: Duration::from_secs(30),
            request: Duration::from_secs(10),
        };
        VfioUserFunction::connect(&self.socket(), deadlines).unwrap()
    }

    pub(crate) fn pf(&self, config: PfConfig) -> Result<Pf, PfError> {
        Pf::start(Box::new(self.connect()), config)
    }

    pub(crate) fn control(&self, request: &Value) -> Value {
        control(self.dir.path(), request)
    }

    pub(crate) fn fault(&self, rule: Value) {
        self.control(&json!({ "cmd": "fault-add", "rule": rule }));
    }

    pub(crate) fn no_faults(&self) {
        self.control(&json!({ "cmd": "fault-clear" }));
    }

    pub(crate) fn counters(&self) -> Value {
        self.control(&json!({ "cmd": "counters" }))["hardware"].clone()
    }

    /// Breaches of the specification by the driver, by kind.
    pub(crate) fn violations(&self) -> Value {
        self.counters()["device"]["violations"].clone()
    }

    /// Sends it a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn control(dir: &Path, request: &Value) -> Value {
    let mut stream = UnixStream::connect(dir.join("ctl.sock")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    writeln!(stream, "{request}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let reply: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(reply["ok"], true, "{request}: {reply}");
    reply
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Already dead in some tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
