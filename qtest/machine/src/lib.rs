// SPDX-License-Identifier: GPL-2.0-or-later
//! Machines for tests: Debian's kernels with the drivers and programs that a test needs, and QEMU with
//! simulated hardware to run them.
//!
//! [`image`] is what a guest boots from: [`debs`] gets the packages, `modules` finds the drivers, `cpio`
//! writes the archive. To run it: [`mod@bench`] has all that was built, [`rig`] is a simulated PF with its
//! helper, [`machine`] a virtual machine, [`process`], [`port`] and [`qmp`] what both stand on, [`answer`]
//! what the guest says, [`counters`] what the simulator counts.

pub mod answer;
pub mod bench;
pub mod counters;
mod cpio;
pub mod debs;
pub mod image;
mod kernel;
pub mod machine;
mod modules;

pub mod port;
pub mod process;
pub mod qmp;
pub mod rig;
pub mod scenario;
