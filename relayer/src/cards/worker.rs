//! The card worker: takes every card that is not final one step further, over and over. Each step asks
//! the ledger what is so and can be repeated, so that a crash between any two lines costs only time.

use std::time::Duration;

use stipend_core::{Amount, Code, MandateId, Seconds, card::CardState, policy::MandateState};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::issuer::{Issuer, IssuerError};
use crate::{
    chain::follow::Head,
    clock,
    failpoint::{self, Point},
    health::Health,
    ledger::{
        Ledger, LedgerError,
        cards::{self, CardRow},
        charges, mandates,
    },
};

/// A charge is cleared within so long: hotels and cars take longest.
const CLEARED_WITHIN: Seconds = 31 * 86_400;
/// What a clearing left open is cleared within so long, or never.
const REST_WITHIN: Seconds = 7 * 86_400;

/// After a round that failed, so long nothing is asked of the issuer.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a step was not taken. The next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum CardWorkerError {
    /// The issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The card worker.
#[derive(Debug)]
pub struct CardWorker {
    /// The issuer.
    pub issuer: Issuer,
    /// The ledger.
    pub ledger: Ledger,
    /// Blocks, the including one counted, after which a hold counts.
    pub confirmations: u64,
    /// How often to ask the issuer what webhooks should have told.
    pub poll: Duration,
    /// Where to say what is wrong.
    pub health: Health,
}

impl CardWorker {
    /// Keeps cards until `stop`.
    pub async fn run(self, mut heads: watch::Receiver<Head>, stop: CancellationToken) {
        let mut changes = self.ledger.changes();
        let mut asked = Instant::now();
        loop {
            let head = heads.borrow_and_update().block.number;
            changes.mark_unchanged();
            let ask = asked.elapsed() >= self.poll;
            if ask {
                asked = Instant::now();
            }
            match self.round(head, ask).await {
                Ok(()) => self.health.clear("cards"),
                Err(error) => {
                    self.health.warn("cards", error.to_string());
                    // An issuer in trouble is not asked again with every payment that is made.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(self.poll.min(PAUSE)) => {}
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                moved = heads.changed() => if moved.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(self.poll) => {}
            }
        }
    }

    /// One step of every card; a card that fails does not hold up the others.
    async fn round(&self, head: u64, ask: bool) -> Result<(), CardWorkerError> {
        let mut first_error = None;
        for card in self.ledger.read(cards::live).await? {
            if let Err(error) = self.keep(&card, head, ask).await {
                tracing::warn!(card = %card.id, %error, "a card waits");
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn keep(&self, card: &CardRow, head: u64, ask: bool) -> Result<(), CardWorkerError> {
        let held = card.held.filter(|location| {
            head.checked_sub(location.block).is_some_and(|blocks| blocks >= self.confirmations.saturating_sub(1))
        });
        match card.state {
            CardState::Requested if held.is_some() => self.step(card, CardState::Held, None).await,
            CardState::Held if card.held.is_none() => self.step(card, CardState::Requested, None).await,
            CardState::Held => match self.over(card, head).await? {
                Some(reason) => self.step(card, CardState::Closing, Some(reason)).await,
                None => self.issue(card).await,
            },
            CardState::Active | CardState::Used => {
                self.follow_hold(card).await?;
                if ask {
                    self.ask(card).await?;
                }
                match self.over(card, head).await? {
                    // Of a charge too: whether it still comes to anything is settled while closing.
                    Some(reason) => self.step(card, CardState::Closing, Some(reason)).await,
                    None => Ok(()),
                }
            }
            CardState::Closing if card.to_capture.is_none() => {
                let seq = card.seq;
                let waits = self.ledger.read(move |ledger| is_pending(ledger, seq, clock::now())).await?;
                // A clearing may take days: no hurry to ask for it.
                if waits && !ask { Ok(()) } else { self.finalize_with_issuer(card).await }
            }
            _ => Ok(()),
        }
    }

    /// Why no card should be made of the hold, or the card should be closed unused.
    async fn over(&self, card: &CardRow, head: u64) -> Result<Option<Code>, CardWorkerError> {
        if clock::now() >= card.expires_at {
            return Ok(Some(Code::CardExpired));
        }
        let id: MandateId = card.mandate;
        let mandate = self.ledger.read(move |ledger| mandates::get(ledger, id)).await?;
        let ended =
            mandate.is_some_and(|mandate| mandate.state_for_new(head, self.confirmations) == MandateState::Ended);
        Ok(ended.then_some(Code::Ended))
    }

    /// Has the issuer make the card. Asked twice, it makes one.
    async fn issue(&self, card: &CardRow) -> Result<(), CardWorkerError> {
        let cents = card.amount.cents().ok_or_else(|| LedgerError::inconsistent("a card over parts of a cent"))?;
        failpoint::pass(Point::CardCreating);
        let issued = match self.issuer.create(card.id, cents).await {
            Ok(issued) => issued,
            // It will not make one: the money goes back.
            Err(error @ IssuerError::Refused { .. }) => {
                tracing::warn!(card = %card.id, %error, "no card");
                return self.step(card, CardState::Closing, Some(Code::IssuerFailed)).await;
            }
            Err(error) => return Err(error.into()),
        };
        failpoint::pass(Point::CardCreated);
        let card = card.clone();
        let store = move |ledger: &rusqlite::Transaction<'_>| {
            cards::set_issued(ledger, card.seq, &issued.token, &issued.last_four)?;
            let Some(card) = cards::by_seq(ledger, card.seq)?.filter(|card| card.state == CardState::Held) else {
                return Ok(());
            };
            cards::step(ledger, &card, CardState::Active, None, None, clock::now())
        };
        self.ledger.writer().write(store).await?;
        failpoint::pass(Point::CardIssued);
        Ok(())
    }

    /// A card whose hold was unmined is paused until it is mined again.
    async fn follow_hold(&self, card: &CardRow) -> Result<(), CardWorkerError> {
        let (Some(token), paused) = (&card.token, card.held.is_none()) else { return Ok(()) };
        if paused == card.paused {
            return Ok(());
        }
        failpoint::pass(Point::CardPausing);
        self.issuer.set_state(token, if paused { "PAUSED" } else { "OPEN" }).await?;
        failpoint::pass(Point::CardPaused);
        let seq = card.seq;
        Ok(self.ledger.writer().write(move |ledger| cards::set_paused(ledger, seq, paused)).await?)
    }

    /// Asks the issuer what happened to a card.
    async fn ask(&self, card: &CardRow) -> Result<(), CardWorkerError> {
        let Some(token) = &card.token else { return Ok(()) };
        let transactions = self.issuer.transactions(token).await?;
        let seq = card.seq;
        let ingest_events = move |ledger: &rusqlite::Transaction<'_>| {
            let events: Vec<_> = transactions.iter().flat_map(|transaction| transaction.events()).collect();
            ingest_events(ledger, seq, &events)
        };
        Ok(self.ledger.writer().write(ingest_events).await?)
    }

    /// Settles it with the issuer: the card is closed, nothing of it is open, and so it is certain
    /// what is to be captured. A hold is never released before.
    async fn finalize_with_issuer(&self, card: &CardRow) -> Result<(), CardWorkerError> {
        let token = match &card.token {
            Some(token) => Some(token.clone()),
            // The answer to its creation may have been lost.
            None => self.issuer.find(card.id).await?.map(|found| found.token),
        };
        if let Some(token) = token {
            failpoint::pass(Point::CardClosing);
            if self.issuer.set_state(&token, "CLOSED").await?.state != "CLOSED" {
                return Ok(());
            }
            failpoint::pass(Point::CardClosed);
            let known = CardRow { token: Some(token), ..card.clone() };
            self.ask(&known).await?;
        }
        let seq = card.seq;
        let settle = move |ledger: &rusqlite::Transaction<'_>| {
            let Some(card) = cards::by_seq(ledger, seq)? else { return Ok(()) };
            let all = charges::tally(ledger, seq, None)?;
            if is_pending(ledger, seq, clock::now())? {
                return Ok(());
            }
            // Only what we approved is captured, and only up to the hold: an issuer that errs or lies
            // about anything else has that to settle with its host.
            let ours = match &card.charge {
                Some(charge) => charges::tally(ledger, seq, Some(charge))?.cleared,
                None => 0,
            };
            let cleared = Amount::from_cents(ours).unwrap_or(Amount::MAX);
            let to_capture = cleared.min(card.amount);
            let told = Amount::from_cents(all.cleared).unwrap_or(Amount::MAX);
            cards::record_shortfall(ledger, &card, (told, to_capture), clock::now())?;
            // Into the trail as well: it is what wakes the sender, on a chain where no block comes by itself too.
            let release = card.amount.checked_sub(to_capture).unwrap_or_default();
            let data = serde_json::json!({ "capture": to_capture, "release": release });
            cards::note(ledger, &card, "card.concluded", None, data, clock::now())?;
            cards::set_to_capture(ledger, seq, to_capture)?;
            // Where somebody else has emptied the hold, nothing of it waits for a transaction.
            let tx_hash = card.settle_tx;
            cards::finish(ledger, CardRow { to_capture: Some(to_capture), ..card }, (None, tx_hash), clock::now())
        };
        self.ledger.writer().write(settle).await?;
        failpoint::pass(Point::CardConcluded);
        Ok(())
    }

    async fn step(&self, card: &CardRow, state: CardState, reason: Option<Code>) -> Result<(), CardWorkerError> {
        let (seq, from) = (card.seq, card.state);
        let step = move |ledger: &rusqlite::Transaction<'_>| {
            // It may have gone on since it was read.
            match cards::by_seq(ledger, seq)?.filter(|card| card.state == from) {
                Some(card) => cards::step(ledger, &card, state, reason, None, clock::now()),
                None => Ok(()),
            }
        };
        Ok(self.ledger.writer().write(step).await?)
    }
}

/// Whether something of the card's charges may still come: what is pending is given up when nothing
/// has come for longer than the networks allow.
fn is_pending(ledger: &rusqlite::Connection, seq: u64, now: Seconds) -> Result<bool, LedgerError> {
    let tally = charges::tally(ledger, seq, None)?;
    let patience = if tally.cleared > 0 { REST_WITHIN } else { CLEARED_WITHIN };
    let silent = |since: Seconds| now.saturating_sub(since) >= patience;
    Ok(tally.pending > 0 && !charges::last_event_at(ledger, seq)?.is_some_and(silent))
}

/// Takes in what the issuer tells of a card, in any order and any number of times, and draws the
/// conclusion: a charge that is over takes the card to closing.
pub fn ingest_events(
    ledger: &rusqlite::Connection,
    seq: u64,
    events: &[charges::ChargeEvent],
) -> Result<(), LedgerError> {
    let now = clock::now();
    let Some(card) = cards::by_seq(ledger, seq)? else { return Ok(()) };
    let mut news = false;
    for event in events {
        if charges::add_event(ledger, seq, event, now)? {
            news = true;
            let data = serde_json::json!({
                "event": event.kind, "cents": event.cents, "approved": event.approved, "transaction": event.transaction,
            });
            cards::note(ledger, &card, "card.issuer_event", None, data, now)?;
        }
    }
    if !news {
        return Ok(());
    }
    let charged = events.iter().any(|event| event.approved);
    let ours = |event: &&charges::ChargeEvent| card.charge.as_deref() == Some(&event.transaction);
    // Our approval came too late for the issuer.
    let lost = events.iter().filter(ours).any(|event| !event.approved && event.kind == "AUTHORIZATION");
    let over = match card.state {
        // An approval that is not ours: nothing more may be charged.
        CardState::Active => charged,
        CardState::Used => lost || (charged && charges::tally(ledger, seq, None)?.pending == 0),
        _ => false,
    };
    if over { cards::step(ledger, &card, CardState::Closing, None, None, now) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pending_is_given_up_after_the_networks_time() {
        let ledger = rusqlite::Connection::open_in_memory().unwrap();
        ledger.execute_batch(include_str!("../ledger/schema.sql")).unwrap();
        ledger.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        let tell = |token: &str, kind: &str, cents, at| {
            let event = charges::ChargeEvent {
                token: token.into(),
                transaction: "t".into(),
                created: token.into(),
                kind: kind.into(),
                cents,
                approved: true,
            };
            charges::add_event(&ledger, 1, &event, at).unwrap();
        };
        assert!(!is_pending(&ledger, 1, 0).unwrap());
        tell("a", "AUTHORIZATION", 900, 100);
        assert!(is_pending(&ledger, 1, 100 + CLEARED_WITHIN - 1).unwrap());
        assert!(!is_pending(&ledger, 1, 100 + CLEARED_WITHIN).unwrap());
        tell("b", "CLEARING", 500, 200);
        assert!(is_pending(&ledger, 1, 200 + REST_WITHIN - 1).unwrap());
        assert!(!is_pending(&ledger, 1, 200 + REST_WITHIN).unwrap());
        tell("c", "CLEARING", 400, 300);
        assert!(!is_pending(&ledger, 1, 300).unwrap());
    }
}
