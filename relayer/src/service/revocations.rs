//! The service's side of revocations by message: free for the operator, who may as well give the
//! message to anybody else.

use alloy_primitives::{Address, Bytes};
use alloy_sol_types::SolCall;
use serde_json::json;
use stipend_bindings::{abi::MandateEscrow, canonical, terms_on_chain};
use stipend_core::{
    Code, MandateId,
    api::{Accepted, Mandate, NewRevocation, Problem},
};

use super::{Service, admission::Admission, mandates::too_small, not_found, signer};
use crate::{
    clock,
    ledger::{
        LedgerError, audit, mandates, openings,
        revocations::{self, Revocation},
    },
};

/// A revocation whose signer is known.
#[derive(Debug, Clone)]
pub struct SignedRevocation {
    mandate: MandateId,
    signature: Bytes,
    by: Address,
}

impl SignedRevocation {
    /// Who signed it.
    pub const fn signer(&self) -> Address {
        self.by
    }
}

impl Service {
    /// Finds out who signed a revocation.
    ///
    /// # Errors
    /// `bad_signature`.
    pub fn authenticate_revocation(
        &self,
        mandate: MandateId,
        NewRevocation { signature }: NewRevocation,
    ) -> Result<SignedRevocation, Problem> {
        let by = signer(self.domain().revoke_digest(mandate), &signature)?;
        // The contract does not take v as hardware wallets have it.
        let signature = canonical(&signature).map_or(signature, Bytes::from);
        Ok(SignedRevocation { mandate, signature, by })
    }

    /// An operator ends a mandate by one message: stored before this returns, and sent behind at most
    /// one transaction of each other kind. From now on nothing new is accepted; what was may still be in a block before. A
    /// mandate that is not open yet is not opened any more.
    ///
    /// # Errors
    /// `not_found` unless its operator signed it, `foreign_guardian`, `below_minimum`, and those of the ledger.
    pub async fn revoke(&self, revocation: SignedRevocation) -> Result<Accepted<Mandate>, Problem> {
        self.running()?;
        let (guardian, minimum) = (self.deps.deployment.guardian, self.deps.relaying.mandate_min);
        let accept = move |ledger: &rusqlite::Transaction<'_>| {
            let SignedRevocation { mandate: id, signature, by } = revocation;
            let Some(record) = mandates::get(ledger, id)?.filter(|record| record.terms.operator == by) else {
                let detail = format!(
                    "the operator {by} has no mandate {id}; it was recovered from the signature, so if it is not the one expected, the signed message differs"
                );
                return Ok(Admission::Refused(Problem { detail, ..not_found("mandate") }));
            };
            if record.terms.guardian != guardian {
                let detail = format!("guardian {}, this relayer acts for {guardian}", record.terms.guardian);
                return Ok(Admission::Refused(Problem::new(Code::ForeignGuardian, detail)));
            }
            if record.terms.cap < minimum {
                let detail = too_small(record.terms.cap, minimum);
                return Ok(Admission::Refused(Problem::new(Code::BelowMinimum, detail)));
            }
            let terms = terms_on_chain(&record.terms).map_err(LedgerError::inconsistent)?;
            let calldata = MandateEscrow::revokeWithSignatureCall { terms, signature }.abi_encode().into();
            if record.ended.is_some() || !revocations::add(ledger, &Revocation { mandate: id, calldata })? {
                return Ok(Admission::Replayed(record));
            }
            let (data, now) = (json!({ "by": by.to_string() }), clock::now());
            audit::append(ledger, now, audit::NewAuditEntry { data, ..record.event("mandate.revoking") })?;
            openings::withdraw(ledger, id, None, now)?;
            let record = mandates::get(ledger, id)?
                .ok_or_else(|| LedgerError::inconsistent("a mandate that was just read is gone"))?;
            Ok(Admission::Accepted(record))
        };
        self.deps.ledger.writer().write(accept).await?.map(|record| self.view(record)).into_result()
    }
}
