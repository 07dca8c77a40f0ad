// SPDX-License-Identifier: GPL-2.0-or-later
//! What build steps and tests of whole machines both stand on: the tree and the cache outside of it
//! ([`project`]), named steps with progress and a log each ([`steps`]), commands into such a log
//! ([`run`]), Debian packages, installed ([`packages`]) or only unpacked ([`unpacked`], [`apt`]), a lock
//! between runs ([`lock`]), and names for what was made of the same things ([`digest`]); and how long something may take
//! ([`patience`]).

pub mod apt;
pub mod digest;
pub mod lock;
pub mod packages;
pub mod patience;
pub mod project;
pub mod run;
pub mod steps;
pub mod unpacked;
