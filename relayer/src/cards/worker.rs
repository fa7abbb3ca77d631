//! The card worker: takes every card that is not final one step further, over and over. Each step asks
//! the ledger what is so and can be repeated, so that a crash between any two lines costs only time.

use std::time::Duration;

use stipend_core::{
    CardId, Code,
    api::BlockRef,
    card::{CLEARING_RESERVE, CardAction, CardProgress, CardSettlement, CardState},
    policy::MandateState,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::issuer::{Issuer, IssuerError, IssuerSecrets};
use crate::{
    alarms::Alarms,
    chain::follow::Head,
    clock,
    failpoint::{self, Point},
    ledger::{
        Ledger, LedgerError,
        cards::{self, CardRow, ClosedCursor, RefundDue},
        charges, mandates,
    },
};

/// How long the issuer is left alone after a round that failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);

/// Why a step was not taken. The next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum CardWorkerError {
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(
        "the issuer reports an approved {kind} for {card}, which this version does not know: its hold is kept until an \
         update does"
    )]
    UnknownEvent { card: CardId, kind: String },
    #[error("{0} is paused at the issuer, and not by this relayer: its charges are declined until it is opened there")]
    Paused(CardId),
    #[error(
        "the issuer asks {0} about charges, and not this relayer: an issuer's program has room for one relayer; stop the \
         other one, and restart this one to have it asked again"
    )]
    OtherResponder(String),
}

#[derive(Debug)]
pub struct CardWorker {
    pub issuer: Issuer,
    /// Where the issuer reaches us.
    pub callback: Url,
    /// What it signs its calls with, once it has been reached.
    pub secrets: watch::Sender<Option<IssuerSecrets>>,
    pub ledger: Ledger,
    /// Blocks, the including one counted, after which a hold counts.
    pub confirmations: u64,
    /// How often to poll the issuer for events that webhooks may have missed.
    pub poll: Duration,
    /// Where to say what is wrong.
    pub alarms: Alarms,
}

impl CardWorker {
    /// Keeps cards until `stop`.
    pub async fn run(self, mut heads: watch::Receiver<Head>, stop: CancellationToken) {
        let mut changes = self.ledger.changes();
        // An enrolment that failed at the start is tried again at once.
        let mut polled = self.secrets.borrow().as_ref().map(|_| Instant::now());
        let mut last_closed = ClosedCursor::default();
        loop {
            let head = heads.borrow_and_update().block;
            changes.mark_unchanged();
            let poll = polled.is_none_or(|polled| polled.elapsed() >= self.poll);
            if poll {
                polled = Some(Instant::now());
            }
            let enrolled = if poll { self.enroll().await } else { Ok(()) };
            let advanced = self.round(head, poll).await;
            let closed = if poll { self.poll_closed(&mut last_closed).await } else { Ok(()) };
            let refunds = if poll { self.check_refunds().await } else { Ok(()) };
            match enrolled.and(advanced).and(closed).and(refunds) {
                Ok(()) => self.alarms.clear("cards"),
                Err(error) => {
                    self.alarms.warn("cards", error.to_string());
                    // An issuer in trouble is not asked again with every payment that is made.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(self.poll.min(FAILURE_PAUSE)) => {}
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

    /// Sees to it that the issuer asks us before it approves a charge. It may have forgotten; then charges
    /// would be approved that nobody captures.
    async fn enroll(&self) -> Result<(), CardWorkerError> {
        // Two that took it from each other would both decline half of their charges.
        let was_enrolled = self.secrets.borrow().is_some();
        if was_enrolled && let Some(other) = self.issuer.other_responder(&self.callback).await? {
            return Err(CardWorkerError::OtherResponder(other));
        }
        let secrets = self.issuer.register_webhooks(&self.callback).await?;
        self.secrets.send_replace(Some(secrets));
        Ok(())
    }

    /// One step of every card; a card that fails does not hold up the others.
    async fn round(&self, head: BlockRef, poll: bool) -> Result<(), CardWorkerError> {
        let mut first_error = None;
        for card in self.ledger.read(cards::live).await? {
            let id = card.id;
            if let Err(error) = self.advance(card, head, poll).await {
                tracing::warn!(card = %id, %error, "a card waits");
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Polls the next few of the cards that were closed lately: a merchant may still take or give back
    /// something.
    async fn poll_closed(&self, cursor: &mut ClosedCursor) -> Result<(), CardWorkerError> {
        let since = clock::now().saturating_sub(CLEARING_RESERVE);
        let after = if cursor.closed_at < since { ClosedCursor { closed_at: since, seq: 0 } } else { *cursor };
        let closed = self.ledger.read(move |ledger| cards::closed_after(ledger, after)).await?;
        let last = closed.last().map(|card| ClosedCursor { closed_at: card.updated_at, seq: card.seq });
        *cursor = last.unwrap_or_default();
        let mut outcome = Ok(());
        for card in &closed {
            outcome = outcome.and(self.fetch_events(card).await);
        }
        outcome
    }

    /// Takes a card as far as it can go now; `poll`: whether to ask the issuer what happened to it.
    async fn advance(&self, card: CardRow, head: BlockRef, poll: bool) -> Result<(), CardWorkerError> {
        let confirmations = self.confirmations;
        let (progress, card) =
            self.ledger.read(move |ledger| Ok((progress(ledger, &card, head, confirmations)?, card))).await?;
        for action in progress.next_actions(poll) {
            match action {
                CardAction::Become(state, reason) => self.step(&card, state, reason).await?,
                CardAction::Issue => self.issue(&card).await?,
                CardAction::SetPaused(paused) => self.set_paused(&card, paused).await?,
                CardAction::FetchEvents => {
                    self.fetch_events(&card).await?;
                    self.check_state(&card).await?;
                }
                CardAction::FinalizeWithIssuer => self.finalize_with_issuer(&card, head).await?,
            }
        }
        Ok(())
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
    async fn set_paused(&self, card: &CardRow, paused: bool) -> Result<(), CardWorkerError> {
        let Some(token) = &card.token else { return Ok(()) };
        let seq = card.seq;
        // Written down before it is paused, and until it is open again: what may be paused is opened when it can be.
        if paused {
            self.ledger.writer().write(move |ledger| cards::set_paused(ledger, seq, true)).await?;
        }
        failpoint::pass(Point::CardPausing);
        self.issuer.set_state(token, if paused { "PAUSED" } else { "OPEN" }).await?;
        failpoint::pass(Point::CardPaused);
        if !paused {
            self.ledger.writer().write(move |ledger| cards::set_paused(ledger, seq, false)).await?;
        }
        Ok(())
    }

    /// Asks the issuer what happened to a card.
    async fn fetch_events(&self, card: &CardRow) -> Result<(), CardWorkerError> {
        let Some(token) = &card.token else { return Ok(()) };
        let transactions = self.issuer.transactions(token).await?;
        let seq = card.seq;
        let ingest = move |ledger: &rusqlite::Transaction<'_>| {
            let events: Vec<_> = transactions.iter().flat_map(|transaction| transaction.events()).collect();
            charges::ingest(ledger, seq, &events)
        };
        Ok(self.ledger.writer().write(ingest).await?)
    }

    /// Others can close or pause a card at the issuer: its host, or the issuer itself.
    async fn check_state(&self, card: &CardRow) -> Result<(), CardWorkerError> {
        let Some(token) = card.token.as_ref().filter(|_| card.state == CardState::Active && !card.paused) else {
            return Ok(());
        };
        match self.issuer.card(token).await?.state.as_str() {
            "CLOSED" => self.step(card, CardState::Closing, Some(Code::ClosedByIssuer)).await,
            "PAUSED" => Err(CardWorkerError::Paused(card.id)),
            _ => Ok(()),
        }
    }

    /// Says what merchants gave back and the treasury has not passed on: only its key can.
    async fn check_refunds(&self) -> Result<(), CardWorkerError> {
        let due = self.ledger.read(cards::refunds_due).await?;
        let Some(RefundDue { mandate, treasury, amount }) = due.first() else {
            self.alarms.clear("refund_due");
            return Ok(());
        };
        let others = match due.len() {
            1 => String::new(),
            count => format!("; and to {} more mandates", count.saturating_sub(1)),
        };
        let what = format!(
            "merchants refunded {amount} USDC that was captured for {mandate}: return it from the treasury {treasury} with \
             `stipend refund --mandate {mandate} --amount {amount}`{others}"
        );
        self.alarms.warn("refund_due", what);
        Ok(())
    }

    /// Concludes a card with the issuer: it is closed there, nothing of it is pending, and so it is
    /// certain what is to be captured. A hold is never released before.
    async fn finalize_with_issuer(&self, card: &CardRow, head: BlockRef) -> Result<(), CardWorkerError> {
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
            self.fetch_events(&known).await?;
        }
        let seq = card.seq;
        if let Some(kind) = self.ledger.read(move |ledger| charges::unknown_kind(ledger, seq)).await? {
            return Err(CardWorkerError::UnknownEvent { card: card.id, kind });
        }
        let settle = move |ledger: &rusqlite::Transaction<'_>| {
            let Some(card) = cards::by_seq(ledger, seq)? else { return Ok(()) };
            let all = charges::tally(ledger, seq)?;
            if charges::awaits_clearing(ledger, seq, clock::earlier(head))? {
                return Ok(());
            }
            let ours = charges::approved_tally(ledger, seq)?;
            let to_capture = CardSettlement::of(all, ours, card.amount, None).captured;
            // Also in the trail: that wakes the sender, even on a chain that mines no empty blocks.
            let release = card.amount.checked_sub(to_capture).unwrap_or_default();
            let data = serde_json::json!({ "capture": to_capture, "release": release });
            cards::note(ledger, &card, "card.concluded", None, data, clock::now())?;
            cards::set_to_capture(ledger, seq, to_capture)?;
            cards::settle_accounts(ledger, seq, clock::now())?;
            // If the hold was emptied externally, nothing of it waits for a transaction.
            let tx_hash = card.settle_tx;
            cards::finish(ledger, CardRow { to_capture: Some(to_capture), ..card }, None, tx_hash, clock::now())
        };
        self.ledger.writer().write(settle).await?;
        failpoint::pass(Point::CardConcluded);
        Ok(())
    }

    async fn step(&self, card: &CardRow, state: CardState, reason: Option<Code>) -> Result<(), CardWorkerError> {
        let (seq, from) = (card.seq, card.state);
        let step = move |ledger: &rusqlite::Transaction<'_>| {
            // It may have changed since it was read.
            match cards::by_seq(ledger, seq)?.filter(|card| card.state == from) {
                Some(card) => cards::step(ledger, &card, state, reason, None, clock::now()),
                None => Ok(()),
            }
        };
        Ok(self.ledger.writer().write(step).await?)
    }
}

/// What is known of a card, at a head.
fn progress(
    ledger: &rusqlite::Connection,
    card: &CardRow,
    head: BlockRef,
    confirmations: u64,
) -> Result<CardProgress, LedgerError> {
    let now = clock::now();
    let mandate = mandates::get(ledger, card.mandate)?;
    let ended = mandate.is_some_and(|mandate| mandate.state_for_new(head.number, confirmations) == MandateState::Ended);
    let expired = (now >= card.expires_at).then_some(Code::CardExpired);
    let depth = card.held.and_then(|location| head.number.checked_sub(location.block));
    Ok(CardProgress {
        state: card.state,
        held: card.held.is_some(),
        confirmed: depth.is_some_and(|blocks| blocks >= confirmations.saturating_sub(1)),
        issued: card.token.is_some(),
        paused: card.paused,
        close: expired.or(ended.then_some(Code::Ended)),
        concluded: card.to_capture.is_some(),
        awaits_clearing: card.state == CardState::Closing
            && charges::awaits_clearing(ledger, card.seq, clock::earlier(head))?,
    })
}
