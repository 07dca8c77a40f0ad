// SPDX-License-Identifier: GPL-2.0-or-later
//! Exit codes.

use std::fmt;

/// Ended as asked.
pub const OK: u8 = 0;
/// Something failed while running.
pub const RUNTIME: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// The PF cannot be used, or failed later.
pub const PF: u8 = 3;
/// The helper's socket cannot be made, or nobody answers on it.
pub const SOCKET: u8 = 4;

/// The host wanted the PF back.
pub const RETURNED: u8 = 5;

/// Codes and meanings, for the man page.
pub const ALL: [(u8, &str); 6] = [
    (
        OK,
        "Success; for the server: it was stopped by a signal and has reset the PF.",
    ),
    (
        RUNTIME,
        "A failure while running that has no code of its own; for questions: the helper answered \
         with an error.",
    ),
    (USAGE, "The command line is wrong."),
    (
        PF,
        "The PF cannot be used, or failed while it was served. Clients were told.",
    ),
    (
        SOCKET,
        "The socket cannot be made (directory missing, in use by another helper, no permission), \
         or, for questions, nobody answers on it.",
    ),
    (
        RETURNED,
        "The host wanted the PF back (its driver was unbound, or it was unplugged). Clients were \
         told, accesses in flight were ended, and the PF was reset.",
    ),
];

/// Why the program ends, and with which code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is wrong, with its causes.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Failure {
            code,
            error: error.into(),
        }
    }

    /// A failure with this code and text.
    pub fn text(code: u8, text: impl fmt::Display) -> Self {
        Failure {
            code,
            error: anyhow::anyhow!("{text}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The causes on one line, without those that an error tells by itself.
        let mut said = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if said.contains(&text) {
                continue;
            }
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        f.write_str(&said)
    }
}
