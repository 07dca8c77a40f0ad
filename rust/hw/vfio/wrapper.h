/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Input of bindgen for the VFIO bindings. */

#include "../pci/bindgen-osdep.h"

#include "hw/vfio/pci.h"
#include "system/kvm.h"
#include "hw/vfio-user/pci.h"

/* What the C compiler thinks; compared with the generated structs in Rust. */
enum {
    RUST_SIZEOF_VFIO_DEVICE = sizeof(VFIODevice),
    RUST_SIZEOF_VFIO_PCI_DEVICE = sizeof(VFIOPCIDevice),
    RUST_SIZEOF_VFIO_USER_PCI_DEVICE = sizeof(VFIOUserPCIDevice),
    RUST_SIZEOF_VFIO_BAR = sizeof(VFIOBAR),
    RUST_OFFSETOF_VBASEDEV = offsetof(VFIOPCIDevice, vbasedev),
    RUST_OFFSETOF_BARS = offsetof(VFIOPCIDevice, bars),
    RUST_OFFSETOF_HOST = offsetof(VFIOPCIDevice, host),
    RUST_OFFSETOF_DEVICE_ID = offsetof(VFIOPCIDevice, device_id),
    RUST_OFFSETOF_EMULATED = offsetof(VFIOPCIDevice, emulated_config_bits),
    RUST_OFFSETOF_VF_TOKEN = offsetof(VFIOPCIDevice, vf_token),
    RUST_OFFSETOF_NO_KVM_IOEVENTFD = offsetof(VFIOPCIDevice, no_kvm_ioeventfd),
};

/* A macro that bindgen cannot evaluate. */
enum {
    RUST_VFIO_DEVICE_IOEVENTFD = VFIO_DEVICE_IOEVENTFD,
};
