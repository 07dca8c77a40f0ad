// SPDX-License-Identifier: GPL-2.0-or-later
//! qemu_virtio_admin_helper.
fn main() {}
