// SPDX-License-Identifier: GPL-2.0-or-later
//! The simulator's counters, as far as they are shown or tested here.

use serde_json::Value;

/// Counters of one VF.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vf {
    /// Notifications through the modern area.
    pub doorbells_modern: u64,
    /// Notifications through the legacy area: straight to the VF.
    pub doorbells_legacy: u64,
    /// Notifications by admin command: through the helper.
    pub doorbells_command: u64,
    /// Buffers used.
    pub buffers: u64,
    /// Messages sent.
    pub interrupts: u64,
    /// Frames to the guest.
    pub rx_frames: u64,
    /// Frames from the guest.
    pub tx_frames: u64,
    /// Sectors of 512 bytes.
    pub sectors_read: u64,
    /// Sectors of 512 bytes.
    pub sectors_written: u64,
    /// How often the device broke down.
    pub needs_reset: u64,
}

impl Vf {
    /// Finds VF `vf` in the simulator's answer.
    pub fn of(counters: &Value, vf: u16) -> Option<Self> {
        let object = find_vf(counters, vf)?;
        let number = |name: &str| object.get(name).and_then(Value::as_u64).unwrap_or(0);
        // What is not there at all would read as 0: this one is always there.
        object.get("buffers")?;
        Some(Self {
            doorbells_modern: number("doorbells_modern"),
            doorbells_legacy: number("doorbells_member") + number("doorbells_owner"),
            doorbells_command: number("doorbells_command"),
            buffers: number("buffers"),
            interrupts: number("interrupts"),
            rx_frames: number("rx_frames"),
            tx_frames: number("tx_frames"),
            sectors_read: number("sectors_read"),
            sectors_written: number("sectors_written"),
            needs_reset: number("needs_reset"),
        })
    }
}

fn find_vf(counters: &Value, vf: u16) -> Option<&Value> {
    find(counters, &format!("vf{vf}"))
}

/// The value of a key, in the object or in one below it. The answer has the hardware's counters
/// beside those of the server in front of it.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object
        .get(key)
        .or_else(|| object.values().find_map(|below| find(below, key)))
}

/// Admin commands by opcode: (opcode, how many), without those that were never sent.
pub fn commands(counters: &Value) -> Vec<(u16, u64)> {
    find(counters, "commands")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(opcode, count)| {
            let count = count.as_u64().filter(|count| *count > 0)?;
            Some((u16::try_from(opcode).ok()?, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_are_found_where_the_simulator_has_them() {
        let answer = json!({
            "ok": true,
            "front": { "clients": 2 },
            "hardware": {
                "device": { "commands": [1, 0, 7] },
                "functions": { "pf": {}, "vf2": { "buffers": 3, "doorbells_member": 4, "doorbells_owner": 1 } },
            },
        });
        let vf = Vf::of(&answer, 2).unwrap();
        assert_eq!((vf.buffers, vf.doorbells_legacy, vf.tx_frames), (3, 5, 0));
        assert_eq!(Vf::of(&answer, 1), None);
        assert_eq!(Vf::of(&json!({ "vf1": {} }), 1), None);
        assert_eq!(commands(&answer), [(0, 1), (2, 7)]);
        assert_eq!(commands(&json!({})), []);
    }
}
