//! Our submitter as the chain has it: whether its guardian still allows it, and whether somebody
//! else uses its key. Both are read from the blocks that are followed, whether or not there is
//! anything to send.

use alloy::eips::BlockId;
use alloy_sol_types::SolCall;
use stipend_bindings::abi::MandateEscrow;

use super::{
    book::{Bookkeeper, MinedBlock},
    fact::Fact,
    follow::FollowError,
    rpc::{Call, Node},
};
use crate::{
    health::Health,
    ledger::{Ledger, blocks::Block, transactions},
};

/// What is known of the submitter.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Whether it may submit.
    pub allowed: bool,
    /// Whether that was read from the chain since it may have changed.
    sure: bool,
}

impl Default for Standing {
    /// Allowed, or the relayer would not have started; to be asked again at the first head.
    fn default() -> Self {
        Self { allowed: true, sure: false }
    }
}

impl Standing {
    /// These blocks were mined, and whether others were unmined: it may have changed.
    pub fn note(&mut self, bookkeeper: &Bookkeeper, mined: &[MinedBlock], unmined: bool) {
        let ours = (bookkeeper.house.guardian, bookkeeper.submitter);
        let changes =
            |fact| matches!(fact, Fact::SubmitterSet { guardian, submitter, .. } if (guardian, submitter) == ours);
        let mut logs = mined.iter().flat_map(|block| &block.logs);
        if unmined || logs.any(|log| Fact::read(log).is_some_and(changes)) {
            self.sure = false;
        }
    }

    /// Looks at the submitter as of a block that is booked.
    ///
    /// # Errors
    /// Those of node and ledger.
    pub async fn look(
        &mut self,
        node: &Node,
        (ledger, bookkeeper): (&Ledger, &Bookkeeper),
        head: Block,
        health: &Health,
    ) -> Result<(), FollowError> {
        let at = BlockId::hash(head.hash);
        let (guardian, submitter) = (bookkeeper.house.guardian, bookkeeper.submitter);
        if !self.sure {
            let data = MandateEscrow::isSubmitterCall { guardian, submitter }.abi_encode().into();
            let call = Call { from: None, to: bookkeeper.house.escrow, data, gas: None };
            self.allowed = node.call::<MandateEscrow::isSubmitterCall>(&call, at).await?;
            self.sure = true;
            if self.allowed {
                health.clear("submitter");
            } else {
                health.warn(
                    "submitter",
                    format!(
                        "the guardian {guardian} has removed the submitter {submitter}: nothing is signed with it, and \
                         payments wait; send setSubmitter({submitter}, true) to the escrow from the guardian, or start \
                         with another submitter"
                    ),
                );
            }
        }
        let booked = ledger.read(move |ledger| transactions::mined_nonce(ledger, submitter)).await?;
        let chain = node.nonce_at(submitter, at).await?;
        if let Some(booked) = booked.filter(|booked| *booked < chain) {
            health.halt(
                "nonce",
                format!(
                    "block {} counts {chain} transactions of the submitter {submitter}, the ledger {booked}: somebody \
                     else uses its key, or this ledger is not the newest; stop, look, and run `stipend ledger repair`, \
                     with another submitter if the key was stolen",
                    head.number
                ),
            );
        }
        Ok(())
    }
}
