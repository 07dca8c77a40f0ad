// SPDX-License-Identifier: GPL-2.0-or-later
//! Exit codes.

pub use helper_cli::exit::{OK, RUNTIME, SOCKET, USAGE};
pub use helper_cli::Failure;

/// The PF cannot be used, or failed later.
pub const PF: u8 = 3;
/// The host wanted the PF back.
pub const RETURNED: u8 = 5;

/// Codes and meanings, for the man page.
pub const ALL: [(u8, &str); 6] = [
    (
        OK,
        "Success: it was stopped by a signal and has reset the PF.",
    ),
    (
        RUNTIME,
        "A failure while running that has no code of its own.",
    ),
    (USAGE, "The command line is wrong."),
    (
        PF,
        "The PF cannot be used, or failed while it was served. Clients were told.",
    ),
    (
        SOCKET,
        "The socket cannot be made (directory missing, in use by another helper, no permission).",
    ),
    (
        RETURNED,
        "The host wanted the PF back (its driver was unbound, or it was unplugged). Clients were \
         told, accesses in flight were ended, and the PF was reset.",
    ),
];
