// SPDX-License-Identifier: GPL-2.0-or-later
//! Integration tests of device, helper and simulator as processes; see the tests directory.
