//! Payments as the ledger holds them. A step of a payment, its booking and its audit entry are one.

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use stipend_core::{
    Amount, Code, MandateId, PaymentId, Seconds,
    api::{self, PaymentState},
    nonce::NonceWindow,
    trail::{Decided, Entry, Inputs, Maybe, Pairs, Place, Step},
};

use super::{
    LedgerError, audit,
    balances::{self, Transition},
    booking,
    books::{AcceptedPayment, OpenMandate},
    journal::EntryRefs,
    mandates::{self, TxLocation},
    pages::{self, List, Page},
    sql::{AWAITING_HOLD, Sql, Statements, insert, row},
};

row! {
    #[derive(Clone, Debug)]
    pub struct PaymentRow in "payment" {
        /// Its place in the ledger.
        pub seq: u64 = "seq",
        pub id: PaymentId = "id",
        pub mandate: MandateId = "mandate",
        pub nonce: u32 = "nonce",
        /// Who is paid.
        pub payee: Address = "payee",
        /// How much.
        pub amount: Amount = "amount",
        /// Until when it may be paid.
        pub deadline: Seconds = "deadline",
        /// Commits to what is paid for.
        pub reference: B256 = "ref",
        /// What the agent signed.
        pub digest: B256 = "digest",
        /// The agent's signature, 65 bytes.
        pub signature: Vec<u8> = "signature",
        pub state: PaymentState = "state",
        /// Why it failed, or why it still waits.
        pub reason: Option<Code> = "reason",
        /// The transaction: the last one sent, or the one that is mined.
        pub tx_hash: Option<B256> = "tx_hash",
        /// The block's height, when mined.
        pub block: Option<u64> = "mined_block",
        /// Caller-defined key/value metadata.
        pub metadata: api::Metadata = "metadata",
        /// When it was accepted.
        pub created_at: Seconds = "created_at",
        /// When its state changed last.
        pub updated_at: Seconds = "updated_at",
    }
}

/// A payment as the chain made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    pub mandate: MandateId,
    pub nonce: u32,
    /// Who was paid.
    pub payee: Address,
    /// How much.
    pub amount: Amount,
}

/// What an outflow that this ledger never accepted is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalOutflow {
    Payment,
    Hold,
}

/// A mandate's payments that no block has paid and that can still be. `stage` is counted in schema.sql: to be sent (0), refused
/// by a simulation (1), submitted (2), mined (3), at its end (4).
const WAITING_OF_MANDATE: &str = "INDEXED BY payment_by_stage WHERE stage IN (0, 1, 2) AND mandate = ?";

/// A place in the order of mandates and nonces.
#[derive(Clone, Copy, Debug, Default)]
pub struct PaymentCursor {
    pub mandate: MandateId,
    pub nonce: u32,
}

impl PaymentRow {
    pub const fn cursor(&self) -> PaymentCursor {
        PaymentCursor { mandate: self.mandate, nonce: self.nonce }
    }

    /// As the API shows it.
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
            receipt: None,
        }
    }
}

/// How long the payments that were settled last took from their acceptance, in seconds, on average. `None`: none
/// was.
pub fn settles_within(connection: &Connection) -> Result<Option<Seconds>, LedgerError> {
    let query = "SELECT CAST(avg(updated_at - created_at) AS INTEGER) FROM (SELECT updated_at, created_at FROM payment
        WHERE seq > (SELECT max(seq) FROM payment) - 1000 AND state = 'settled' ORDER BY seq DESC LIMIT 20)";
    connection.value(query, [])
}

pub fn by_id(connection: &Connection, id: PaymentId) -> Result<Option<PaymentRow>, LedgerError> {
    Ok(PaymentRow::select(connection, "WHERE id = ?", [Sql(id)])?.pop())
}

pub fn by_nonce(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<Option<PaymentRow>, LedgerError> {
    let rest = "INDEXED BY payment_by_stage WHERE stage IN (0, 1, 2, 3, 4) AND mandate = ? AND nonce = ?";
    Ok(PaymentRow::select(connection, rest, (Sql(mandate), nonce))?.pop())
}

fn first(
    connection: &Connection,
    rest: &str,
    parameters: impl rusqlite::Params,
) -> Result<Option<PaymentRow>, LedgerError> {
    Ok(PaymentRow::select(connection, &format!("{rest} LIMIT 1"), parameters)?.pop())
}

/// One of the payments that the block with this hash paid.
pub fn first_mined_in(connection: &Connection, block: B256) -> Result<Option<PaymentRow>, LedgerError> {
    first(connection, "WHERE state = 'mined' AND mined_hash = ?", [Sql(block)])
}

/// A mandate's first payment that no block has paid and that can still be. In the order of the index: a sort would read
/// all of them for each.
pub fn first_waiting(connection: &Connection, mandate: MandateId) -> Result<Option<PaymentRow>, LedgerError> {
    first(connection, WAITING_OF_MANDATE, [Sql(mandate)])
}

/// A payment of a mandate that no block has paid and that a payment with `nonce` makes impossible: another one with
/// this nonce, or one that it retires.
pub fn first_ruled_out_by(
    connection: &Connection,
    mandate: MandateId,
    nonce: u32,
) -> Result<Option<PaymentRow>, LedgerError> {
    let retired = format!("{WAITING_OF_MANDATE} AND nonce < ?");
    match first(connection, &retired, (Sql(mandate), NonceWindow::floor(nonce)))? {
        Some(payment) => Ok(Some(payment)),
        None => first(connection, &format!("{WAITING_OF_MANDATE} AND nonce = ?"), (Sql(mandate), nonce)),
    }
}

/// A payment that no block has paid and whose deadline is at `time` or before.
pub fn first_overdue(connection: &Connection, time: Seconds) -> Result<Option<PaymentRow>, LedgerError> {
    let rest = "INDEXED BY payment_due WHERE deadline <= ? AND state <> 'mined' AND state NOT IN ('settled', 'failed')";
    first(connection, rest, [time])
}

/// A payment in a transaction that is decided, which did not pay it, and that no other undecided one holds.
pub fn first_left_by(connection: &Connection, tx: u64) -> Result<Option<PaymentRow>, LedgerError> {
    first(
        connection,
        "WHERE state = 'submitted' AND seq IN (SELECT payment FROM tx_payment WHERE tx = ?1) AND NOT EXISTS
            (SELECT 1 FROM tx_payment AS other JOIN tx ON tx.id = other.tx
                WHERE other.payment = payment.seq AND other.tx <> ?1 AND tx.state <> 'final')
         ORDER BY seq",
        [tx],
    )
}

/// The first mandate above this one with payments that wait for a transaction and that no
/// simulation has refused.
pub fn next_to_send(connection: &Connection, after: MandateId) -> Result<Option<MandateId>, LedgerError> {
    connection.value("SELECT min(mandate) FROM payment WHERE stage = 0 AND mandate > ?", [Sql(after)])
}

/// Whether this many payments or more wait for a transaction, which no simulation has refused.
pub fn wait_to_be_sent(connection: &Connection, least: usize) -> Result<bool, LedgerError> {
    connection.value("SELECT count(*) = ?1 FROM (SELECT 1 FROM payment WHERE stage = 0 LIMIT ?1)", [least])
}

/// A mandate's first payments, by nonce, that wait for a transaction and can be in a block after
/// `time`, and that no simulation has refused.
pub fn to_send(
    connection: &Connection,
    mandate: MandateId,
    time: Seconds,
    limit: usize,
) -> Result<Vec<PaymentRow>, LedgerError> {
    PaymentRow::select(
        connection,
        "INDEXED BY payment_by_stage WHERE stage = 0 AND mandate = ? AND deadline > ? ORDER BY nonce LIMIT ?",
        (Sql(mandate), time, limit),
    )
}

/// Payments that wait because a simulation refused them, by mandate and nonce, after the cursor.
pub fn refused(
    connection: &Connection,
    after: PaymentCursor,
    time: Seconds,
    limit: usize,
) -> Result<Vec<PaymentRow>, LedgerError> {
    PaymentRow::select(
        connection,
        "INDEXED BY payment_by_stage WHERE stage = 1 AND (mandate, nonce) > (?, ?) AND deadline > ?
         ORDER BY mandate, nonce LIMIT ?",
        (Sql(after.mandate), after.nonce, time, limit),
    )
}

/// The lowest nonce of a mandate that something in this ledger still needs, of what is not about to
/// be sent: payments in transactions, those that a simulation refused, holds that wait. A nonce that
/// would retire it must not be used.
pub fn lowest_needed(connection: &Connection, mandate: MandateId, time: Seconds) -> Result<Option<u32>, LedgerError> {
    lowest(connection, mandate, time, &[1])
}

/// The same, of everything.
pub fn lowest_live(connection: &Connection, mandate: MandateId, time: Seconds) -> Result<Option<u32>, LedgerError> {
    lowest(connection, mandate, time, &[0, 1])
}

fn lowest(
    connection: &Connection,
    mandate: MandateId,
    time: Seconds,
    waiting: &[u8],
) -> Result<Option<u32>, LedgerError> {
    let by_stage = "FROM payment INDEXED BY payment_by_stage WHERE mandate = ?1 AND stage";
    let waiting = waiting.iter().map(|stage| {
        format!("UNION ALL SELECT * FROM (SELECT nonce {by_stage} = {stage} AND deadline > ?2 ORDER BY nonce LIMIT 1)")
    });
    connection.value(
        &format!(
            "SELECT min(nonce) FROM (
                SELECT min(nonce) AS nonce {by_stage} = 2 {}
                UNION ALL SELECT min(nonce) FROM card INDEXED BY card_unsettled WHERE mandate = ?1 AND {AWAITING_HOLD}
                    AND deadline > ?2)",
            waiting.collect::<String>()
        ),
        (Sql(mandate), time),
    )
}

/// Which payments to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub state: Option<PaymentState>,
    /// With this ref.
    pub reference: Option<B256>,
}

/// A page of the payments of a reader that match.
pub fn list(connection: &Connection, list: List, filter: Filter) -> Result<Page<PaymentRow>, LedgerError> {
    // Those that failed, or are not at an end, are few among those that were settled: they have indexes of their own.
    let newest = |mandate: MandateId, before: u64, count: u32| match filter.state {
        None | Some(PaymentState::Settled) => {
            let query = "SELECT seq FROM payment WHERE mandate = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
            connection.rows(query, (Sql(mandate), before, count))
        }
        Some(PaymentState::Failed) => {
            let query = "SELECT seq FROM payment INDEXED BY payment_failed
                WHERE state = 'failed' AND mandate = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
            connection.rows(query, (Sql(mandate), before, count))
        }
        Some(state) => {
            let query = "SELECT seq FROM payment INDEXED BY payment_by_stage WHERE stage IN (0, 1, 2, 3)
                AND mandate = ? AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
            connection.rows(query, (Sql(mandate), Sql(state), before, count))
        }
    };
    let read = |seq| {
        let matching = "WHERE seq = ?1 AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR ref = ?3)";
        let parameters = (seq, filter.state.map(Sql), filter.reference.map(Sql));
        Ok(PaymentRow::select(connection, matching, parameters)?.pop())
    };
    pages::newest_first(connection, list, newest, read)
}

/// A payment that is decided.
#[derive(Clone, Debug)]
pub struct DecidedPayment<'a> {
    /// What the agent sent.
    pub body: &'a api::NewPayment,
    /// What the agent signed.
    pub digest: B256,
    /// What the decision was based on.
    pub inputs: &'a Inputs,
}

impl DecidedPayment<'_> {
    fn entry(&self, id: Option<PaymentId>, now: Seconds) -> Entry {
        let Self { body, inputs, .. } = self;
        Entry::Decision(Decided {
            at: now,
            payment: Maybe(id.map(|id| id.0.into_bytes().into())),
            nonce: body.nonce,
            payee: body.payee,
            amount: body.amount.units(),
            deadline: body.deadline,
            reference: body.reference,
            signature: body.signature.clone(),
            metadata: Pairs(body.metadata.clone()),
            inputs: (*inputs).clone(),
        })
    }
}

/// Reserves the amount and writes the payment into the trail; its row follows when the books are closed.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it is not available, or another one has the nonce, and those of the store.
pub fn accept(
    connection: &Connection,
    open: &mut OpenMandate,
    id: PaymentId,
    new: &DecidedPayment<'_>,
    now: Seconds,
) -> Result<api::Payment, LedgerError> {
    let (mandate, nonce) = (open.mandate(), new.body.nonce);
    let is_taken = || -> Result<bool, LedgerError> {
        let unapplied = open.accepted().iter().any(|payment| payment.nonce() == nonce);
        Ok(unapplied || by_nonce(connection, mandate.id, nonce)?.is_some())
    };
    if !mandate.is_unused(nonce) && is_taken()? {
        return Err(LedgerError::Inconsistent(format!("{}: nonce {nonce} is accepted twice", mandate.id)));
    }
    open.note(connection, &new.entry(Some(id), now))?;
    let accepted = AcceptedPayment { id, body: new.body.clone(), digest: new.digest, at: now };
    let view = accepted.view();
    open.reserve(accepted)?;
    Ok(view)
}

/// Writes down that a payment was refused.
pub fn deny(
    connection: &Connection,
    open: &mut OpenMandate,
    new: &DecidedPayment<'_>,
    now: Seconds,
) -> Result<(), LedgerError> {
    open.note(connection, &new.entry(None, now))
}

/// Why and where a step was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransitionContext {
    /// Why it failed, or waits.
    pub reason: Option<Code>,
    /// The transaction.
    pub tx_hash: Option<B256>,
    /// Where it was mined.
    pub mined: Option<TxLocation>,
}

impl TransitionContext {
    /// Of a transaction in a block.
    pub const fn mined(location: TxLocation) -> Self {
        Self { reason: None, tx_hash: Some(location.tx), mined: Some(location) }
    }
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
    step_all(connection, std::slice::from_ref(payment), step, context, now)
}

/// The same for several payments. Those of one mandate that come one after the other share an audit entry.
///
/// # Errors
/// Those of [`step`].
pub fn step_all(
    connection: &Connection,
    payments: &[PaymentRow],
    step: Transition,
    context: TransitionContext,
    now: Seconds,
) -> Result<(), LedgerError> {
    let tx_of = |payment: &PaymentRow| context.tx_hash.or(payment.tx_hash);
    let alike = |one: &PaymentRow, other: &PaymentRow| {
        one.mandate == other.mandate && one.state == other.state && tx_of(one) == tx_of(other)
    };
    for together in payments.chunk_by(alike) {
        let Some(first) = together.first() else { continue };
        let state = balances::next(first.state, step)
            .ok_or_else(|| LedgerError::Inconsistent(format!("{} is {:?}: no {step:?}", first.id, first.state)))?;
        let mandate = mandates::account(connection, first.mandate)?
            .ok_or_else(|| LedgerError::Inconsistent(format!("{} has no mandate", first.id)))?;
        let block = context.mined.map(|location| location.block);
        let mut amounts = together.iter().map(|payment| payment.amount);
        let sum = amounts.try_fold(Amount::ZERO, Amount::checked_add);
        let sum = sum.ok_or_else(|| LedgerError::inconsistent("payments come to more than any amount"))?;
        if let Some(event) = balances::event_of_state(state, sum) {
            booking::book(connection, &mandate, event, EntryRefs { block, ..EntryRefs::default() }, now)?;
        }
        let tx_hash = tx_of(first);
        let mined_at: Option<Seconds> = match context.mined {
            Some(location) => connection.row("SELECT time FROM block WHERE hash = ?", [Sql(location.hash)])?,
            None => None,
        };
        for payment in together {
            connection.change(
                "UPDATE payment SET state = ?, reason = ?, tx_hash = ?, mined_block = ?, mined_hash = ?, mined_at = ?,
                    updated_at = ? WHERE seq = ?",
                (
                    state.name(),
                    context.reason.map(Sql),
                    tx_hash.map(Sql),
                    block,
                    context.mined.map(|location| Sql(location.hash)),
                    mined_at,
                    now,
                    payment.seq,
                ),
            )?;
        }
        let entry = Entry::Step(Step {
            at: now,
            state: state.name().into(),
            unmined: matches!(step, Transition::Unmine { .. }),
            tx: Maybe(tx_hash),
            block: Maybe(context.mined.map(|TxLocation { block: number, hash, .. }| Place { number, hash })),
            reason: Maybe(context.reason.map(|reason| reason.name().into())),
            nonces: together.iter().map(|payment| payment.nonce).collect(),
        });
        audit::add(connection, mandate.chain(), &entry)?;
    }
    Ok(())
}

/// How many payments are reopened together at most.
const REOPENED: u32 = 1_000;

/// Takes back all that blocks did to payments, in a ledger whose bookings are taken back: those that were in a transaction
/// are again.
pub(super) fn reopen(connection: &Connection, now: Seconds) -> Result<(), LedgerError> {
    let held = "EXISTS (SELECT 1 FROM tx_payment WHERE payment = seq)";
    for (state, which) in [
        (PaymentState::Submitted, format!("state IN ('reserved', 'mined', 'settled') AND {held}")),
        (PaymentState::Reserved, format!("state IN ('mined', 'settled') AND NOT {held}")),
    ] {
        let rest = format!("WHERE {which} ORDER BY mandate, nonce LIMIT ?");
        loop {
            let payments = PaymentRow::select(connection, &rest, [REOPENED])?;
            if payments.is_empty() {
                break;
            }
            for together in payments.chunk_by(|one, other| one.mandate == other.mandate) {
                for payment in together {
                    let query = "UPDATE payment SET mined_block = NULL, mined_hash = NULL, mined_at = NULL, state = ? WHERE seq = ?";
                    connection.change(query, (state.name(), payment.seq))?;
                }
                let Some(first) = together.first() else { continue };
                let mandate = mandates::account(connection, first.mandate)?
                    .ok_or_else(|| LedgerError::Inconsistent(format!("{} has no mandate", first.id)))?;
                let entry = Entry::Step(Step {
                    at: now,
                    state: state.name().into(),
                    unmined: true,
                    tx: Maybe(None),
                    block: Maybe(None),
                    reason: Maybe(None),
                    nonces: together.iter().map(|payment| payment.nonce).collect(),
                });
                audit::add(connection, mandate.chain(), &entry)?;
            }
        }
    }
    Ok(())
}

/// Notes why a payment waits; no state changes.
pub fn set_reason(connection: &Connection, seq: u64, reason: Option<Code>) -> Result<(), LedgerError> {
    connection
        .change(
            "UPDATE payment SET reason = ?1 WHERE seq = ?2 AND state = 'reserved' AND reason IS NOT ?1",
            (reason.map(Sql), seq),
        )
        .map(drop)
}

/// Notes the transaction that was sent last for the payments of `tx`.
pub fn set_tx_hash(connection: &Connection, tx: u64, hash: B256) -> Result<(), LedgerError> {
    connection
        .change(
            "UPDATE payment SET tx_hash = ? WHERE state = 'submitted'
             AND seq IN (SELECT payment FROM tx_payment WHERE tx = ?)",
            (Sql(hash), tx),
        )
        .map(drop)
}

/// Remembers what the chain paid, or holds, and this ledger never accepted.
pub fn insert_external(
    connection: &Connection,
    kind: ExternalOutflow,
    spent: &Spent,
    location: TxLocation,
) -> Result<(), LedgerError> {
    let kind = match kind {
        ExternalOutflow::Payment => "pay",
        ExternalOutflow::Hold => "hold",
    };
    let at: Seconds = connection.value("SELECT time FROM block WHERE hash = ?", [Sql(location.hash)])?;
    insert!(connection, "external_outflow", {
        "mandate": Sql(spent.mandate),
        "nonce": spent.nonce,
        "kind": kind,
        "payee": Sql(spent.payee),
        "amount": Sql(spent.amount),
        "tx_hash": Sql(location.tx),
        "at": at,
    })
    .map(drop)
}

/// The transactions of what a mandate paid or held and this ledger never accepted.
pub fn external_txs(connection: &Connection, mandate: MandateId) -> Result<Vec<B256>, LedgerError> {
    connection.rows("SELECT DISTINCT tx_hash FROM external_outflow WHERE mandate = ? ORDER BY nonce", [Sql(mandate)])
}

/// Whether the chain used a nonce for what this ledger never accepted.
pub fn is_external(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<bool, LedgerError> {
    let query = "SELECT EXISTS (SELECT 1 FROM external_outflow WHERE mandate = ? AND nonce = ?)";
    connection.value(query, (Sql(mandate), nonce))
}
