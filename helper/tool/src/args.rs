// SPDX-License-Identifier: GPL-2.0-or-later
//! The command line, and nothing else. Help texts are also those of the man page.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Which helpers serve, what they serve and what they have done
///
/// Asks serving helpers (qemu-virtio-admin-helper), each of which executes accesses to the legacy
/// registers of one PF's virtio VFs. To ask, permission to connect to a helper's socket is needed,
/// no more.
#[derive(Clone, Debug, Parser)]
#[command(name = "virtio-legacy-vf", version, max_term_width = 100)]
pub struct Args {
    #[allow(missing_docs)]
    #[command(subcommand)]
    pub command: Command,
}

/// Questions to a serving helper.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// List the helpers that serve in a directory
    List(ListArgs),
    /// Show a helper, its PF and its VFs
    Show(AskArgs),
    /// Show what a helper has done: accesses, failures, latencies
    Stats(StatsArgs),
}

/// Options of `show`, and of every question to one helper.
#[derive(Clone, Debug, clap::Args)]
pub struct AskArgs {
    /// Socket of the helper
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Only this VF
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub vf: Option<u16>,
    /// How the answer is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How an answer is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct OutputArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Options of `list`.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Directory with the helpers' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/qemu-virtio-admin")]
    pub dir: PathBuf,
    /// How the answer is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `stats`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatsArgs {
    /// Whom to ask, and about what.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Ask again every so often and show what was added, as a rate per second
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    pub watch: Option<String>,
    /// Print the counters of the helper and of all its VFs, with latencies in buckets, as OpenMetrics text
    #[arg(long, conflicts_with_all = ["watch", "count", "json", "vf"])]
    pub openmetrics: bool,
    /// With --watch: end after this many lines
    #[arg(long, value_name = "N", requires = "watch")]
    pub count: Option<u64>,
}
