// SPDX-License-Identifier: GPL-2.0-or-later
//! What a machine is made of, and QEMU's arguments for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::image::Image;
use test_kit::run::quote;

/// Memory of a guest in MiB: room for the files of its scenarios.
const MEMORY_MIB: u32 = 768;
/// How every kernel command line begins.
const CONSOLE: &str = "console=ttyS0";
/// Milliseconds that QEMU waits for a reply of a simulator.
const PATIENCE_MS: u32 = 60_000;

/// The driver Linux is to use on the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// That of virtio 0.9.5, told to by `force_legacy`.
    Legacy,
    /// That of virtio 1.0 and later.
    Modern,
}

/// One virtio function for a guest.
#[derive(Debug, Clone)]
pub struct Function {
    /// Socket of the simulated VF.
    pub vf_socket: PathBuf,
    /// Socket of the helper.
    pub helper_socket: PathBuf,
    /// Number of the VF, from 1.
    pub vf: u16,
    /// With QEMU's own vfio-user-pci instead of this project's device.
    pub stock: bool,
}

impl Function {
    /// The same function with QEMU's own device.
    pub fn stock(self) -> Self {
        Self {
            stock: true,
            ..self
        }
    }

    /// QEMU's -device argument. QEMU takes a simulator that says nothing for 5 s for dead; on a busy machine
    /// it may wait that long for a disk.
    pub fn device(&self, id: &str) -> String {
        if self.stock {
            let socket = json!({ "type": "unix", "path": self.vf_socket });
            return json!({ "driver": "vfio-user-pci", "id": id, "socket": socket, "x-msg-timeout": PATIENCE_MS })
                .to_string();
        }
        json!({
            "driver": "virtio-legacy-vf-user",
            "id": id,
            "socket": { "type": "unix", "path": self.vf_socket },
            "helper": self.helper_socket,
            "vf": self.vf,
            "x-msg-timeout": PATIENCE_MS,
        })
        .to_string()
    }
}

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Config<'a> {
    /// The program.
    pub qemu: &'a Path,
    /// What the guest boots from.
    pub image: &'a Image,
    /// The guest's driver.
    pub driver: Driver,
    /// Functions on its bus.
    pub functions: Vec<Function>,
    /// Address of the guest on the simulated network.
    pub address: &'a str,
    /// Give the guest's console to this program's terminal.
    pub console: bool,
    /// What this machine has beyond that.
    pub extra: Extra,
}

/// Additions to a machine.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// More arguments of QEMU, before the functions.
    pub arguments: Vec<String>,
    /// More words on the kernel's command line.
    pub kernel: &'static str,
    /// Memory in MiB, if not that of every guest.
    pub memory_mib: Option<u32>,
    /// More serial ports behind the console and the command port: QEMU opens sockets of these names
    /// beside those of the machine; see [`super::Machine::connect`].
    pub ports: Vec<&'static str>,
}

impl Config<'_> {
    /// QEMU's arguments up to where the console and the sockets go.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        for dir in &self.image.firmware {
            args.push("-L".into());
            args.push(dir.into());
        }
        let size = self.extra.memory_mib.unwrap_or(MEMORY_MIB).to_string();
        let memory = format!("memory-backend-memfd,id=ram,size={size}M,share=on");
        for arg in [
            "-machine",
            "q35,memory-backend=ram",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            &size,
            "-object",
            &memory,
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
        ] {
            args.push(arg.into());
        }
        args.push("-kernel".into());
        args.push((&self.image.kernel).into());
        args.push("-initrd".into());
        args.push((&self.image.initrd).into());
        args.push("-append".into());
        args.push(self.command_line().into());
        args.extend(self.extra.arguments.iter().map(OsString::from));
        for (index, function) in self.functions.iter().enumerate() {
            args.push("-device".into());
            args.push(function.device(&format!("vf{index}")).into());
        }
        args
    }

    fn command_line(&self) -> String {
        // The kernel counts ticks of its timer in a short loop, and panics if QEMU had no processor meanwhile.
        let mut line = format!(
            "{CONSOLE} quiet panic=-1 no_timer_check vlvf.addr={}",
            self.address
        );
        if self.driver == Driver::Legacy {
            line += " virtio_pci.force_legacy=1";
        }
        if !self.extra.kernel.is_empty() {
            line.push(' ');
            line += self.extra.kernel;
        }
        line
    }

    /// The command for somebody who starts the guest by hand, with a shell on its console: the
    /// program, then each option with its value.
    pub fn by_hand(&self) -> Vec<String> {
        let mut parts = vec![quote(self.qemu.as_os_str())];
        for arg in self.arguments() {
            let mut arg = arg.to_string_lossy().into_owned();
            if arg.starts_with(CONSOLE) {
                arg += " vlvf.shell";
            }
            let quoted = quote(&OsString::from(&arg));
            match parts.last_mut() {
                // A value goes on the line of its option.
                Some(option) if !arg.starts_with('-') => {
                    option.push(' ');
                    option.push_str(&quoted);
                }
                _ => parts.push(quoted),
            }
        }
        parts.push("-serial stdio".into());
        parts
    }
}

/// Addresses and interrupts of a PC's third and fourth serial port. Those of the first two are taken
/// by the console and the command port, and sharing them would lose interrupts.
const MORE_PORTS: [(u8, u16, u8); 2] = [(2, 0x3e8, 5), (3, 0x2e8, 7)];

/// QEMU's arguments for more serial ports.
pub(super) fn more_ports(name: &str, ports: &[&str], dir: &Path) -> Vec<(&'static str, String)> {
    ports
        .iter()
        .zip(MORE_PORTS)
        .flat_map(|(port, (index, base, irq))| {
            let path = comma(&dir.join(format!("{name}.{port}")));
            let device =
                format!("isa-serial,index={index},iobase={base:#x},irq={irq},chardev={port}");
            [
                (
                    "-chardev",
                    format!("socket,id={port},path={path},server=on,wait=off"),
                ),
                ("-device", device),
            ]
        })
        .collect()
}

/// A path for QEMU's options, where a comma is doubled.
pub fn comma(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            kernel: "/g/vmlinux".into(),
            packed_kernel: "/g/vmlinuz".into(),
            initrd: "/g/initrd".into(),
            firmware: ["/f/seabios".into(), "/f/qemu".into()],
            modules: PathBuf::new(),
        }
    }

    fn function(stock: bool) -> Function {
        Function {
            vf_socket: "/run/a b/vf2.sock".into(),
            helper_socket: "/run/helper.sock".into(),
            vf: 2,
            stock,
        }
    }

    #[test]
    fn devices_are_named_with_what_they_need() {
        let device: serde_json::Value = serde_json::from_str(&function(false).device("x")).unwrap();
        assert_eq!(device["driver"], "virtio-legacy-vf-user");
        assert_eq!(device["helper"], "/run/helper.sock");
        assert_eq!(device["vf"], 2);
        assert_eq!(device["socket"]["path"], "/run/a b/vf2.sock");
        // QEMU's own device knows neither helper nor number.
        let stock: serde_json::Value = serde_json::from_str(&function(true).device("x")).unwrap();
        assert_eq!(stock["driver"], "vfio-user-pci");
        assert!(stock.get("helper").is_none() && stock.get("vf").is_none());
    }

    #[test]
    fn the_command_by_hand_can_be_pasted() {
        let image = image();
        let config = Config {
            qemu: Path::new("/q/qemu"),
            image: &image,
            driver: Driver::Legacy,
            functions: vec![function(false)],
            address: "10.0.77.9",
            console: false,
            extra: Extra::default(),
        };
        let parts = config.by_hand();
        assert_eq!(parts.first().map(String::as_str), Some("/q/qemu"));
        assert!(parts.contains(&"-L /f/qemu".to_owned()));
        assert!(parts.iter().any(|part| part.contains("share=on")));
        let append = parts
            .iter()
            .find(|part| part.starts_with("-append"))
            .unwrap();
        assert!(append.contains("vlvf.addr=10.0.77.9 virtio_pci.force_legacy=1 vlvf.shell'"));
        let device = parts
            .iter()
            .find(|part| part.starts_with("-device"))
            .unwrap();
        assert!(
            device.starts_with("-device '{") && device.ends_with("}'"),
            "{device}"
        );
        let modern = Config {
            driver: Driver::Modern,
            ..config
        };
        assert!(!modern.by_hand().join(" ").contains("force_legacy"));
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(comma(Path::new("/a,b/c")), "/a,,b/c");
    }
}
