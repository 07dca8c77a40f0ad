// SPDX-License-Identifier: GPL-2.0-or-later
//! virtio_pf_sim.
fn main() {}
