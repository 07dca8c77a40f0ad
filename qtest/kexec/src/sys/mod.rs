// SPDX-License-Identifier: GPL-2.0-or-later
//! The two system calls.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `KEXEC_FILE_ON_CRASH` of linux/kexec.h.
const ON_CRASH: libc::c_ulong = 2;

/// Loads a kernel with its initial file system.
pub(crate) fn load(kernel: &File, initrd: &File, line: &str, crash: bool) -> io::Result<()> {
    let line = CString::new(line)?;
    let flags = if crash { ON_CRASH } else { 0 };
    // SAFETY: the descriptors are open for the call, and the kernel reads as many bytes behind the
    // pointer as it is told, which are those of the string with its end.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Starts the loaded kernel; comes back only with an error.
pub(crate) fn start() -> io::Result<()> {
    // SAFETY: no memory of this process is handed over.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    Err(io::Error::last_os_error())
}
