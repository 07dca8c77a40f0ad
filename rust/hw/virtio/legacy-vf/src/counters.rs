// SPDX-License-Identifier: GPL-2.0-or-later

//! Counters and state, readable from any thread without a lock.

use std::{
    ffi::CStr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

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

macro_rules! counters {
    ($($(#[doc = $text:literal])* $field:ident: $kind:ty = $name:literal;)*) => {
        /// What a device has done; kept over reconnections.
        // The texts are properties' descriptions, too, without Markdown.
        #[allow(clippy::doc_markdown)]
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $text])* pub $field: $kind,)*
        }

        /// Each counter: its name as a property, its text here, and how to read it.
        pub const ALL: &[(&CStr, &str, fn(&Counters) -> u64)] = &[
            $(($name, concat!($($text,)*), |counters| counters.$field.get()),)*
        ];
    };
}

counters! {
    /// guest accesses to BAR0 other than notifications
    accesses: Count = c"accesses";
    /// register commands sent to the helper
    commands: Count = c"commands";
    /// of these, refused or failed
    failed: Count = c"command-failures";
    /// notifications by the guest that came to QEMU
    notifies: ShardedCount = c"notifies";
    /// notifications that could not be delivered
    notify_failures: Count = c"notify-failures";
    /// reads answered with all-ones without the helper
    lost_reads: Count = c"lost-reads";
    /// writes dropped without the helper
    lost_writes: Count = c"lost-writes";
    /// accesses that the legacy interface does not define
    rejected: Count = c"rejected";
    /// commands not waited for, as somebody waited for the vCPU
    given_up: Count = c"given-up";
    /// times the VF did not get what the driver set up
    setup_failures: Count = c"setup-failures";
    /// accesses that ended at the deadline
    timeouts: Count = c"timeouts";
    /// times the helper was lost
    losses: Count = c"losses";
    /// times the helper came back
    reconnects: Count = c"reconnects";
    /// events that the helper sent
    events: Count = c"helper-events";
    /// resets of the device
    resets: Count = c"resets";
    /// messages of the VF that became INTx
    intx_interrupts: Count = c"intx-interrupts";
    /// times the interrupt pin was raised
    intx_raised: Count = c"intx-raised";
    /// queues that the VF gave no vector for INTx
    intx_unmapped: Count = c"intx-unmapped";
}
