// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines to stderr, or to systemd's journal with the fields of each event as the journal's own.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

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

/// What names of fields begin with in the journal, where these of all programs meet: `VLVF_VF=3`.
const FIELDS: &str = "VLVF";

/// Starts logging of what is done for `pf`.
pub(crate) fn init(config: &LogConfig, pf: &str) -> Result<(), Failure> {
    let filter: Targets = config.filter.parse().map_err(|e| {
        Failure::text(
            exit::USAGE,
            format!("--log {}: not a log filter: {e}", config.filter),
        )
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Text => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json()).init(),
        LogFormat::Journal => {
            // It is found where it always is; elsewhere lines have to do.
            if let Ok(journal) = tracing_journald::layer() {
                let priorities = PriorityMappings {
                    info: Priority::Informational,
                    debug: Priority::Debug,
                    ..PriorityMappings::new()
                };
                let journal = journal
                    .with_priority_mappings(priorities)
                    .with_field_prefix(Some(FIELDS.to_owned()))
                    .with_custom_fields([(format!("{FIELDS}_PF"), pf)]);
                log.with(journal).init();
                return Ok(());
            }
            let lines = lines.fmt_fields(DefaultFields::new()).event_format(Journal);
            log.with(lines).init();
        }
    }
    Ok(())
}
