// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Device status bits ("Device Status Field") and ISR bits ("ISR status capability").

/// The guest has noticed the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The guest knows how to drive the device.
pub const DRIVER: u8 = 2;
/// The driver is set up.
pub const DRIVER_OK: u8 = 4;
/// Feature negotiation is complete (not part of the legacy interface).
pub const FEATURES_OK: u8 = 8;
/// The device is suspended (only with feature SUSPEND).
pub const SUSPEND: u8 = 16;
/// The device has experienced an error from which it can't recover.
pub const DEVICE_NEEDS_RESET: u8 = 64;
/// The driver has given up on the device.
pub const FAILED: u8 = 128;

/// ISR bit 0: a virtqueue has used buffers.
pub const ISR_QUEUE: u8 = 1;
/// ISR bit 1: the device configuration has changed.
pub const ISR_CONFIG: u8 = 2;

/// "No vector" in every MSI-X vector register ("MSI-X Vector Configuration").
pub const NO_VECTOR: u16 = 0xffff;
