// SPDX-License-Identifier: GPL-2.0-or-later
//! User and capabilities.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    getrlimit, set_dumpable_behavior, setrlimit, DumpableBehavior, Resource, Rlimit,
};
use rustix::thread::{
    capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, CapabilitySet,
    CapabilitySets,
};

use crate::user::{leave_groups, User};
use crate::{failed, ConfineError};

/// More capabilities than the kernel's interface has room for.
const CAPABILITIES: u32 = 64;
/// How often a thread that has ended is waited for, and how long each time.
const LOOKS: u32 = 200;
const LOOK: Duration = Duration::from_millis(5);

/// Becomes `user`, if one is given, and gives up everything that would let the process be more than
/// that user: capabilities, also those that a program could get by being executed, and being dumped
/// or traced by others of the same user. For the calling thread, and those that it starts: see
/// [`one_thread`].
///
/// # Errors
/// If anything of it is left.
pub fn give_up(user: Option<&User>) -> Result<(), ConfineError> {
    // While there is the capability to do so.
    empty_bounding_set()?;
    match user {
        Some(user) => user.become_it()?,
        None => leave_groups()?,
    }
    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    match clear_ambient_capability_set() {
        // Older than ambient capabilities.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => return Err(failed("clear the ambient capabilities")(e)),
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(failed("give up capabilities"))?;
    let left = capabilities(None).map_err(failed("look at the capabilities"))?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        return Err(ConfineError::Left("capabilities"));
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("become not dumpable"))?;
    no_core_dumps()
}

/// Waits until the process has one thread: one that has told its result may still be ending.
///
/// # Errors
/// If another one stays.
pub fn one_thread() -> Result<(), ConfineError> {
    let mut threads = 1;
    for _ in 0..LOOKS {
        // Without /proc nothing can be said; nothing there starts a thread that stays.
        threads = std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.flatten().count());
        if threads <= 1 {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err(ConfineError::Threads(threads))
}

/// Without capabilities and with no_new_privs the bounding set says nothing more, so who may not
/// change it need not.
fn empty_bounding_set() -> Result<(), ConfineError> {
    let own = capabilities(None).map_err(failed("look at the capabilities"))?;
    if !own.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) => remove_capability_from_bounding_set(one)
                .map_err(failed("empty the capability bounding set"))?,
            Ok(false) => {}
            // The kernel has no more.
            Err(_) => break,
        }
    }
    Ok(())
}

fn no_core_dumps() -> Result<(), ConfineError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if getrlimit(Resource::Core) == none {
        return Ok(());
    }
    setrlimit(Resource::Core, none).map_err(failed("forbid core dumps"))
}
