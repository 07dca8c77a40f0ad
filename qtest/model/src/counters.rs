// SPDX-License-Identifier: GPL-2.0-or-later
//! Numbers for tests, `ctl` queries and the summary a demonstration prints.

use std::collections::BTreeMap;

use serde::Serialize;

/// Opcodes that are counted one by one; higher ones share the last slot.
pub const COUNTED_OPCODES: usize = 0x13;

/// Counts of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FunctionCounters {
    /// Queue notifications through the modern interface.
    pub doorbells_modern: u64,
    /// Queue notifications through the legacy address in the member's BAR.
    pub doorbells_member: u64,
    /// Queue notifications through the legacy address in the owner's BAR.
    pub doorbells_owner: u64,
    /// Queue notifications by admin command.
    pub doorbells_command: u64,
    /// Buffers taken from queues.
    pub buffers: u64,
    /// Interrupt messages sent.
    pub interrupts: u64,
    /// Interrupts held back by a mask or a missing trigger.
    pub interrupts_pended: u64,
    /// Interrupts not sent because the vector is NO_VECTOR.
    pub interrupts_unmapped: u64,
    /// Interrupts that the driver suppressed in the ring.
    pub interrupts_suppressed: u64,
    /// Resets of any kind.
    pub resets: u64,
    /// Times the device went to DEVICE_NEEDS_RESET.
    pub needs_reset: u64,
    /// Attempts to reach memory while the device may not (reset, or Bus Master Enable clear). A
    /// working model has 0 here.
    pub dma_forbidden: u64,
    /// Completions dropped because their queue was reset since the buffer was taken.
    pub stale_completions: u64,
    /// Frames given to the driver.
    pub rx_frames: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
    /// Frames for the driver that were dropped.
    pub rx_dropped: u64,
    /// Frames from the driver.
    pub tx_frames: u64,
    /// Bytes of those frames.
    pub tx_bytes: u64,
    /// Frames from the driver that were malformed, or sent while the link was down.
    pub tx_dropped: u64,
    /// Commands on the network device's control queue.
    pub control_commands: u64,
    /// Those that were refused.
    pub control_refused: u64,
    /// Sectors (512 bytes) the driver read.
    pub sectors_read: u64,
    /// Sectors the driver wrote.
    pub sectors_written: u64,
    /// Block requests of any type.
    pub requests: u64,
    /// Requests that ended with an error status.
    pub request_errors: u64,
    /// Cache flushes.
    pub flushes: u64,
}

/// Counts of the whole device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Admin commands by opcode; the last slot counts all higher opcodes.
    pub commands: [u64; COUNTED_OPCODES],
    /// Admin commands that ended with another status than OK.
    pub commands_failed: u64,
    /// Admin commands that a fault rule changed.
    pub commands_faulted: u64,
    /// Commands by status number.
    pub statuses: BTreeMap<u16, u64>,
    /// Rule breaks of drivers by name.
    pub violations: BTreeMap<&'static str, u64>,
    /// Log records dropped because nobody took them.
    pub records_lost: u64,
    /// Frames dropped between functions.
    pub frames_dropped: u64,
}

impl Counters {
    pub(crate) fn command(&mut self, opcode: u16, status: u16) {
        let slot = usize::from(opcode).min(COUNTED_OPCODES - 1);
        if let Some(n) = self.commands.get_mut(slot) {
            *n += 1;
        }
        if status != 0 {
            self.commands_failed += 1;
        }
        *self.statuses.entry(status).or_default() += 1;
    }

    /// How often a driver broke the named rule.
    pub fn violation(&self, name: &str) -> u64 {
        self.violations.get(name).copied().unwrap_or(0)
    }

    /// Admin commands of any opcode.
    pub fn total_commands(&self) -> u64 {
        self.commands.iter().sum()
    }
}
