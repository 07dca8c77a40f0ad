// SPDX-License-Identifier: GPL-2.0-or-later
//! Configurations that QEMU must not take, with a text that tells the way out.

use std::path::Path;

use anyhow::{ensure, Result};
use qtest_harness::qemu::QemuBuilder;
use serde_json::Value;

/// A QEMU with this device must end with status 1 and say all of `texts`. Gives all that it said.
///
/// # Errors
/// If it does anything else.
pub fn refused_by(
    builder: QemuBuilder,
    dir: &Path,
    device: &Value,
    texts: &[&str],
) -> Result<String> {
    let (status, log) = builder.name("refused").device(device).spawn_refused(dir)?;
    ensure!(
        status.code() == Some(1),
        "it ended with {status}; log:\n{log}"
    );
    for text in texts {
        ensure!(log.contains(text), "no \"{text}\" in:\n{log}");
    }
    ensure!(!log.contains("panicked"), "{log}");
    Ok(log)
}
