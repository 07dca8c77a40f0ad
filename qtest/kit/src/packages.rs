// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian packages that the steps need: installed by name when there are the rights to, named
//! otherwise.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, Result};

use crate::run::Cmd;
use crate::steps::Steps;

/// What QEMU's build needs, from the C compiler up.
pub const QEMU_BUILD: &[&str] = &[
    "ca-certificates",
    "clang",
    "gcc",
    "libc6-dev",
    "libclang-dev",
    "libfdt-dev",
    "libglib2.0-dev",
    "libslirp-dev",
    "make",
    "ninja-build",
    "patch",
    "pkg-config",
    "python3",
    "python3-venv",
    "xz-utils",
    "zlib1g-dev",
];

/// What building with meson needs, QEMU and compilers aside.
pub const MESON: &[&str] = &["ninja-build", "python3", "python3-venv"];

/// What the fuzz targets need: libFuzzer is C++.
pub const FUZZ: &[&str] = &["g++"];

/// What the nested machine needs from here: it is put into its file system.
pub const NESTED: &[&str] = &["binutils", "strace"];

/// Installs what is missing of a list, as a step of its own if there is anything to do.
///
/// # Errors
/// Without root's rights: a text with the missing names and the command that installs them.
/// Otherwise what apt says.
pub fn ensure(steps: &mut Steps, purpose: &str, packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        // Not a Debian: nothing can be said about names there. Whoever has the programs goes on.
        eprintln!(
            "apt-get is not here, so these Debian packages cannot be checked, go on without: {}",
            missing.join(" ")
        );
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{}", explain(purpose, &missing));
    }
    let name = format!("install packages: {}", missing.join(" "));
    steps.run(&name, |step| {
        if install(&missing).run(step).is_err() {
            // A fresh machine has no package lists, an old one outdated ones.
            apt().arg("update").run(step)?;
            install(&missing).run(step)?;
        }
        Ok(())
    })
}

/// The text for somebody without the rights to install packages.
fn explain(purpose: &str, missing: &[&str]) -> String {
    format!(
        "{purpose} needs these Debian packages, and installing them needs root: {names}\n  \
         way out: sudo apt-get install --no-install-recommends {names}\n  \
         then run this again as you are; nothing else here needs root",
        names = missing.join(" ")
    )
}

fn apt() -> Cmd {
    Cmd::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .arg("-qq")
}

fn install(packages: &[&str]) -> Cmd {
    apt()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .hint("see what apt says above; `cargo xtask` goes on once the packages are there")
}

/// Which of the packages are not installed.
fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // dpkg-query fails when a name is unknown, but still lists the others.
    let output = std::process::Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Abbrev}\\n"])
        .args(packages)
        .env("LC_ALL", "C")
        .stderr(std::process::Stdio::null())
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let installed = installed(&text);
    packages
        .iter()
        .copied()
        .filter(|name| !installed.contains(*name))
        .collect()
}

/// Names in dpkg-query's list whose state is "installed".
fn installed(list: &str) -> BTreeSet<&str> {
    list.lines()
        .filter_map(|line| {
            let (name, state) = line.split_once(' ')?;
            // Three letters: wanted, state, error; state `i` is installed.
            (state.chars().nth(1) == Some('i')).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_state_installed_counts() {
        let list = "clang ii \nflex un \nmake hi \nold rc \nhalf iF \n\nnoise\n";
        assert_eq!(installed(list), BTreeSet::from(["clang", "make"]));
    }

    #[test]
    fn the_text_without_rights_is_a_command() {
        let text = explain("building QEMU", &["clang", "patch"]);
        assert!(text.contains("building QEMU needs these Debian packages"));
        assert!(text.contains("needs root: clang patch\n"));
        assert!(text.contains("sudo apt-get install --no-install-recommends clang patch\n"));
    }

    #[test]
    fn the_list_is_sorted_and_has_no_doubles() {
        assert!(QEMU_BUILD.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
