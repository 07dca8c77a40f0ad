// SPDX-License-Identifier: GPL-2.0-or-later
//! `virtio-legacy-vf`: see the library of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    legacy_vf_tool::main()
}
