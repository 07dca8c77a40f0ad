// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines to stderr.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::config::LogConfig;
use crate::exit::{self, Failure};

/// `<level>target: message fields`, as systemd's journal reads it from a stream.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>{}: ", event.metadata().target())?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Starts logging.
pub(crate) fn init(config: &LogConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|e| {
        Failure::text(
            exit::USAGE,
            format!("--log {}: not a log filter: {e}", config.filter),
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
        LogFormat::Journal => builder
            .fmt_fields(DefaultFields::new())
            .event_format(Journal)
            .init(),
    }
    Ok(())
}
