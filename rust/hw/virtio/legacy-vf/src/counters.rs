// SPDX-License-Identifier: GPL-2.0-or-later

//! Counters and state, readable from any thread without a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering};

/// A counter.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Some more.
    pub fn add_many(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for what several vCPUs do at once and all the time: each adds to a cache line of its
/// own, as far as there are enough.
#[derive(Debug, Default)]
pub struct ShardedCount([Shard; 8]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Count);

impl ShardedCount {
    /// One more.
    pub fn add(&self) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        let mine = MINE.with(|mine| *mine) % self.0.len();
        if let Some(shard) = self.0.get(mine) {
            shard.0.add();
        }
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.get()).sum()
    }
}

/// A truth value.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Changes it.
    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How the connection to the helper stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The device is not realized, or gone.
    Closed,
    /// Register accesses work.
    Connected,
    /// Register accesses read all-ones; reconnection is under way.
    Lost,
}

impl LinkState {
    /// As `qom-get link-state` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Connected => "connected",
            Self::Lost => "lost",
        }
    }
}

/// A [`LinkState`] for any thread to read.
#[derive(Debug, Default)]
pub struct LinkStateCell(AtomicU8);

impl LinkStateCell {
    /// Changes the state.
    pub fn set(&self, state: LinkState) {
        self.0.store(state as u8, Ordering::Release);
    }

    /// The state.
    pub fn get(&self) -> LinkState {
        match self.0.load(Ordering::Acquire) {
            1 => LinkState::Connected,
            2 => LinkState::Lost,
            _ => LinkState::Closed,
        }
    }
}

/// What a device has done; kept over reconnections.
#[derive(Debug, Default)]
pub struct Counters {
    /// How the connection stands.
    pub link: LinkStateCell,
    /// The VF lost the state of the guest's driver; until the driver or the machine resets it.
    pub state_lost: Flag,
    /// Accesses of the guest to BAR0, notifications aside.
    pub accesses: Count,
    /// Register commands sent to the helper.
    pub commands: Count,
    /// Of these, refused or failed.
    pub failed: Count,
    /// Notifications by the guest.
    pub notifies: ShardedCount,
    /// Notifications that could not be delivered.
    pub notify_failures: Count,
    /// Reads answered with all-ones because the helper was lost.
    pub lost_reads: Count,
    /// Writes dropped because the helper was lost.
    pub lost_writes: Count,
    /// Accesses that the legacy interface does not define.
    pub rejected: Count,
    /// Commands whose answer was not waited for, as somebody waited for the vCPU.
    pub given_up: Count,
    /// Times the VF did not get what its driver set up.
    pub setup_failures: Count,
    /// Times the deadline of an access passed.
    pub timeouts: Count,
    /// Times the connection was lost.
    pub losses: Count,
    /// Times the connection was restored.
    pub reconnects: Count,
    /// Events that the helper sent.
    pub events: Count,
    /// Resets of the device by the machine, its bus or the guest's function level reset.
    pub resets: Count,
    /// Messages of the VF that became `INTx`.
    pub intx_interrupts: Count,
    /// Times the interrupt pin was raised.
    pub intx_raised: Count,
    /// Queues, or configuration changes, that the VF gave no vector for `INTx`.
    pub intx_unmapped: Count,
}
