//! Cards as the ledger holds them. A step of a card, its booking and its audit entry are one.

mod ends;

use alloy_primitives::{Address, B256};
use rusqlite::{Connection, Row};
use serde_json::{Value, json};
use stipend_core::{Amount, CardId, Code, MandateId, Seconds, api, card::CardState};
use uuid::Uuid;

use super::{
    LedgerError, audit,
    balances::LedgerEvent,
    booking,
    journal::EntryRefs,
    mandates::{self, TxLocation},
    sql::AWAITING_HOLD,
};
pub use ends::{finish, give_up_hold, record_shortfall};

/// A card.
#[derive(Clone, Debug)]
pub struct CardRow {
    /// Its place in the ledger.
    pub seq: u64,
    /// Its id.
    pub id: CardId,
    /// The mandate.
    pub mandate: MandateId,
    /// The hold's nonce.
    pub nonce: u32,
    /// Whom the hold is for: the card programme's treasury.
    pub payee: Address,
    /// What it may be charged.
    pub amount: Amount,
    /// Until when the hold may be placed.
    pub deadline: Seconds,
    /// Until when the hold may be captured.
    pub capture_by: Seconds,
    /// Commits to what is bought.
    pub reference: B256,
    /// What the agent signed.
    pub digest: B256,
    /// The agent's signature, 65 bytes.
    pub signature: Vec<u8>,
    /// From this second on it can't be charged.
    pub expires_at: Seconds,
    /// Where it stands.
    pub state: CardState,
    /// Why it failed, or was closed.
    pub reason: Option<Code>,
    /// Where its hold is mined.
    pub held: Option<TxLocation>,
    /// Whether that is final.
    pub hold_final: bool,
    /// The transaction that captured or released.
    pub settle_tx: Option<B256>,
    /// The issuer's name of it.
    pub token: Option<String>,
    /// The last digits of its number.
    pub last_four: Option<String>,
    /// Whether it is paused at the issuer.
    pub paused: bool,
    /// The issuer's transaction that was approved.
    pub charge: Option<String>,
    /// What it was charged.
    pub authorized: Option<Amount>,
    /// How its hold is to be settled, once that is certain: so much is captured, the rest released.
    pub to_capture: Option<Amount>,
    /// What was captured for good.
    pub captured: Amount,
    /// What was released for good.
    pub released: Amount,
    /// Free words.
    pub metadata: api::Metadata,
    /// When it was accepted.
    pub created_at: Seconds,
    /// When its state changed last.
    pub updated_at: Seconds,
}

const COLUMNS: &str =
    "seq, id, mandate, nonce, amount, deadline, capture_by, ref, digest, signature, expires_at, state,
    reason, held_block, held_hash, held_tx, hold_final, settle_tx, token, last_four, paused, authorized, captured,
    released, metadata, created_at, updated_at, payee, to_capture, charge";
const LIVE: &str = "state NOT IN ('closed', 'failed')";
fn record(row: &Row<'_>) -> Result<CardRow, LedgerError> {
    let amount = |index| Amount::from_units(row.get(index)?).map_err(LedgerError::inconsistent);
    let (state, reason): (String, Option<String>) = (row.get(11)?, row.get(12)?);
    let held = match row.get::<_, Option<u64>>(13)? {
        None => None,
        Some(block) => {
            Some(TxLocation { block, hash: row.get::<_, [u8; 32]>(14)?.into(), tx: row.get::<_, [u8; 32]>(15)?.into() })
        }
    };
    let (authorized, to_capture): (Option<u64>, Option<u64>) = (row.get(21)?, row.get(28)?);
    Ok(CardRow {
        seq: row.get(0)?,
        id: CardId(Uuid::from_bytes(row.get(1)?)),
        mandate: MandateId(row.get::<_, [u8; 32]>(2)?.into()),
        nonce: row.get(3)?,
        payee: row.get::<_, [u8; 20]>(27)?.into(),
        amount: amount(4)?,
        deadline: row.get(5)?,
        capture_by: row.get(6)?,
        reference: row.get::<_, [u8; 32]>(7)?.into(),
        digest: row.get::<_, [u8; 32]>(8)?.into(),
        signature: row.get(9)?,
        expires_at: row.get(10)?,
        state: super::named(&CardState::ALL, CardState::name, &state)?,
        reason: reason.map(|reason| super::named(Code::ALL, Code::name, &reason)).transpose()?,
        held,
        hold_final: row.get(16)?,
        settle_tx: row.get::<_, Option<[u8; 32]>>(17)?.map(Into::into),
        token: row.get(18)?,
        last_four: row.get(19)?,
        paused: row.get(20)?,
        authorized: authorized.map(Amount::from_units).transpose().map_err(LedgerError::inconsistent)?,
        to_capture: to_capture.map(Amount::from_units).transpose().map_err(LedgerError::inconsistent)?,
        charge: row.get(29)?,
        captured: amount(22)?,
        released: amount(23)?,
        metadata: super::json(&row.get::<_, String>(24)?)?,
        created_at: row.get(25)?,
        updated_at: row.get(26)?,
    })
}

impl CardRow {
    /// What is left of its hold, as far as that is final.
    #[must_use]
    pub fn left(&self) -> Amount {
        [self.captured, self.released].into_iter().try_fold(self.amount, Amount::checked_sub).unwrap_or_default()
    }

    /// As the API shows it.
    #[must_use]
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

fn select(
    connection: &Connection,
    condition: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<CardRow>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM card WHERE {condition}"))?
        .query_and_then(parameters, record)?
        .collect()
}

/// The card with this id.
pub fn by_id(connection: &Connection, id: CardId) -> Result<Option<CardRow>, LedgerError> {
    Ok(select(connection, "id = ?", [id.0.into_bytes()])?.pop())
}

/// The card at this place in the ledger.
pub fn by_seq(connection: &Connection, seq: u64) -> Result<Option<CardRow>, LedgerError> {
    Ok(select(connection, "seq = ?", [seq])?.pop())
}

/// The card whose hold was signed as `digest`.
pub fn by_digest(connection: &Connection, digest: B256) -> Result<Option<CardRow>, LedgerError> {
    Ok(select(connection, "digest = ?", [digest.0])?.pop())
}

/// The card whose hold has this nonce.
pub fn by_nonce(connection: &Connection, mandate: MandateId, nonce: u32) -> Result<Option<CardRow>, LedgerError> {
    Ok(select(connection, "mandate = ? AND nonce = ?", (mandate.0.0, nonce))?.pop())
}

/// The card that the issuer calls so.
pub fn by_token(connection: &Connection, token: &str) -> Result<Option<CardRow>, LedgerError> {
    Ok(select(connection, "token = ?", [token])?.pop())
}

/// The cards whose hold the block with this hash placed.
pub fn held_in(connection: &Connection, block: B256) -> Result<Vec<CardRow>, LedgerError> {
    select(connection, "held_hash = ?", [block.0])
}

/// All cards that are not final, oldest first.
pub fn live(connection: &Connection) -> Result<Vec<CardRow>, LedgerError> {
    select(connection, &format!("{LIVE} ORDER BY seq"), [])
}

/// The cards of `reader` (as agent or operator), newest first, before `before`.
pub fn list(
    connection: &Connection,
    reader: Address,
    mandate: Option<MandateId>,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<CardRow>, LedgerError> {
    select(
        connection,
        "mandate IN (SELECT id FROM mandate WHERE agent = ?1 OR operator = ?1)
         AND (?2 IS NULL OR mandate = ?2) AND (?3 IS NULL OR seq < ?3) ORDER BY seq DESC LIMIT ?4",
        (reader.0.0, mandate.map(|id| id.0.0), before, limit),
    )
}

/// A card that is admitted.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Its id.
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
pub fn admit(
    connection: &Connection,
    mandate: &mandates::MandateRow,
    admission: &Admission,
    decision: &stipend_core::policy::Decision,
    now: Seconds,
) -> Result<(), LedgerError> {
    let Admission { id, body, digest, payee, expires_at } = admission;
    connection
        .prepare_cached(
            "INSERT INTO card (id, mandate, nonce, payee, amount, deadline, capture_by, ref, digest, signature, expires_at,
                state, metadata, created_at, updated_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'requested', ?, ?, ?)",
        )?
        .execute((
            id.0.into_bytes(),
            body.mandate.0.0,
            body.nonce,
            payee.0.0,
            body.amount.units(),
            body.deadline,
            body.capture_by,
            body.reference.0,
            digest.0,
            body.signature.as_ref(),
            expires_at,
            super::to_json(&body.metadata)?,
            now,
            now,
        ))?;
    let seq = u64::try_from(connection.last_insert_rowid()).map_err(LedgerError::inconsistent)?;
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
    connection.prepare_cached("UPDATE card SET state = ?, reason = ?, updated_at = ? WHERE seq = ?")?.execute((
        state.name(),
        reason.or(card.reason).map(Code::name),
        now,
        card.seq,
    ))?;
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
    connection
        .prepare_cached(
            "UPDATE card SET held_block = ?, held_hash = ?2, held_at = (SELECT time FROM block WHERE hash = ?2), held_tx = ?
             WHERE seq = ?",
        )?
        .execute((
            location.map(|location| location.block),
            location.map(|location| location.hash.0),
            location.map(|location| location.tx.0),
            seq,
        ))?;
    Ok(())
}

/// The hold is final.
pub fn set_hold_final(connection: &Connection, seq: u64) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE card SET hold_final = 1 WHERE seq = ?")?.execute([seq])?;
    Ok(())
}

/// What was captured and released for good, and by which transaction, if it took one.
pub fn set_settled(
    connection: &Connection,
    seq: u64,
    (captured, released): (Amount, Amount),
    tx: Option<B256>,
) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE card SET captured = ?, released = ?, settle_tx = ? WHERE seq = ?")?.execute((
        captured.units(),
        released.units(),
        tx.map(|tx| tx.0),
        seq,
    ))?;
    Ok(())
}

/// It is certain how its hold is to be settled.
pub fn set_to_capture(connection: &Connection, seq: u64, amount: Amount) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE card SET to_capture = ? WHERE seq = ?")?.execute((amount.units(), seq))?;
    Ok(())
}

/// The cards whose hold waits for a transaction: the first one, or another where a reorg has made it
/// wait again. Where nothing is to be captured of it any more, none is made.
pub fn to_hold(connection: &Connection, time: Seconds) -> Result<Vec<CardRow>, LedgerError> {
    let condition = format!(
        "{AWAITING_HOLD} AND deadline > ? AND coalesce(to_capture, amount) > 0 AND NOT EXISTS (SELECT 1 FROM tx
            WHERE kind = 'hold' AND tx.card = card.seq AND tx.state <> 'final') ORDER BY seq"
    );
    select(connection, &condition, [time])
}

/// The cards whose hold is to be captured or released, and waits for a transaction.
pub fn to_settle(connection: &Connection) -> Result<Vec<CardRow>, LedgerError> {
    select(
        connection,
        "state = 'closing' AND to_capture IS NOT NULL AND held_hash IS NOT NULL AND captured + released < amount
         AND NOT EXISTS (SELECT 1 FROM tx WHERE kind IN ('capture', 'release') AND tx.card = card.seq
            AND (tx.state <> 'final' OR tx.succeeded)) ORDER BY seq",
        [],
    )
}

/// The cards of a mandate whose hold is final and not empty.
pub fn holding(connection: &Connection, mandate: MandateId) -> Result<Vec<CardRow>, LedgerError> {
    select(connection, "mandate = ? AND hold_final AND captured + released < amount ORDER BY seq", [mandate.0.0])
}

/// The cards of a mandate whose hold is not in the chain, in whatever state: it may never be placed.
pub fn awaiting_hold(connection: &Connection, mandate: MandateId) -> Result<Vec<CardRow>, LedgerError> {
    select(connection, &format!("mandate = ? AND {AWAITING_HOLD}"), [mandate.0.0])
}

/// The cards whose hold is not in the chain and whose deadline is at `time` or before.
pub fn overdue(connection: &Connection, time: Seconds) -> Result<Vec<CardRow>, LedgerError> {
    select(connection, &format!("deadline <= ? AND {AWAITING_HOLD}"), [time])
}

/// What the issuer made of it.
pub fn set_issued(connection: &Connection, seq: u64, token: &str, last_four: &str) -> Result<(), LedgerError> {
    connection
        .prepare_cached("UPDATE card SET token = ?, last_four = ? WHERE seq = ?")?
        .execute((token, last_four, seq))?;
    Ok(())
}

/// Whether it is paused at the issuer.
pub fn set_paused(connection: &Connection, seq: u64, paused: bool) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE card SET paused = ? WHERE seq = ?")?.execute((paused, seq))?;
    Ok(())
}

/// What it was charged, by which of the issuer's transactions.
pub fn set_charged(connection: &Connection, seq: u64, transaction: &str, amount: Amount) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE card SET charge = ?, authorized = ? WHERE seq = ?")?.execute((
        transaction,
        amount.units(),
        seq,
    ))?;
    Ok(())
}
