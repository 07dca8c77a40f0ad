// SPDX-License-Identifier: GPL-2.0-or-later
//! Barriers between this processor and a device, which observes memory from behind a bus: what
//! Linux calls `dma_mb`, `dma_rmb` and `dma_wmb`. The fences of `std` order accesses for other
//! processors only.

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::sync::atomic::{compiler_fence, fence, Ordering};

    // DMA is coherent and sees accesses in the order of the processor, where only a load may pass a
    // store before it.
    pub(super) fn dma_mb() {
        fence(Ordering::SeqCst);
    }

    pub(super) fn dma_rmb() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(super) fn dma_wmb() {
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use std::arch::asm;

    // `std` orders within the inner shareable domain, devices are in the outer one.
    pub(super) fn dma_mb() {
        // SAFETY: a barrier touches neither registers nor the stack.
        unsafe { asm!("dmb osh", options(nostack, preserves_flags)) }
    }

    pub(super) fn dma_rmb() {
        // SAFETY: as above.
        unsafe { asm!("dmb oshld", options(nostack, preserves_flags)) }
    }

    pub(super) fn dma_wmb() {
        // SAFETY: as above.
        unsafe { asm!("dmb oshst", options(nostack, preserves_flags)) }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the barriers towards a device are not known for this architecture");

/// Every access before it comes before every access after it, also for a device.
pub fn dma_mb() {
    arch::dma_mb();
}

/// The loads before it come before the loads and stores after it, also of what a device writes.
pub fn dma_rmb() {
    arch::dma_rmb();
}

/// The stores before it come before the stores after it, also for a device.
pub fn dma_wmb() {
    arch::dma_wmb();
}
