// SPDX-License-Identifier: GPL-2.0-or-later
//! What the integration tests share; the tests themselves are in the tests directory.

#![forbid(unsafe_code)]

pub mod access;
pub mod intx;
pub mod modern;
pub mod monitor;
pub mod random;
pub mod refusal;
pub mod running;
pub mod transitional;

use std::time::Duration;

use anyhow::{bail, Result};
use qtest_harness::stack::DEVICE_ID;
use qtest_harness::Qmp;
use serde_json::Value;
use test_kit::patience::Patience;

/// QOM path of the device that the stack makes.
pub fn device_path() -> String {
    format!("/machine/peripheral/{DEVICE_ID}")
}

/// A read-only property of the device.
///
/// # Errors
/// If there is no such property.
pub fn property(qmp: &mut Qmp, name: &str) -> Result<Value> {
    qmp.get(&device_path(), name)
}

/// A counter of the device.
///
/// # Errors
/// If there is no such counter.
pub fn counter(qmp: &mut Qmp, name: &str) -> Result<u64> {
    match property(qmp, name)?.as_u64() {
        Some(n) => Ok(n),
        None => bail!("property {name} is not a number"),
    }
}

/// Waits until the device shows this link state.
///
/// # Errors
/// If it does not in time.
pub fn wait_link(qmp: &mut Qmp, state: &str, limit: Duration) -> Result<()> {
    let mut patience = Patience::new(limit);
    loop {
        let now = property(qmp, "link-state")?;
        if now == state {
            return Ok(());
        }
        if let Err(spent) = patience.look() {
            bail!("link-state is {now}, not {state} {spent}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Tries until `check` gives something.
///
/// # Errors
/// If it fails, or gives nothing before `limit`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let mut patience = Patience::new(limit);
    loop {
        if let Some(value) = check()? {
            return Ok(value);
        }
        if let Err(spent) = patience.look() {
            bail!("{what}: not {spent}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Register commands that the helper's PF has carried out, by the simulator's count.
///
/// # Errors
/// If the simulator does not answer.
pub fn commands(sim: &mut qtest_harness::Simulator) -> Result<Vec<u64>> {
    let counters = sim.counters()?;
    let list = counters
        .pointer("/hardware/device/commands")
        .and_then(Value::as_array);
    match list {
        Some(list) => Ok(list.iter().filter_map(Value::as_u64).collect()),
        None => bail!("no counts of commands in {counters}"),
    }
}

/// MAC address of the simulator's built-in peer.
pub const PEER_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x01];
/// MAC address of VF 1.
pub const VF1_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x01, 0x01];

/// An ARP request for the built-in peer.
pub fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(VF1_MAC);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(VF1_MAC);
    frame.extend([10, 0, 77, 11]);
    frame.extend([0; 6]);
    frame.extend([10, 0, 77, 1]);
    frame.resize(60, 0);
    frame
}
