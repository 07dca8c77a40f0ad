// SPDX-License-Identifier: GPL-2.0-or-later
//! No file of a crate leads back to itself through the others, in the workspace, in fuzz/ and in
//! the crates that only QEMU's build compiles.

use std::path::{Path, PathBuf};

use crate::modules::{circles, of_crate, Arrows};
use crate::workspace::{metadata, root};

/// Circles that are still there, as lists of their files. The list only ever gets shorter.
const KNOWN: &[&[&str]] = &[
    &["helper/daemon/src/config.rs", "helper/daemon/src/source.rs"],
    &["helper/pf/src/bringup.rs", "helper/pf/src/pf.rs"],
    &[
        "helper/server/src/hub/execute.rs",
        "helper/server/src/query.rs",
    ],
    &[
        "helper/server/src/reactor.rs",
        "helper/server/src/reactor/clients.rs",
    ],
    &["helper/server/src/received.rs", "helper/server/src/wire.rs"],
    &[
        "helper/transport/src/vfio/sysfs.rs",
        "helper/transport/src/vfio/vfs.rs",
    ],
    &[
        "helper/vfio-user-wire/src/bytes.rs",
        "helper/vfio-user-wire/src/error.rs",
        "helper/vfio-user-wire/src/header.rs",
        "helper/vfio-user-wire/src/limits.rs",
    ],
    &[
        "qtest/model/src/blk/backend.rs",
        "qtest/model/src/blk/config.rs",
        "qtest/model/src/blk/mod.rs",
        "qtest/model/src/blk/request.rs",
    ],
    &[
        "qtest/model/src/config.rs",
        "qtest/model/src/config_space.rs",
        "qtest/model/src/device.rs",
        "qtest/model/src/event.rs",
        "qtest/model/src/function.rs",
        "qtest/model/src/shared.rs",
    ],
    &[
        "qtest/model/src/scsi/event.rs",
        "qtest/model/src/scsi/mod.rs",
        "qtest/model/src/scsi/task.rs",
    ],
    &["qtest/p9/src/message.rs", "qtest/p9/src/wire.rs"],
    &[
        "qtest/sim/src/args.rs",
        "qtest/sim/src/device/config.rs",
        "qtest/sim/src/device/types/balloon.rs",
        "qtest/sim/src/device/types/blk.rs",
        "qtest/sim/src/device/types/console.rs",
        "qtest/sim/src/device/types/mod.rs",
        "qtest/sim/src/device/types/net.rs",
        "qtest/sim/src/device/types/p9.rs",
        "qtest/sim/src/device/types/rng.rs",
        "qtest/sim/src/device/types/scsi.rs",
    ],
    &[
        "qtest/sim/src/uplink/peer/boot/dhcp.rs",
        "qtest/sim/src/uplink/peer/boot/mod.rs",
        "qtest/sim/src/uplink/peer/mod.rs",
    ],
    &[
        "qtest/vfio-probe/src/main.rs",
        "qtest/vfio-probe/src/prove.rs",
    ],
    &[
        "rust/hw/virtio/legacy-vf/src/access.rs",
        "rust/hw/virtio/legacy-vf/src/intx_guest.rs",
        "rust/hw/virtio/legacy-vf/src/kernel_doorbells.rs",
        "rust/hw/virtio/legacy-vf/src/legacy.rs",
        "rust/hw/virtio/legacy-vf/src/link.rs",
        "rust/hw/virtio/legacy-vf/src/messages.rs",
        "rust/hw/virtio/legacy-vf/src/notify.rs",
        "rust/hw/virtio/legacy-vf/src/place.rs",
        "rust/hw/virtio/legacy-vf/src/runtime.rs",
    ],
    &[
        "xtask/src/guest_test/booted.rs",
        "xtask/src/guest_test/firmware/dpdk.rs",
        "xtask/src/guest_test/firmware/ipxe.rs",
        "xtask/src/guest_test/firmware/linux.rs",
        "xtask/src/guest_test/firmware/mod.rs",
        "xtask/src/guest_test/firmware/newer.rs",
        "xtask/src/guest_test/firmware/ovmf.rs",
        "xtask/src/guest_test/firmware/scsi.rs",
        "xtask/src/guest_test/firmware/seabios.rs",
        "xtask/src/guest_test/firmware/uboot.rs",
        "xtask/src/guest_test/firmware/vm.rs",
        "xtask/src/guest_test/intx.rs",
        "xtask/src/guest_test/mod.rs",
        "xtask/src/guest_test/queues.rs",
        "xtask/src/guest_test/resets.rs",
        "xtask/src/guest_test/scenarios.rs",
        "xtask/src/guest_test/stock.rs",
        "xtask/src/guest_test/switch.rs",
        "xtask/src/guest_test/switch/types.rs",
        "xtask/src/guest_test/types.rs",
        "xtask/src/guest_test/types/balloon.rs",
        "xtask/src/guest_test/types/console.rs",
        "xtask/src/guest_test/types/p9.rs",
        "xtask/src/guest_test/types/rng.rs",
        "xtask/src/guest_test/types/scsi.rs",
    ],
    &[
        "xtask/src/nested/device.rs",
        "xtask/src/nested/hotplug.rs",
        "xtask/src/nested/intx.rs",
        "xtask/src/nested/iommufd.rs",
        "xtask/src/nested/l2.rs",
        "xtask/src/nested/machine.rs",
        "xtask/src/nested/mod.rs",
        "xtask/src/nested/peer.rs",
        "xtask/src/nested/restart.rs",
        "xtask/src/nested/scenarios.rs",
        "xtask/src/nested/takeback.rs",
        "xtask/src/nested/types.rs",
        "xtask/src/nested/wrong.rs",
    ],
    &["xtask/src/qemu/mod.rs", "xtask/src/qemu/tidy.rs"],
];

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
    roots
}

fn in_qemu(dir: &Path, roots: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_qemu(&path, roots);
        } else if path.ends_with("Cargo.toml") {
            roots.push(dir.join("src/lib.rs"));
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
    let new: Vec<String> = found
        .iter()
        .filter(|circle| !KNOWN.contains(&circle.files.as_slice()))
        .map(ToString::to_string)
        .collect();
    assert!(new.is_empty(), "{} new:\n{}", new.len(), new.join("\n"));
    for known in KNOWN {
        assert!(
            found.iter().any(|circle| circle.files == *known),
            "this circle is gone, and so must its entry be: {known:?}"
        );
    }
}
