// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes the bindings that meson generated visible to `cargo clippy` and friends; meson's own
//! build does not run this.

use std::{env, fs, io, os::unix::fs::symlink, path::Path};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let manifest_dir = env!("CARGO_MANIFEST_DIR");
    let sub = manifest_dir
        .rfind("/rust/")
        .map_or(manifest_dir, |at| &manifest_dir[at + 1..]);
    let root = env::var("MESON_BUILD_ROOT").map_err(io::Error::other)?;
    let bindings = Path::new(&root).join(sub).join("bindings.inc.rs");
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let link = Path::new(&out).join("bindings.inc.rs");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(bindings, link)
}
