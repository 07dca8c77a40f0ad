// SPDX-License-Identifier: GPL-2.0-or-later
//! `virtio-pf-sim`: see the library.

use anyhow::Context;
use clap::Parser;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use virtio_pf_sim::args::{Cli, Command, RunArgs};
use virtio_pf_sim::control::client;
use virtio_pf_sim::device::types::TypeArgs;
use virtio_pf_sim::device::Device;
use virtio_pf_sim::event_loop::Simulator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (cli.command, cli.run) {
        (Some(Command::Ctl { dir, words }), _) => ctl(&dir, &words),
        (None, Some(args)) => run(&args, &cli.types),
        (None, None) => Err(anyhow::anyhow!("nothing to do; see --help")),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("virtio-pf-sim: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs, types: &TypeArgs) -> anyhow::Result<ExitCode> {
    let filter: Targets = args
        .log
        .parse()
        .with_context(|| format!("--log {}", args.log))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    let (device, front) = args.options(types).map_err(anyhow::Error::msg)?;
    let (signal, writer) = UnixStream::pair().context("signal pipe")?;
    for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let end = writer.try_clone().context("signal pipe")?;
        signal_hook::low_level::pipe::register(number, end).context("signal handler")?;
    }
    let device = Device::new(&device)?;
    let mut simulator = Simulator::new(&front, Box::new(device), signal)?;
    // Whoever started us waits for this line; if nobody reads it, that is no reason to end.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "ready").and_then(|()| out.flush());
    let result = simulator.run();
    simulator.remove_sockets();
    result.context("waiting for events")?;
    Ok(ExitCode::SUCCESS)
}

fn ctl(dir: &std::path::Path, words: &[String]) -> anyhow::Result<ExitCode> {
    let request = client::request(words).map_err(anyhow::Error::msg)?;
    let reply = client::exchange(dir, &request).map_err(anyhow::Error::msg)?;
    println!("{}", serde_json::to_string_pretty(&reply)?);
    let ok = reply.get("ok").and_then(serde_json::Value::as_bool);
    Ok(match ok {
        Some(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
