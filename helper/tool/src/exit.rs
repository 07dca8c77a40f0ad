// SPDX-License-Identifier: GPL-2.0-or-later
//! Exit codes.

use helper_cli::exit::{OK, RUNTIME, SOCKET, USAGE};

/// Codes and meanings, for the man page.
pub const ALL: [(u8, &str); 4] = [
    (OK, "Success."),
    (RUNTIME, "The helper answered with an error."),
    (USAGE, "The command line is wrong."),
    (SOCKET, "Nobody answers on the socket."),
];
