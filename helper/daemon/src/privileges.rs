// SPDX-License-Identifier: GPL-2.0-or-later
//! Privileges are needed to make the socket and to reach the PF, not to serve.

use rustix::thread::{set_capabilities, set_no_new_privs, CapabilitySet, CapabilitySets};

/// Gives up every capability, for good. The process has one thread, so this is all of it.
pub(crate) fn drop_all() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let dropped = set_no_new_privs(true).and_then(|()| set_capabilities(None, none));
    if let Err(e) = dropped {
        tracing::warn!("Capabilities not given up: {e}");
    }
}
