// SPDX-License-Identifier: GPL-2.0-or-later

//! Counters and state, readable from any thread without a lock.

use std::{
    ffi::CStr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering},
};

use pci::{ChainedPciClass, ChainedPciDevice};

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

/// A device with counters.
pub trait Counted: ChainedPciDevice {
    /// Which.
    fn counters(&self) -> &Counters;
}

macro_rules! counters {
    ($($(#[doc = $text:literal])* $field:ident: $kind:ty = $name:literal;)*) => {
        /// What a device has done; kept over reconnections.
        // The texts are properties' descriptions, too, without Markdown.
        #[allow(clippy::doc_markdown)]
        #[derive(Debug, Default)]
        pub struct Counters {
            /// How the connection stands.
            pub link: LinkStateCell,
            /// The VF lost the state of the guest's driver; until the driver or the machine resets it.
            pub state_lost: Flag,
            $($(#[doc = $text])* pub $field: $kind,)*
        }

        /// One property for each counter, with its text here as description.
        pub fn add_properties<D: Counted>(class: &mut ChainedPciClass) {
            $(class.add_u64::<D, _>($name, c_text(concat!($($text,)* "\0")), |dev: &D| {
                dev.counters().$field.get()
            });)*
        }
    };
}

/// The text of a comment, up to its NUL.
fn c_text(text: &'static str) -> &'static CStr {
    CStr::from_bytes_until_nul(text.trim_start().as_bytes()).unwrap_or_default()
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
