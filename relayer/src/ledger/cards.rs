//! Cards as the ledger holds them. A step of a card, its booking and its audit entry are one.

mod ends;

use alloy_primitives::{Address, B256};
use rusqlite::Connection;
use serde_json::{Value, json};
use stipend_core::{Amount, CardId, Code, MandateId, Seconds, api, card::CardState};

use super::{
    LedgerError, audit,
    balances::LedgerEvent,
    booking,
    journal::EntryRefs,
    mandates::{self, TxLocation},
    pages::{self, List, Page},
    sql::{AWAITING_HOLD, Sql, Statements, UNSETTLED, insert, row},
};
pub use ends::{finish, give_up_hold, settle_accounts};

row! {
    #[derive(Clone, Debug)]
    pub struct CardRow in "card" {
        /// Its place in the ledger.
        pub seq: u64 = "seq",
        pub id: CardId = "id",
        pub mandate: MandateId = "mandate",
        /// The hold's nonce.
        pub nonce: u32 = "nonce",
        /// Whom the hold is for: the card program's treasury.
        pub payee: Address = "payee",
        /// What it may be charged.
        pub amount: Amount = "amount",
        /// Until when the hold may be placed.
        pub deadline: Seconds = "deadline",
        /// Until when the hold may be captured.
        pub capture_by: Seconds = "capture_by",
        /// Commits to what is bought.
        pub reference: B256 = "ref",
        /// What the agent signed.
        pub digest: B256 = "digest",
        /// The agent's signature, 65 bytes.
        pub signature: Vec<u8> = "signature",
        /// From this second on it can't be charged.
        pub expires_at: Seconds = "expires_at",
        pub state: CardState = "state",
        /// Why it failed, or was closed.
        pub reason: Option<Code> = "reason",
        /// Where its hold is mined.
        pub held: Option<TxLocation> = "held_block, held_hash, held_tx",
        pub hold_final: bool = "hold_final",
        /// The transaction that captured or released.
        pub settle_tx: Option<B256> = "settle_tx",
        /// The issuer's name of it.
        pub token: Option<String> = "token",
        /// The last digits of its number.
        pub last_four: Option<String> = "last_four",
        /// Whether it is paused at the issuer.
        pub paused: bool = "paused",
        /// The issuer's transaction that was approved.
        pub charge: Option<String> = "charge",
        /// What it was charged.
        pub authorized: Option<Amount> = "authorized",
        /// How its hold is to be settled, once that is certain: so much is captured, the rest released.
        pub to_capture: Option<Amount> = "to_capture",
        /// Taken by the issuer beyond what is captured: the host bears it.
        pub shortfall: Amount = "shortfall",
        /// Captured beyond what the issuer took.
        pub owed_back: Amount = "owed_back",
        /// Captured in a final block.
        pub captured: Amount = "captured",
        /// Released in a final block.
        pub released: Amount = "released",
        /// Caller-defined key/value metadata.
        pub metadata: api::Metadata = "metadata",
        /// When it was accepted.
        pub created_at: Seconds = "created_at",
        /// When its state changed last.
        pub updated_at: Seconds = "updated_at",
    }
}

const LIVE: &str = "state NOT IN ('closed', 'failed')";
impl CardRow {
    /// What is left of its hold, as far as that is final.
    pub fn left(&self) -> Amount {
        [self.captured, self.released].into_iter().try_fold(self.amount, Amount::checked_sub).unwrap_or_default()
    }

    /// As the API shows it.
    pub fn view(self) -> api::Card {
        api::Card {
            id: self.id,
            mandate: self.mandate,
            state: self.state,
            reason: self.reason,
            amount: self.amount,
            authorized: self.authorized,
            captured: self.captured,
            released: self.released,
            last_four: self.last_four,
            expires_at: self.expires_at,
            nonce: self.nonce,
            capture_by: self.capture_by,
            reference: self.reference,
            hold_tx: self.held.map(|location| location.tx),
            settle_tx: self.settle_tx,
            created_at: self.created_at,
            updated_at: self.updated_at,
            metadata: self.metadata,
        }
    }
}

pub fn by_id(connection: &Connection, id: CardId) -> Result<Option<CardRow>, LedgerError> {
    Ok(CardRow::select(connection, "WHERE id = ?", [Sql(id)])?.pop())
}

/// The card at this place in the ledger.
pub fn by_seq(connection: &Connection, seq: u64) -> Result<Option<CardRow>, LedgerError> {
    Ok(CardRow::select(connection, "WHERE seq = ?", [seq])?.pop())
}

/// The card whose hold was signed as `digest`.
pub fn by_digest(connection: &Connection, digest: B256) -> Result<Option<CardRow>, LedgerError> {
    Ok(CardRow::select(connection, "WHERE digest = ?", [Sql(digest)])?.pop())
}

/// The card whose hold has this nonce.
pub fn by_nonce(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<Option<CardRow>, LedgerError> {
    Ok(CardRow::select(connection, "WHERE mandate = ? AND nonce = ?", (Sql(mandate), nonce))?.pop())
}

/// The card that the issuer calls so.
pub fn by_token(connection: &Connection, token: &str) -> Result<Option<CardRow>, LedgerError> {
    Ok(CardRow::select(connection, "WHERE token = ?", [token])?.pop())
}

/// The cards whose hold the block with this hash placed.
pub fn held_in(connection: &Connection, block: B256) -> Result<Vec<CardRow>, LedgerError> {
    CardRow::select(connection, "WHERE held_hash = ?", [Sql(block)])
}

/// All cards that are not final, oldest first.
pub fn live(connection: &Connection) -> Result<Vec<CardRow>, LedgerError> {
    CardRow::select(connection, &format!("INDEXED BY card_live WHERE {LIVE} ORDER BY seq"), [])
}

/// A page of the cards of a reader.
pub fn list(connection: &Connection, list: List) -> Result<Page<CardRow>, LedgerError> {
    let newest = |mandate: MandateId, before: u64, count: u32| {
        let query = "SELECT seq FROM card WHERE mandate = ? AND seq < ? ORDER BY seq DESC LIMIT ?";
        connection.rows(query, (Sql(mandate), before, count))
    };
    pages::newest_first(connection, list, newest, |seq| by_seq(connection, seq))
}

/// A card that is admitted.
#[derive(Clone, Debug)]
pub struct NewCardRow {
    pub id: CardId,
    /// What the agent sent.
    pub body: api::NewCard,
    /// What the agent signed.
    pub digest: B256,
    /// Whom the hold is for.
    pub payee: Address,
    /// From this second on it can't be charged.
    pub expires_at: Seconds,
}

/// Reserves the amount and stores the card.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it is not available, and those of the store.
pub fn insert(
    connection: &Connection,
    mandate: &mandates::MandateAccount,
    admission: &NewCardRow,
    decision: &stipend_core::policy::Decision,
    now: Seconds,
) -> Result<(), LedgerError> {
    let NewCardRow { id, body, digest, payee, expires_at } = admission;
    insert!(connection, "card", {
        "id": Sql(*id),
        "mandate": Sql(body.mandate),
        "nonce": body.nonce,
        "payee": Sql(*payee),
        "amount": Sql(body.amount),
        "deadline": body.deadline,
        "capture_by": body.capture_by,
        "ref": Sql(body.reference),
        "digest": Sql(*digest),
        "signature": body.signature.as_ref(),
        "expires_at": expires_at,
        "state": Sql(CardState::Requested),
        "metadata": Sql(body.metadata.clone()),
        "created_at": now,
        "updated_at": now,
    })?;
    let seq = connection.inserted()?;
    booking::book(connection, mandate, LedgerEvent::Reserve(body.amount), EntryRefs::card(seq), now)?;
    let data = json!({
        "amount": body.amount, "nonce": body.nonce, "deadline": body.deadline, "capture_by": body.capture_by,
        "ref": body.reference, "digest": digest, "decision": decision,
    });
    audit::append(connection, now, audit::NewAuditEntry { card: Some(*id), data, ..mandate.event("card.requested") })
}

/// Takes a card to another state, with its audit entry.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it can't go there, and those of the store.
pub fn step(
    connection: &Connection,
    card: &CardRow,
    state: CardState,
    reason: Option<Code>,
    tx_hash: Option<B256>,
    now: Seconds,
) -> Result<(), LedgerError> {
    if !card.state.may_become(state) {
        return Err(LedgerError::Inconsistent(format!("{} is {:?}: it can't become {state:?}", card.id, card.state)));
    }
    connection.change(
        "UPDATE card SET state = ?, reason = ?, updated_at = ? WHERE seq = ?",
        (state.name(), reason.or(card.reason).map(Sql), now, card.seq),
    )?;
    let data = json!({ "amount": card.amount, "last_four": card.last_four, "reason": reason });
    note(connection, card, &format!("card.{}", state.name()), tx_hash, data, now)
}

/// Writes an entry about a card into the trail.
pub fn note(
    connection: &Connection,
    card: &CardRow,
    kind: &str,
    tx_hash: Option<B256>,
    data: Value,
    now: Seconds,
) -> Result<(), LedgerError> {
    let mandate = mandate_of(connection, card)?;
    audit::append(connection, now, audit::NewAuditEntry { card: Some(card.id), tx_hash, data, ..mandate.event(kind) })
}

/// The card's mandate.
///
/// # Errors
/// [`LedgerError::Inconsistent`] if it has none, and those of the store.
pub fn mandate_of(connection: &Connection, card: &CardRow) -> Result<mandates::MandateRow, LedgerError> {
    mandates::get(connection, card.mandate)?
        .ok_or_else(|| LedgerError::Inconsistent(format!("{} has no mandate", card.id)))
}

/// Stores where the hold is mined.
pub fn set_held(connection: &Connection, seq: u64, location: Option<TxLocation>) -> Result<(), LedgerError> {
    connection.change("UPDATE card SET held_block = ?, held_hash = ?2, held_at = (SELECT time FROM block WHERE hash = ?2), held_tx = ?
             WHERE seq = ?", (
            location.map(|location| location.block),
            location.map(|location| Sql(location.hash)),
            location.map(|location| Sql(location.tx)),
            seq,
        )).map(drop)
}

pub fn set_hold_final(connection: &Connection, seq: u64) -> Result<(), LedgerError> {
    connection.change("UPDATE card SET hold_final = 1 WHERE seq = ?", [seq]).map(drop)
}

/// What became of a hold, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldOutcome {
    /// Paid to the treasury.
    pub captured: Amount,
    /// Back in the mandate.
    pub released: Amount,
}

/// What was finally captured and released, and by which transaction, if it took one.
pub fn set_settled(
    connection: &Connection,
    seq: u64,
    HoldOutcome { captured, released }: HoldOutcome,
    tx: Option<B256>,
) -> Result<(), LedgerError> {
    connection
        .change(
            "UPDATE card SET captured = ?, released = ?, settle_tx = ? WHERE seq = ?",
            (Sql(captured), Sql(released), tx.map(Sql), seq),
        )
        .map(drop)
}

/// It is certain how its hold is to be settled.
pub fn set_to_capture(connection: &Connection, seq: u64, amount: Amount) -> Result<(), LedgerError> {
    connection.change("UPDATE card SET to_capture = ? WHERE seq = ?", (Sql(amount), seq)).map(drop)
}

/// What the host bears of it, and owes back: the treasury owes that for all its cards together.
pub fn set_shares(
    connection: &Connection,
    card: &CardRow,
    shortfall: Amount,
    owed_back: Amount,
) -> Result<(), LedgerError> {
    let statement = "UPDATE card SET shortfall = ?, owed_back = ? WHERE seq = ?";
    connection.change(statement, (Sql(shortfall), Sql(owed_back), card.seq))?;
    let (mandate, treasury) = (Sql(card.mandate), Sql(card.payee));
    connection.change(
        "INSERT INTO refund (mandate, payer, amount) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        (mandate, treasury),
    )?;
    connection
        .change(
            "UPDATE refund SET owed = owed - ? + ? WHERE mandate = ? AND payer = ?",
            (Sql(card.owed_back), Sql(owed_back), mandate, treasury),
        )
        .map(drop)
}

/// Where a walk over closed cards is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClosedCursor {
    pub closed_at: Seconds,
    pub seq: u64,
}

/// The next few cards that were closed after the cursor: the issuer may still take or give back something
/// for them.
pub fn closed_after(connection: &Connection, cursor: ClosedCursor) -> Result<Vec<CardRow>, LedgerError> {
    let rest = "INDEXED BY card_closed WHERE state = 'closed' AND token IS NOT NULL AND (updated_at, seq) > (?, ?)
        ORDER BY updated_at, seq LIMIT 10";
    CardRow::select(connection, rest, (cursor.closed_at, cursor.seq))
}

/// The cards of which it is certain how their hold is to be settled.
pub fn concluded(connection: &Connection) -> Result<Vec<CardRow>, LedgerError> {
    CardRow::select(connection, "WHERE to_capture IS NOT NULL ORDER BY seq", [])
}

/// The cards whose hold waits for a transaction: the first one, or another where a reorg has made it
/// wait again. If there is nothing left to capture of it, none is made.
pub fn to_hold(connection: &Connection, time: Seconds) -> Result<Vec<CardRow>, LedgerError> {
    let rest = format!(
        "INDEXED BY card_unsettled WHERE {AWAITING_HOLD} AND deadline > ? AND coalesce(to_capture, amount) > 0 AND NOT EXISTS (SELECT 1 FROM tx INDEXED BY tx_of_card
            WHERE kind = 'hold' AND tx.card = card.seq AND tx.state <> 'final') ORDER BY seq"
    );
    CardRow::select(connection, &rest, [time])
}

/// The cards whose hold is to be captured or released, and waits for a transaction.
pub fn to_settle(connection: &Connection) -> Result<Vec<CardRow>, LedgerError> {
    CardRow::select(
        connection,
        "INDEXED BY card_live WHERE state = 'closing' AND state NOT IN ('closed', 'failed') AND to_capture IS NOT NULL
         AND held_hash IS NOT NULL AND captured + released < amount
         AND NOT EXISTS (SELECT 1 FROM tx INDEXED BY tx_of_card WHERE kind IN ('capture', 'release') AND tx.card = card.seq
            AND (tx.state <> 'final' OR tx.succeeded)) ORDER BY seq",
        [],
    )
}

/// The cards of a mandate whose hold is final and not empty.
pub fn holding(connection: &Connection, mandate: MandateId) -> Result<Vec<CardRow>, LedgerError> {
    let rest = format!("INDEXED BY card_unsettled WHERE mandate = ? AND hold_final AND {UNSETTLED} ORDER BY seq");
    CardRow::select(connection, &rest, [Sql(mandate)])
}

/// The cards of a mandate whose hold is not in the chain, in whatever state: it may never be placed.
pub fn awaiting_hold(connection: &Connection, mandate: MandateId) -> Result<Vec<CardRow>, LedgerError> {
    CardRow::select(
        connection,
        &format!("INDEXED BY card_unsettled WHERE mandate = ? AND {AWAITING_HOLD}"),
        [Sql(mandate)],
    )
}

/// The cards whose hold is not in the chain and whose deadline is at `time` or before.
pub fn overdue(connection: &Connection, time: Seconds) -> Result<Vec<CardRow>, LedgerError> {
    CardRow::select(connection, &format!("INDEXED BY card_unsettled WHERE deadline <= ? AND {AWAITING_HOLD}"), [time])
}

/// What the issuer made of it.
pub fn set_issued(connection: &Connection, seq: u64, token: &str, last_four: &str) -> Result<(), LedgerError> {
    connection.change("UPDATE card SET token = ?, last_four = ? WHERE seq = ?", (token, last_four, seq)).map(drop)
}

/// Whether it is paused at the issuer.
pub fn set_paused(connection: &Connection, seq: u64, paused: bool) -> Result<(), LedgerError> {
    connection.change("UPDATE card SET paused = ? WHERE seq = ?", (paused, seq)).map(drop)
}

/// By which of the issuer's transactions it was charged, and how much; `None`: by none any more.
pub fn set_charged(connection: &Connection, seq: u64, charge: Option<(&str, Amount)>) -> Result<(), LedgerError> {
    let (transaction, amount) = charge.unzip();
    connection
        .change("UPDATE card SET charge = ?, authorized = ? WHERE seq = ?", (transaction, amount.map(Sql), seq))
        .map(drop)
}

/// What cards owe back to a mandate, beyond what the treasury has refunded to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefundDue {
    pub mandate: MandateId,
    pub treasury: Address,
    pub amount: Amount,
}

/// What is still to be refunded, by mandate and treasury.
pub fn refunds_due(connection: &Connection) -> Result<Vec<RefundDue>, LedgerError> {
    let query = "SELECT mandate, payer, owed - amount FROM refund INDEXED BY refund_due WHERE owed > amount";
    let due: Vec<(MandateId, Address, Amount)> = connection.rows(query, [])?;
    Ok(due.into_iter().map(|(mandate, treasury, amount)| RefundDue { mandate, treasury, amount }).collect())
}
