// SPDX-License-Identifier: GPL-2.0-or-later

//! A simulated SR-IOV PF and its VFs on a `PCIe` bus. Only in a QEMU for
//! tests.
//!
//! Each function is a vfio-user device of its own. Here they become what a guest's kernel sees of
//! an SR-IOV card: `x-vfio-user-sriov-pf` adds the SR-IOV capability for the
//! `x-vfio-user-sriov-vf` devices that name it with `sriov-pf=`, and QEMU's SR-IOV code shows and
//! hides these as the guest writes `NumVFs` and VF Enable. VFs come before their PF on the command
//! line, at ascending functions of the same bus with equal distance. All must have the same vendor,
//! the VFs the same device id and BARs.
//!
//! The PF's server learns from configuration writes at the capability's offset which VFs are on;
//! what it has there itself is never read.

mod sriov;

use std::{cell::Cell, ffi::CStr};

use common::uninit_field_mut;
use hwcore::{DeviceImpl, DeviceState, ResettablePhasesImpl};
use pci::{ChainedPciClass, ChainedPciDevice, ChainedPciMethods, ParentRealized, PciDevice};
use qom::{prelude::*, ObjectImpl, ParentField, ParentInit};
use util::{Error, Result};
use vfio::{VfioPciBase, VfioUserPci};
use virtio_pci_spec::pci::{express, CAP_ID_EXPRESS};

/// The PF: adds SR-IOV to what the server offers.
#[repr(C)]
#[derive(qom::Object, hwcore::Device)]
pub struct SriovPf {
    parent_obj: ParentField<VfioUserPci>,
    #[property(rename = "sriov-offset", default = 0x800)]
    offset: u16,
    /// Offset of the Express capability; 0 before realize. Accessed under the big QEMU lock only.
    express: Cell<u8>,
}

qom_isa!(SriovPf: VfioUserPci, VfioPciBase, PciDevice, DeviceState, Object);

// SAFETY: the struct is repr(C) and starts with a ParentField of the parent, the class struct
// starts with the parent's class struct.
unsafe impl ObjectType for SriovPf {
    type Class = ChainedPciClass;
    const TYPE_NAME: &'static CStr = c"x-vfio-user-sriov-pf";
}

impl ObjectImpl for SriovPf {
    type ParentType = VfioUserPci;
    const INSTANCE_INIT: Option<unsafe fn(ParentInit<Self>)> = Some(Self::init);
    const CLASS_INIT: fn(&mut Self::Class) = |class| {
        class.class_init::<Self>();
        class.set_description(c"SR-IOV PF behind a vfio-user socket (for tests)");
        class.describe_property(
            c"sriov-offset",
            "place of the SR-IOV capability in the configuration space",
        );
    };
}

impl DeviceImpl for SriovPf {}

impl ResettablePhasesImpl for SriovPf {}

impl SriovPf {
    /// # Safety
    ///
    /// Called by QOM for memory that holds an initialized parent.
    unsafe fn init(mut this: ParentInit<Self>) {
        uninit_field_mut!(*this, express).write(Cell::new(0));
    }

    fn pci(&self) -> &PciDevice {
        self.upcast()
    }

    fn add_sriov(&self) -> Result<()> {
        let name = self.pci().label();
        let express = sriov::find_capability(self.pci(), CAP_ID_EXPRESS);
        let express = express
            .ok_or_else(|| Error::msg(format!("{name}: the server shows no Express capability")))?;
        let added = sriov::init_pf(self.pci(), self.offset)
            .map_err(|e| Error::msg(format!("{name}: {e}")))?;
        let vfio: &VfioPciBase = self.upcast();
        for i in 0..added {
            vfio.emulate_config_bits(usize::from(self.offset) + i, 0xff);
        }
        self.express.set(express);
        Ok(())
    }

    /// Whether a write of configuration space starts a function level reset.
    fn starts_flr(&self, address: u32, value: u32, len: u8) -> bool {
        let capability = self.express.get();
        let high = u32::from(capability) + express::DEVCTL as u32 + 1;
        let Some(shift) = high.checked_sub(address) else {
            return false;
        };
        let flr = u32::from(express::DEVCTL_FLR >> 8);
        capability != 0 && shift < len.into() && value >> (8 * shift) & flr != 0
    }
}

impl ChainedPciDevice for SriovPf {
    fn realize(&self) -> Result<()> {
        let parent = self.parent_realize()?;
        if let Err(e) = self.add_sriov() {
            self.parent_exit(parent);
            return Err(e);
        }
        Ok(())
    }

    fn exit(&self, parent: ParentRealized) {
        sriov::exit_pf(self.pci());
        self.parent_exit(parent);
    }

    fn config_read(&self, address: u32, len: u8) -> u32 {
        self.parent_config_read(address, len)
    }

    fn config_write(&self, address: u32, value: u32, len: u8) {
        self.parent_config_write(address, value, len);
        // The server does the rest of the reset; VF Enable is QEMU's.
        if self.starts_flr(address, value, len) {
            sriov::reset_pf(self.pci());
        }
    }

    fn reset(&self) {
        self.parent_reset();
    }
}

/// A VF, which its PF hides until it is enabled.
#[repr(C)]
#[derive(qom::Object, hwcore::Device)]
pub struct SriovVf {
    parent_obj: ParentField<VfioUserPci>,
}

qom_isa!(SriovVf: VfioUserPci, VfioPciBase, PciDevice, DeviceState, Object);

// SAFETY: the struct is repr(C) and starts with a ParentField of the parent, the class struct
// starts with the parent's class struct.
unsafe impl ObjectType for SriovVf {
    type Class = ChainedPciClass;
    const TYPE_NAME: &'static CStr = c"x-vfio-user-sriov-vf";
}

impl ObjectImpl for SriovVf {
    type ParentType = VfioUserPci;
    const CLASS_INIT: fn(&mut Self::Class) = |class| {
        class.class_init::<Self>();
        sriov::allow_vf(class);
        class.set_description(c"SR-IOV VF behind a vfio-user socket (for tests)");
    };
}

impl DeviceImpl for SriovVf {}

impl ResettablePhasesImpl for SriovVf {}

impl ChainedPciDevice for SriovVf {
    fn realize(&self) -> Result<()> {
        self.parent_realize().map(|_| ())
    }

    fn exit(&self, parent: ParentRealized) {
        self.parent_exit(parent);
    }

    fn config_read(&self, address: u32, len: u8) -> u32 {
        self.parent_config_read(address, len)
    }

    fn config_write(&self, address: u32, value: u32, len: u8) {
        self.parent_config_write(address, value, len);
    }

    fn reset(&self) {
        self.parent_reset();
    }
}
