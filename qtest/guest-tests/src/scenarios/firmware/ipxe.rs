// SPDX-License-Identifier: GPL-2.0-or-later
//! iPXE gets an address by a net VF and boots from the network.

use std::fs;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use crate::firmware::disks::{NETWORK_STARTED, TEXT, TEXT_FILE};
use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{device, rom, Interface, Kit, LoggedPf, MAC};
use crate::run::Run;
use test_machine::bench::Bench;
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const IPXE_LEGACY: Scenario<Run> = Scenario {
    name: "ipxe-legacy",
    shows: "iPXE on a net VF with the legacy interface only: DHCP, files by HTTP and TFTP, GRUB by its PXE interface",
    run: Run::Firmware(|bench, kit| boot(bench, kit, Interface::Legacy)),
};

pub(in crate::scenarios) const IPXE_MODERN: Scenario<Run> = Scenario {
    name: "ipxe-modern",
    shows: "the same with both interfaces",
    run: Run::Firmware(|bench, kit| boot(bench, kit, Interface::Both)),
};

/// Until the script runs; iPXE waits for keys twice.
const START: Duration = Duration::from_secs(90);
/// Until everything is loaded.
const LOAD: Duration = Duration::from_secs(60);
/// Bytes of the file that is loaded by HTTP and by TFTP, not a multiple of a block.
const FILE: usize = 300_001;
const FAILED: &str = "VLVF-IPXE failed";
/// iPXE's modern driver reads the 32-bit features in halves, and the 16-bit MTU in bytes.
const HABITS: [&str; 1] = ["access_width"];

/// iPXE loads a script, a file by HTTP and by TFTP, and GRUB, which loads a text with iPXE's PXE
/// interface.
pub(super) fn boot(bench: &Bench, kit: &Kit, interface: Interface) -> Result<String> {
    let name = match interface {
        Interface::Legacy => "ipxe-legacy",
        Interface::Both => "ipxe-modern",
    };
    let dir = bench.run.path().join("boot");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let script = format!(
        "#!ipxe\n\
         echo VLVF-IPXE script: ${{net0/mac}} has ${{net0/ip}} by ${{net0/chip}}\n\
         imgfetch --name by-http http://${{next-server}}/file || goto failed\n\
         imgfetch --name by-tftp tftp://${{next-server}}/file || goto failed\n\
         imgstat\n\
         echo VLVF-IPXE loaded\n\
         imgfree\n\
         chain http://${{next-server}}/grub || goto failed\n\
         :failed\n\
         echo {FAILED}\n"
    );
    fs::write(dir.join("boot.ipxe"), script)?;
    fs::write(dir.join("file"), vec![0x5a; FILE])?;
    fs::write(dir.join(TEXT_FILE), TEXT)?;
    fs::copy(&kit.disks.network, dir.join("grub"))?;
    let served = dir.to_str().context("no UTF-8")?;
    let pf = LoggedPf::start(bench, name, "net", 1, &["--boot-dir", served])?;

    // A ROM is run for a device with the ID it names. That of Debian's names only the modern one,
    // which a transitional device does not have: QEMU's own card gets it with the ID changed.
    // Without a device it is run in any case.
    let image = kit.packages.file("usr/lib/ipxe/qemu/pxe-virtio.rom")?;
    let function = pf.pf.function(1);
    let (card, option) = match interface {
        Interface::Legacy => {
            let changed = bench.run.path().join("pxe.rom");
            fs::write(&changed, rom::with_id(&fs::read(&image)?, 0x1000)?)?;
            let more = [("bootindex", json!(1)), ("romfile", json!(changed))];
            (device(&function, "vf0", interface, &more)?, None)
        }
        Interface::Both => (
            device(&function, "vf0", interface, &[])?,
            Some(format!("{},bootindex=1", image.display())),
        ),
    };
    let option: Vec<&str> = option
        .iter()
        .flat_map(|rom| ["-option-rom", rom.as_str()])
        .collect();
    let mut vm = Vm::start(bench, name, &Firmware::SeaBios, &[card], &option)?;
    let nothing = ["No bootable device", "No more network devices", FAILED];
    let mut step = |text: &str, within: Duration| {
        let mut texts = vec![text];
        texts.extend(nothing);
        let which = vm.expect_any(&texts, within)?;
        ensure!(which == 0, "iPXE did not say {text:?}: {}", vm.last_words());
        Ok(())
    };
    step("VLVF-IPXE script: ", START)?;
    // Address and driver, as iPXE has them: the first address of the simulator's DHCP.
    step(&format!("{MAC} has 10.0.77.100 by virtio-net"), LOAD)?;
    step(&format!("by-http : {FILE} bytes"), LOAD)?;
    step(&format!("by-tftp : {FILE} bytes"), LOAD)?;
    step("VLVF-IPXE loaded", LOAD)?;
    step(NETWORK_STARTED, LOAD)?;
    step(TEXT.trim_end(), LOAD)?;
    step(TEXT.trim_end(), LOAD)?;
    let seen = pf.seen(1)?;
    match interface {
        Interface::Legacy => {
            // The configuration begins with the MAC address.
            seen.check_legacy_driver(&[0, 1, 2, 3, 4, 5])?;
            ensure!(seen.queues >= 2, "not both queues were set up; {seen}");
        }
        Interface::Both => seen.check_modern_driver(&HABITS)?,
    }
    Ok(format!(
        "iPXE has 10.0.77.100, loads {FILE} bytes by HTTP and by TFTP, and GRUB, which loads a text by \
         both; {} legacy commands, {} doorbells",
        seen.legacy_commands(),
        seen.doorbells_legacy + seen.doorbells_modern
    ))
}
