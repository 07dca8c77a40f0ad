// SPDX-License-Identifier: GPL-2.0-or-later
//! `qemu-virtio-admin-helper`: see the library of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    qemu_virtio_admin_helper::main()
}
