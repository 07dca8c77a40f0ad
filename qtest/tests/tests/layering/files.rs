// SPDX-License-Identifier: GPL-2.0-or-later
//! No file of a crate leads back to itself through the others, in the workspace, in fuzz/ and in
//! the crates that only QEMU's build compiles.

use std::path::{Path, PathBuf};

use crate::modules::{circles, of_crate, Arrows};
use crate::workspace::{metadata, root};

/// The root files of all crates; tests, benchmarks and build scripts are no part of them.
fn crate_roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let data = metadata(&root().join(manifest));
        for package in data["packages"].as_array().unwrap() {
            for target in package["targets"].as_array().unwrap() {
                let kind = target["kind"][0].as_str().unwrap();
                if !["test", "bench", "example", "custom-build"].contains(&kind) {
                    roots.push(target["src_path"].as_str().unwrap().into());
                }
            }
        }
    }
    in_qemu(&root().join("rust/hw"), &mut roots);
    in_qemu(&root().join("qtest/qemu"), &mut roots);
    roots
}

fn in_qemu(dir: &Path, roots: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("src/lib.rs") {
            roots.push(path);
        } else if path.is_dir() {
            in_qemu(&path, roots);
        }
    }
}

#[test]
fn no_circles() {
    let roots = crate_roots();
    assert!(roots.len() >= 25, "{} crates", roots.len());
    let mut arrows = Arrows::new();
    for crate_root in &roots {
        of_crate(&root(), crate_root, &mut arrows);
    }
    assert!(arrows.len() >= 300, "{} files", arrows.len());
    let found = circles(&arrows);
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        texts.is_empty(),
        "{} circles:
{}",
        texts.len(),
        texts.join(
            "
"
        )
    );
}
