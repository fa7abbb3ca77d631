//! A chain that goes on by itself.

use std::time::Duration;

use alloy::providers::{Provider, RootProvider};
use eyre::Result;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};

use crate::World;

/// Makes blocks until dropped. They hold what waits in the node; none is made for a transaction alone.
#[derive(Debug)]
pub struct Miner(JoinHandle<()>);

impl Miner {
    /// Begins, with a block each `period`.
    ///
    /// # Errors
    /// If the node refuses.
    pub async fn start(world: &World, period: Duration) -> Result<Self> {
        world.anvil.automine(false).await?;
        let node: RootProvider = world.anvil.provider().clone();
        Ok(Self(tokio::spawn(async move {
            loop {
                sleep(period).await;
                // A node that is busy or gone is the test's business.
                let _ = node.raw_request::<_, Value>("anvil_mine".into(), json!([1])).await;
            }
        })))
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.0.abort();
    }
}
