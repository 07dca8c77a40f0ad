// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The SR-IOV extended capability, relative to its start.

#![allow(missing_docs)]

pub const CAP: usize = 0x04;
pub const CONTROL: usize = 0x08;
pub const STATUS: usize = 0x0a;
pub const INITIAL_VFS: usize = 0x0c;
pub const TOTAL_VFS: usize = 0x0e;
pub const NUM_VFS: usize = 0x10;
pub const FUNC_LINK: usize = 0x12;
pub const VF_OFFSET: usize = 0x14;
pub const VF_STRIDE: usize = 0x16;
pub const VF_DEVICE_ID: usize = 0x1a;
pub const SUPPORTED_PAGE_SIZE: usize = 0x1c;
pub const SYSTEM_PAGE_SIZE: usize = 0x20;
pub const VF_BAR0: usize = 0x24;
pub const LEN: usize = 0x40;
pub const CONTROL_VF_ENABLE: u16 = 1;
pub const CONTROL_VF_MSE: u16 = 1 << 3;
pub const CONTROL_ARI: u16 = 1 << 4;
