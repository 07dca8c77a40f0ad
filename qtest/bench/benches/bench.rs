// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo bench -p qtest_bench`: see the library.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use qtest_bench::report::table;
use qtest_bench::{clients, echo, floods, guest, micro, stack, Effort};

struct Options {
    json: Option<PathBuf>,
    effort: Effort,
    only_pure: bool,
    clients: Vec<u16>,
    qemu: Option<PathBuf>,
    against: Option<PathBuf>,
}

fn options() -> Result<Option<Options>> {
    let mut options = Options {
        json: None,
        effort: Effort {
            round: Duration::from_millis(500),
            rounds: 6,
        },
        only_pure: false,
        clients: Vec::new(),
        qemu: None,
        against: None,
    };
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            // The baseline's other process.
            Some("--echo-server") => {
                let path = args.next().context("--echo-server needs a path")?;
                let cpu = args.next().and_then(|cpu| cpu.to_str()?.parse().ok());
                echo::serve(Path::new(&path), cpu)?;
                return Ok(None);
            }
            // Another process that connects.
            Some("--come-and-go") => {
                let path = args.next().context("--come-and-go needs a path")?;
                let times = args.next().and_then(|times| times.to_str()?.parse().ok());
                let times = times.context("--come-and-go needs a number")?;
                clients::come_and_go(Path::new(&path), times)?;
                return Ok(None);
            }
            // Another process that asks for too much.
            Some("--flood") => {
                let kind = args.next().context("--flood needs a kind")?;
                let path = args.next().context("--flood needs a path")?;
                floods::flood(&kind.to_string_lossy(), Path::new(&path))?;
                return Ok(None);
            }
            Some("--json") => {
                options.json = Some(args.next().context("--json needs a file")?.into());
            }
            Some("--quick") => {
                options.effort = Effort {
                    round: Duration::from_millis(100),
                    rounds: 3,
                }
            }
            Some("--pure") => options.only_pure = true,
            Some("--clients") => {
                let list = args.next().context("--clients needs numbers")?;
                let list = list.to_string_lossy();
                options.clients = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            Some("--qemu") => {
                options.qemu = Some(args.next().context("--qemu needs a path")?.into());
            }
            Some("--against") => {
                options.against = Some(args.next().context("--against needs a path")?.into());
            }
            // Given by cargo.
            Some("--bench") => {}
            _ => bail!("unknown argument {arg:?}; known are --quick, --pure, --clients LIST, --qemu PATH, --against PATH and --json FILE"),
        }
    }
    Ok(Some(options))
}

fn main() -> Result<()> {
    let Some(options) = options()? else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    if !options.clients.is_empty() {
        let mut figures = stack::clients(dir.path(), &options.clients, options.effort)?;
        figures.extend(floods::all(dir.path(), options.effort)?);
        print!("{}", table(&figures));
        return Ok(());
    }
    let mut figures = micro::all(options.effort);
    if !options.only_pure {
        figures.extend(stack::all(dir.path(), options.effort)?);
        figures.extend(floods::all(dir.path(), options.effort)?);
    }
    if let Some(qemu) = &options.qemu {
        figures.extend(guest::all(qemu, options.against.as_ref(), options.effort)?);
    }
    print!("{}", table(&figures));
    if let Some(path) = options.json {
        std::fs::write(&path, serde_json::to_string_pretty(&figures)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
