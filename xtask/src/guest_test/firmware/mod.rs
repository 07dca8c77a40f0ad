// SPDX-License-Identifier: GPL-2.0-or-later
//! Drivers that are not Linux's on VFs: firmware and boot loaders. Each scenario is judged by what
//! the program said and by what the simulated hardware saw.

mod dpdk;
mod events;
mod image;
mod ipxe;
mod linux;
mod newer;
mod ovmf;
mod packages;
mod rom;
mod scsi;
mod seabios;
mod uboot;
mod vm;

use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use self::events::Seen;
use self::image::Disks;
use super::scenarios::Scenario;
use super::Bench;
use crate::guest::debs::Release;
use crate::guest::machine::Function;
use crate::guest::rig::Pf;
use crate::guest::{self, Image};
use crate::project::Project;
use crate::steps::Steps;
use crate::unpacked::Unpacked;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "seabios-legacy",
        run: |bench| seabios::boot(bench, Interface::Legacy),
    },
    Scenario {
        name: "seabios-modern",
        run: |bench| seabios::boot(bench, Interface::Both),
    },
    Scenario {
        name: "seabios-bootindex",
        run: seabios::order,
    },
    Scenario {
        name: "seabios-scsi",
        run: scsi::seabios,
    },
    Scenario {
        name: "ipxe-legacy",
        run: |bench| ipxe::boot(bench, Interface::Legacy),
    },
    Scenario {
        name: "ipxe-modern",
        run: |bench| ipxe::boot(bench, Interface::Both),
    },
    Scenario {
        name: "ovmf-disk",
        run: ovmf::disk,
    },
    Scenario {
        name: "ovmf-network",
        run: ovmf::network,
    },
    Scenario {
        name: "ovmf-scsi",
        run: scsi::ovmf,
    },
    Scenario {
        name: "u-boot",
        run: uboot::boot,
    },
    Scenario {
        name: "dpdk",
        run: dpdk::forward,
    },
    Scenario {
        name: "newer-kernel",
        run: newer::work,
    },
];

/// MAC address of VF 1, the simulator's default.
const MAC: &str = "52:54:00:77:01:01";

/// What the scenarios need besides the [`Bench`].
pub(crate) struct Kit {
    packages: Unpacked,
    dpdk: Unpacked,
    disks: Disks,
    /// The test guest with Debian's newest kernel.
    newer: Image,
}

impl Kit {
    /// Gets and makes it, or takes it from the cache.
    ///
    /// # Errors
    /// When packages cannot be had or a tool fails.
    pub(super) fn ensure(project: &Project, steps: &mut Steps, image: &Image) -> Result<Self> {
        let title = "get firmware and boot loaders";
        let packages = packages::ensure(project, steps, title, packages::FIRMWARE)?;
        let dpdk = packages::ensure(project, steps, "get DPDK", dpdk::PACKAGES)?;
        let disks = image::ensure(
            project,
            steps,
            &packages,
            &packed_kernel(image)?,
            &image.initrd,
        )?;
        let newer = guest::ensure_release(project, steps, Release::Newer)?;
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
enum Interface {
    /// `disable-modern=on`.
    Legacy,
    /// The transitional device as it is by default.
    Both,
}

/// A device of this project on a function, with more properties.
fn device(
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
struct LoggedPf {
    pf: Pf,
    log: PathBuf,
}

impl LoggedPf {
    fn start(
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
    fn seen(&self, vf: u16) -> Result<Seen> {
        Seen::read(&self.log, vf)
    }
}

/// Checks that a text has all these, in this order.
fn check_text(text: &str, what: &str, wanted: &[&str]) -> Result<()> {
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
