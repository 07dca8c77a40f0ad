// SPDX-License-Identifier: GPL-2.0-or-later

//! Migration blockers.

use std::{cell::Cell, ptr};

use util::{Error, Result};

use crate::bindings;

/// A reason why the machine cannot be migrated, in force until [`remove`](Self::remove).
///
/// The empty value blocks nothing. All methods need the big QEMU lock.
pub struct MigrationBlocker(Cell<*mut util::bindings::Error>);

// SAFETY: every access to the pointer asserts that the big QEMU lock is held.
unsafe impl Send for MigrationBlocker {}
// SAFETY: as above.
unsafe impl Sync for MigrationBlocker {}

impl MigrationBlocker {
    /// Blocks migration with this reason. Fails where the user asked for migratable devices only
    /// or a migration is running. A blocker in force is replaced.
    pub fn add(&self, reason: &str) -> Result<()> {
        self.remove();
        let mut error = ptr::null_mut();
        // SAFETY: `error` is a local null pointer, which is what propagate() wants to fill.
        unsafe {
            Error::msg(reason.to_owned()).propagate(&mut error);
        }
        // SAFETY: `error` is a valid error that the callee takes over; it is set to null on
        // failure, and errp points to a null pointer.
        let added =
            unsafe { Error::with_errp(|errp| bindings::migrate_add_blocker(&mut error, errp)) };
        added?;
        self.0.set(error);
        Ok(())
    }

    /// Lifts the block, if there is one.
    pub fn remove(&self) {
        assert!(bql::is_locked());
        let mut error = self.0.replace(ptr::null_mut());
        if !error.is_null() {
            // SAFETY: the error was registered by add() and not yet removed.
            unsafe {
                bindings::migrate_del_blocker(&mut error);
            }
        }
    }
}

impl Default for MigrationBlocker {
    fn default() -> Self {
        Self(Cell::new(ptr::null_mut()))
    }
}
