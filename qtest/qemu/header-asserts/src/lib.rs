// SPDX-License-Identifier: GPL-2.0-or-later

//! The register maps in Rust against Linux's headers, at compile time: a QEMU for tests is not built
//! with a wrong number.

#![allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    clippy::restriction
)]

use std::mem::{offset_of, size_of};

use virtio_modern_spec::{admin::legacy as cmd, common, features, ring};
use virtio_pci_spec::{
    config,
    legacy::{self, Register},
    modern::{cap, cfg_type},
    status, DeviceType,
};

mod c {
    include!("bindings.inc.rs");
}

const fn at(register: Register) -> u32 {
    legacy::field_of(register).offset as u32
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

const fn at_config(device: DeviceType, name: &[u8]) -> usize {
    let all = config::fields(device);
    let mut i = 0;
    while i < all.len() {
        if same(all[i].name.as_bytes(), name) {
            return all[i].offset as usize;
        }
        i += 1;
    }
    usize::MAX
}

const fn len_config(device: DeviceType) -> usize {
    let all = config::fields(device);
    let last = &all[all.len() - 1];
    last.offset as usize + last.len() as usize
}

macro_rules! same {
    ($($ours:expr => $theirs:ident;)*) => {
        const _: () = { $(assert!($ours as u64 == c::$theirs as u64);)* };
    };
}

macro_rules! same_fields {
    ($($device:ident $struct:ident { $($ours:ident $theirs:ident;)* })*) => {
        const _: () = { $($(assert!(
            at_config(DeviceType::$device, stringify!($ours).as_bytes())
                == offset_of!(c::$struct, $theirs)
        );)*)* };
    };
}

macro_rules! same_offsets {
    ($($struct:ident { $($ours:path, $theirs:ident;)* })*) => {
        const _: () = { $($(assert!($ours == offset_of!(c::$struct, $theirs));)*)* };
    };
}

macro_rules! same_sizes {
    ($($ours:expr => $struct:ident;)*) => {
        const _: () = { $(assert!($ours as usize == size_of::<c::$struct>());)* };
    };
}

// virtio_pci.h, virtio_config.h and virtio_ids.h: numbers.
same! {
    at(Register::DeviceFeatures) => VIRTIO_PCI_HOST_FEATURES;
    at(Register::DriverFeatures) => VIRTIO_PCI_GUEST_FEATURES;
    at(Register::QueueAddress) => VIRTIO_PCI_QUEUE_PFN;
    at(Register::QueueSize) => VIRTIO_PCI_QUEUE_NUM;
    at(Register::QueueSelect) => VIRTIO_PCI_QUEUE_SEL;
    at(Register::QueueNotify) => VIRTIO_PCI_QUEUE_NOTIFY;
    at(Register::DeviceStatus) => VIRTIO_PCI_STATUS; at(Register::IsrStatus) => VIRTIO_PCI_ISR;
    at(Register::ConfigVector) => VIRTIO_MSI_CONFIG_VECTOR;
    at(Register::QueueVector) => VIRTIO_MSI_QUEUE_VECTOR;
    ring::QUEUE_ALIGN => VIRTIO_PCI_VRING_ALIGN; status::NO_VECTOR => VIRTIO_MSI_NO_VECTOR;
    status::ISR_CONFIG => VIRTIO_PCI_ISR_CONFIG; cfg_type::COMMON => VIRTIO_PCI_CAP_COMMON_CFG;
    cfg_type::NOTIFY => VIRTIO_PCI_CAP_NOTIFY_CFG; cfg_type::ISR => VIRTIO_PCI_CAP_ISR_CFG;
    cfg_type::DEVICE => VIRTIO_PCI_CAP_DEVICE_CFG; cfg_type::PCI => VIRTIO_PCI_CAP_PCI_CFG;
    common::DEVICE_FEATURE_SELECT => VIRTIO_PCI_COMMON_DFSELECT;
    common::DEVICE_FEATURE => VIRTIO_PCI_COMMON_DF;
    common::DRIVER_FEATURE_SELECT => VIRTIO_PCI_COMMON_GFSELECT;
    common::DRIVER_FEATURE => VIRTIO_PCI_COMMON_GF;
    common::CONFIG_MSIX_VECTOR => VIRTIO_PCI_COMMON_MSIX;
    common::NUM_QUEUES => VIRTIO_PCI_COMMON_NUMQ; common::DEVICE_STATUS => VIRTIO_PCI_COMMON_STATUS;
    common::CONFIG_GENERATION => VIRTIO_PCI_COMMON_CFGGENERATION;
    common::QUEUE_SELECT => VIRTIO_PCI_COMMON_Q_SELECT;
    common::QUEUE_SIZE => VIRTIO_PCI_COMMON_Q_SIZE;
    common::QUEUE_MSIX_VECTOR => VIRTIO_PCI_COMMON_Q_MSIX;
    common::QUEUE_ENABLE => VIRTIO_PCI_COMMON_Q_ENABLE;
    common::QUEUE_NOTIFY_OFF => VIRTIO_PCI_COMMON_Q_NOFF;
    common::QUEUE_DESC => VIRTIO_PCI_COMMON_Q_DESCLO;
    common::QUEUE_DRIVER => VIRTIO_PCI_COMMON_Q_AVAILLO;
    common::QUEUE_DEVICE => VIRTIO_PCI_COMMON_Q_USEDLO;
    common::QUEUE_NOTIF_CONFIG_DATA => VIRTIO_PCI_COMMON_Q_NDATA;
    common::QUEUE_RESET => VIRTIO_PCI_COMMON_Q_RESET;
    common::ADMIN_QUEUE_INDEX => VIRTIO_PCI_COMMON_ADM_Q_IDX;
    common::ADMIN_QUEUE_NUM => VIRTIO_PCI_COMMON_ADM_Q_NUM;
    status::ACKNOWLEDGE => VIRTIO_CONFIG_S_ACKNOWLEDGE; status::DRIVER => VIRTIO_CONFIG_S_DRIVER;
    status::DRIVER_OK => VIRTIO_CONFIG_S_DRIVER_OK;
    status::FEATURES_OK => VIRTIO_CONFIG_S_FEATURES_OK;
    status::DEVICE_NEEDS_RESET => VIRTIO_CONFIG_S_NEEDS_RESET;
    status::FAILED => VIRTIO_CONFIG_S_FAILED; features::NOTIFY_ON_EMPTY => VIRTIO_F_NOTIFY_ON_EMPTY;
    features::ANY_LAYOUT => VIRTIO_F_ANY_LAYOUT; features::VERSION_1 => VIRTIO_F_VERSION_1;
    features::SR_IOV => VIRTIO_F_SR_IOV; features::RING_RESET => VIRTIO_F_RING_RESET;
    features::ADMIN_VQ => VIRTIO_F_ADMIN_VQ; DeviceType::Net.virtio_id() => VIRTIO_ID_NET;
    DeviceType::Block.virtio_id() => VIRTIO_ID_BLOCK;
    DeviceType::Console.virtio_id() => VIRTIO_ID_CONSOLE;
    DeviceType::Entropy.virtio_id() => VIRTIO_ID_RNG;
    DeviceType::Balloon.virtio_id() => VIRTIO_ID_BALLOON;
    DeviceType::Scsi.virtio_id() => VIRTIO_ID_SCSI; DeviceType::P9.virtio_id() => VIRTIO_ID_9P;
    DeviceType::Net.transitional_pci_id() => VIRTIO_TRANS_ID_NET;
    DeviceType::Block.transitional_pci_id() => VIRTIO_TRANS_ID_BLOCK;
    DeviceType::Balloon.transitional_pci_id() => VIRTIO_TRANS_ID_BALLOON;
    DeviceType::Console.transitional_pci_id() => VIRTIO_TRANS_ID_CONSOLE;
    DeviceType::Scsi.transitional_pci_id() => VIRTIO_TRANS_ID_SCSI;
    DeviceType::Entropy.transitional_pci_id() => VIRTIO_TRANS_ID_RNG;
    DeviceType::P9.transitional_pci_id() => VIRTIO_TRANS_ID_9P;
    cmd::NOTIFY_ENTRIES => VIRTIO_ADMIN_CMD_MAX_NOTIFY_INFO;
    cmd::notify_flags::END => VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_END;
    cmd::notify_flags::OWNER => VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV;
    cmd::notify_flags::MEMBER => VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM;
}

// The headers of the types: where the fields of the device configuration lie.
same_fields! {
    Net virtio_net_config {
        mac mac; status status; max_virtqueue_pairs max_virtqueue_pairs; mtu mtu; speed speed;
        duplex duplex; supported_hash_types supported_hash_types;
    }
    Block virtio_blk_config {
        capacity capacity; size_max size_max; seg_max seg_max; cylinders geometry;
        blk_size blk_size; alignment_offset alignment_offset; writeback wce; num_queues num_queues;
        max_discard_sectors max_discard_sectors; max_write_zeroes_seg max_write_zeroes_seg;
        secure_erase_sector_alignment secure_erase_sector_alignment; zone_sectors zoned;
    }
    Console virtio_console_config {
        emerg_wr emerg_wr;
    }
    Balloon virtio_balloon_config {
        poison_val poison_val;
    }
    Scsi virtio_scsi_config {
        cdb_size cdb_size;
    }
}

// virtio_pci.h: capabilities and admin commands.
same_offsets! {
    virtio_pci_cap {
        cap::CAP_LEN, cap_len; cap::CFG_TYPE, cfg_type; cap::BAR, bar;
        cap::OFFSET, offset; cap::LENGTH, length;
    }
    virtio_pci_notify_cap {
        cap::NOTIFY_MULTIPLIER, notify_off_multiplier;
    }
    virtio_pci_cfg_cap {
        cap::PCI_CFG_DATA, pci_cfg_data;
    }
}
same_sizes! {
    cap::LEN => virtio_pci_cap; cap::LEN_EXTENDED => virtio_pci_notify_cap;
    common::LEN => virtio_pci_modern_common_cfg;
    cmd::NOTIFY_ENTRY_LEN => virtio_admin_cmd_notify_info_data;
    cmd::NOTIFY_RESULT_LEN => virtio_admin_cmd_notify_info_result;
    cmd::OFFSET => virtio_admin_cmd_hdr; len_config(DeviceType::Block) => virtio_blk_config;
    len_config(DeviceType::Console) => virtio_console_config;
    len_config(DeviceType::Balloon) => virtio_balloon_config;
    len_config(DeviceType::Scsi) => virtio_scsi_config;
}
const _: () = {
    assert!(ring::QUEUE_ALIGN == 1 << c::VIRTIO_PCI_QUEUE_ADDR_SHIFT);
    assert!(cmd::READ_REQUEST_LEN == cmd::OFFSET + size_of::<c::virtio_admin_cmd_legacy_rd_data>());
    assert!(
        cmd::WRITE_HEADER_LEN
            == cmd::OFFSET + offset_of!(c::virtio_admin_cmd_legacy_wr_data, registers)
    );
};
