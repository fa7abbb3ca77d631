//! The relayer: takes payments that agents signed, keeps a durable ledger of them, sends them on
//! chain in batches and follows what becomes of them.
//!
//! Imports point one way: `ledger ← projection ← chain ← send ← service ← api ← app`.

pub mod alarms;
pub mod api;
pub mod app;
pub mod cards;
pub mod chain;
pub mod clock;
pub mod failpoint;
pub mod ledger;
pub mod preflight;
pub mod projection;
pub mod repair;
pub mod send;
pub mod service;
pub mod workers;
