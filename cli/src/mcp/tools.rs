//! The tools: each is a few calls of the relayer by the agent's key.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use rmcp::{
    ErrorData, RoleServer,
    handler::server::wrapper::{Json, Parameters},
    model::{ProgressNotificationParam, ReadResourceResult, Resource},
    service::RequestContext,
    tool, tool_router,
};
use stipend_client::{CardWait, CreateCard, PageQuery, Pay, PaymentFilter, Wait};
use stipend_core::{
    Amount, CardId, Code, MandateId, PaymentId, address,
    api::{Card, Explain, Mandate, Metadata, NewMandateRequest, Payment},
    mcp::{card_key, commitment, payment_key},
    policy::MandateState,
};

use stipend_relayer::api::guide;

use super::{
    Wallet,
    reveal::{self, RevealTo},
    views::{
        AuditArguments, Balance, CardArguments, CardCreateArguments, CardView, EntryView, ExplanationView, Failure,
        MandateArguments, MandateView, Mandates, NoArguments, PaymentArguments, PaymentExecuteArguments,
        PaymentExplainArguments, PaymentRequestArguments, PaymentView, RequestView, RevealedView, Trail, WaitFor,
    },
};
use crate::output;

/// How long a payment or a card is waited for, and how often the host hears of it.
const PATIENCE: Duration = Duration::from_secs(55);
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// The largest page.
const PAGE: u32 = 100;
/// How many entries of a trail are shown if nobody says.
const ENTRIES: u32 = 20;

/// An argument, parsed.
fn parsed<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Failure::invalid(format!("{name}: {error}")))
}

fn payee(text: &str) -> Result<Address, Failure> {
    address::parse(text).map_err(|error| Failure::invalid(format!("payee: {error}")))
}

/// What a reference is on chain.
fn committed(reference: &str) -> Result<B256, Failure> {
    commitment(reference).map_err(|error| Failure::invalid(format!("reference: {error}")))
}

fn labeled(reference: &str) -> Metadata {
    [("reference".to_owned(), reference.to_owned())].into()
}

#[tool_router(vis = "pub(super)")]
impl Wallet {
    /// What you can spend: every mandate with its state, limits and remaining budget. Call this first.
    #[tool(annotations(title = "Wallet balance", read_only_hint = true, open_world_hint = false))]
    async fn wallet_balance(
        &self,
        Parameters(NoArguments {}): Parameters<NoArguments>,
    ) -> Result<Json<Balance>, Failure> {
        let mandates = self.mandates().await?;
        let open = mandates.iter().filter(|mandate| mandate.state == MandateState::Open);
        let sum = open.fold(Amount::ZERO, |sum, mandate| sum.checked_add(mandate.available).unwrap_or(Amount::MAX));
        let next = if sum.is_zero() {
            "There is no budget: ask for one with payment_request, and tell the operator to approve it."
        } else {
            "payment_execute pays an address; card_create makes a card for merchants."
        };
        Ok(Json(Balance {
            agent: self.caller.address().to_string(),
            available: sum.to_string(),
            mandates: mandates.iter().map(MandateView::from).collect(),
            next: next.into(),
        }))
    }

    /// Ask the operator for a budget (a mandate). Nothing can be spent before a person approves it. The same
    /// request that still waits is not made twice.
    #[tool(annotations(
        title = "Ask for a budget",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn payment_request(
        &self,
        Parameters(asked): Parameters<PaymentRequestArguments>,
    ) -> Result<Json<RequestView>, Failure> {
        let amount = |name: &str, text: Option<&String>| text.map(|text| parsed::<Amount>(name, text)).transpose();
        let payees =
            asked.payees.as_deref().map(|payees| payees.iter().map(|text| payee(text)).collect::<Result<_, _>>());
        let mccs = asked.merchant_categories.as_deref();
        let mccs =
            mccs.map(|mccs| mccs.iter().map(|text| parsed("merchant_categories", text)).collect::<Result<_, _>>());
        let body = NewMandateRequest {
            amount: parsed("amount", &asked.amount)?,
            intent: asked.intent,
            duration: parsed("duration", &asked.duration)?,
            per_payment: amount("per_payment", asked.per_payment.as_ref())?,
            window: asked.window.as_deref().map(|text| parsed("window", text)).transpose()?,
            window_cap: amount("window_cap", asked.window_cap.as_ref())?,
            refunds_restore_budget: None,
            payees: payees.transpose()?,
            mccs: mccs.transpose()?,
            metadata: Metadata::new(),
        };
        let waiting = self.client().mandate_requests(&PageQuery { cursor: None, limit: Some(PAGE) }).await?.data;
        let same = waiting.iter().find(|known| known.is_pending_for(&body));
        if let Some(same) = same {
            return Ok(Json(RequestView::new(same, true)));
        }
        let accepted = self.client().request_mandate(&body).await?;
        Ok(Json(RequestView::new(&accepted.object, accepted.replayed)))
    }

    /// Pay USDC to an address, within a mandate. The same payee, amount and reference are paid once, however often
    /// this is called; the answer says if it was a repeat. A refusal names the rule, and nothing is paid then.
    #[tool(annotations(
        title = "Pay",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = true
    ))]
    async fn payment_execute(
        &self,
        Parameters(asked): Parameters<PaymentExecuteArguments>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<PaymentView>, Failure> {
        let (payee, amount): (_, Amount) = (payee(&asked.payee)?, parsed("amount", &asked.amount)?);
        let reference = committed(&asked.reference)?;
        let wait = asked.wait.unwrap_or_default();
        // In whatever mandate it was paid.
        if let Some(known) = self.paid_before(payee, amount, reference).await? {
            return Ok(Json(PaymentView::new(&self.reached(known, wait, &context).await, true)));
        }
        let mandate = self.mandate_for(asked.mandate.as_deref()).await?;
        let pay = Pay {
            reference: Some(reference),
            idempotency_key: Some(payment_key(payee, amount, reference)),
            metadata: labeled(&asked.reference),
            ..Pay::new(mandate, payee, amount)
        };
        let accepted = self.client().pay(pay).await?;
        let payment = self.reached(accepted.object, wait, &context).await;
        Ok(Json(PaymentView::new(&payment, accepted.replayed)))
    }

    /// What became of a payment.
    #[tool(annotations(title = "Payment status", read_only_hint = true, open_world_hint = false))]
    async fn payment_status(
        &self,
        Parameters(asked): Parameters<PaymentArguments>,
    ) -> Result<Json<PaymentView>, Failure> {
        let id: PaymentId = parsed("payment", &asked.payment)?;
        Ok(Json(PaymentView::new(&self.client().payment(id, None).await?, false)))
    }

    /// Whether a payment or a card would be accepted now, by every rule, without doing it: how much would be, and
    /// when. Use it when something was refused, or before a large payment.
    #[tool(annotations(title = "Explain a payment", read_only_hint = true, open_world_hint = false))]
    async fn payment_explain(
        &self,
        Parameters(asked): Parameters<PaymentExplainArguments>,
    ) -> Result<Json<ExplanationView>, Failure> {
        let body = Explain {
            mandate: self.mandate_for(asked.mandate.as_deref()).await?,
            payee: asked.payee.as_deref().map(payee).transpose()?,
            amount: parsed("amount", &asked.amount)?,
            nonce: None,
            deadline: None,
        };
        Ok(Json(ExplanationView::from(&self.client().explain(&body).await?)))
    }

    /// Every mandate, newest first, with its limits and what is left.
    #[tool(annotations(title = "List mandates", read_only_hint = true, open_world_hint = false))]
    async fn mandate_list(
        &self,
        Parameters(NoArguments {}): Parameters<NoArguments>,
    ) -> Result<Json<Mandates>, Failure> {
        Ok(Json(Mandates { mandates: self.mandates().await?.iter().map(MandateView::from).collect() }))
    }

    /// One mandate: its limits, who may be paid, and what is left.
    #[tool(annotations(title = "Show a mandate", read_only_hint = true, open_world_hint = false))]
    async fn mandate_show(
        &self,
        Parameters(asked): Parameters<MandateArguments>,
    ) -> Result<Json<MandateView>, Failure> {
        let id = self.mandate_for(Some(&asked.mandate)).await?;
        Ok(Json(MandateView::from(&self.client().mandate(id).await?)))
    }

    /// Make a virtual card for one purchase at a merchant that takes cards. The same amount and reference are one
    /// card, however often this is called. What is not charged returns to the budget.
    #[tool(annotations(
        title = "Create a card",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = true
    ))]
    async fn card_create(
        &self,
        Parameters(asked): Parameters<CardCreateArguments>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<CardView>, Failure> {
        let amount: Amount = parsed("amount", &asked.amount)?;
        let reference = committed(&asked.reference)?;
        if let Some(known) = self.card_before(amount, reference).await? {
            return Ok(Json(CardView::new(&known, true, self.reveals())));
        }
        let create = CreateCard {
            reference: Some(reference),
            idempotency_key: Some(card_key(amount, reference)),
            metadata: labeled(&asked.reference),
            ..CreateCard::new(self.mandate_for(asked.mandate.as_deref()).await?, amount)
        };
        let accepted = self.client().create_card(create).await?;
        let card = self.card_reached(accepted.object, &context).await;
        Ok(Json(CardView::new(&card, accepted.replayed, self.reveals())))
    }

    /// What became of a card.
    #[tool(annotations(title = "Card status", read_only_hint = true, open_world_hint = false))]
    async fn card_status(&self, Parameters(asked): Parameters<CardArguments>) -> Result<Json<CardView>, Failure> {
        let id: CardId = parsed("card", &asked.card)?;
        Ok(Json(CardView::new(&self.client().card(id).await?, false, self.reveals())))
    }

    /// The number of an active card, for a merchant's form. Each look is written down.
    #[tool(annotations(
        title = "Reveal a card",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn card_reveal(&self, Parameters(asked): Parameters<CardArguments>) -> Result<Json<RevealedView>, Failure> {
        let id: CardId = parsed("card", &asked.card)?;
        let secrets = self.client().card_secrets(id).await?;
        if matches!(self.reveal_to, RevealTo::Model) {
            return Ok(Json(RevealedView {
                card: id.to_string(),
                handed_over: None,
                number: Some(secrets.number),
                cvv: Some(secrets.cvv),
                expiry: Some(format!("{}/{}", secrets.exp_month, secrets.exp_year)),
            }));
        }
        let to = self.reveal_to.clone();
        let handed = tokio::task::spawn_blocking(move || reveal::hand_over(&to, id, &secrets)).await;
        let handed =
            handed.map_err(|error| error.to_string()).and_then(|handed| handed.map_err(|error| error.to_string()));
        let handed_over = handed.map_err(|error| {
            let next = "Tell your user: the place that --reveal-to names does not work.";
            Failure::new("reveal_failed", error, "the host's setting --reveal-to has to be mended", next)
        })?;
        Ok(Json(RevealedView {
            card: id.to_string(),
            handed_over: Some(handed_over),
            number: None,
            cvv: None,
            expiry: None,
        }))
    }

    /// End a card that was not charged; its amount returns to the budget.
    #[tool(annotations(
        title = "Close a card",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn card_close(&self, Parameters(asked): Parameters<CardArguments>) -> Result<Json<CardView>, Failure> {
        let id: CardId = parsed("card", &asked.card)?;
        Ok(Json(CardView::new(&self.client().close_card(id).await?, false, self.reveals())))
    }

    /// The latest entries of the audit trail: requests, decisions, payments, cards and refusals.
    #[tool(annotations(title = "Recent events", read_only_hint = true, open_world_hint = false))]
    async fn audit_recent(&self, Parameters(asked): Parameters<AuditArguments>) -> Result<Json<Trail>, Failure> {
        let limit = asked.limit.unwrap_or(ENTRIES);
        if !(1..=PAGE).contains(&limit) {
            return Err(Failure::invalid(format!("limit: 1 to {PAGE}")));
        }
        let mandate = match asked.mandate.as_deref() {
            Some(text) => Some(self.mandate_for(Some(text)).await?),
            None => None,
        };
        Ok(Json(Trail { entries: self.trail(mandate, limit).await? }))
    }
}

impl Wallet {
    const fn client(&self) -> &stipend_client::Client {
        &self.caller.client
    }

    /// Whether there is a tool that hands out numbers.
    const fn reveals(&self) -> bool {
        !matches!(self.reveal_to, RevealTo::None)
    }

    async fn mandates(&self) -> Result<Vec<Mandate>, Failure> {
        self.caller.mandates().await.map_err(failed)
    }

    /// The mandate that is meant: by its id or its beginning, or the only one that is open.
    async fn mandate_for(&self, text: Option<&str>) -> Result<MandateId, Failure> {
        if let Some(text) = text {
            if let Ok(id) = text.parse() {
                return Ok(id);
            }
            // Not known, or not unique; or the relayer does not answer.
            let found = self.caller.find(text).await.map_err(|error| match error.downcast::<stipend_client::Error>() {
                Ok(error) => error.into(),
                Err(error) => Failure::invalid(format!("mandate: {error:#}")),
            });
            return Ok(found?.id);
        }
        let mandates = self.mandates().await?;
        let open: Vec<_> = mandates.iter().filter(|mandate| mandate.state == MandateState::Open).collect();
        match open.as_slice() {
            [only] => Ok(only.id),
            [] => Err(Failure::new(
                "no_mandate",
                "no mandate is open: there is no budget to pay from",
                "ask for a mandate, and have its operator approve it",
                "Call payment_request with the amount and what it is for, then tell the operator to approve it.",
            )),
            several => {
                let ids: Vec<_> =
                    several.iter().map(|mandate| format!("{} ({})", mandate.id, mandate.available)).collect();
                Err(Failure::new(
                    "mandate_needed",
                    format!("{} mandates are open: {}", several.len(), ids.join(", ")),
                    "name the one to pay from",
                    "Call the same tool with the argument mandate.",
                ))
            }
        }
    }

    /// The payment that this would repeat.
    async fn paid_before(&self, payee: Address, amount: Amount, reference: B256) -> Result<Option<Payment>, Failure> {
        let filter = PaymentFilter { reference: Some(reference), ..PaymentFilter::default() };
        let mut page = PageQuery { cursor: None, limit: Some(PAGE) };
        loop {
            let found = self.client().payments(&filter, &page).await?;
            let same = |known: &Payment| known.payee == payee && known.amount == amount;
            if let Some(known) = found.data.into_iter().find(same) {
                return Ok(Some(known));
            }
            page.cursor = found.next_cursor;
            if page.cursor.is_none() {
                return Ok(None);
            }
        }
    }

    /// The card that this would repeat.
    async fn card_before(&self, amount: Amount, reference: B256) -> Result<Option<Card>, Failure> {
        let mut page = PageQuery { cursor: None, limit: Some(PAGE) };
        loop {
            let found = self.client().cards(None, &page).await?;
            if let Some(known) =
                found.data.into_iter().find(|known| known.reference == reference && known.amount == amount)
            {
                return Ok(Some(known));
            }
            page.cursor = found.next_cursor;
            if page.cursor.is_none() {
                return Ok(None);
            }
        }
    }

    /// The payment, once it is as far as was asked for, or patience ends. It is accepted: nothing from here on may
    /// look as if it had failed.
    async fn reached(&self, payment: Payment, wait: WaitFor, context: &RequestContext<RoleServer>) -> Payment {
        let wait = match wait {
            WaitFor::Accepted => return payment,
            WaitFor::Mined => Wait::Mined,
            WaitFor::Settled => Wait::Settled,
        };
        let mut last = payment;
        let start = Instant::now();
        while !wait.is_satisfied_by(last.state) && start.elapsed() < PATIENCE && !context.ct.is_cancelled() {
            self.progress(context, start, &format!("{} is {}", last.id, last.state.name())).await;
            match self.client().wait_for(last.id, wait, PROGRESS_EVERY).await {
                Ok(seen) => last = seen,
                Err(_) => tokio::time::sleep(PROGRESS_EVERY).await,
            }
        }
        last
    }

    /// The same of a card.
    async fn card_reached(&self, card: Card, context: &RequestContext<RoleServer>) -> Card {
        let mut last = card;
        let start = Instant::now();
        while !CardWait::Active.is_satisfied_by(last.state) && start.elapsed() < PATIENCE && !context.ct.is_cancelled()
        {
            self.progress(context, start, &format!("{} is {}", last.id, last.state.name())).await;
            match self.client().wait_for_card(last.id, CardWait::Active, PROGRESS_EVERY).await {
                Ok(seen) => last = seen,
                Err(_) => tokio::time::sleep(PROGRESS_EVERY).await,
            }
        }
        last
    }

    /// Tells the host that it still waits, if it wants to know.
    async fn progress(&self, context: &RequestContext<RoleServer>, start: Instant, what: &str) {
        let Some(token) = context.meta.get_progress_token() else { return };
        let told = ProgressNotificationParam::new(token, start.elapsed().as_secs_f64()).with_message(what);
        // A host that is gone hears nothing, and the payment goes on.
        let _ = context.peer.notify_progress(told).await;
    }

    async fn trail(&self, mandate: Option<MandateId>, limit: u32) -> Result<Vec<EntryView>, Failure> {
        Ok(self.client().latest_audit(mandate, limit).await?.iter().map(EntryView::from).collect())
    }

    /// Every mandate and its trail.
    pub(super) async fn resources(&self) -> Result<Vec<Resource>, ErrorData> {
        let mandates = self.mandates().await.map_err(unavailable)?;
        let listed = mandates.iter().flat_map(|mandate| {
            let state = mandate.state.name();
            guide::resources(mandate.id, &output::short(mandate.id), state, mandate.available)
        });
        Ok(listed.collect())
    }

    /// One of them.
    pub(super) async fn resource(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let (id, is_audit) = guide::resource(uri).ok_or_else(|| guide::unknown_resource(uri))?;
        let mandate = self.client().mandate(id).await.map_err(|error| match error.code() {
            Some(Code::NotFound) => guide::unknown_resource(uri),
            _ => unavailable(error.into()),
        })?;
        if is_audit {
            let entries = self.trail(Some(id), ENTRIES).await.map_err(unavailable)?;
            return guide::contents(uri, &Trail { entries });
        }
        guide::contents(uri, &MandateView::from(&mandate))
    }
}

/// A failure of a helper that serves the command line too.
fn failed(error: eyre::Report) -> Failure {
    match error.downcast::<stipend_client::Error>() {
        Ok(error) => error.into(),
        Err(error) => Failure::new("failed", format!("{error:#}"), "see the message", "Tell your user what it says."),
    }
}

fn unavailable(failure: Failure) -> ErrorData {
    ErrorData::internal_error(failure.into_message(), None)
}
