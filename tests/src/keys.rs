//! Whose keys play which part.

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{B256, b256, keccak256};
use eyre::Result;
use stipend_core::DEV_CHAIN_ID;

/// The parts, on accounts that have ETH; the gasless operator's has none.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Deploys, and lets the submitter submit.
    pub guardian: PrivateKeySigner,
    /// Approves mandates.
    pub operator: PrivateKeySigner,
    /// Asks for mandates and pays.
    pub agent: PrivateKeySigner,
    /// Sends the relayer's transactions.
    pub submitter: PrivateKeySigner,
    /// Approves mandates without ETH.
    pub gasless: PrivateKeySigner,
}

impl Keys {
    pub(crate) fn of_the_world(chain_id: u64) -> Result<Self> {
        // Nobody takes the well-known ones elsewhere.
        if chain_id != DEV_CHAIN_ID {
            let [guardian, operator, agent, submitter, gasless] =
                ["guardian", "operator", "agent", "submitter", "gasless operator"].map(key);
            return Ok(Self {
                guardian: guardian?,
                operator: operator?,
                agent: agent?,
                submitter: submitter?,
                gasless: gasless?,
            });
        }
        let account = |secret: B256| PrivateKeySigner::from_bytes(&secret);
        // The well-known accounts 0 to 3 of anvil's mnemonic.
        Ok(Self {
            guardian: account(b256!("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"))?,
            operator: account(b256!("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"))?,
            agent: account(b256!("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"))?,
            submitter: account(b256!("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"))?,
            gasless: key("gasless operator")?,
        })
    }

    /// The submitter, and this many more, which have no ETH.
    pub fn submitters(&self, more: usize) -> Result<Vec<PrivateKeySigner>> {
        let more = (0..more).map(|number| key(&format!("submitter {number}")));
        [Ok(self.submitter.clone())].into_iter().chain(more).collect()
    }
}

/// The key of somebody else, always the same for the same name. It has no ETH.
///
/// # Errors
/// None in practice: every hash but a few is a key.
pub fn key(name: &str) -> Result<PrivateKeySigner> {
    Ok(PrivateKeySigner::from_bytes(&keccak256(format!("stipend e2e: {name}")))?)
}
