// SPDX-License-Identifier: GPL-2.0-or-later
//! A few instructions of a processor in real mode, with names for places, so that a test's program
//! can be read and no assembler is needed. Addresses are in the first 64 KiB; SI points at the entry
//! of a list.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};

/// Bytes of a firmware image; it ends at 1 MiB, and the processor starts 16 bytes before that.
const IMAGE: usize = 0x10000;
const RESET_VECTOR: usize = 0xfff0;
const HLT: u8 = 0xf4;
/// 32-bit operands.
const WIDE: u8 = 0x66;

/// A program that is being written.
#[derive(Debug, Default)]
pub(crate) struct Code {
    bytes: Vec<u8>,
    labels: BTreeMap<&'static str, usize>,
    /// Distances to fill in: where, and to which label.
    jumps: Vec<(usize, &'static str)>,
}

impl Code {
    fn op(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn op_at(&mut self, bytes: &[u8], address: u16) {
        self.op(bytes);
        self.op(&address.to_le_bytes());
    }

    fn jump_by(&mut self, bytes: &[u8], to: &'static str) {
        self.op(bytes);
        self.jumps.push((self.bytes.len(), to));
        self.op(&[0, 0]);
    }

    /// Names this place.
    pub(crate) fn label(&mut self, name: &'static str) {
        self.labels.insert(name, self.bytes.len());
    }

    /// `jmp to`
    pub(crate) fn jump(&mut self, to: &'static str) {
        self.jump_by(&[0xe9], to);
    }

    /// Has the other processors begin where this one has: they start at the image's first byte, as
    /// the first processor does. Goes on at `to`.
    pub(crate) fn start_others(&mut self, to: &'static str) {
        // mov ecx, IA32_APIC_BASE; rdmsr; test ah, (1 << 8) >> 8; jz to: only the first processor
        self.op(&[WIDE, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0xf6, 0xc4, 1]);
        self.jump_by(&[0x0f, 0x84], to);
        // or ax, x2APIC mode; wrmsr; mov ecx, the interrupt command register
        self.op(&[0x0d, 0, 0x0c, 0x0f, 0x30, WIDE, 0xb9, 0x30, 8, 0, 0]);
        // xor edx, edx; mov eax, start-up of all others at F000:0; wrmsr
        self.op(&[
            WIDE, 0x31, 0xd2, WIDE, 0xb8, 0xf0, 0x46, 0x0c, 0, 0x0f, 0x30,
        ]);
    }

    /// `cmp al, value; je to`
    pub(crate) fn if_al(&mut self, value: u8, to: &'static str) {
        self.op(&[0x3c, value]);
        self.jump_by(&[0x0f, 0x84], to);
    }

    /// `cmp eax, [si + at]; je to`
    pub(crate) fn if_eax_is_entry(&mut self, at: u8, to: &'static str) {
        self.op(&[WIDE, 0x3b, 0x44, at]);
        self.jump_by(&[0x0f, 0x84], to);
    }

    /// `xor ax, ax`
    pub(crate) fn zero_ax(&mut self) {
        self.op(&[0x31, 0xc0]);
    }

    /// `xor eax, eax`
    pub(crate) fn zero_eax(&mut self) {
        self.op(&[WIDE, 0x31, 0xc0]);
    }

    /// `mov ds, ax`
    pub(crate) fn ax_to_ds(&mut self) {
        self.op(&[0x8e, 0xd8]);
    }

    /// `pause`
    pub(crate) fn pause(&mut self) {
        self.op(&[0xf3, 0x90]);
    }

    /// `mov al, [address]`
    pub(crate) fn load_al(&mut self, address: u16) {
        self.op_at(&[0xa0], address);
    }

    /// `mov [address], al`
    pub(crate) fn store_al(&mut self, address: u16) {
        self.op_at(&[0xa2], address);
    }

    /// `mov si, value`
    pub(crate) fn load_si(&mut self, value: u16) {
        self.op_at(&[0xbe], value);
    }

    /// `mov [address], si`
    pub(crate) fn store_si(&mut self, address: u16) {
        self.op_at(&[0x89, 0x36], address);
    }

    /// `mov [address], ebx`
    pub(crate) fn store_ebx(&mut self, address: u16) {
        self.op_at(&[WIDE, 0x89, 0x1e], address);
    }

    /// `mov ebx, eax`
    pub(crate) fn eax_to_ebx(&mut self) {
        self.op(&[WIDE, 0x89, 0xc3]);
    }

    /// `inc dword [address]`
    pub(crate) fn count(&mut self, address: u16) {
        self.op_at(&[WIDE, 0xff, 0x06], address);
    }

    /// `mov al, [si + at]`
    pub(crate) fn entry_to_al(&mut self, at: u8) {
        self.op(&[0x8a, 0x44, at]);
    }

    /// `mov dx, [si + at]`
    pub(crate) fn entry_to_dx(&mut self, at: u8) {
        self.op(&[0x8b, 0x54, at]);
    }

    /// `mov eax, [si + at]`
    pub(crate) fn entry_to_eax(&mut self, at: u8) {
        self.op(&[WIDE, 0x8b, 0x44, at]);
    }

    /// `and eax, [si + at]`
    pub(crate) fn and_eax_entry(&mut self, at: u8) {
        self.op(&[WIDE, 0x23, 0x44, at]);
    }

    /// `add si, value`
    pub(crate) fn add_si(&mut self, value: u8) {
        self.op(&[0x83, 0xc6, value]);
    }

    /// `in al, dx`, or with AX or EAX for 2 or 4 bytes
    pub(crate) fn input(&mut self, width: u8) {
        self.port_access(width, 0xec);
    }

    /// `out dx, al`, or with AX or EAX for 2 or 4 bytes
    pub(crate) fn output(&mut self, width: u8) {
        self.port_access(width, 0xee);
    }

    fn port_access(&mut self, width: u8, byte: u8) {
        match width {
            1 => self.op(&[byte]),
            2 => self.op(&[byte + 1]),
            _ => self.op(&[WIDE, byte + 1]),
        }
    }

    /// The program as firmware that the processor starts with.
    ///
    /// # Errors
    /// If it jumps to nowhere or is too long.
    pub(crate) fn firmware(self) -> Result<Vec<u8>> {
        let mut image = self.bytes;
        ensure!(image.len() <= RESET_VECTOR, "{} bytes of code", image.len());
        for (at, label) in self.jumps {
            let to = self.labels.get(label);
            let to = to.with_context(|| format!("no place \"{label}\""))?;
            // From the end of the instruction; within 64 KiB any distance is one of 16 bits.
            let by = to.wrapping_sub(at + 2) as u16;
            for (dst, src) in image.iter_mut().skip(at).zip(by.to_le_bytes()) {
                *dst = src;
            }
        }
        image.resize(IMAGE, HLT);
        // jmp 0xf000:0
        let start = [0xea, 0, 0, 0, 0xf0];
        for (dst, src) in image.iter_mut().skip(RESET_VECTOR).zip(start) {
            *dst = src;
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_places() {
        let mut c = Code::default();
        c.label("begin");
        c.pause();
        c.if_al(7, "end");
        c.jump("begin");
        c.label("end");
        c.zero_ax();
        let image = c.firmware().unwrap();
        let code = [
            0xf3, 0x90, // begin: pause
            0x3c, 7, 0x0f, 0x84, 3, 0, // cmp al, 7; je end
            0xe9, 0xf5, 0xff, // jmp begin
            0x31, 0xc0, // end: xor ax, ax
            HLT,
        ];
        assert_eq!(image[..code.len()], code);
        assert_eq!(image[RESET_VECTOR..][..5], [0xea, 0, 0, 0, 0xf0]);
        assert_eq!(image.len(), IMAGE);
    }

    #[test]
    fn a_jump_to_nowhere_is_an_error() {
        let mut c = Code::default();
        c.jump("nowhere");
        assert!(c.firmware().unwrap_err().to_string().contains("nowhere"));
    }
}
