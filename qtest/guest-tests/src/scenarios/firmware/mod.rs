// SPDX-License-Identifier: GPL-2.0-or-later
//! Drivers that are not Linux's on VFs: firmware, boot loaders and DPDK. Each scenario is judged by what
//! the program said and by what the simulated hardware saw.

mod dpdk;
mod ipxe;
mod newer;
mod ovmf;
mod scsi;
mod seabios;
mod uboot;

pub(super) use self::dpdk::DPDK;
pub(super) use self::ipxe::{IPXE_LEGACY, IPXE_MODERN};
pub(super) use self::newer::NEWER_KERNEL;
pub(super) use self::ovmf::{OVMF_DISK, OVMF_NETWORK};
pub(super) use self::scsi::{OVMF_SCSI, SEABIOS_SCSI};
pub(super) use self::seabios::{SEABIOS_BOOTINDEX, SEABIOS_LEGACY, SEABIOS_MODERN};
pub(super) use self::uboot::U_BOOT;
