// SPDX-License-Identifier: GPL-2.0-or-later
//! The few Linux error numbers that travel in replies.

#![allow(missing_docs)]

pub const EPERM: u32 = 1;
pub const ENOENT: u32 = 2;
pub const EIO: u32 = 5;
pub const E2BIG: u32 = 7;
pub const ENOMEM: u32 = 12;
pub const EFAULT: u32 = 14;
pub const EBUSY: u32 = 16;
pub const EEXIST: u32 = 17;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const ERANGE: u32 = 34;
pub const ENOSYS: u32 = 38;
pub const EPROTO: u32 = 71;
pub const EOPNOTSUPP: u32 = 95;
pub const ETIMEDOUT: u32 = 110;
