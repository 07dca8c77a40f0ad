// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel's VFIO by a file for each function and iommufd, which Debian leaves out of its kernels: the
//! modules are built by [`crate::peer`].

use anyhow::{ensure, Context, Result};

use crate::l2::{pings, vf_address, LEGACY, LONG, NET, SHORT};
use crate::machine::{Nested, Plan};
use crate::setup::{Run, Setup};
use guest_tests::check_driver;
use test_machine::machine::Driver;
use test_machine::scenario::Scenario;

pub(super) const IOMMUFD: Scenario<Run> = Scenario {
    name: "iommufd",
    shows: "L1 with VFIO rebuilt with iommufd: helper (by its default), proof and L2's QEMU (`iommufd=`, VF token with the bind request) have the functions' own files and no group; L2 with the legacy driver, 100 pings, TCP with checksums; the VF's file as `fd=`; refused: no token, a wrong one, a file that is not bound, the bound file of another VF, a VF that another QEMU has (said as such, not as a wrong token)",
    run: Run {
        equipped: true,
        spoils: false,
        setup: &Setup {
        plan: Plan {
            name: "iommufd",
            kernel: "intel_iommu=on vlvf.noload",
            cards: &[NET],
        },
        prepare,
    },
    violations: &[],
    run: iommufd,
    },
};

/// The helper's socket, where it is by default.
const SOCKET: &str = "/run/qemu-virtio-admin/0000:01:00.0.sock";
const IOMMU: &str = "/dev/iommu";
const WRONG_TOKEN: &str = "00000000-8445-11ea-8900-1f9ce7d5650d";

/// The helper chooses by itself, as it does by default.
fn prepare(nested: &mut Nested) -> Result<()> {
    nested.step("iommufd_load").context("load VFIO")?;
    nested.step("kvm_load").context("load KVM")?;
    nested
        .step(&format!("helper_start net --bind --vfs {}", NET.vfs))
        .context("start the helper")
        .map(|_| ())
}

/// What a process has open of VFIO must be this file and iommufd, and no group.
fn has_only(nested: &mut Nested, process: &str, cdev: &str) -> Result<()> {
    let answer = nested.step("vfio_files net")?;
    let files = answer.get(&format!("{process}.files"))?;
    let has = |wanted: &str| files.split(',').any(|file| file == wanted);
    ensure!(
        cdev.starts_with("/dev/vfio/devices/") && has(cdev) && has(IOMMU),
        "{process} has not {cdev} and {IOMMU}, but {files}"
    );
    let other = files.split(',').find(|file| ![cdev, IOMMU].contains(file));
    ensure!(other.is_none(), "{process} has other files, too: {files}");
    Ok(())
}

/// The legacy driver on a VF; helper, proof and QEMU by iommufd.
fn iommufd(nested: &mut Nested) -> Result<String> {
    let files = nested.step("cdevs net")?;
    has_only(nested, "helper", files.get("pf.cdev")?)?;
    let vf = vf_address(nested, "net", 1)?;
    let arguments = [
        "-machine",
        "pc",
        "-object",
        "iommufd,id=io0",
        "-device",
        &format!("virtio-legacy-vf,host={vf},iommufd=io0,id=net"),
    ];
    nested.start_l2(LEGACY, &arguments.map(str::to_owned))?;
    has_only(nested, "qemu", files.get("vf1.cdev")?)?;
    nested.l2("net", SHORT).context("bring the interface up")?;
    let info = nested.l2("info", SHORT)?;
    check_driver(&info, "net", Driver::Legacy)?;
    let received = pings(nested, "ping 100")?;
    ensure!(received == 100, "{received} pings");
    let tcp = nested.l2("tcp 4", LONG).context("TCP, 4 MiB each way")?;
    let refusals = refusals(nested, &vf, files.get("vf2.cdev")?)?;
    pings(nested, "ping 5").context("L2 was disturbed")?;
    nested.stop_l2()?;
    Ok(format!(
        "pings {received}, TCP {} MiB, {refusals} refusals, by device files and iommufd alone",
        tcp.get("tcp_mib")?
    ))
}

/// Files that prove nothing, and tokens, on the second VF while L2 uses the first; gives the number of
/// refusals.
fn refusals(nested: &mut Nested, used: &str, cdev: &str) -> Result<u32> {
    let free = vf_address(nested, "net", 2)?;
    let token = nested.step("token net")?.get("token")?.to_owned();
    let mut count = 0;
    for (what, proof, part) in [
        (
            "a file that is not bound",
            format!("2 {cdev}"),
            "not bound to an iommufd",
        ),
        (
            "the bound file of another VF",
            format!("1 cdev:{free} {token}"),
            "the file is that of VF 2, not of VF 1",
        ),
    ] {
        let answer = nested.step(&format!("prove {SOCKET} {proof}"))?;
        ensure!(
            answer.get("refused").is_ok() && answer.text().contains(part),
            "{what}: {}",
            answer.text()
        );
        count += 1;
    }
    let opened = nested.step(&format!("prove {SOCKET} 2 cdev:{free} {token}"))?;
    ensure!(
        opened.get("opened")? == "2",
        "the right proof: {}",
        opened.text()
    );

    let device = |driver: &str, more: &str| {
        format!("qemu_try -object iommufd,id=io0 -device {driver},iommufd=io0,{more}")
    };
    for (driver, more, part) in [
        ("vfio-pci", format!("host={free}"), "Permission denied"),
        (
            "vfio-pci",
            format!("host={free},vf-token={WRONG_TOKEN}"),
            "Permission denied",
        ),
        (
            "virtio-legacy-vf",
            format!("host={free},vf-token={WRONG_TOKEN}"),
            "vf-token= is not the token of PF",
        ),
        (
            "virtio-legacy-vf",
            format!("host={used}"),
            "another process uses",
        ),
    ] {
        let answer = nested.refused(&device(driver, &more))?;
        ensure!(
            answer.text().contains(part),
            "{driver} {more}: {}",
            answer.text()
        );
        count += 1;
    }
    for (driver, more) in [
        ("vfio-pci", format!("host={free},vf-token={token}")),
        ("virtio-legacy-vf", format!("host={free},vf-token={token}")),
    ] {
        nested
            .step(&device(driver, &more))
            .with_context(|| format!("{driver} {more}"))?;
    }
    nested
        .step(&format!(
            "qemu_try_fd {cdev} -object iommufd,id=io0 -device virtio-legacy-vf,fd=9,iommufd=io0"
        ))
        .context("the VF's file as fd=")?;
    Ok(count)
}
