//! A chain that mines on its own.

use std::{sync::Arc, time::Duration};

use alloy::providers::{Provider, RootProvider};
use eyre::Result;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
    time::sleep,
};

use crate::World;

/// Makes blocks until dropped. They hold what waits in the node; none is made for a transaction alone.
#[derive(Debug)]
pub struct Miner(JoinHandle<()>, Arc<Mutex<()>>);

impl Miner {
    /// Begins, with a block each `period`.
    ///
    /// # Errors
    /// If the node refuses.
    pub async fn start(world: &World, period: Duration) -> Result<Self> {
        world.anvil.automine(false).await?;
        let node: RootProvider = world.anvil.provider().clone();
        let turn = Arc::new(Mutex::new(()));
        let its = turn.clone();
        let task = tokio::spawn(async move {
            loop {
                sleep(period).await;
                let _its_turn = its.lock().await;
                // A node that is busy or gone is the test's business.
                let _ = node.raw_request::<_, Value>("anvil_mine".into(), json!([1])).await;
            }
        });
        Ok(Self(task, turn))
    }

    /// No block is made as long as this is kept. Anvil forgets a block now and then that is still the
    /// parent of others, when one is made during a reorg.
    pub async fn rests(&self) -> MutexGuard<'_, ()> {
        self.1.lock().await
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.0.abort();
    }
}
