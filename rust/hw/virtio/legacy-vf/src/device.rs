// SPDX-License-Identifier: GPL-2.0-or-later

//! The QOM types `virtio-legacy-vf` and `virtio-legacy-vf-user`, and their properties.

use std::ffi::CStr;

use common::uninit_field_mut;
use hwcore::{DeviceImpl, DeviceState, ResettablePhasesImpl};
use pci::{
    property::{Getter, OnOffAutoProperty, StringProperty},
    ChainedPciClass, ChainedPciDevice, ChainedPciMethods, ParentRealized, PciDevice,
};
use qom::{prelude::*, ObjectImpl, ParentField, ParentInit};
use system::{bindings::hwaddr, MemoryRegion, MemoryRegionOps, MemoryRegionOpsBuilder};
use util::Result;
use vfio::{VfioPci, VfioPciBase, VfioUserPci};

use crate::{
    bar0,
    capability_list::MAX_HIDDEN,
    config_space, counters,
    link::Link,
    realize, reset,
    state::{LegacyVf, Options, State},
    vf::Kind,
};

/// Size of BAR0 until the VF is known; no type needs more.
const MAX_BAR0: u64 = 512;

macro_rules! legacy_vf_type {
    ($(#[$doc:meta])* $name:ident, $parent:ty, $type_name:literal, $kind:expr, $desc:literal) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(qom::Object, hwcore::Device)]
        pub struct $name {
            parent_obj: ParentField<$parent>,
            #[property(rename = "helper")]
            helper: StringProperty,
            #[property(rename = "vf", default = 0)]
            vf: u16,
            #[property(rename = "helper-deadline-ms", default = 3000)]
            deadline_ms: u32,
            #[property(rename = "disable-modern", default = false)]
            disable_modern: bool,
            #[property(rename = "intx", default = 0)]
            intx: OnOffAutoProperty,
            #[property(rename = "x-bus-master-fixup", default = true)]
            bus_master_fixup: bool,
            #[property(rename = "x-check-vf", default = true)]
            check_vf: bool,
            bar0: MemoryRegion,
            covers: [MemoryRegion; MAX_HIDDEN],
            #[property(rename = "state")]
            state: State,
        }

        qom_isa!($name: $parent, VfioPciBase, PciDevice, DeviceState, Object);

        // SAFETY: the struct is repr(C) and starts with a ParentField of the parent, the class
        // struct starts with the parent's class struct.
        unsafe impl ObjectType for $name {
            type Class = ChainedPciClass;
            const TYPE_NAME: &'static CStr = $type_name;
        }

        impl ObjectImpl for $name {
            type ParentType = $parent;
            const INSTANCE_INIT: Option<unsafe fn(ParentInit<Self>)> = Some(Self::init);
            const CLASS_INIT: fn(&mut Self::Class) = |class| {
                class.class_init::<Self>();
                class.set_description($desc);
                add_properties::<Self>(class);
            };
        }

        impl DeviceImpl for $name {}

        impl ResettablePhasesImpl for $name {}

        impl ChainedPciDevice for $name {
            fn realize(&self) -> Result<()> {
                realize::realize(self)
            }

            fn exit(&self, parent: ParentRealized) {
                realize::detach(self);
                self.parent_exit(parent);
            }

            fn config_read(&self, address: u32, len: u8) -> u32 {
                config_space::read(self, address, len)
            }

            fn config_write(&self, address: u32, value: u32, len: u8) {
                config_space::write(self, address, value, len);
            }

            fn reset(&self) {
                reset::with_bus(self);
            }
        }

        impl LegacyVf for $name {
            const KIND: Kind = $kind;

            fn options(&self) -> Options<'_> {
                Options {
                    helper: &self.helper,
                    vf: self.vf,
                    deadline_ms: self.deadline_ms,
                    intx: self.intx.get(),
                    check_vf: self.check_vf,
                    disable_modern: self.disable_modern,
                    bus_master_fixup: self.bus_master_fixup,
                }
            }

            fn state(&self) -> &State {
                &self.state
            }

            fn bar0(&self) -> &MemoryRegion {
                &self.bar0
            }

            fn covers(&self) -> &[MemoryRegion] {
                &self.covers
            }
        }

        impl $name {
            /// # Safety
            ///
            /// Called by QOM for memory that holds an initialized parent.
            unsafe fn init(mut this: ParentInit<Self>) {
                static BAR0_OPS: MemoryRegionOps<$name> = MemoryRegionOpsBuilder::<$name>::new()
                    .read(&bar0::read::<$name>)
                    .write(&bar0::write::<$name>)
                    .little_endian()
                    .valid_sizes(1, 4)
                    .impl_sizes(1, 4)
                    .build();
                static HIDDEN_OPS: MemoryRegionOps<$name> = MemoryRegionOpsBuilder::<$name>::new()
                    .read(&|_: &$name, _: hwaddr, _: u32| u64::MAX)
                    .write(&|_: &$name, _: hwaddr, _: u64, _: u32| ())
                    .little_endian()
                    .valid_sizes(1, 8)
                    .impl_sizes(1, 8)
                    .build();

                MemoryRegion::init_io(
                    &mut uninit_field_mut!(*this, bar0),
                    &BAR0_OPS,
                    "virtio-legacy",
                    MAX_BAR0,
                );
                for i in 0..MAX_HIDDEN {
                    MemoryRegion::init_io(
                        &mut uninit_field_mut!(*this, covers[i]),
                        &HIDDEN_OPS,
                        "virtio-hidden",
                        1,
                    );
                }
                uninit_field_mut!(*this, state).write(State::default());
            }
        }
    };
}

legacy_vf_type!(
    /// A virtio VF of the host, shown as a transitional device.
    VirtioLegacyVf,
    VfioPci,
    c"virtio-legacy-vf",
    Kind::Host,
    c"virtio VF of the host as a transitional device (legacy registers through a helper)"
);
legacy_vf_type!(
    /// A virtio VF that another process emulates, shown as a transitional device.
    VirtioLegacyVfUser,
    VfioUserPci,
    c"virtio-legacy-vf-user",
    Kind::User,
    c"virtio VF behind a vfio-user socket as a transitional device"
);

/// Help for the settable properties; state and counters for `qom-get`. None of these takes a lock
/// that is held while the helper answers.
fn add_properties<D: LegacyVf>(class: &mut ChainedPciClass) {
    macro_rules! help {
        ($($name:literal: $text:literal,)*) => {$(class.describe_property($name, $text);)*};
    }
    macro_rules! read_only {
        ($($kind:ident $name:literal: $text:literal, $state:ident => $value:expr;)*) => {$(
            let get = Box::new(|dev: &D| { let $state = dev.state(); $value });
            class.add_read_only($name, $text, Getter::$kind(get));
        )*};
    }
    help! {
        c"helper": "socket of the helper that serves the PF of this VF",
        c"vf": "number of the VF at its PF, from 1",
        c"state": "which VF, which helper, how the link and the doorbells stand",
        c"helper-deadline-ms": "longest wait for the helper in one register access",
        c"disable-modern": "hide the modern interface from the guest",
        c"intx": "interrupts for guests without MSI-X: on, off, or auto (if the VF can)",
        c"x-bus-master-fixup": "enable bus mastering for guests that forget it",
        c"x-check-vf": "find out at start whether a vfio-user socket and vf= are of the same VF",
    }
    read_only! {
        Text c"link-state": "connected, lost or closed",
            s => s.link_state().to_owned();
        Text c"link-error": "why the helper is lost",
            s => s.link().map(Link::reason).unwrap_or_default();
        Truth c"state-lost":
            "the VF was reset behind the back of the guest's driver, which must be started anew",
            s => s.link().is_some_and(|link| link.guest().state_lost);
        Number c"isr": "ISR status that a guest without MSI-X would read",
            s => s.intx(|i| i.isr().bits.into());
        Truth c"intx-level": "whether the interrupt pin is raised", s => s.intx(|i| i.isr().pin);
        Number c"intx-vectors": "vectors of the VF that are used for INTx now",
            s => s.intx(|i| if i.isr().held { i.vectors.into() } else { 0 });
        Text c"notify-by": "who writes the doorbell, vf or helper", s => s.notify_by().to_owned();
        Text c"doorbell-path": "how doorbells reach the VF: kernel, region or helper",
            s => s.doorbell_path().to_owned();
        Number c"kernel-doorbells":
            "queues whose doorbells never leave the kernel, and are not counted",
            s => s.doorbells.count() as u64;
    }
    for (name, text, get) in counters::ALL {
        let get = Box::new(move |dev: &D| get(&dev.state().counters));
        class.add_read_only(name, text.trim_start(), Getter::Number(get));
    }
}
