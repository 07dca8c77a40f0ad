// SPDX-License-Identifier: GPL-2.0-or-later
//! Interrupt types, their description and SET_IRQS.

/// Interrupt index of INTx.
pub const IRQ_INTX: u32 = 0;
/// Interrupt index of MSI.
pub const IRQ_MSI: u32 = 1;
/// Interrupt index of MSI-X.
pub const IRQ_MSIX: u32 = 2;
/// Interrupt index of the error notification.
pub const IRQ_ERR: u32 = 3;
/// Interrupt index of the device release request.
pub const IRQ_REQ: u32 = 4;

/// Flag bits of interrupt messages, as in VFIO.
pub mod irq_flags {
    /// [`IrqInfo`](crate::IrqInfo): vectors can be signalled through eventfds.
    pub const INFO_EVENTFD: u32 = 1 << 0;
    /// [`IrqInfo`](crate::IrqInfo): vectors can be masked.
    pub const INFO_MASKABLE: u32 = 1 << 1;
    /// [`IrqInfo`](crate::IrqInfo): a vector masks itself when it fires.
    pub const INFO_AUTOMASKED: u32 = 1 << 2;
    /// [`IrqInfo`](crate::IrqInfo): vectors cannot be added one by one.
    pub const INFO_NORESIZE: u32 = 1 << 3;
    /// [`SetIrqs`](crate::SetIrqs): no data; the action applies to the whole range.
    pub const SET_DATA_NONE: u32 = 1 << 0;
    /// [`SetIrqs`](crate::SetIrqs): one byte per vector, 0 leaves the vector alone.
    pub const SET_DATA_BOOL: u32 = 1 << 1;
    /// [`SetIrqs`](crate::SetIrqs): eventfds come with the message; none means "take away".
    pub const SET_DATA_EVENTFD: u32 = 1 << 2;
    /// [`SetIrqs`](crate::SetIrqs): mask.
    pub const SET_ACTION_MASK: u32 = 1 << 3;
    /// [`SetIrqs`](crate::SetIrqs): unmask.
    pub const SET_ACTION_UNMASK: u32 = 1 << 4;
    /// [`SetIrqs`](crate::SetIrqs): trigger, or attach the eventfds that trigger.
    pub const SET_ACTION_TRIGGER: u32 = 1 << 5;
    /// The three data bits.
    pub const SET_DATA_MASK: u32 = SET_DATA_NONE | SET_DATA_BOOL | SET_DATA_EVENTFD;
    /// The three action bits.
    pub const SET_ACTION_BITS: u32 = SET_ACTION_MASK | SET_ACTION_UNMASK | SET_ACTION_TRIGGER;
}

/// Reply payload of GET_IRQ_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// Bits `INFO_*` of [`irq_flags`].
    pub flags: u32,
    /// Interrupt index asked for.
    pub index: u32,
    /// Vectors of this type; 0 when the device has none.
    pub count: u32,
}

/// Payload of SET_IRQS. Eventfds travel beside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// One `SET_DATA_*` and one `SET_ACTION_*` bit of [`irq_flags`].
    pub flags: u32,
    /// Interrupt index.
    pub index: u32,
    /// First vector.
    pub start: u32,
    /// Number of vectors; 0 with no data and the trigger action takes all vectors away.
    pub count: u32,
    /// One byte per vector with `SET_DATA_BOOL`, else empty.
    pub data: &'a [u8],
}
