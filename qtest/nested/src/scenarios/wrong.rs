// SPDX-License-Identifier: GPL-2.0-or-later
//! What must be refused, each with a message of its own, while a guest (L2) goes on.

use anyhow::{ensure, Context, Result};

use crate::l2::{pings, start_blk_and_net, use_again, vf_address, BLK, LEGACY, NET, SHORT};
use crate::machine::{Nested, Plan};
use crate::setup::{Run, Setup};
use test_machine::scenario::Scenario;

pub(super) const WRONG_INPUT: Scenario<Run> = Scenario {
    name: "wrong-input",
    shows: "Everything a user can get wrong, each refused with its own message, while L2 goes on without losing a ping: host not ready, helpers without rights or twice, tokens, VFs of another PF or another driver, two users of a VF, files that prove nothing, another number of VFs while they are in use",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "wrong-input",
                kernel: "intel_iommu=on vlvf.noload",
                cards: &[NET, BLK],
            },
            prepare: |_| Ok(()),
        },
        violations: &[],
        run: wrong_input,
    },
};

pub(super) const NO_IOMMU: Scenario<Run> = Scenario {
    name: "no-iommu",
    shows: "The same for a host without IOMMU",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "no-iommu",
                kernel: "intel_iommu=off vlvf.noload",
                cards: &[NET],
            },
            prepare: |_| Ok(()),
        },
        violations: &[],
        run: no_iommu,
    },
};

const WRONG_TOKEN: &str = "00000000-8445-11ea-8900-1f9ce7d5650d";

/// Counts what was refused as it should be.
struct Refusals<'a> {
    nested: &'a mut Nested,
    count: u32,
}

impl Refusals<'_> {
    /// Has L1 run a command that must be refused with a message that has these parts.
    fn expect(&mut self, what: &str, command: &str, parts: &[&str]) -> Result<()> {
        let answer = self
            .nested
            .refused(command)
            .with_context(|| what.to_owned())?;
        self.says(what, &answer.text(), parts)
    }

    fn says(&mut self, what: &str, text: &str, parts: &[&str]) -> Result<()> {
        for part in parts {
            ensure!(
                text.contains(part),
                "{what}: the message has no {part:?}: {text}"
            );
        }
        self.count += 1;
        Ok(())
    }

    /// A proof that the helper must refuse.
    fn proof(&mut self, what: &str, arguments: &str, parts: &[&str]) -> Result<()> {
        let answer = self.nested.step(&format!("prove {arguments}"))?;
        ensure!(
            answer.get("refused").is_ok(),
            "{what}: not refused: {}",
            answer.text()
        );
        self.says(what, &answer.text(), parts)
    }
}

fn wrong_input(nested: &mut Nested) -> Result<String> {
    let mut refusals = Refusals { nested, count: 0 };
    host_not_ready(&mut refusals)?;
    start_blk_and_net(refusals.nested)?;
    refusals.nested.step("kvm_load").context("load KVM")?;
    // A guest that must notice nothing of all that follows.
    let mut arguments = vec!["-machine".to_owned(), "pc".to_owned()];
    for kind in ["net", "blk"] {
        let address = vf_address(refusals.nested, kind, 1)?;
        arguments.push("-device".to_owned());
        arguments.push(format!("virtio-legacy-vf,host={address},id={kind}"));
    }
    refusals.nested.start_l2(LEGACY, &arguments)?;
    refusals.nested.l2("net", SHORT)?;
    refusals.nested.l2("ping_start 0.2", SHORT)?;
    helpers(&mut refusals)?;
    devices(&mut refusals)?;
    proofs(&mut refusals)?;
    let count = refusals.count;
    let undisturbed = pings(nested, "ping_stop").context("L2 was disturbed")?;
    use_again(nested).context("L2 was disturbed")?;
    nested.stop_l2()?;
    Ok(format!(
        "{count} refusals, each with its message; L2 meanwhile got {undisturbed} pings back"
    ))
}

/// A host on which something is missing for the helper.
fn host_not_ready(refusals: &mut Refusals<'_>) -> Result<()> {
    refusals.expect(
        "vfio-pci is not loaded",
        "helper_try net root --bind --vfs 2",
        &["modprobe vfio-pci"],
    )?;
    refusals.nested.step("vfio_load 0")?;
    refusals.expect(
        "the PF is not on vfio-pci",
        "helper_try net root --vfs 2",
        &["0000:01:00.0", "virtio-pci, not by vfio-pci", "--bind"],
    )?;
    refusals.expect(
        "vfio-pci may not enable VFs",
        "helper_try net root --bind --vfs 2",
        &["0000:01:00.0", "enable_sriov"],
    )?;
    refusals.nested.step("enable_sriov")?;
    refusals.expect(
        "more VFs than there are",
        "helper_try net root --bind --vfs 9",
        &["--vfs 2 or less"],
    )?;
    refusals.nested.step("vfio_bind_pf blk")?;
    refusals.expect(
        "a helper that may not make its socket",
        "helper_try blk nobody --vfs 2",
        &["/run/qemu-virtio-admin", "Permission denied"],
    )?;
    refusals.expect(
        "a helper that may not open the PF",
        "helper_try blk nobody --vfs 2 --socket /tmp/nobody.sock",
        &["no permission for", "run as root"],
    )
}

/// Helpers beside those that run.
fn helpers(refusals: &mut Refusals<'_>) -> Result<()> {
    refusals.expect(
        "a second helper of the PF",
        "helper_try net root --bind --vfs 2",
        &[
            "Another helper serves this PF",
            "/run/qemu-virtio-admin/0000:01:00.0.sock",
        ],
    )?;
    refusals.expect(
        "a second helper of the PF with a socket of its own",
        "helper_try net root --bind --vfs 2 --user root --socket /tmp/second.sock",
        &["in use"],
    )?;
    // The kernel lets nobody change the number but to 0 and back.
    refusals.expect(
        "another number of VFs while they are in use",
        "write_numvfs 1 net",
        &["busy", "numvfs=2"],
    )
}

/// Devices of QEMU.
fn devices(refusals: &mut Refusals<'_>) -> Result<()> {
    let used = vf_address(refusals.nested, "net", 1)?;
    let free = vf_address(refusals.nested, "net", 2)?;
    let device =
        |host: &str, more: &str| format!("qemu_try -device virtio-legacy-vf,host={host}{more}");
    refusals.expect(
        "a wrong token",
        &device(&free, &format!(",vf-token={WRONG_TOKEN}")),
        &["vf-token= is not the token of PF 0000:01:00.0"],
    )?;
    refusals.expect(
        "no token",
        &format!("qemu_try -device vfio-pci,host={free}"),
        &["Permission denied"],
    )?;
    let token = refusals.nested.step("token net")?;
    let token = token.get("token")?.to_owned();
    for (what, more) in [
        ("the right token", format!(",vf-token={token}")),
        ("the helper's token", String::new()),
    ] {
        refusals
            .nested
            .step(&device(&free, &more))
            .with_context(|| format!("{what} must do"))?;
    }
    refusals.expect(
        "the helper of another PF",
        &device(&free, ",helper=/run/qemu-virtio-admin/0000:02:00.0.sock"),
        &["serves another PF"],
    )?;
    refusals.expect(
        "a VF that another QEMU has",
        &device(&used, ""),
        &["another process uses", &used],
    )?;
    refusals.expect(
        "a PF instead of a VF",
        &device("0000:01:00.0", ""),
        &["is a physical function"],
    )?;
    refusals.expect(
        "an address that nobody has",
        &device("0000:01:10.0", ""),
        &["the host has no PCI function 0000:01:10.0"],
    )?;
    refusals.expect(
        "a helper that is not there",
        &device(&free, ",helper=/run/nobody.sock"),
        &["/run/nobody.sock does not exist"],
    )?;
    for driver in ["none", "virtio-pci"] {
        refusals.nested.step(&format!("bind_vf 2 net {driver}"))?;
        let bound = match driver {
            "none" => "is bound to no driver",
            _ => "is bound to the driver virtio-pci",
        };
        refusals.expect(
            "a VF that is not on vfio-pci",
            &device(&free, ""),
            &[bound, "not to vfio-pci", "driver_override"],
        )?;
    }
    refusals.nested.step("bind_vf 2 net vfio-pci")?;
    refusals
        .nested
        .step(&device(&free, ""))
        .context("a VF that is on vfio-pci again")
        .map(|_| ())
}

/// Clients that show the wrong file.
fn proofs(refusals: &mut Refusals<'_>) -> Result<()> {
    let free = vf_address(refusals.nested, "net", 2)?;
    let other = vf_address(refusals.nested, "blk", 2)?;
    let token = refusals.nested.step("token net")?.get("token")?.to_owned();
    let other_token = refusals.nested.step("token blk")?.get("token")?.to_owned();
    let socket = "/run/qemu-virtio-admin/0000:01:00.0.sock";
    refusals.proof(
        "the file of another VF as proof",
        &format!("{socket} 1 {free} {token}"),
        &["the file is that of VF 2, not of VF 1"],
    )?;
    refusals.proof(
        "the file of a VF of another PF as proof",
        &format!("{socket} 0 {other} {other_token}"),
        &[&format!(
            "the file is that of {other}, which is not a VF of 0000:01:00.0"
        )],
    )?;
    refusals.proof(
        "a file that is no VFIO device as proof",
        &format!("{socket} 2 /dev/null"),
        &["VFIO"],
    )?;
    let opened = refusals
        .nested
        .step(&format!("prove {socket} 2 {free} {token}"))?;
    ensure!(
        opened.get("opened")? == "2",
        "the right proof: {}",
        opened.text()
    );
    Ok(())
}

/// A host without IOMMU.
fn no_iommu(nested: &mut Nested) -> Result<String> {
    nested.step("vfio_load")?;
    let mut refusals = Refusals { nested, count: 0 };
    refusals.expect(
        "no IOMMU",
        "helper_try net root --bind --vfs 2",
        &["IOMMU", "intel_iommu=on"],
    )?;
    Ok("the helper names the missing IOMMU".to_owned())
}
