/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Input of bindgen for the PCI bindings. */

#include "bindgen-osdep.h"

#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/target-info.h"
#include "migration/blocker.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/pci/pci_device.h"
#include "hw/pci/msix.h"
#include "hw/pci/pcie_regs.h"
#include "hw/pci/pcie_sriov.h"
#include "system/address-spaces.h"
#include "system/hostmem.h"
#include "system/kvm.h"

/* What the C compiler thinks; compared with the generated structs in Rust. */
enum {
    RUST_SIZEOF_PCI_DEVICE = sizeof(PCIDevice),
    RUST_SIZEOF_PCI_DEVICE_CLASS = sizeof(PCIDeviceClass),
    RUST_SIZEOF_DEVICE_CLASS = sizeof(DeviceClass),
    RUST_SIZEOF_DEVICE_STATE = sizeof(DeviceState),
    RUST_SIZEOF_MEMORY_REGION = sizeof(MemoryRegion),
    RUST_SIZEOF_MEMORY_BACKEND = sizeof(HostMemoryBackend),
    RUST_OFFSETOF_CONFIG = offsetof(PCIDevice, config),
    RUST_OFFSETOF_WMASK = offsetof(PCIDevice, wmask),
    RUST_OFFSETOF_MACHINE_CGS = offsetof(MachineState, cgs),
    RUST_OFFSETOF_CPU_NODE = offsetof(CPUState, node),
    RUST_OFFSETOF_CPU_STOP = offsetof(CPUState, stop),
    RUST_OFFSETOF_CPU_UNPLUG = offsetof(CPUState, unplug),
    RUST_OFFSETOF_CPU_WORK = offsetof(CPUState, work_list),
    RUST_OFFSETOF_CAP_PRESENT = offsetof(PCIDevice, cap_present),
};
