// SPDX-License-Identifier: GPL-2.0-or-later
//! Linux's own legacy support for VFs, `virtio-vfio-pci`, to be compared with this project's: the
//! [`module`]s for the nested machine's kernel, the bare-metal guest ([`tiny`]) that asks both the same, and
//! how their answers [`compare`]. The scenarios are in `scenarios`.

pub mod compare;
pub mod module;
pub mod tiny;

use std::path::Path;

use anyhow::Result;
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_machine::image::{self, Addition, Image};

/// What the built VFIO needs of Debian's modules.
const IRQBYPASS: &str = "irqbypass";

/// `cargo xtask peer`: builds the modules and prints where they are.
///
/// # Errors
/// As [`module::ensure`].
pub fn run(project: &Project) -> Result<()> {
    let steps = &mut Steps::new(project, "peer")?;
    println!("{}", module::ensure(project, steps)?.dir.display());
    Ok(())
}

/// Adds what is built for the machine's kernel to its file system: modules, the bare-metal guest and its
/// scripts. The result is written to `dir`.
///
/// # Errors
/// When something cannot be built.
pub fn equip(project: &Project, steps: &mut Steps, image: &Image, dir: &Path) -> Result<Image> {
    let modules = module::ensure(project, steps)?;
    steps.run("build the bare-metal guest", |step| {
        let mut addition = Addition::default();
        let mut add = |name: String, path| addition.files.push((name, path, false));
        add(
            "lib/modules/peer/virtio_vfio_pci.ko".to_owned(),
            modules.virtio(),
        );
        add("l2/tiny.elf".to_owned(), tiny::build(project, step, dir)?);
        let mut order = format!("{IRQBYPASS}\n");
        for (name, path) in modules.iommufd() {
            order += &format!("{name}\n");
            add(format!("lib/modules/iommufd/{name}.ko"), path);
        }
        for (name, path) in tiny::scripts(project)? {
            add(format!("l2/{name}.script"), path);
        }
        // The order of all of them takes the place of that of the one that Debian has.
        addition.modules.push(("iommufd", &[IRQBYPASS]));
        addition.texts.push(("lib/modules/iommufd/order", order));
        let initrd = dir.join("peer.cpio");
        image::extend(image, &initrd, &addition)?;
        Ok(Image {
            initrd,
            ..image.clone()
        })
    })
}
