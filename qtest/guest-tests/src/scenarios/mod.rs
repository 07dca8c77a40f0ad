// SPDX-License-Identifier: GPL-2.0-or-later
//! The scenarios: a file for each matter, and the list of all of them, by kind, in the order in which
//! they are run.

mod buses;
mod drivers;
mod firmware;
mod intx;
mod queues;
mod refused;
mod resets;
mod stock;
mod switch;
mod switch_types;
mod types;

use test_machine::scenario::Kind;

use crate::run::Run;

/// All scenarios.
pub const ALL: &[Kind<Run>] = &[
    Kind {
        name: "drivers",
        touches: &[
            "rust/",
            "helper/",
            "qtest/model/src/net/",
            "qtest/model/src/blk/",
        ],
        scenarios: &[
            drivers::LEGACY,
            drivers::MODERN,
            stock::STOCK_VF,
            stock::STOCK_PF,
            drivers::TWO_GUESTS,
            drivers::REBOOT,
            drivers::REBIND,
            drivers::SYSTEM_RESET,
            drivers::HELPER_KILLED,
        ],
    },
    Kind {
        name: "resets",
        touches: &[
            "rust/hw/",
            "rust/legacy-window/",
            "helper/pf/",
            "qtest/kexec/",
        ],
        scenarios: &[
            resets::REBIND_BUSY,
            resets::KEXEC,
            resets::CRASH,
            resets::CRASH_INTX,
            resets::SUSPEND,
        ],
    },
    Kind {
        name: "interrupts",
        touches: &[
            "rust/hw/virtio/legacy-vf/src/intx",
            "qtest/model/src/msix.rs",
        ],
        scenarios: &[
            intx::INTX,
            intx::INTERRUPTS_COST,
            switch::INTERRUPTS_SWITCH,
            switch_types::INTERRUPTS_SWITCH_TYPES,
        ],
    },
    Kind {
        name: "types",
        touches: &[
            "qtest/p9/",
            "qtest/model/src/rng/",
            "qtest/model/src/console/",
            "qtest/model/src/balloon/",
            "qtest/model/src/scsi/",
            "qtest/model/src/p9/",
        ],
        scenarios: &[types::MSIX, types::INTX, types::MODERN],
    },
    Kind {
        name: "queues",
        touches: &[
            "qtest/model/src/queue",
            "qtest/model/src/common_cfg.rs",
            "rust/legacy-window/",
        ],
        scenarios: &[queues::QUEUES, queues::QUEUES_INTX],
    },
    Kind {
        name: "refused",
        touches: &[
            "rust/legacy-window/",
            "rust/hw/virtio/legacy-vf/",
            "qtest/model/src/fault.rs",
        ],
        scenarios: &[refused::REFUSED_WRITES, refused::REFUSED_WRITES_INTX],
    },
    Kind {
        name: "buses",
        touches: &["rust/hw/virtio/legacy-vf/", "rust/hw/pci/"],
        scenarios: &[buses::MANY_VFS, buses::ROOT_PORTS],
    },
    Kind {
        name: "firmware",
        touches: &[
            "rust/hw/virtio/legacy-vf/",
            "qtest/sim/src/uplink/",
            "qtest/guest-tests/src/firmware/",
        ],
        scenarios: &[
            firmware::SEABIOS_LEGACY,
            firmware::SEABIOS_MODERN,
            firmware::SEABIOS_BOOTINDEX,
            firmware::SEABIOS_SCSI,
            firmware::IPXE_LEGACY,
            firmware::IPXE_MODERN,
            firmware::OVMF_DISK,
            firmware::OVMF_NETWORK,
            firmware::OVMF_SCSI,
            firmware::U_BOOT,
            firmware::DPDK,
            firmware::NEWER_KERNEL,
        ],
    },
];
