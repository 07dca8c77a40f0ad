// SPDX-License-Identifier: GPL-2.0-or-later
//! What the tests of the driver share: a device in memory, a simulator process, a driver on them.

#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub(crate) mod device;
pub(crate) mod queue;
pub(crate) mod registers;
pub(crate) mod sim;

use std::time::{Duration, Instant};

pub(crate) use device::*;
use pci_transport::testing::{Script, ScriptedFunction};
use virtio_pf::{Completion, Pf, PfConfig, PfError, VfInfo};

pub(crate) const VFS: u16 = 4;
pub(crate) type Hold = Script<TestPf>;

pub(crate) fn config() -> PfConfig {
    PfConfig {
        vfs: VFS,
        command_timeout: Duration::from_secs(2),
        reset_timeout: Duration::from_secs(30),
        start_timeout: Duration::from_secs(5),
        ..PfConfig::default()
    }
}

/// For a PF whose reset does not end.
pub(crate) fn impatient() -> PfConfig {
    PfConfig {
        reset_timeout: Duration::from_millis(300),
        ..config()
    }
}

pub(crate) fn start(device: TestPf) -> (Pf, Hold) {
    start_with(device, config())
}

pub(crate) fn start_with(device: TestPf, config: PfConfig) -> (Pf, Hold) {
    let function = ScriptedFunction::new(device).unwrap();
    let hold = function.script();
    let pf = Pf::start(Box::new(function), config).unwrap();
    assert_eq!(hold.device().breaches, [""; 0]);
    (pf, hold)
}

pub(crate) fn refuse(device: TestPf, config: PfConfig) -> (PfError, Hold) {
    let function = ScriptedFunction::new(device).unwrap();
    let hold = function.script();
    let error = match Pf::start(Box::new(function), config) {
        Ok(_) => unreachable!("the PF was accepted"),
        Err(error) => error,
    };
    assert_eq!(hold.device().breaches, [""; 0], "{error}");
    (error, hold)
}

/// Opens a VF and waits for what is to be known of it.
pub(crate) fn open(pf: &mut Pf, member: u16) -> VfInfo {
    if pf.open(member, 1, Instant::now()).unwrap() {
        let done = complete(pf, 1);
        assert_eq!((done[0].member, done[0].token), (member, 1));
    }
    pf.vf(member).unwrap().clone()
}

/// Polls until `count` completions came, or so long that they will not.
pub(crate) fn complete(pf: &mut Pf, count: usize) -> Vec<Completion> {
    let until = Instant::now() + Duration::from_secs(30);
    let mut all = Vec::new();
    while all.len() < count && Instant::now() < until {
        all.extend(pf.poll(Instant::now()));
    }
    assert_eq!(all.len(), count, "{:?}", pf.state());
    all
}
