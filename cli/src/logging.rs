//! The log of commands that serve.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Libraries that, in more detail than this, write whole URLs, and the URL of a node can hold a key; or what a tool
/// answers, and that can be a card's number.
const SECRET_BELOW: [(&str, LevelFilter); 3] =
    [("alloy_transport_http", LevelFilter::INFO), ("tungstenite", LevelFilter::DEBUG), ("rmcp", LevelFilter::INFO)];

/// How the log is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// Sends the log to stderr; `RUST_LOG` says what is in it, apart from secrets.
pub(crate) fn init(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A layer of its own, because a directive of `RUST_LOG` would win against a directive here.
    let safe = filter_fn(|metadata| {
        !SECRET_BELOW.iter().any(|(library, level)| metadata.target().starts_with(library) && metadata.level() > level)
    });
    match format {
        LogFormat::Text => log.finish().with(safe).init(),
        LogFormat::Json => log.json().finish().with(safe).init(),
    }
}
