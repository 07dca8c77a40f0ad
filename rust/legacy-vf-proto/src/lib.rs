// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! legacy_vf_proto.
