// SPDX-License-Identifier: GPL-2.0-or-later

//! Skeleton.

#![allow(unused_extern_crates)]
use pci as _;
use vfio as _;
