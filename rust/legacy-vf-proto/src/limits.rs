// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Sizes and counts that both sides may rely on.

/// Protocol version this crate speaks.
pub const VERSION: u32 = 1;
/// Largest message, header included, in bytes.
pub const MAX_MESSAGE: usize = 4096;
/// Smallest `max_message` a client may announce: every fixed-size message and the longest error
/// text fit.
pub const MIN_MESSAGE: usize = 1024;
/// Bytes of the header that starts every message.
pub const HEADER_LEN: usize = 16;
/// Bytes after the header that a message can have.
pub const MAX_PAYLOAD: usize = MAX_MESSAGE - HEADER_LEN;
/// Longest text of an error reply, in bytes of UTF-8.
pub const MAX_TEXT: usize = 512;
/// Bytes of the name fields in HELLO.
pub const NAME_LEN: usize = 32;
/// Longest register access, in bytes.
pub const MAX_ACCESS: usize = 8;
/// Requests of one connection that the helper queues before it stops reading.
pub const MAX_QUEUED: usize = 16;
