//! What goes over the wire: bodies, views and problems of the HTTP API. Unknown and duplicate
//! fields are refused; amounts are decimal strings; times are seconds since 1970; hashes, ids and
//! addresses are hex.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Amount, CardId, Code, HumanDuration, Intent, MandateId, PaymentId, RequestId, Seconds, Terms, address,
    card::{CardState, Mcc},
    hex,
    policy::{Decision, Limits, MandateState},
    schema,
};

/// Caller-defined key/value metadata of an object, within the bounds of [`schema`].
pub type Metadata = BTreeMap<String, String>;

/// The answer to something that creates: what there is now, and whether it was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted<T> {
    /// The object.
    pub object: T,
    /// Whether an earlier call created it.
    pub replayed: bool,
}

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PageQuery {
    /// The `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The largest number of objects (1 to 100; default 20).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which payments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PaymentFilter {
    /// Of this mandate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mandate: Option<MandateId>,
    /// In this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PaymentState>,
    /// With this `ref`.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<B256>,
}

/// `GET /v1/info`: what this relayer serves, and how far it has followed the chain. Needs no signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// The chain.
    pub chain_id: u64,
    /// The `MandateEscrow`.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub escrow: Address,
    /// The token, USDC.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub token: Address,
    /// The guardian that this relayer acts for.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub guardian: Address,
    /// Who signs receipts: one of the guardian's submitters; absent: nobody does.
    #[serde(with = "address::optional", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Address>)]
    pub receipt_signer: Option<Address>,
    /// Blocks, the including one counted, after which a mandate can be used.
    pub confirmations: u64,
    /// What payments are held to.
    #[serde(flatten)]
    pub limits: Limits,
    /// What cards need, if this relayer has an issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cards: Option<CardsInfo>,
    /// The last block seen.
    pub head: BlockRef,
    /// The last block that counts as final.
    pub finalized: u64,
}

/// What a caller needs to know to sign a card's hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CardsInfo {
    /// Whom a card's hold is for: the card program's treasury.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub treasury: Address,
    /// How long a card can be charged, in seconds.
    #[schema(value_type = schema::Seconds)]
    pub ttl: Seconds,
    /// How long after that its hold must last, in seconds: `capture_by` is at least now, the ttl
    /// and this.
    #[schema(value_type = schema::Seconds)]
    pub clearing_reserve: Seconds,
}

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockRef {
    /// Its height.
    pub number: u64,
    /// Its hash.
    #[schema(value_type = schema::Hash)]
    pub hash: B256,
    /// Its time.
    #[schema(value_type = schema::Seconds)]
    pub time: Seconds,
}

/// `POST /v1/mandate-requests`: an agent's request for a mandate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMandateRequest {
    /// The cap.
    #[schema(value_type = schema::AmountInput)]
    pub amount: Amount,
    /// The purpose: shown to the operator, not enforced.
    #[schema(min_length = 1, max_length = 1_000)]
    pub intent: String,
    /// From the approval to the expiry.
    pub duration: HumanDuration,
    /// Maximum of one payment; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::AmountInput>)]
    pub per_payment: Option<Amount>,
    /// Length of a rolling window, with `window_cap`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
    /// Maximum of all payments and holds within any `window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::AmountInput>)]
    pub window_cap: Option<Amount>,
    /// Whether a refund goes back to the budget, or straight to the operator; absent: to the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refunds_restore_budget: Option<bool>,
    /// Who may be paid; absent: anyone.
    #[serde(with = "address::list", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Address>>)]
    pub payees: Option<Vec<Address>>,
    /// At which merchants cards may be used, by their category; absent: at any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mccs: Option<Vec<Mcc>>,
    /// Caller-defined key/value metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Metadata)]
    pub metadata: Metadata,
}

impl NewMandateRequest {
    /// A request for `amount` over `duration`, with no other limit.
    #[must_use]
    pub fn new(amount: Amount, intent: impl Into<String>, duration: HumanDuration) -> Self {
        Self {
            amount,
            intent: intent.into(),
            duration,
            per_payment: None,
            window: None,
            window_cap: None,
            refunds_restore_budget: None,
            payees: None,
            mccs: None,
            metadata: Metadata::new(),
        }
    }
}

/// The state of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Waits for an operator.
    Pending,
    /// An operator opened a mandate for it.
    Approved,
}

/// A mandate request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MandateRequest {
    /// Its id.
    pub id: RequestId,
    /// Its state.
    pub state: RequestState,
    /// Who asked, and will sign payments.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub agent: Address,
    /// The cap asked for.
    pub amount: Amount,
    /// The duration asked for.
    pub duration: HumanDuration,
    /// The maximum of one payment asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_payment: Option<Amount>,
    /// The rolling window asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<HumanDuration>,
    /// The maximum within any window asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_cap: Option<Amount>,
    /// Whether refunds are to go back to the budget.
    pub refunds_restore_budget: bool,
    /// The intent document that the terms will commit to.
    pub intent: Intent,
    /// The mandate that came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mandate: Option<MandateId>,
    /// When it was asked.
    #[schema(value_type = schema::Seconds)]
    pub created_at: Seconds,
    /// Caller-defined key/value metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Metadata)]
    pub metadata: Metadata,
}

impl MandateRequest {
    /// The terms that an operator approves who approves exactly what was asked for, from `start`
    /// on.
    #[must_use]
    pub fn terms(&self, operator: Address, guardian: Address, start: Seconds) -> Terms {
        let expiry = start.saturating_add(self.duration.seconds());
        Terms {
            operator,
            agent: self.agent,
            guardian,
            cap: self.amount,
            per_payment: self.per_payment.unwrap_or_default(),
            window_cap: self.window_cap.unwrap_or_default(),
            // A length that does not fit was refused when it was asked for.
            window: self.window.map_or(0, |window| u32::try_from(window.seconds()).unwrap_or(u32::MAX)),
            start,
            expiry,
            capture_end: expiry.saturating_add(crate::terms::CAPTURE_RESERVE),
            payees: self.intent.payees_root(),
            intent: self.intent.hash(),
            refunds_restore_budget: self.refunds_restore_budget,
        }
    }

    /// Whether it waits for an approval, and asks for the same as `body`.
    #[must_use]
    pub fn is_pending_for(&self, body: &NewMandateRequest) -> bool {
        self.state == RequestState::Pending
            && (self.amount, self.duration, self.per_payment) == (body.amount, body.duration, body.per_payment)
            && (self.window, self.window_cap) == (body.window, body.window_cap)
            && self.refunds_restore_budget == body.refunds_restore_budget.unwrap_or(true)
            && self.intent.purpose == body.intent
            && self.intent.policy.payees == body.payees
            && self.intent.policy.mccs == body.mccs
    }

    /// Whether these terms are what was requested, whoever approves it and when. Without this
    /// anyone could answer another operator's request with a mandate over next to nothing.
    #[must_use]
    pub fn is_answered_by(&self, terms: &Terms) -> bool {
        *terms == self.terms(terms.operator, terms.guardian, terms.start)
    }
}

/// `POST /v1/mandates`: the operator's one-message approval of a request, which the relayer sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMandate {
    /// The request that is approved.
    pub request: RequestId,
    /// The terms; their hash is the authorization's nonce.
    pub terms: Terms,
    /// The EIP-3009 authorization.
    pub authorization: Authorization,
}

/// `POST /v1/mandates/{id}/revocation`: the operator's message that ends the mandate (EIP-712
/// `Revoke`), which the relayer sends. Anybody else may send it as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRevocation {
    /// The operator's signature: `r ‖ s ‖ v`, low s.
    #[serde(with = "hex::bytes")]
    #[schema(value_type = schema::Signature)]
    pub signature: Bytes,
}

/// An EIP-3009 `ReceiveWithAuthorization` from the operator to the escrow for the cap, whose nonce
/// is the mandate's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// Valid after this second.
    #[schema(value_type = schema::Seconds)]
    pub valid_after: Seconds,
    /// Valid before this second.
    #[schema(value_type = schema::Seconds)]
    pub valid_before: Seconds,
    /// The operator's signature: `r ‖ s ‖ v`.
    #[serde(with = "hex::bytes")]
    #[schema(value_type = schema::Signature)]
    pub signature: Bytes,
}

/// A mandate, and where its money is:
/// `cap + restored = available + reserved + held + paid + returned + carried`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mandate {
    /// Its id.
    pub id: MandateId,
    /// Its state.
    pub state: MandateState,
    /// The terms.
    pub terms: Terms,
    /// The intent document, if it is known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// The request it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// In none of the other balances; while the mandate is open, this can be paid.
    pub available: Amount,
    /// Accepted, not final yet.
    pub reserved: Amount,
    /// Set aside for payees until captured or released.
    pub held: Amount,
    /// Paid, in a final block.
    pub paid: Amount,
    /// Returned to the operator, in a final block.
    pub returned: Amount,
    /// Carried by a roll to the mandate that replaces it, in a final block; absent: nothing.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub carried: Amount,
    /// Refunded in final blocks: to the budget, or straight to the operator.
    #[serde(default)]
    #[schema(required)]
    pub refunded: Amount,
    /// What of it is the budget again.
    #[serde(default)]
    #[schema(required)]
    pub restored: Amount,
    /// Whether its operator's message that ends it was accepted, and no block has it yet: nothing new
    /// is accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoking: bool,
    /// The next free nonce, for agents that count upwards.
    pub next_nonce: u32,
    /// Until when the relayer tries to open it by its operator's message, which it has; absent if it
    /// has none, and once a block has opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Seconds>)]
    pub opening_until: Option<Seconds>,
    /// The transaction that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub opened_tx: Option<B256>,
    /// The transaction that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub ended_tx: Option<B256>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_nothing(amount: &Amount) -> bool {
    amount.is_zero()
}

/// `POST /v1/payments`: a payment that the agent signed (EIP-712 `Spend`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPayment {
    /// The mandate.
    pub mandate: MandateId,
    /// Who is paid.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub payee: Address,
    /// How much.
    #[schema(value_type = schema::AmountInput)]
    pub amount: Amount,
    /// The payment's nonce: unique in the mandate, used densely.
    #[schema(maximum = 4_294_967_295_u32)]
    pub nonce: u32,
    /// Until when it may be paid.
    #[schema(value_type = schema::Seconds)]
    pub deadline: Seconds,
    /// Commits to what is paid for; absent: zero.
    #[serde(rename = "ref", default, with = "hex::hash")]
    #[schema(value_type = schema::Hash)]
    pub reference: B256,
    /// The agent's signature: `r ‖ s ‖ v`, low s.
    #[serde(with = "hex::bytes")]
    #[schema(value_type = schema::Signature)]
    pub signature: Bytes,
    /// Caller-defined key/value metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Metadata)]
    pub metadata: Metadata,
}

/// `POST /v1/payments/batch`: payments that agents signed, of any mandates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPayments {
    /// The payments.
    #[schema(min_items = 1, max_items = 100)]
    pub payments: Vec<NewPayment>,
}

/// What became of each payment of a batch, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentResults {
    /// One for each payment.
    pub results: Vec<PaymentResult>,
}

/// What became of a payment of a batch: what `POST /v1/payments` would have answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentResult {
    /// The HTTP status: 202 accepted, 200 known before, else that of the problem.
    pub status: u16,
    /// The payment, if it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// `POST /v1/explain`: a payment, or a card without a payee, that nobody has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The mandate.
    pub mandate: MandateId,
    /// Who would be paid; absent: a card would be made.
    #[serde(with = "address::optional", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Address>)]
    pub payee: Option<Address>,
    /// How much.
    #[schema(value_type = schema::AmountInput)]
    pub amount: Amount,
    /// Its nonce; absent: the mandate's next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4_294_967_295_u32)]
    pub nonce: Option<u32>,
    /// Its deadline; absent: one that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Seconds>)]
    pub deadline: Option<Seconds>,
}

/// What would become of it now. Nothing is reserved, and nothing promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The decision, with every rule's verdict.
    pub decision: Decision,
    /// The largest amount that the rules about amounts allow now; zero: none.
    pub headroom: Amount,
    /// When it would pass, if nothing but time keeps it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Seconds>)]
    pub passes_at: Option<Seconds>,
    /// What it would take, by what was settled last.
    pub expected: Expected,
}

/// What a payment took lately. Absent: nothing was settled yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Expected {
    /// Gas that the host pays, in wei, as a decimal string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_wei: Option<String>,
    /// Seconds from its acceptance to a final block.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Seconds>)]
    pub settles_within: Option<Seconds>,
}

/// The state of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// Accepted; waits for a transaction.
    Reserved,
    /// In a signed transaction.
    Submitted,
    /// In a block that is not final.
    Mined,
    /// Paid, in a final block.
    Settled,
    /// Can never be paid; its amount is back in the budget.
    Failed,
}

impl PaymentState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Reserved, Self::Submitted, Self::Mined, Self::Settled, Self::Failed];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Submitted => "submitted",
            Self::Mined => "mined",
            Self::Settled => "settled",
            Self::Failed => "failed",
        }
    }

    /// Whether it never changes again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Settled | Self::Failed)
    }
}

/// A payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payment {
    /// Its id.
    pub id: PaymentId,
    /// The mandate.
    pub mandate: MandateId,
    /// Its state.
    pub state: PaymentState,
    /// Why it failed, or why it still waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Code>,
    /// Who is paid.
    #[serde(with = "address::strict")]
    #[schema(value_type = schema::Address)]
    pub payee: Address,
    /// How much.
    pub amount: Amount,
    /// Its nonce.
    #[schema(maximum = 4_294_967_295_u32)]
    pub nonce: u32,
    /// Until when it may be paid.
    #[schema(value_type = schema::Seconds)]
    pub deadline: Seconds,
    /// Commits to what is paid for.
    #[serde(rename = "ref")]
    #[schema(value_type = schema::Hash)]
    pub reference: B256,
    /// The EIP-712 digest that the agent signed.
    #[schema(value_type = schema::Hash)]
    pub digest: B256,
    /// The transaction: the last one sent, or the one that is mined.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub tx_hash: Option<B256>,
    /// The block, when mined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// When it was accepted.
    #[schema(value_type = schema::Seconds)]
    pub created_at: Seconds,
    /// When its state changed last.
    #[schema(value_type = schema::Seconds)]
    pub updated_at: Seconds,
    /// Caller-defined key/value metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Metadata)]
    pub metadata: Metadata,
    /// The relayer's signature over what it accepted, if the call asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// What a relayer signs about a payment that it accepted (EIP-712 `Receipt`, domain `StipendRelayer`): the amount is
/// reserved, and is paid exactly once, or never and returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The payment: the EIP-712 digest that its agent signed, so mandate, payee, amount, nonce, deadline and `ref`.
    #[schema(value_type = schema::Hash)]
    pub payment: B256,
    /// Its state at that time.
    pub state: PaymentState,
    /// Until when it may be paid.
    #[schema(value_type = schema::Seconds)]
    pub deadline: Seconds,
    /// When this was signed.
    #[schema(value_type = schema::Seconds)]
    pub time: Seconds,
    /// The signature of `receipt_signer` in `/v1/info`: `r ‖ s ‖ v`.
    #[serde(with = "hex::bytes")]
    #[schema(value_type = schema::Signature)]
    pub signature: Bytes,
}

/// `POST /v1/cards`: a card for a hold that the agent signed (EIP-712 `Hold`, for the treasury).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCard {
    /// The mandate.
    pub mandate: MandateId,
    /// What the card may be charged, in whole cents.
    #[schema(value_type = schema::AmountInput)]
    pub amount: Amount,
    /// The hold's nonce: one sequence with the payments' nonces.
    #[schema(maximum = 4_294_967_295_u32)]
    pub nonce: u32,
    /// Until when the hold may be placed.
    #[schema(value_type = schema::Seconds)]
    pub deadline: Seconds,
    /// Until when the hold may be captured.
    #[schema(value_type = schema::Seconds)]
    pub capture_by: Seconds,
    /// Commits to what is bought; absent: zero.
    #[serde(rename = "ref", default, with = "hex::hash")]
    #[schema(value_type = schema::Hash)]
    pub reference: B256,
    /// The agent's signature: `r ‖ s ‖ v`, low s.
    #[serde(with = "hex::bytes")]
    #[schema(value_type = schema::Signature)]
    pub signature: Bytes,
    /// Caller-defined key/value metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Metadata)]
    pub metadata: Metadata,
}

/// A single-use virtual card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Card {
    /// Its id.
    pub id: CardId,
    /// The mandate.
    pub mandate: MandateId,
    /// Its state.
    pub state: CardState,
    /// Why it failed, or was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Code>,
    /// What it may be charged.
    pub amount: Amount,
    /// What it was charged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorized: Option<Amount>,
    /// Captured in a final block.
    pub captured: Amount,
    /// Released to the budget in a final block.
    pub released: Amount,
    /// The last four digits of its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_four: Option<String>,
    /// From this second on it can't be charged.
    #[schema(value_type = schema::Seconds)]
    pub expires_at: Seconds,
    /// The hold's nonce.
    #[schema(maximum = 4_294_967_295_u32)]
    pub nonce: u32,
    /// Until when the hold may be captured.
    #[schema(value_type = schema::Seconds)]
    pub capture_by: Seconds,
    /// Commits to what is bought.
    #[serde(rename = "ref")]
    #[schema(value_type = schema::Hash)]
    pub reference: B256,
    /// The transaction that placed the hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub hold_tx: Option<B256>,
    /// The transaction that captured or released it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub settle_tx: Option<B256>,
    /// When it was accepted.
    #[schema(value_type = schema::Seconds)]
    pub created_at: Seconds,
    /// When its state changed last.
    #[schema(value_type = schema::Seconds)]
    pub updated_at: Seconds,
    /// Caller-defined key/value metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = schema::Metadata)]
    pub metadata: Metadata,
}

/// `GET /v1/cards/{id}/secrets`: what a merchant's form asks for. Shown to the card's agent alone,
/// each time audited, and kept nowhere.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CardSecrets {
    /// The number, 16 digits.
    pub number: String,
    /// The code on the back.
    pub cvv: String,
    /// The month of expiry, two digits.
    pub exp_month: String,
    /// The year of expiry, four digits.
    pub exp_year: String,
}

impl std::fmt::Debug for CardSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CardSecrets(****)")
    }
}

/// One line of the audit trail, and one event of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its place: the stream's event id.
    pub seq: u64,
    /// When.
    #[schema(value_type = schema::Seconds)]
    pub at: Seconds,
    /// What happened: `payment.submitted`, `mandate.opened`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The request it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The mandate it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mandate: Option<MandateId>,
    /// The payment it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<PaymentId>,
    /// The card it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<CardId>,
    /// The transaction it happened in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Hash>)]
    pub tx_hash: Option<B256>,
    /// What else is to be known.
    pub data: serde_json::Value,
    /// Hash of the stored entry and of the one before it of the same mandate. Events of one stored entry share it.
    #[schema(value_type = schema::Hash)]
    pub hash: B256,
}

/// A stored entry of the audit trail, byte for byte: what its `hash` is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RawAuditEntry {
    /// The place of its last event.
    pub seq: u64,
    /// The mandate whose chain it belongs to; absent: the chain of what belongs to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mandate: Option<MandateId>,
    /// Its type and an RLP list.
    #[serde(with = "hex::bytes")]
    #[schema(value_type = schema::Bytes)]
    pub bytes: Bytes,
    /// The keccak256 of the hash before it, or of the mandate's id, and these bytes.
    #[schema(value_type = schema::Hash)]
    pub hash: B256,
}

/// A page of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AuditPage {
    /// As it is read.
    Entries(Page<AuditEntry>),
    /// As it is stored.
    Raw(Page<RawAuditEntry>),
}

/// How to show the audit trail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditFormat {
    /// Event by event.
    #[default]
    Json,
    /// Byte for byte, as it is stored and hashed.
    Raw,
}

/// A page of a list, newest first unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The objects.
    pub data: Vec<T>,
    /// Give it as `cursor` for the next page; absent: this is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A failure, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What happened, with values.
    pub detail: String,
    /// What to do.
    pub hint: String,
    /// Seconds after which to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The decision, when a payment was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

impl Problem {
    /// A problem with this code.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:stipend:problem:{code}"),
            title: code.name().replace('_', " "),
            status: code.status(),
            code,
            detail: detail.into(),
            hint: code.hint().into(),
            retry_after: matches!(
                code,
                Code::RateLimited | Code::Overloaded | Code::Unavailable | Code::Halted | Code::CannotSend
            )
            .then_some(1),
            decision: None,
        }
    }
}

/// `GET /healthz` and `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Whether new work is taken.
    pub ready: bool,
    /// Why not, or what else an operator of this relayer should look at.
    pub alarms: Vec<String>,
}
