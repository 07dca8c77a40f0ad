// SPDX-License-Identifier: GPL-2.0-or-later
//! Drivers that are not Linux's on VFs: firmware and boot loaders. Each scenario is judged by what
//! the program said and by what the simulated hardware saw.

pub(crate) mod disks;
pub(crate) mod events;
pub(crate) mod linux;
mod packages;
pub(crate) mod rom;
pub(crate) mod vm;

use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use self::disks::Disks;
use self::events::Seen;
use crate::bench::scripts;
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_kit::unpacked::Unpacked;
use test_machine::bench::Bench;
use test_machine::debs::Release;
use test_machine::image::{self, Image};
use test_machine::machine::Function;
use test_machine::rig::Pf;

/// MAC address of VF 1, the simulator's default.
pub(crate) const MAC: &str = "52:54:00:77:01:01";

/// What the scenarios need besides the [`Bench`].
#[derive(Debug)]
pub struct Kit {
    pub(crate) packages: Unpacked,
    pub(crate) dpdk: Unpacked,
    pub(crate) disks: Disks,
    /// The test guest with Debian's newest kernel.
    pub(crate) newer: Image,
}

impl Kit {
    /// Gets and makes it, or takes it from the cache.
    ///
    /// # Errors
    /// When packages cannot be had or a tool fails.
    pub(crate) fn ensure(project: &Project, steps: &mut Steps, image: &Image) -> Result<Self> {
        let title = "get firmware and boot loaders";
        let packages = packages::ensure(project, steps, title, packages::FIRMWARE)?;
        let dpdk = packages::ensure(project, steps, "get DPDK", packages::DPDK)?;
        let disks = disks::ensure(
            project,
            steps,
            &packages,
            &packed_kernel(image)?,
            &image.initrd,
        )?;
        let newer = image::ensure_release(project, steps, Release::Newer, &scripts(project))?;
        Ok(Self {
            packages,
            dpdk,
            disks,
            newer,
        })
    }
}

/// The kernel as its package has it, which boot loaders take: its version is the name of the
/// modules' directory.
fn packed_kernel(image: &Image) -> Result<PathBuf> {
    let version = image.modules.file_name().context("no modules")?;
    let name = format!("vmlinuz-{}", version.to_string_lossy());
    let found = image
        .modules
        .ancestors()
        .map(|dir| dir.join("boot").join(&name))
        .find(|path| path.exists());
    found.with_context(|| format!("there is no {name} beside {}", image.modules.display()))
}

/// What the device shows to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    /// `disable-modern=on`.
    Legacy,
    /// The transitional device as it is by default.
    Both,
}

/// A device of this project on a function, with more properties.
pub(crate) fn device(
    function: &Function,
    id: &str,
    interface: Interface,
    more: &[(&str, Value)],
) -> Result<Value> {
    let mut device: Value = serde_json::from_str(&function.device(id))?;
    let object = device.as_object_mut().context("no object")?;
    if interface == Interface::Legacy {
        object.insert("disable-modern".to_owned(), true.into());
    }
    for (name, value) in more {
        object.insert((*name).to_owned(), value.clone());
    }
    Ok(device)
}

/// A PF whose every event is in a log.
pub(crate) struct LoggedPf {
    pub(crate) pf: Pf,
    pub(crate) log: PathBuf,
}

impl LoggedPf {
    pub(crate) fn start(
        bench: &Bench,
        name: &str,
        kind: &'static str,
        vfs: u16,
        options: &[&str],
    ) -> Result<Self> {
        let log = bench.logs.join(format!("{name}-{kind}-events.json"));
        let path = log.to_str().context("the log directory is not UTF-8")?;
        let mut all = vec!["--event-log", path];
        all.extend(options);
        let pf = bench.pf(kind, vfs, &all)?;
        Ok(Self { pf, log })
    }

    /// What was seen of VF `vf` so far.
    pub(crate) fn seen(&self, vf: u16) -> Result<Seen> {
        Seen::read(&self.log, vf)
    }
}

/// Checks that a text has all these, in this order.
pub(crate) fn check_text(text: &str, what: &str, wanted: &[&str]) -> Result<()> {
    let mut rest = text;
    for part in wanted {
        let at = rest.find(part);
        ensure!(at.is_some(), "{what} has no \"{part}\"");
        rest = at.and_then(|at| rest.get(at..)).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_looked_for_in_their_order() {
        check_text("one two three", "it", &["one", "three"]).unwrap();
        assert!(check_text("one two", "it", &["two", "one"]).is_err());
        assert!(check_text("one two", "it", &["three"]).is_err());
    }

    #[test]
    fn devices_have_the_properties_asked_for() {
        let function = Function {
            vf_socket: "/vf1.sock".into(),
            helper_socket: "/h.sock".into(),
            vf: 1,
            stock: false,
        };
        let legacy = device(
            &function,
            "x",
            Interface::Legacy,
            &[("bootindex", json!(3))],
        )
        .unwrap();
        assert_eq!(legacy["disable-modern"], true);
        assert_eq!(
            (&legacy["bootindex"], &legacy["vf"]),
            (&json!(3), &json!(1))
        );
        let both = device(&function, "x", Interface::Both, &[]).unwrap();
        assert!(both.get("disable-modern").is_none());
    }
}
