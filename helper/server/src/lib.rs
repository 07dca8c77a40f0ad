// SPDX-License-Identifier: GPL-2.0-or-later
//! helper_server.
