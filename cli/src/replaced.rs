//! A mandate that another one of the same operator replaces: where its money goes, and what becomes of the rest.

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::Address;
use eyre::ensure;
use stipend_client::chain::{ChainError, Escrow, OnChain, Rolled};
use stipend_core::{Amount, MandateId, Terms};

use crate::{context::Progress, mandate_source::must_be_operator};

/// A mandate that is to be replaced.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) id: MandateId,
    pub(crate) terms: Terms,
    pub(crate) state: OnChain,
}

impl Replaced {
    /// What the chain says of it now.
    ///
    /// # Errors
    /// If it was never opened, has ended, or is not `operator`'s.
    pub(crate) async fn new(escrow: &Escrow, id: MandateId, terms: Terms, operator: Address) -> eyre::Result<Self> {
        must_be_operator(&terms, operator)?;
        let state = escrow.mandate_of(id).await?;
        ensure!(state.known, "{id} was never opened: there is nothing to replace");
        ensure!(!state.ended, "{id} has ended already: ask for a new mandate instead");
        Ok(Self { id, terms, state })
    }

    /// Refuses a cap that takes more than its operator has.
    pub(crate) async fn check_funds(&self, escrow: &Escrow, cap: Amount) -> eyre::Result<()> {
        let (operator, pull) = (self.terms.operator, self.flow(cap).pull);
        let balance = escrow.balance_of(operator).await?;
        ensure!(
            balance >= pull,
            "the operator {operator} holds {balance} USDC, the new mandate takes {pull} more: fund it first"
        );
        Ok(())
    }

    /// Where the money goes, and what ends, if one of this cap replaces it.
    pub(crate) fn consequences(&self, cap: Amount) -> String {
        let held = match self.state.held {
            held if held.is_zero() => String::new(),
            held => format!("\n{held} USDC in holds stay with the old mandate, and return when those end."),
        };
        format!(
            "{}{held}\nThe old mandate ends for good: payments that it has accepted and that are not mined yet will not be paid.",
            self.flow(cap).text(self.terms.operator)
        )
    }

    /// Replaces it, and pulls no more than [`Self::consequences`] says.
    pub(crate) async fn roll(
        &self,
        escrow: &Escrow,
        operator: &PrivateKeySigner,
        to: &Terms,
        progress: &Progress,
    ) -> Result<Rolled, ChainError> {
        let Flow { pull, .. } = self.flow(to.cap);
        if !pull.is_zero() {
            progress.say("allowing the escrow to take exactly what it pulls");
            escrow.allow(operator, pull).await?;
        }
        progress.say("replacing the mandate");
        escrow.roll(operator, &self.terms, to, pull).await
    }

    fn flow(&self, cap: Amount) -> Flow {
        Flow::new(self.state.remaining, cap)
    }
}

/// Where the money goes when one mandate replaces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) pull: Amount,
    pub(crate) excess: Amount,
}

impl Flow {
    pub(crate) fn new(left: Amount, cap: Amount) -> Self {
        Self { pull: cap.checked_sub(left).unwrap_or_default(), excess: left.checked_sub(cap).unwrap_or_default() }
    }

    fn text(self, operator: Address) -> String {
        match self {
            Self { pull, .. } if !pull.is_zero() => format!("{pull} USDC are pulled from the operator {operator} now."),
            Self { excess, .. } if !excess.is_zero() => format!("{excess} USDC return to the operator {operator} now."),
            _ => "No USDC moves: everything that is left is carried over.".into(),
        }
    }
}
