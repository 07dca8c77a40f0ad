// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may depend on whom: crates by the arrows of the architecture page, files of one crate in
//! no circle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crates;
mod files;
mod modules;
mod workspace;
