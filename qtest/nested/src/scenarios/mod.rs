// SPDX-License-Identifier: GPL-2.0-or-later
//! The scenarios: a file for each matter, and the list of all of them, by kind, in the order in which
//! they are run.

mod confined;
mod device;
mod host;
mod hotplug;
mod intx;
mod iommufd;
mod l2;
mod linux_driver;
mod restart;
mod takeback;
mod types;
mod wrong;

use test_machine::scenario::Kind;

use crate::setup::Run;

/// All scenarios. Those with the same machine that follow each other share it.
pub const ALL: &[Kind<Run>] = &[
    Kind {
        name: "host",
        touches: &[
            "qtest/qemu/pf-sriov/",
            "qtest/vfio-probe/",
            "qtest/model/src/sriov.rs",
        ],
        scenarios: &[host::SRIOV, host::LINUX_PF, l2::L2_STOCK],
    },
    Kind {
        name: "device",
        touches: &["rust/hw/vfio/", "rust/hw/virtio/legacy-vf/"],
        scenarios: &[
            l2::L2_LEGACY,
            l2::L2_MODERN,
            l2::L2_INTERRUPTED,
            hotplug::HOTPLUG,
            device::DOORBELLS,
            device::DEVICE_RESETS,
            intx::L2_INTX,
            takeback::HOST_TAKES_BACK,
        ],
    },
    Kind {
        name: "types",
        touches: &["qtest/model/src/", "qtest/guest-tests/src/types"],
        scenarios: &[types::L2_TYPES],
    },
    Kind {
        name: "helper",
        touches: &["helper/"],
        scenarios: &[
            restart::HELPER_RESTART,
            restart::HELPER_KEPT,
            confined::HELPER_TRACED,
        ],
    },
    Kind {
        name: "refusals",
        touches: &[
            "helper/daemon/",
            "helper/transport/",
            "rust/hw/virtio/legacy-vf/src/sysfs.rs",
        ],
        scenarios: &[wrong::WRONG_INPUT, wrong::NO_IOMMU],
    },
    Kind {
        name: "newer-kernel",
        touches: &["helper/transport/src/vfio/", "qtest/nested/src/peer/"],
        scenarios: &[
            iommufd::IOMMUFD,
            linux_driver::KERNEL_DRIVER,
            linux_driver::DIFFERENTIAL,
            linux_driver::COUNTS,
        ],
    },
];
