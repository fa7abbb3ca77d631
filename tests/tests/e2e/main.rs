//! What a user would see, of real processes on a real chain.
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test fails by a panic")]

mod approvals;
mod budget;
mod cards;
mod cli;
mod config;
mod deploy;
mod events;
mod explain;
mod external_transactions;
mod faults;
mod follow;
mod http_edge_cases;
mod lanes;
mod lifecycle;
mod malformed;
mod mcp;
mod node_error_messages;
mod nodes;
mod one_payee;
mod payees;
mod payments;
mod refunds;
mod reorg;
mod repair;
mod restart;
mod revocation;
mod roll;
mod safety_halts;
mod sandbox;
mod secrets;
mod signed;
mod tenants;
mod terminal;
mod trail;
mod windows;

use alloy_primitives::Address;
use eyre::Result;
use stipend_client::Error;
use stipend_core::{
    Amount, Code,
    api::{Mandate, NewMandateRequest},
};
use stipend_e2e::World;

fn usdc(text: &str) -> Result<Amount> {
    Ok(text.parse()?)
}

/// Somebody to pay, who has nothing yet.
const fn payee(number: u8) -> Address {
    Address::repeat_byte(0xa0 + number)
}

/// What an agent asks for at least.
fn asking(amount: &str) -> Result<NewMandateRequest> {
    Ok(NewMandateRequest::new(usdc(amount)?, "Automate marketing ops spend for Q2 campaign", "30d".parse()?))
}

async fn opened(name: &str, amount: &str) -> Result<(World, Mandate)> {
    let world = World::start(name).await?;
    let mandate = world.open(&asking(amount)?).await?;
    Ok((world, mandate))
}

/// The code of a refusal.
fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    match result {
        Err(Error::Problem(problem)) => problem.code,
        other => panic!("no refusal: {other:?}"),
    }
}
