// SPDX-License-Identifier: GPL-2.0-or-later
//! vfio_user_wire.
