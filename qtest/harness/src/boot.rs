// SPDX-License-Identifier: GPL-2.0-or-later
//! Machine code for emulated CPUs, for what qtest cannot show: an access that waits must not hold
//! up QEMU's main loop or another CPU (qtest's own accesses run in the main loop).

/// Guest memory that the program and the test share.
pub mod mailbox {
    /// 1 byte: the test writes 1 to start the accesses.
    pub const GO: u64 = 0x600;
    /// 2 bytes: the port to read.
    pub const PORT: u64 = 0x602;
    /// 4 bytes: accesses that have ended.
    pub const ACCESSES: u64 = 0x604;
    /// 4 bytes: rounds of the second CPU.
    pub const ROUNDS: u64 = 0x608;
    /// 1 byte: the value last read.
    pub const VALUE: u64 = 0x60c;
}

/// Offset of the first CPU's code in the image; the second CPU starts at 0.
const FIRST_CPU: usize = 0x100;
const RESET_VECTOR: usize = 0xfff0;

/// A firmware image: the first CPU waits for [`mailbox::GO`], then reads a port again and again; the
/// second CPU counts. It starts the second one by INIT and SIPI through x2APIC.
pub fn port_reader() -> Vec<u8> {
    let mut image = vec![0xf4; 0x10000];
    let second: &[u8] = &[
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x66, 0xff, 0x06, 0x08, 0x06, // inc dword [0x608]
        0xf3, 0x90, // pause
        0xeb, 0xf7, // jmp to the inc
    ];
    let first: &[u8] = &[
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x66, 0xb9, 0x1b, 0, 0, 0, // mov ecx, IA32_APIC_BASE
        0x0f, 0x32, // rdmsr
        0x66, 0x0d, 0x00, 0x0c, 0, 0, // or eax, enable | x2APIC
        0x0f, 0x30, // wrmsr
        0x66, 0xb9, 0x30, 0x08, 0, 0, // mov ecx, ICR
        0x66, 0x31, 0xd2, // xor edx, edx
        0x66, 0xb8, 0x00, 0x45, 0x0c, 0, // mov eax, INIT to all others
        0x0f, 0x30, // wrmsr
        0x66, 0xb8, 0xf0, 0x46, 0x0c, 0, // mov eax, SIPI at 0xf0000 to all others
        0x0f, 0x30, // wrmsr
        0xf3, 0x90, // pause
        0x80, 0x3e, 0x00, 0x06, 0x00, // cmp byte [0x600], 0
        0x74, 0xf7, // je to the pause
        0x8b, 0x16, 0x02, 0x06, // mov dx, [0x602]
        0xec, // in al, dx
        0xa2, 0x0c, 0x06, // mov [0x60c], al
        0x66, 0xff, 0x06, 0x04, 0x06, // inc dword [0x604]
        0xeb, 0xf5, // jmp to the in
    ];
    let far_jump: &[u8] = &[0xea, 0x00, 0x01, 0x00, 0xf0]; // jmp 0xf000:0x0100
    for (at, code) in [(0, second), (FIRST_CPU, first), (RESET_VECTOR, far_jump)] {
        for (dst, src) in image.iter_mut().skip(at).zip(code) {
            *dst = *src;
        }
    }
    image
}
