// SPDX-License-Identifier: GPL-2.0-or-later
//! Whatever a driver writes: no panic, no endless loop, no access outside its memory.
