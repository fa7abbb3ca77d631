//! What the escrow's logs say.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolEvent;
use stipend_bindings::{abi::MandateEscrow, terms_from_chain};
use stipend_core::{Amount, Code, MandateId, Seconds, Terms};

use crate::ledger::{blocks::Log, payments::Spent};

/// Money that was given back to a mandate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refund {
    pub mandate: MandateId,
    /// Who paid.
    pub payer: Address,
    /// How much.
    pub amount: Amount,
    /// What of it is the budget again; the rest went to the operator.
    pub restored: Amount,
    /// Says what is paid back.
    pub reference: B256,
}

/// A fact of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EscrowEvent {
    Opened(MandateId, Box<Terms>),
    /// A payment was made.
    Spent(Spent),
    /// A row of a batch was not paid.
    Skipped {
        mandate: MandateId,
        nonce: u32,
        /// Why.
        reason: Code,
    },
    /// A hold was placed.
    Held {
        /// What is set aside.
        hold: Spent,
        /// Until when it may be captured.
        capture_by: Seconds,
    },
    /// Part of a hold was paid.
    Captured {
        mandate: MandateId,
        nonce: u32,
        /// How much.
        amount: Amount,
    },
    /// Part of a hold went back to its mandate.
    Released {
        mandate: MandateId,
        nonce: u32,
        /// How much.
        amount: Amount,
    },
    /// Somebody gave money back.
    Refunded(Refund),
    /// A mandate was revoked.
    Revoked {
        /// Which.
        mandate: MandateId,
        /// By whom.
        by: Address,
    },
    /// What was left went back, and the mandate ended.
    Returned {
        /// Which.
        mandate: MandateId,
        /// To whom.
        to: Address,
        /// How much was not held.
        from_remaining: Amount,
        /// How much was held.
        from_held: Amount,
    },
    /// A mandate was replaced by another one, and ended.
    Rolled {
        /// Which ended.
        from: MandateId,
        /// Which replaces it.
        to: MandateId,
        /// What of its cap came from the other one.
        carried: Amount,
    },
    /// A guardian allowed or removed a submitter.
    SubmitterSet {
        guardian: Address,
        submitter: Address,
        /// Which of both.
        allowed: bool,
    },
}

impl EscrowEvent {
    /// Reads a log of the escrow. `None` for events that this program does not know and for terms
    /// that no ledger can hold.
    pub(super) fn read(log: &Log) -> Option<Self> {
        let topics = || log.topics.iter().copied();
        let data = &log.data;
        let amount = |units| Amount::from_units(units).ok();
        Some(match *log.topics.first()? {
            topic if topic == MandateEscrow::Opened::SIGNATURE_HASH => {
                let event = MandateEscrow::Opened::decode_raw_log(topics(), data).ok()?;
                Self::Opened(MandateId(event.mandate), Box::new(terms_from_chain(&event.terms).ok()?))
            }
            topic if topic == MandateEscrow::Spent::SIGNATURE_HASH => {
                let event = MandateEscrow::Spent::decode_raw_log(topics(), data).ok()?;
                Self::Spent(Spent {
                    mandate: MandateId(event.mandate),
                    nonce: event.nonce,
                    payee: event.payee,
                    amount: amount(event.amount)?,
                })
            }
            topic if topic == MandateEscrow::Skipped::SIGNATURE_HASH => {
                let event = MandateEscrow::Skipped::decode_raw_log(topics(), data).ok()?;
                let reason = Code::from_reason(event.reason)?;
                Self::Skipped { mandate: MandateId(event.mandate), nonce: event.nonce, reason }
            }
            topic if topic == MandateEscrow::Held::SIGNATURE_HASH => {
                let event = MandateEscrow::Held::decode_raw_log(topics(), data).ok()?;
                Self::Held {
                    hold: Spent {
                        mandate: MandateId(event.mandate),
                        nonce: event.nonce,
                        payee: event.payee,
                        amount: amount(event.amount)?,
                    },
                    capture_by: event.captureBy.to(),
                }
            }
            topic if topic == MandateEscrow::Captured::SIGNATURE_HASH => {
                let event = MandateEscrow::Captured::decode_raw_log(topics(), data).ok()?;
                Self::Captured { mandate: MandateId(event.mandate), nonce: event.nonce, amount: amount(event.amount)? }
            }
            topic if topic == MandateEscrow::Released::SIGNATURE_HASH => {
                let event = MandateEscrow::Released::decode_raw_log(topics(), data).ok()?;
                Self::Released { mandate: MandateId(event.mandate), nonce: event.nonce, amount: amount(event.amount)? }
            }
            topic if topic == MandateEscrow::Refunded::SIGNATURE_HASH => {
                let event = MandateEscrow::Refunded::decode_raw_log(topics(), data).ok()?;
                Self::Refunded(Refund {
                    mandate: MandateId(event.mandate),
                    payer: event.payer,
                    amount: amount(event.amount)?,
                    restored: amount(event.restored)?,
                    reference: event.r#ref,
                })
            }
            topic if topic == MandateEscrow::Revoked::SIGNATURE_HASH => {
                let event = MandateEscrow::Revoked::decode_raw_log(topics(), data).ok()?;
                Self::Revoked { mandate: MandateId(event.mandate), by: event.by }
            }
            topic if topic == MandateEscrow::Returned::SIGNATURE_HASH => {
                let event = MandateEscrow::Returned::decode_raw_log(topics(), data).ok()?;
                Self::Returned {
                    mandate: MandateId(event.mandate),
                    to: event.to,
                    from_remaining: amount(event.fromRemaining)?,
                    from_held: amount(event.fromHeld)?,
                }
            }
            topic if topic == MandateEscrow::Rolled::SIGNATURE_HASH => {
                let event = MandateEscrow::Rolled::decode_raw_log(topics(), data).ok()?;
                Self::Rolled { from: MandateId(event.from), to: MandateId(event.to), carried: amount(event.carried)? }
            }
            topic if topic == MandateEscrow::SubmitterSet::SIGNATURE_HASH => {
                let event = MandateEscrow::SubmitterSet::decode_raw_log(topics(), data).ok()?;
                Self::SubmitterSet { guardian: event.guardian, submitter: event.submitter, allowed: event.allowed }
            }
            _ => return None,
        })
    }
}
