//! What the issuer does: the pure rules of cards and transactions, put to the store. The skin over
//! it is [`crate::api`].

use std::{sync::Arc, time::Duration};

use reqwest::Client;
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    asa::{self, Responder},
    card::{Card, CardCredentials, CardError, CardUpdate, NewCard},
    faults::Switchboard,
    number::{CardNumber, Cvv},
    store::{
        Store, StoreError,
        cards::{self, Answered},
        outbox,
    },
    time::Time,
    transaction::{EventKind, Purchase, PurchaseError, Request, Transaction, Transition, TransitionError},
};

/// Why a call has no better answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("provide the API key in the Authorization header")]
    Unauthorized,
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("this path does not take this method")]
    Method,
    #[error("the idempotency key came before with another body")]
    KeyReused,
    #[error("{0}")]
    Unprocessable(String),
    /// The transaction exists and is declined.
    #[error("the authorization was declined: {detail}")]
    Declined { token: Uuid, detail: String },
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the issuer failed: see its log")]
    Panicked,
    #[error("the issuer did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CardError> for Refusal {
    fn from(error: CardError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<PurchaseError> for Refusal {
    fn from(error: PurchaseError) -> Self {
        match error {
            // The one size that the real one calls by this status.
            PurchaseError::Currency => Self::Unprocessable(error.to_string()),
            _ => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<TransitionError> for Refusal {
    fn from(error: TransitionError) -> Self {
        match error {
            TransitionError::Amount(_) => Self::BadRequest(error.to_string()),
            _ => Self::Unprocessable(error.to_string()),
        }
    }
}

/// The issuer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Issuer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    faults: Switchboard,
    http: Client,
    asa_limit: Duration,
    schedule: Vec<Duration>,
    wake: Notify,
    /// Tasks that outlive their caller.
    tasks: TaskTracker,
}

/// A purchase that the issuer itself has nothing against.
struct Opened {
    card: Card,
    transaction: Transaction,
    responder: Option<Responder>,
}

impl Issuer {
    pub(crate) fn new(store: Store, http: Client, asa_limit: Duration, schedule: Vec<Duration>) -> Self {
        let (faults, wake, tasks) = (Switchboard::default(), Notify::new(), TaskTracker::new());
        Self(Arc::new(Inner { store, faults, http, asa_limit, schedule, wake, tasks }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn faults(&self) -> &Switchboard {
        &self.0.faults
    }

    pub(crate) fn http(&self) -> &Client {
        &self.0.http
    }

    /// Says that there may be something to deliver.
    pub(crate) fn wake(&self) {
        self.0.wake.notify_one();
    }

    pub(crate) async fn due_delivery(&self) {
        self.0.wake.notified().await;
    }

    /// Waits for what callers have begun. To be called when there are no more callers.
    pub(crate) async fn finished(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// When to retry after this many attempts; `None`: never.
    pub(crate) fn next_attempt(&self, attempts: u32) -> Option<Time> {
        let wait = self.0.schedule.get(usize::try_from(attempts).ok()?.checked_add(1)?)?;
        Some(Time::now().after(*wait))
    }

    /// Runs `work` in one transaction of the store, and has what it announces delivered.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&StoreSession<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let result = self.read(work).await;
        self.wake();
        result
    }

    /// Runs `work`, which changes nothing, in one transaction of the store.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&StoreSession<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let first = self.0.schedule.first().copied().unwrap_or_default();
        let work = move |store: &Connection| {
            let now = Time::now();
            work(&StoreSession { store, now, due: now.after(first) })
        };
        self.0.store.run(work).await
    }

    /// Creates a card, once per idempotency key.
    pub(crate) async fn create_card(&self, new: NewCard, key: Option<String>) -> Result<Value, Refusal> {
        let request = serde_json::to_string(&new).map_err(StoreError::inconsistent)?;
        self.write(move |session| {
            if let Some(key) = &key
                && let Some(answered) = cards::answered(session.store, key)?
            {
                if answered.request != request {
                    return Err(Refusal::KeyReused);
                }
                let (_, secrets) = session.card(answered.card)?;
                return Ok(secrets.join(answered.answer));
            }
            let number = cards::free_number(session.store)?;
            let secrets = CardCredentials { number, cvv: Cvv::random().map_err(StoreError::from)? };
            let card = Card::new(new, Uuid::new_v4(), number, session.now)?;
            cards::insert_card(session.store, &card, &secrets)?;
            let answer = card.view();
            if let Some(key) = key {
                let answered = Answered { request, card: card.token, answer: answer.clone() };
                cards::remember(session.store, &key, &answered)?;
            }
            session.announce("card.created", json!({ "card_token": card.token, "replacement_for": null }))?;
            Ok(secrets.join(answer))
        })
        .await
    }

    /// Changes a card.
    pub(crate) async fn update_card(&self, token: Uuid, update: CardUpdate) -> Result<Value, Refusal> {
        self.write(move |session| {
            let (card, secrets) = session.card(token)?;
            let (card, previous) = card.updated(update)?;
            session.changed(&card, previous)?;
            Ok(secrets.join(card.view()))
        })
        .await
    }

    /// A merchant asks for an authorization. The card's own rules come first, then the program is
    /// asked, with no lock held; whether the card still allows it is settled when the answer is
    /// written down, so that of two that race for one card only one can win. It comes to its end even
    /// if the caller hangs up: a terminal that does has not unasked the program.
    ///
    /// # Errors
    /// [`Refusal::Declined`]: there is a transaction all the same.
    pub(crate) async fn authorize(&self, number: CardNumber, purchase: Purchase) -> Result<Uuid, Refusal> {
        purchase.check()?;
        let this = self.clone();
        let authorization = self.0.tasks.spawn(async move { this.decide(number, purchase).await });
        authorization.await.map_err(|_| StoreError::CutOff)?
    }

    async fn decide(&self, number: CardNumber, purchase: Purchase) -> Result<Uuid, Refusal> {
        let (request, amount, capable) = (purchase.request, purchase.amount, purchase.partial_approval_capable);
        let opened = self.write(move |session| session.open(number, &purchase)).await?;
        let Opened { card, transaction, responder } = match opened {
            Ok(opened) => opened,
            Err(declined) => return outcome(&declined),
        };
        let answer = match responder {
            None => Ok(None),
            Some(responder) => {
                let question = transaction.question(request, &card).to_string();
                asa::ask(&self.0.http, &self.0.faults, &responder, question, self.0.asa_limit).await
            }
        };
        let decision = answer.and_then(|part| asa::granted(amount, part, capable));
        let transaction = self
            .write(move |session| {
                let (card, _) = session.card(card.token)?;
                let allowed =
                    card.admits(amount, &cards::velocity(session.store, card.token, session.now)?, session.now);
                let decision = allowed.and(decision);
                let transaction = transaction.begun(request, decision, Uuid::new_v4(), session.now);
                session.record(&transaction)?;
                if decision.is_ok() && request != Request::BalanceInquiry {
                    let (card, previous) = card.authorized();
                    session.changed(&card, previous)?;
                }
                Ok(transaction)
            })
            .await?;
        outcome(&transaction)
    }

    /// Takes a transaction one step on.
    pub(crate) async fn step(&self, token: Uuid, step: Transition) -> Result<Transaction, Refusal> {
        self.write(move |session| {
            let transaction = cards::transaction(session.store, token)?.ok_or(Refusal::NotFound("transaction"))?;
            let transaction = transaction.stepped(step, Uuid::new_v4(), session.now)?;
            session.record(&transaction)?;
            Ok(transaction)
        })
        .await
    }

    /// Posts something to a card that no authorization came before.
    pub(crate) async fn post(&self, card: Target, kind: EventKind, purchase: Purchase) -> Result<Uuid, Refusal> {
        purchase.check()?;
        if purchase.amount == 0 {
            return Err(TransitionError::Amount(0).into());
        }
        self.write(move |session| {
            let card = match card {
                Target::Token(token) => session.card(token)?.0,
                Target::Number(number) => session.of_number(number)?,
            };
            let transaction = Transaction::asked(&card, &purchase, Uuid::new_v4(), session.now);
            let transaction = transaction.posted(kind, Uuid::new_v4(), session.now);
            session.record(&transaction)?;
            Ok(transaction.token)
        })
        .await
    }
}

/// How a card is named.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Token(Uuid),
    Number(CardNumber),
}

fn outcome(transaction: &Transaction) -> Result<Uuid, Refusal> {
    match transaction.events.first() {
        Some(event) if event.result != "APPROVED" => {
            Err(Refusal::Declined { token: transaction.token, detail: event.detail.clone() })
        }
        _ => Ok(transaction.token),
    }
}

/// The store within one transaction, at one time.
pub(crate) struct StoreSession<'a> {
    pub(crate) store: &'a Connection,
    pub(crate) now: Time,
    /// When what is announced now is delivered first.
    due: Time,
}

impl StoreSession<'_> {
    pub(crate) fn card(&self, token: Uuid) -> Result<(Card, CardCredentials), Refusal> {
        cards::card(self.store, token)?.ok_or(Refusal::NotFound("card"))
    }

    fn of_number(&self, number: CardNumber) -> Result<Card, Refusal> {
        cards::of_number(self.store, number)?.ok_or(Refusal::NotFound("card"))
    }

    /// Begins a purchase, or declines it at once.
    fn open(&self, number: CardNumber, purchase: &Purchase) -> Result<Result<Opened, Transaction>, Refusal> {
        let card = self.of_number(number)?;
        let transaction = Transaction::asked(&card, purchase, Uuid::new_v4(), self.now);
        let spent = cards::velocity(self.store, card.token, self.now)?;
        if let Err(decline) = card.admits(purchase.amount, &spent, self.now) {
            let declined = transaction.begun(purchase.request, Err(decline), Uuid::new_v4(), self.now);
            self.record(&declined)?;
            return Ok(Err(declined));
        }
        let responder = match outbox::responder(self.store)? {
            Some(url) => Some(Responder { url, secrets: outbox::responder_secrets(self.store)? }),
            None => None,
        };
        Ok(Ok(Opened { card, transaction, responder }))
    }

    /// Stores a transaction and tells everybody.
    fn record(&self, transaction: &Transaction) -> Result<(), StoreError> {
        cards::save(self.store, transaction)?;
        self.announce("card_transaction.updated", transaction.view())
    }

    /// Stores a card and tells everybody what has changed, if something has.
    fn changed(&self, card: &Card, previous: Map<String, Value>) -> Result<(), StoreError> {
        if previous.is_empty() {
            return Ok(());
        }
        cards::update_card(self.store, card)?;
        let payload = json!({ "card_token": card.token, "state": card.state, "previous_fields": previous });
        self.announce("card.updated", payload)
    }

    fn announce(&self, kind: &str, mut payload: Value) -> Result<(), StoreError> {
        if let Value::Object(fields) = &mut payload {
            fields.insert("event_type".into(), kind.into());
        }
        outbox::announce(self.store, kind, &payload, self.now, self.due)
    }
}
