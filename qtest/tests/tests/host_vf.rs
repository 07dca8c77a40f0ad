// SPDX-License-Identifier: GPL-2.0-or-later
//! `virtio-legacy-vf` (a VF of the host) where there is no such VF: every way to name one wrongly
//! ends with its own text, at start and when plugged.

use std::fs;
use std::path::Path;

use anyhow::Result;
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::Machine;
use serde_json::{json, Value};

/// An address no machine has.
const NOWHERE: &str = "fffe:ff:1f.7";

fn device(more: &Value) -> Value {
    let mut device = json!({"driver": "virtio-legacy-vf"});
    if let (Some(device), Some(more)) = (device.as_object_mut(), more.as_object()) {
        device.extend(more.clone());
    }
    device
}

/// QEMU must end with status 1 and say all of `texts`.
fn refused(more: &Value, texts: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (status, log) = QemuBuilder::new(Machine::Pc)
        .name("refused")
        .device(&device(more))
        .spawn_refused(dir.path())?;
    assert_eq!(status.code(), Some(1), "exit status; log:\n{log}");
    for text in texts {
        assert!(log.contains(text), "no \"{text}\" in:\n{log}");
    }
    Ok(())
}

#[test]
fn a_vf_must_be_named() -> Result<()> {
    refused(&json!({}), &["no VF is given", "host=ADDRESS"])
}

#[test]
fn a_vf_that_is_not_there_is_refused() -> Result<()> {
    let texts = [NOWHERE, "no PCI function", "virtio-legacy-vf list"];
    refused(&json!({"host": NOWHERE}), &texts)?;
    refused(
        &json!({"sysfsdev": format!("/sys/bus/pci/devices/{NOWHERE}")}),
        &texts,
    )?;
    // Neither helper= nor a token makes a VF of it.
    let more = json!({
        "host": NOWHERE,
        "helper": "/nowhere.sock",
        "vf-token": "14d63f20-8445-11ea-8900-1f9ce7d5650d",
    });
    refused(&more, &texts)
}

#[test]
fn a_path_that_is_no_pci_function_is_refused() -> Result<()> {
    refused(
        &json!({"sysfsdev": "/sys/class/net"}),
        &["/sys/class/net is not a PCI function"],
    )
}

/// What stock QEMU takes for a reason to crash, too: an `fd=` without `id=`.
#[test]
fn a_file_that_is_no_vf_is_refused() -> Result<()> {
    for more in [json!({"fd": "0"}), json!({"fd": "0", "id": "vf"})] {
        refused(&more, &["fd=", "not a VFIO device", "host=ADDRESS"])?;
    }
    refused(
        &json!({"fd": "9999"}),
        &["fd=", "cannot be used", "descriptor"],
    )
}

/// A function of this machine, if it has one that is neither VF nor PF.
fn plain_function() -> Option<String> {
    fs::read_dir("/sys/bus/pci/devices")
        .ok()?
        .flatten()
        .find(|entry| {
            let has = |name: &str| Path::exists(&entry.path().join(name));
            !has("physfn") && !has("sriov_totalvfs")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[test]
fn a_function_that_is_no_vf_is_refused() -> Result<()> {
    let Some(address) = plain_function() else {
        println!("no plain PCI function here to try it with");
        return Ok(());
    };
    let texts = [&address, "is not a virtual function", "vfio-pci"];
    refused(&json!({ "host": address }), &texts)
}

#[test]
fn a_refused_plug_leaves_the_machine_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(dir.path())?;
    for round in 0..3 {
        let more = json!({"host": NOWHERE, "id": format!("vf{round}")});
        let error = qemu.qmp.command("device_add", device(&more)).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("no PCI function") && text.contains(&format!("vf{round}")),
            "{text}"
        );
        let devices = qemu
            .qmp
            .command("qom-list", json!({"path": "/machine/peripheral"}))?;
        assert!(!devices.to_string().contains("vf0"), "{devices}");
    }
    assert!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}
