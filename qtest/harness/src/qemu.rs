// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU as a process.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{bail, Context, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{pidfd_open, Pid, PidfdFlags};

use crate::memory::GuestMemory;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::qtest::Qtest;
use crate::{artifacts, PATIENCE};

/// Bytes of guest memory.
pub const MEMORY: u64 = 128 << 20;

/// Machine types of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// i440FX: conventional PCI.
    Pc,
    /// Q35: PCI Express.
    Q35,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct QemuBuilder {
    machine: Machine,
    shared_memory: bool,
    accelerator: &'static str,
    bios: Vec<u8>,
    args: Vec<String>,
    name: String,
    user: Option<u32>,
    program: Option<PathBuf>,
}

impl QemuBuilder {
    /// A machine without devices, driven by qtest.
    pub fn new(machine: Machine) -> Self {
        QemuBuilder {
            machine,
            shared_memory: true,
            accelerator: "qtest",
            bios: vec![0; 65536],
            args: Vec::new(),
            name: "qemu".to_owned(),
            user: None,
            program: None,
        }
    }

    /// Name of the log, where there are several.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Another QEMU than that of the tests.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Runs it as another user (and group) of this number.
    #[must_use]
    pub fn as_user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Guest memory that other processes cannot map.
    #[must_use]
    pub fn private_memory(mut self) -> Self {
        self.shared_memory = false;
        self
    }

    /// Runs `bios` (up to 64 KiB, ending at 4 GiB and 1 MiB) on emulated CPUs.
    #[must_use]
    pub fn run_code(mut self, bios: Vec<u8>, cpus: u32) -> Self {
        self.bios = bios;
        self.accelerator = "tcg";
        self.arg("-smp")
            .arg(&cpus.to_string())
            .arg("-cpu")
            .arg("max")
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// One more device, as a JSON object.
    #[must_use]
    pub fn device(self, device: &serde_json::Value) -> Self {
        self.arg("-device").arg(&device.to_string())
    }

    fn arguments(&self, dir: &Path) -> Vec<String> {
        let size = MEMORY;
        let machine = match self.machine {
            Machine::Pc => "pc",
            Machine::Q35 => "q35",
        };
        let backend = if self.shared_memory {
            format!("memory-backend-memfd,id=ram,size={size},share=on")
        } else {
            format!("memory-backend-ram,id=ram,size={size}")
        };
        let name = &self.name;
        let path = |file: String| dir.join(file).display().to_string();
        let mut args: Vec<String> = [
            "-accel",
            self.accelerator,
            "-M",
            &format!("{machine},memory-backend=ram"),
            "-m",
            &format!("{}M", size >> 20),
            "-object",
            &backend,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
            "-bios",
            &path(format!("{name}.bios")),
            "-qtest",
            &format!("unix:{}", path(format!("{name}.qtest"))),
            "-qtest-log",
            "/dev/null",
            "-qmp",
            &format!("unix:{},server=on,wait=off", path(format!("{name}.qmp"))),
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend(self.args.iter().cloned());
        args
    }

    fn start(&self, dir: &Path) -> Result<(UnixListener, Process)> {
        if self.bios.len() > 65536 {
            bail!("the code has {} bytes, more than 64 KiB", self.bios.len());
        }
        let mut rom = vec![0; 65536 - self.bios.len()];
        rom.extend_from_slice(&self.bios);
        fs::write(dir.join(format!("{}.bios", self.name)), rom)?;
        let socket = dir.join(format!("{}.qtest", self.name));
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let qemu = match &self.program {
            Some(program) => program.clone(),
            None => artifacts::qemu()?,
        };
        let process = match self.user {
            None => Process::spawn(&self.name, &qemu, &self.arguments(dir), dir)?,
            Some(user) => {
                fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
                let mut args = vec![
                    format!("--reuid={user}"),
                    format!("--regid={user}"),
                    "--clear-groups".to_owned(),
                    "--".to_owned(),
                    qemu.display().to_string(),
                ];
                args.extend(self.arguments(dir));
                Process::spawn(&self.name, Path::new("/usr/bin/setpriv"), &args, dir)?
            }
        };
        Ok((listener, process))
    }

    /// Runs QEMU until it has set up all its devices.
    ///
    /// # Errors
    /// If it ends before that; its log is in the text.
    pub fn spawn(&self, dir: &Path) -> Result<Qemu> {
        let (listener, mut process) = self.start(dir)?;
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
        let pidfd = pidfd_open(pid.context("no process id")?, PidfdFlags::empty())?;
        let mut fds = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&pidfd, PollFlags::IN),
        ];
        let limit = Timespec {
            tv_sec: i64::try_from(PATIENCE.as_secs())?,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&limit))?;
        let connected = fds
            .first()
            .is_some_and(|f| f.revents().contains(PollFlags::IN));
        if !connected {
            let status = process.wait_exit(std::time::Duration::from_millis(100));
            bail!(
                "QEMU did not start ({status:?}); its log:\n{}",
                process.log()
            );
        }
        let (stream, _) = listener.accept()?;
        // The qtest socket is connected before the devices are made; QMP answers after that.
        let qmp = Qmp::connect(&dir.join(format!("{}.qmp", self.name))).map_err(|e| {
            let status = process.wait_exit(std::time::Duration::from_secs(1));
            anyhow::anyhow!(
                "QEMU ended while starting ({status:?}, {e:#}); its log:\n{}",
                process.log()
            )
        })?;
        Ok(Qemu {
            qtest: Qtest::new(stream),
            qmp,
            process,
            memory: GuestMemory::new(MEMORY),
        })
    }

    /// Runs QEMU with a configuration that it must refuse. Gives its exit status and what it said.
    ///
    /// # Errors
    /// If it does not end by itself.
    pub fn spawn_refused(&self, dir: &Path) -> Result<(ExitStatus, String)> {
        let (_listener, mut process) = self.start(dir)?;
        let status = process.wait_exit(PATIENCE)?;
        Ok((status, process.log()))
    }
}

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    /// Guest memory and I/O ports.
    pub qtest: Qtest,
    /// Management.
    pub qmp: Qmp,
    /// The process.
    pub process: Process,
    /// Where in guest memory is room.
    pub memory: GuestMemory,
}
