// SPDX-License-Identifier: GPL-2.0-or-later

//! Trace points; see the trace-events file.

::trace::include_trace!("rust_hw_virtio_legacy_vf");

pub use self::trace::*;
