// SPDX-License-Identifier: GPL-2.0-or-later
//! Linux's own legacy support for VFs, `virtio-vfio-pci`, to be compared with this project's: the
//! [`module`]s for the nested machine's kernel, the bare-metal guest ([`tiny`]) that asks both the same, and
//! how their answers [`compare`]. The scenarios are in [`crate::nested`].

pub(crate) mod compare;
pub(crate) mod module;
pub(crate) mod tiny;

use anyhow::Result;

use crate::project::Project;
use crate::steps::Steps;

/// `cargo xtask peer`: builds the modules and prints where they are.
///
/// # Errors
/// As [`module::ensure`].
pub(crate) fn run(project: &Project) -> Result<()> {
    let steps = &mut Steps::new(project, "peer")?;
    println!("{}", module::ensure(project, steps)?.dir.display());
    Ok(())
}
