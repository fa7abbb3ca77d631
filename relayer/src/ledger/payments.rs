//! Payments as the ledger holds them. A step of a payment, its booking and its audit entry are one.

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, Row};
use serde_json::json;
use stipend_core::{
    Amount, Code, MandateId, PaymentId, Seconds,
    api::{self, PaymentState},
    nonce::NonceWindow,
    window::{Committed, RollingWindow},
};
use uuid::Uuid;

use super::{
    LedgerError, audit,
    balances::{self, LedgerEvent, Transition},
    booking,
    journal::EntryRefs,
    mandates::{self, TxLocation},
    sql::AWAITING_HOLD,
};

/// A payment.
#[derive(Clone, Debug)]
pub struct PaymentRow {
    /// Its place in the ledger.
    pub seq: u64,
    /// Its id.
    pub id: PaymentId,
    /// The mandate.
    pub mandate: MandateId,
    /// Its nonce.
    pub nonce: u32,
    /// Who is paid.
    pub payee: Address,
    /// How much.
    pub amount: Amount,
    /// Until when it may be paid.
    pub deadline: Seconds,
    /// Commits to what is paid for.
    pub reference: B256,
    /// What the agent signed.
    pub digest: B256,
    /// The agent's signature, 65 bytes.
    pub signature: Vec<u8>,
    /// Where it stands.
    pub state: PaymentState,
    /// Why it failed, or why it still waits.
    pub reason: Option<Code>,
    /// The transaction: the last one sent, or the one that is mined.
    pub tx_hash: Option<B256>,
    /// The block's height, when mined.
    pub block: Option<u64>,
    /// Free words.
    pub metadata: api::Metadata,
    /// When it was accepted.
    pub created_at: Seconds,
    /// When its state changed last.
    pub updated_at: Seconds,
}

/// A payment as the chain made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Its mandate.
    pub mandate: MandateId,
    /// Its nonce.
    pub nonce: u32,
    /// Who was paid.
    pub payee: Address,
    /// How much.
    pub amount: Amount,
}

/// What a foreign outflow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A payment.
    Payment,
    /// A hold.
    Hold,
}

const COLUMNS: &str = "seq, id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, reason,
    tx_hash, mined_block, metadata, created_at, updated_at";
const LIVE: &str = "state NOT IN ('settled', 'failed')";

fn record(row: &Row<'_>) -> Result<PaymentRow, LedgerError> {
    let state: String = row.get(10)?;
    let reason: Option<String> = row.get(11)?;
    Ok(PaymentRow {
        seq: row.get(0)?,
        id: PaymentId(Uuid::from_bytes(row.get(1)?)),
        mandate: MandateId(row.get::<_, [u8; 32]>(2)?.into()),
        nonce: row.get(3)?,
        payee: row.get::<_, [u8; 20]>(4)?.into(),
        amount: Amount::from_units(row.get(5)?).map_err(LedgerError::inconsistent)?,
        deadline: row.get(6)?,
        reference: row.get::<_, [u8; 32]>(7)?.into(),
        digest: row.get::<_, [u8; 32]>(8)?.into(),
        signature: row.get(9)?,
        state: super::named(&PaymentState::ALL, PaymentState::name, &state)?,
        reason: reason.map(|reason| super::named(Code::ALL, Code::name, &reason)).transpose()?,
        tx_hash: row.get::<_, Option<[u8; 32]>>(12)?.map(Into::into),
        block: row.get(13)?,
        metadata: super::json(&row.get::<_, String>(14)?)?,
        created_at: row.get(15)?,
        updated_at: row.get(16)?,
    })
}

/// A place in the order of mandates and nonces.
#[derive(Clone, Copy, Debug, Default)]
pub struct PaymentCursor {
    pub mandate: MandateId,
    pub nonce: u32,
}

impl PaymentRow {
    #[must_use]
    pub const fn cursor(&self) -> PaymentCursor {
        PaymentCursor { mandate: self.mandate, nonce: self.nonce }
    }

    /// As the API shows it.
    #[must_use]
    pub fn view(self) -> api::Payment {
        api::Payment {
            id: self.id,
            mandate: self.mandate,
            state: self.state,
            reason: self.reason,
            payee: self.payee,
            amount: self.amount,
            nonce: self.nonce,
            deadline: self.deadline,
            reference: self.reference,
            digest: self.digest,
            tx_hash: self.tx_hash,
            block_number: self.block,
            created_at: self.created_at,
            updated_at: self.updated_at,
            metadata: self.metadata,
        }
    }
}

fn select(
    connection: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<PaymentRow>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM payment WHERE {condition}"))?
        .query_and_then(parameters, record)?
        .collect()
}

/// The payment that was signed as `digest`.
pub fn by_digest(connection: &Connection, digest: B256) -> Result<Option<PaymentRow>, LedgerError> {
    Ok(select(connection, "digest = ?", [digest.0])?.pop())
}

/// The payment with this id.
pub fn by_id(connection: &Connection, id: PaymentId) -> Result<Option<PaymentRow>, LedgerError> {
    Ok(select(connection, "id = ?", [id.0.into_bytes()])?.pop())
}

/// The payment with this nonce.
pub fn by_nonce(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<Option<PaymentRow>, LedgerError> {
    Ok(select(connection, "mandate = ? AND nonce = ?", (mandate.0.0, nonce))?.pop())
}

/// The payments that the block with this hash paid.
pub fn mined_in(connection: &Connection, block: B256) -> Result<Vec<PaymentRow>, LedgerError> {
    select(connection, "mined_hash = ?", [block.0])
}

/// The payments of a mandate that are not final, in nonce order.
pub fn live(connection: &Connection, mandate: MandateId) -> Result<Vec<PaymentRow>, LedgerError> {
    select(connection, &format!("mandate = ? AND {LIVE} ORDER BY nonce"), [mandate.0.0])
}

/// What of a mandate counts in its rolling window at `now`, or would if a block took it: payments and
/// cards' holds. Empty without a window.
pub fn committed(
    connection: &Connection,
    mandate: &mandates::MandateRow,
    now: Seconds,
) -> Result<Committed, LedgerError> {
    if mandate.terms.window == 0 {
        return Ok(Committed::default());
    }
    let taken = "SELECT mined_at, amount FROM payment WHERE mandate = ?1 AND mined_at > ?2
        UNION ALL SELECT held_at, amount FROM card WHERE mandate = ?1 AND held_at > ?2
        UNION ALL SELECT at, amount FROM external_outflow WHERE mandate = ?1 AND at > ?2 ORDER BY 1";
    let waiting = format!(
        "SELECT deadline, amount FROM payment
            WHERE {LIVE} AND state IN ('reserved', 'submitted') AND mandate = ?1
         UNION ALL SELECT deadline, amount FROM card WHERE mandate = ?1 AND {AWAITING_HOLD}"
    );
    let counts_since = now.saturating_sub(RollingWindow::memory(&mandate.terms));
    Ok(Committed {
        taken: amounts(connection, taken, (mandate.id.0.0, counts_since))?,
        waiting: amounts(connection, &waiting, [mandate.id.0.0])?,
    })
}

/// Times and amounts, as the query returns them.
fn amounts(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<(Seconds, Amount)>, LedgerError> {
    let amount = |row: &Row<'_>| Amount::from_units(row.get(1)?).map_err(LedgerError::inconsistent);
    connection.prepare_cached(query)?.query_and_then(parameters, |row| Ok((row.get(0)?, amount(row)?)))?.collect()
}

/// The payments of a mandate that are not final and that a payment with `nonce` makes impossible:
/// another one with this nonce, and those that it retires.
pub fn ruled_out_by(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<Vec<PaymentRow>, LedgerError> {
    let floor = NonceWindow::floor(nonce);
    select(connection, &format!("mandate = ? AND {LIVE} AND (nonce = ? OR nonce < ?)"), (mandate.0.0, nonce, floor))
}

/// The payments that are not final and whose deadline is at `time` or before.
pub fn overdue(connection: &Connection, time: Seconds) -> Result<Vec<PaymentRow>, LedgerError> {
    select(connection, &format!("deadline <= ? AND {LIVE}"), [time])
}

/// The first mandate above this one with payments that wait for a transaction and that no
/// simulation has refused.
pub fn next_to_send(connection: &Connection, after: MandateId) -> Result<Option<MandateId>, LedgerError> {
    let id: Option<[u8; 32]> = connection
        .prepare_cached("SELECT min(mandate) FROM payment WHERE state = 'reserved' AND reason IS NULL AND mandate > ?")?
        .query_row([after.0.0], |row| row.get(0))?;
    Ok(id.map(|id| MandateId(id.into())))
}

/// A mandate's first payments, by nonce, that wait for a transaction and can be in a block after
/// `time`, and that no simulation has refused.
pub fn to_send(
    connection: &Connection,
    mandate: MandateId,
    time: Seconds,
    limit: usize,
) -> Result<Vec<PaymentRow>, LedgerError> {
    select(
        connection,
        "state = 'reserved' AND reason IS NULL AND mandate = ? AND deadline > ? ORDER BY nonce LIMIT ?",
        (mandate.0.0, time, limit),
    )
}

/// Payments that wait because a simulation refused them, by mandate and nonce, after the cursor.
pub fn refused(
    connection: &Connection,
    after: PaymentCursor,
    time: Seconds,
    limit: usize,
) -> Result<Vec<PaymentRow>, LedgerError> {
    select(
        connection,
        "state = 'reserved' AND reason IS NOT NULL AND (mandate, nonce) > (?, ?) AND deadline > ?
         ORDER BY mandate, nonce LIMIT ?",
        (after.mandate.0.0, after.nonce, time, limit),
    )
}

/// The lowest nonce of a mandate that something in this ledger still needs, of what is not about to
/// be sent: payments in transactions, those that a simulation refused, holds that wait. A nonce that
/// would retire it must not be used.
pub fn lowest_needed(connection: &Connection, mandate: MandateId, time: Seconds) -> Result<Option<u32>, LedgerError> {
    lowest(connection, mandate, time, "state = 'reserved' AND reason IS NOT NULL AND deadline > ?2")
}

/// The same, of everything.
pub fn lowest_live(connection: &Connection, mandate: MandateId, time: Seconds) -> Result<Option<u32>, LedgerError> {
    lowest(connection, mandate, time, &format!("state = 'reserved' AND {LIVE} AND deadline > ?2"))
}

fn lowest(
    connection: &Connection,
    mandate: MandateId,
    time: Seconds,
    waiting: &str,
) -> Result<Option<u32>, LedgerError> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT min(nonce) FROM (
                SELECT min(nonce) AS nonce FROM payment WHERE mandate = ?1 AND state = 'submitted' AND {LIVE}
                UNION ALL SELECT min(nonce) FROM payment WHERE mandate = ?1 AND {waiting}
                UNION ALL SELECT min(nonce) FROM card WHERE mandate = ?1 AND {AWAITING_HOLD}
                    AND deadline > ?2)"
        ))?
        .query_row((mandate.0.0, time), |row| row.get(0))?)
}

/// The payments that ride in a transaction.
pub fn payments_in_tx(connection: &Connection, tx: u64) -> Result<Vec<PaymentRow>, LedgerError> {
    select(connection, "seq IN (SELECT payment FROM tx_payment WHERE tx = ?) ORDER BY seq", [tx])
}

/// Which payments to list.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// Of mandates of this agent or operator.
    pub reader: Address,
    /// Of this mandate.
    pub mandate: Option<MandateId>,
    /// In this state.
    pub state: Option<PaymentState>,
    /// With this ref.
    pub reference: Option<B256>,
}

/// The payments that match, newest first, before `before`.
pub fn list(
    connection: &Connection,
    filter: Filter,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<PaymentRow>, LedgerError> {
    select(
        connection,
        "mandate IN (SELECT id FROM mandate WHERE agent = ?1 OR operator = ?1)
         AND (?2 IS NULL OR mandate = ?2) AND (?3 IS NULL OR state = ?3) AND (?4 IS NULL OR ref = ?4)
         AND (?5 IS NULL OR seq < ?5) ORDER BY seq DESC LIMIT ?6",
        (
            filter.reader.0.0,
            filter.mandate.map(|id| id.0.0),
            filter.state.map(PaymentState::name),
            filter.reference.map(|reference| reference.0),
            before,
            limit,
        ),
    )
}

/// A payment that is admitted.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Its id.
    pub id: PaymentId,
    /// What the agent sent.
    pub body: api::NewPayment,
    /// What the agent signed.
    pub digest: B256,
}

/// Reserves the amount and stores the payment.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it is not available, and those of the store.
pub fn admit(
    connection: &Connection,
    mandate: &mandates::MandateRow,
    admission: &Admission,
    decision: &stipend_core::policy::Decision,
    now: Seconds,
) -> Result<(), LedgerError> {
    let Admission { id, body, digest } = admission;
    connection
        .prepare_cached(
            "INSERT INTO payment (id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state,
                metadata, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?, ?, ?)",
        )?
        .execute((
            id.0.into_bytes(),
            body.mandate.0.0,
            body.nonce,
            body.payee.0.0,
            body.amount.units(),
            body.deadline,
            body.reference.0,
            digest.0,
            body.signature.as_ref(),
            super::to_json(&body.metadata)?,
            now,
            now,
        ))?;
    let seq = u64::try_from(connection.last_insert_rowid()).map_err(LedgerError::inconsistent)?;
    booking::book(connection, mandate, LedgerEvent::Reserve(body.amount), EntryRefs::payment(seq), now)?;
    let data = json!({
        "payee": body.payee.to_string(), "amount": body.amount, "nonce": body.nonce, "deadline": body.deadline,
        "ref": body.reference, "digest": digest, "decision": decision,
    });
    audit::append(
        connection,
        now,
        audit::NewAuditEntry { payment: Some(*id), data, ..mandate.event("payment.reserved") },
    )
}

/// Why and where a step was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransitionContext {
    /// Why it failed, or waits.
    pub reason: Option<Code>,
    /// The transaction.
    pub tx_hash: Option<B256>,
    /// The block, as height and hash.
    pub block: Option<(u64, B256)>,
}

/// Takes a step: state, booking and audit entry in one. A step that is impossible from the
/// payment's state is an inconsistency.
///
/// # Errors
/// [`LedgerError::Inconsistent`], and those of the store.
pub fn step(
    connection: &Connection,
    payment: &PaymentRow,
    step: Transition,
    context: TransitionContext,
    now: Seconds,
) -> Result<(), LedgerError> {
    let state = balances::next(payment.state, step)
        .ok_or_else(|| LedgerError::Inconsistent(format!("{} is {:?}: no {step:?}", payment.id, payment.state)))?;
    let mandate = mandates::get(connection, payment.mandate)?
        .ok_or_else(|| LedgerError::Inconsistent(format!("{} has no mandate", payment.id)))?;
    if let Some(event) = balances::event_of_state(state, payment.amount) {
        let refs = EntryRefs { block: context.block.map(|(number, _)| number), ..EntryRefs::payment(payment.seq) };
        booking::book(connection, &mandate, event, refs, now)?;
    }
    let tx_hash = context.tx_hash.or(payment.tx_hash);
    connection
        .prepare_cached(
            "UPDATE payment SET state = ?, reason = ?, tx_hash = ?, mined_block = ?, mined_hash = ?5,
                mined_at = (SELECT time FROM block WHERE hash = ?5), updated_at = ? WHERE seq = ?",
        )?
        .execute((
            state.name(),
            context.reason.map(Code::name),
            tx_hash.map(|hash| hash.0),
            context.block.map(|(number, _)| number),
            context.block.map(|(_, hash)| hash.0),
            now,
            payment.seq,
        ))?;
    let mut data = json!({ "amount": payment.amount, "nonce": payment.nonce, "payee": payment.payee.to_string() });
    if let (Some(data), Some((number, hash))) = (data.as_object_mut(), context.block) {
        data.insert("block".into(), json!({ "number": number, "hash": hash }));
    }
    if let (Some(data), Some(reason)) = (data.as_object_mut(), context.reason) {
        data.insert("reason".into(), json!(reason));
    }
    if let (Some(data), Transition::Unmine { .. }) = (data.as_object_mut(), step) {
        data.insert("unmined".into(), json!(true));
    }
    let event = audit::NewAuditEntry {
        payment: Some(payment.id),
        tx_hash,
        data,
        ..mandate.event(format!("payment.{}", state.name()))
    };
    audit::append(connection, now, event)
}

/// Notes why a payment waits; no state changes.
pub fn set_reason(connection: &Connection, seq: u64, reason: Option<Code>) -> Result<(), LedgerError> {
    connection
        .prepare_cached("UPDATE payment SET reason = ?1 WHERE seq = ?2 AND state = 'reserved' AND reason IS NOT ?1")?
        .execute((reason.map(Code::name), seq))?;
    Ok(())
}

/// Notes the transaction that was sent last for the payments of `tx`.
pub fn set_tx_hash(connection: &Connection, tx: u64, hash: B256) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "UPDATE payment SET tx_hash = ? WHERE state = 'submitted'
             AND seq IN (SELECT payment FROM tx_payment WHERE tx = ?)",
        )?
        .execute((hash.0, tx))?;
    Ok(())
}

/// Remembers what the chain paid, or holds, and this ledger never accepted.
pub fn insert_foreign(
    connection: &Connection,
    kind: Foreign,
    spent: &Spent,
    location: TxLocation,
) -> Result<(), LedgerError> {
    let kind = match kind {
        Foreign::Payment => "pay",
        Foreign::Hold => "hold",
    };
    connection
        .prepare_cached(
            "INSERT INTO external_outflow (mandate, nonce, kind, payee, amount, tx_hash, at)
             VALUES (?, ?, ?, ?, ?, ?, (SELECT time FROM block WHERE hash = ?))",
        )?
        .execute((
            spent.mandate.0.0,
            spent.nonce,
            kind,
            spent.payee.0.0,
            spent.amount.units(),
            location.tx.0,
            location.hash.0,
        ))?;
    Ok(())
}

/// The transactions of what a mandate paid or held and this ledger never accepted.
pub fn foreign(connection: &Connection, mandate: MandateId) -> Result<Vec<B256>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT DISTINCT tx_hash FROM external_outflow WHERE mandate = ? ORDER BY nonce")?;
    let hashes = statement.query_map([mandate.0.0], |row| row.get::<_, [u8; 32]>(0))?;
    hashes.map(|hash| Ok(hash?.into())).collect()
}

/// Whether the chain used a nonce for what this ledger never accepted.
pub fn is_foreign(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<bool, LedgerError> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM external_outflow WHERE mandate = ? AND nonce = ?)")?
        .query_row((mandate.0.0, nonce), |row| row.get(0))?)
}
