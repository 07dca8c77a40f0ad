// SPDX-License-Identifier: GPL-2.0-or-later

//! Threads inside a device: the big QEMU lock for those that may or may not have it, and who waits
//! for a vCPU.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use crate::bindings;

/// Runs `f` with the big QEMU lock held, taking it if this thread does not have it yet.
///
/// Never call it while holding a lock that a holder of the big lock may wait for.
pub fn with_bql<R>(f: impl FnOnce() -> R) -> R {
    if bql::is_locked() {
        return f();
    }
    // SAFETY: this thread does not hold the lock, so this cannot deadlock on itself; the file name
    // is a NUL-terminated constant.
    unsafe {
        bindings::bql_lock_impl(c"rust/hw/pci/src/threads.rs".as_ptr(), line!() as c_int);
    }
    let result = f();
    // SAFETY: taken above, by this thread.
    unsafe { bindings::bql_unlock() }
    result
}

/// Whether somebody waits until a vCPU leaves what it is doing: the machine stops, is reset or
/// ends (QEMU halts the vCPUs first), KVM has work for one of them, or memory that this thread may
/// still look at is to be freed (RCU).
///
/// For callbacks of lockless regions that wait for another process: what they hold up is then not
/// only their guest. Looks at all vCPUs, since one may wait for a lock that another has. Any
/// thread that QEMU knows; takes a lock that nobody holds for long.
pub fn is_vcpu_waited_for() -> bool {
    // SAFETY: no arguments. The list and what is on it stay as they are while this is held.
    unsafe { bindings::cpu_list_lock() }
    // SAFETY: as above; the queue's head always exists.
    let found = unsafe {
        let first = ptr::addr_of!(bindings::cpus_queue).cast::<*const c_void>();
        any_wanted(*first)
    };
    // SAFETY: taken above, by this thread.
    unsafe { bindings::cpu_list_unlock() }
    // SAFETY: the function gives the thread's own variable; another thread may set the flag at any
    // time, and either value is right then.
    found || unsafe { ptr::addr_of!((*bindings::get_ptr_rcu_reader()).waiting).read_volatile() }
}

/// # Safety
///
/// `cpu` is null or a vCPU on QEMU's list, whose lock is held.
unsafe fn any_wanted(mut cpu: *const c_void) -> bool {
    // SAFETY: every vCPU on the list is alive, and the offsets are those of the C compiler. Others
    // write the flags at any time.
    unsafe {
        let flag =
            |of: *const c_void, at: u32| of.cast::<u8>().add(at as usize).read_volatile() != 0;
        while !cpu.is_null() {
            // Under TCG the vCPUs give each other work all the time, and none waits for it here.
            let work = bindings::kvm_allowed && {
                let list = cpu
                    .cast::<u8>()
                    .add(bindings::RUST_OFFSETOF_CPU_WORK as usize);
                !list.cast::<*const c_void>().read_volatile().is_null()
            };
            if work
                || flag(cpu, bindings::RUST_OFFSETOF_CPU_STOP)
                || flag(cpu, bindings::RUST_OFFSETOF_CPU_UNPLUG)
            {
                return true;
            }
            let next = cpu
                .cast::<u8>()
                .add(bindings::RUST_OFFSETOF_CPU_NODE as usize);
            cpu = next.cast::<*const c_void>().read_volatile();
        }
    }
    false
}
