// SPDX-License-Identifier: GPL-2.0-or-later

//! The register maps in Rust against Linux's headers, at compile time.

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

use virtio_pci_spec::{
    config, features,
    legacy::{self, Register},
    modern, status, DeviceType,
};

mod c {
    #[cfg(MESON)]
    include!("bindings.inc.rs");

    #[cfg(not(MESON))]
    include!(concat!(env!("OUT_DIR"), "/bindings.inc.rs"));
}

const fn at(register: Register) -> u32 {
    let mut i = 0;
    while i < legacy::HEADER.len() {
        if legacy::HEADER[i].register as u8 == register as u8 {
            return legacy::HEADER[i].offset as u32;
        }
        i += 1;
    }
    u32::MAX
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

// virtio_pci.h: the legacy header.
const _: () = {
    assert!(at(Register::DeviceFeatures) == c::VIRTIO_PCI_HOST_FEATURES);
    assert!(at(Register::DriverFeatures) == c::VIRTIO_PCI_GUEST_FEATURES);
    assert!(at(Register::QueueAddress) == c::VIRTIO_PCI_QUEUE_PFN);
    assert!(at(Register::QueueSize) == c::VIRTIO_PCI_QUEUE_NUM);
    assert!(at(Register::QueueSelect) == c::VIRTIO_PCI_QUEUE_SEL);
    assert!(at(Register::QueueNotify) == c::VIRTIO_PCI_QUEUE_NOTIFY);
    assert!(at(Register::DeviceStatus) == c::VIRTIO_PCI_STATUS);
    assert!(at(Register::IsrStatus) == c::VIRTIO_PCI_ISR);
    assert!(at(Register::ConfigVector) == c::VIRTIO_MSI_CONFIG_VECTOR);
    assert!(at(Register::QueueVector) == c::VIRTIO_MSI_QUEUE_VECTOR);
    assert!(legacy::QUEUE_ALIGN == c::VIRTIO_PCI_VRING_ALIGN as u64);
    assert!(legacy::QUEUE_ALIGN == 1 << c::VIRTIO_PCI_QUEUE_ADDR_SHIFT);
    assert!(status::NO_VECTOR as u32 == c::VIRTIO_MSI_NO_VECTOR);
    assert!(status::ISR_CONFIG as u32 == c::VIRTIO_PCI_ISR_CONFIG);
};

// virtio_pci.h: the modern structures.
const _: () = {
    use modern::{cap, cfg_type, common};
    assert!(cfg_type::COMMON as u32 == c::VIRTIO_PCI_CAP_COMMON_CFG);
    assert!(cfg_type::NOTIFY as u32 == c::VIRTIO_PCI_CAP_NOTIFY_CFG);
    assert!(cfg_type::ISR as u32 == c::VIRTIO_PCI_CAP_ISR_CFG);
    assert!(cfg_type::DEVICE as u32 == c::VIRTIO_PCI_CAP_DEVICE_CFG);
    assert!(cfg_type::PCI as u32 == c::VIRTIO_PCI_CAP_PCI_CFG);
    assert!(cfg_type::SHARED_MEMORY as u32 == c::VIRTIO_PCI_CAP_SHARED_MEMORY_CFG);
    assert!(cap::LEN as usize == size_of::<c::virtio_pci_cap>());
    assert!(cap::LEN_EXTENDED as usize == size_of::<c::virtio_pci_notify_cap>());
    assert!(cap::CAP_LEN == offset_of!(c::virtio_pci_cap, cap_len));
    assert!(cap::CFG_TYPE == offset_of!(c::virtio_pci_cap, cfg_type));
    assert!(cap::BAR == offset_of!(c::virtio_pci_cap, bar));
    assert!(cap::ID == offset_of!(c::virtio_pci_cap, id));
    assert!(cap::OFFSET == offset_of!(c::virtio_pci_cap, offset));
    assert!(cap::LENGTH == offset_of!(c::virtio_pci_cap, length));
    assert!(cap::NOTIFY_MULTIPLIER == offset_of!(c::virtio_pci_notify_cap, notify_off_multiplier));
    assert!(cap::PCI_CFG_DATA == offset_of!(c::virtio_pci_cfg_cap, pci_cfg_data));
    assert!(common::DEVICE_FEATURE_SELECT == c::VIRTIO_PCI_COMMON_DFSELECT as u64);
    assert!(common::DEVICE_FEATURE == c::VIRTIO_PCI_COMMON_DF as u64);
    assert!(common::DRIVER_FEATURE_SELECT == c::VIRTIO_PCI_COMMON_GFSELECT as u64);
    assert!(common::DRIVER_FEATURE == c::VIRTIO_PCI_COMMON_GF as u64);
    assert!(common::CONFIG_MSIX_VECTOR == c::VIRTIO_PCI_COMMON_MSIX as u64);
    assert!(common::NUM_QUEUES == c::VIRTIO_PCI_COMMON_NUMQ as u64);
    assert!(common::DEVICE_STATUS == c::VIRTIO_PCI_COMMON_STATUS as u64);
    assert!(common::CONFIG_GENERATION == c::VIRTIO_PCI_COMMON_CFGGENERATION as u64);
    assert!(common::QUEUE_SELECT == c::VIRTIO_PCI_COMMON_Q_SELECT as u64);
    assert!(common::QUEUE_SIZE == c::VIRTIO_PCI_COMMON_Q_SIZE as u64);
    assert!(common::QUEUE_MSIX_VECTOR == c::VIRTIO_PCI_COMMON_Q_MSIX as u64);
    assert!(common::QUEUE_ENABLE == c::VIRTIO_PCI_COMMON_Q_ENABLE as u64);
    assert!(common::QUEUE_NOTIFY_OFF == c::VIRTIO_PCI_COMMON_Q_NOFF as u64);
    assert!(common::QUEUE_DESC == c::VIRTIO_PCI_COMMON_Q_DESCLO as u64);
    assert!(common::QUEUE_DRIVER == c::VIRTIO_PCI_COMMON_Q_AVAILLO as u64);
    assert!(common::QUEUE_DEVICE == c::VIRTIO_PCI_COMMON_Q_USEDLO as u64);
    assert!(common::QUEUE_NOTIF_CONFIG_DATA == c::VIRTIO_PCI_COMMON_Q_NDATA as u64);
    assert!(common::QUEUE_RESET == c::VIRTIO_PCI_COMMON_Q_RESET as u64);
    assert!(common::ADMIN_QUEUE_INDEX == c::VIRTIO_PCI_COMMON_ADM_Q_IDX as u64);
    assert!(common::ADMIN_QUEUE_NUM == c::VIRTIO_PCI_COMMON_ADM_Q_NUM as u64);
    assert!(common::LEN as usize == size_of::<c::virtio_pci_modern_common_cfg>());
};

// virtio_pci.h: admin commands.
const _: () = {
    use virtio_pci_spec::admin::legacy as cmd;
    assert!(cmd::NOTIFY_ENTRIES == c::VIRTIO_ADMIN_CMD_MAX_NOTIFY_INFO as usize);
    assert!(cmd::NOTIFY_ENTRY_LEN == size_of::<c::virtio_admin_cmd_notify_info_data>());
    assert!(cmd::NOTIFY_RESULT_LEN == size_of::<c::virtio_admin_cmd_notify_info_result>());
    assert!(cmd::OFFSET == size_of::<c::virtio_admin_cmd_hdr>());
    assert!(cmd::READ_REQUEST_LEN == cmd::OFFSET + size_of::<c::virtio_admin_cmd_legacy_rd_data>());
    assert!(
        cmd::WRITE_HEADER_LEN
            == cmd::OFFSET + offset_of!(c::virtio_admin_cmd_legacy_wr_data, registers)
    );
    assert!(cmd::notify_flags::END as u32 == c::VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_END);
    assert!(cmd::notify_flags::OWNER as u32 == c::VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV);
    assert!(cmd::notify_flags::MEMBER as u32 == c::VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM);
};

// The headers of the types: where the fields of the device configuration lie.
const _: () = {
    assert!(at_config(DeviceType::Net, b"mac") == offset_of!(c::virtio_net_config, mac));
    assert!(at_config(DeviceType::Net, b"status") == offset_of!(c::virtio_net_config, status));
    assert!(
        at_config(DeviceType::Net, b"max_virtqueue_pairs")
            == offset_of!(c::virtio_net_config, max_virtqueue_pairs)
    );
    assert!(at_config(DeviceType::Net, b"mtu") == offset_of!(c::virtio_net_config, mtu));
    assert!(at_config(DeviceType::Net, b"speed") == offset_of!(c::virtio_net_config, speed));
    assert!(at_config(DeviceType::Net, b"duplex") == offset_of!(c::virtio_net_config, duplex));
    assert!(
        at_config(DeviceType::Net, b"supported_hash_types")
            == offset_of!(c::virtio_net_config, supported_hash_types)
    );
    assert!(
        at_config(DeviceType::Block, b"capacity") == offset_of!(c::virtio_blk_config, capacity)
    );
    assert!(
        at_config(DeviceType::Block, b"size_max") == offset_of!(c::virtio_blk_config, size_max)
    );
    assert!(at_config(DeviceType::Block, b"seg_max") == offset_of!(c::virtio_blk_config, seg_max));
    assert!(
        at_config(DeviceType::Block, b"cylinders") == offset_of!(c::virtio_blk_config, geometry)
    );
    assert!(
        at_config(DeviceType::Block, b"blk_size") == offset_of!(c::virtio_blk_config, blk_size)
    );
    assert!(
        at_config(DeviceType::Block, b"alignment_offset")
            == offset_of!(c::virtio_blk_config, alignment_offset)
    );
    assert!(at_config(DeviceType::Block, b"writeback") == offset_of!(c::virtio_blk_config, wce));
    assert!(
        at_config(DeviceType::Block, b"num_queues") == offset_of!(c::virtio_blk_config, num_queues)
    );
    assert!(
        at_config(DeviceType::Block, b"max_discard_sectors")
            == offset_of!(c::virtio_blk_config, max_discard_sectors)
    );
    assert!(
        at_config(DeviceType::Block, b"max_write_zeroes_seg")
            == offset_of!(c::virtio_blk_config, max_write_zeroes_seg)
    );
    assert!(
        at_config(DeviceType::Block, b"secure_erase_sector_alignment")
            == offset_of!(c::virtio_blk_config, secure_erase_sector_alignment)
    );
    assert!(
        at_config(DeviceType::Block, b"zone_sectors") == offset_of!(c::virtio_blk_config, zoned)
    );
    assert!(len_config(DeviceType::Block) == size_of::<c::virtio_blk_config>());
    assert!(
        at_config(DeviceType::Console, b"emerg_wr")
            == offset_of!(c::virtio_console_config, emerg_wr)
    );
    assert!(len_config(DeviceType::Console) == size_of::<c::virtio_console_config>());
    assert!(
        at_config(DeviceType::Balloon, b"poison_val")
            == offset_of!(c::virtio_balloon_config, poison_val)
    );
    assert!(len_config(DeviceType::Balloon) == size_of::<c::virtio_balloon_config>());
    assert!(
        at_config(DeviceType::Scsi, b"cdb_size") == offset_of!(c::virtio_scsi_config, cdb_size)
    );
    assert!(len_config(DeviceType::Scsi) == size_of::<c::virtio_scsi_config>());
};

// virtio_config.h and virtio_ids.h.
const _: () = {
    assert!(status::ACKNOWLEDGE as u32 == c::VIRTIO_CONFIG_S_ACKNOWLEDGE);
    assert!(status::DRIVER as u32 == c::VIRTIO_CONFIG_S_DRIVER);
    assert!(status::DRIVER_OK as u32 == c::VIRTIO_CONFIG_S_DRIVER_OK);
    assert!(status::FEATURES_OK as u32 == c::VIRTIO_CONFIG_S_FEATURES_OK);
    assert!(status::DEVICE_NEEDS_RESET as u32 == c::VIRTIO_CONFIG_S_NEEDS_RESET);
    assert!(status::FAILED as u32 == c::VIRTIO_CONFIG_S_FAILED);
    assert!(features::NOTIFY_ON_EMPTY == c::VIRTIO_F_NOTIFY_ON_EMPTY);
    assert!(features::ANY_LAYOUT == c::VIRTIO_F_ANY_LAYOUT);
    assert!(features::VERSION_1 == c::VIRTIO_F_VERSION_1);
    assert!(features::SR_IOV == c::VIRTIO_F_SR_IOV);
    assert!(features::RING_RESET == c::VIRTIO_F_RING_RESET);
    assert!(features::ADMIN_VQ == c::VIRTIO_F_ADMIN_VQ);
    assert!(DeviceType::Net.virtio_id() as u32 == c::VIRTIO_ID_NET);
    assert!(DeviceType::Block.virtio_id() as u32 == c::VIRTIO_ID_BLOCK);
    assert!(DeviceType::Console.virtio_id() as u32 == c::VIRTIO_ID_CONSOLE);
    assert!(DeviceType::Entropy.virtio_id() as u32 == c::VIRTIO_ID_RNG);
    assert!(DeviceType::Balloon.virtio_id() as u32 == c::VIRTIO_ID_BALLOON);
    assert!(DeviceType::Scsi.virtio_id() as u32 == c::VIRTIO_ID_SCSI);
    assert!(DeviceType::P9.virtio_id() as u32 == c::VIRTIO_ID_9P);
    assert!(DeviceType::Net.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_NET);
    assert!(DeviceType::Block.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_BLOCK);
    assert!(DeviceType::Balloon.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_BALLOON);
    assert!(DeviceType::Console.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_CONSOLE);
    assert!(DeviceType::Scsi.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_SCSI);
    assert!(DeviceType::Entropy.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_RNG);
    assert!(DeviceType::P9.transitional_pci_id() as u32 == c::VIRTIO_TRANS_ID_9P);
};
