//! The entries of the audit trail, byte for byte: what is stored, hashed, exported and replayed. Everything else that is
//! shown of an entry is rendered from these bytes.
//!
//! An entry is a byte that says its type, and an RLP list, like a typed transaction (EIP-2718). Every mandate has a hash chain
//! of its own, which begins with its id; entries that belong to no mandate form one that begins with zeros.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, FixedBytes, keccak256};
use alloy_rlp::{BufMut, Decodable, Encodable, Header, RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    Amount, CardId, Deployment, Intent, PaymentId, RequestId, Seconds, Terms,
    api::{Metadata, PaymentState},
    mandate::MandateState,
    policy::{self, Decision, GasUsage, Limits, PolicyContext, PolicyInput, Proposal, WindowInput, WindowStanding},
};

/// The version of the policy's rules. Decisions of another one can't be replayed by these.
pub const RULES: u8 = 1;

const IMPORTED: u8 = 0;
const NOTE: u8 = 1;
const DECISION: u8 = 2;
const STEP: u8 = 3;

/// Why bytes are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrailError {
    /// They begin with a type that this program does not know.
    #[error("an entry of the unknown type {0:?}")]
    UnknownType(Option<u8>),
    /// What follows is not the list of that type.
    #[error("not an entry: {0}")]
    Rlp(#[from] alloy_rlp::Error),
    /// A name, an amount or a document in it is not one.
    #[error("an entry has {0}")]
    Value(String),
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An entry from before entries were bytes: its JSON is all of it, with its place and its hash in the one chain that there
    /// was.
    Imported(Note),
    /// Whatever has no type of its own: its JSON is a [`Body`].
    Note(Note),
    /// A payment was decided.
    Decision(Decided),
    /// Payments of the mandate took a step, all the same one.
    Step(Step),
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Note {
    /// When.
    pub at: Seconds,
    /// Canonical JSON (RFC 8785).
    pub json: String,
}

/// What a note says beside when, and of which mandate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The card it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<CardId>,
    /// The transaction it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<B256>,
    /// What else is to be known.
    pub data: serde_json::Value,
}

impl Note {
    /// What is written down at a time.
    ///
    /// # Errors
    /// [`TrailError::Value`] if it has a number that JSON can't hold.
    pub fn new(at: Seconds, body: &impl Serialize) -> Result<Self, TrailError> {
        Ok(Self { at, json: serde_jcs::to_string(body).map_err(unfit)? })
    }

    /// What it says.
    ///
    /// # Errors
    /// [`TrailError::Value`] if that is something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, TrailError> {
        serde_json::from_str(&self.json).map_err(unfit)
    }
}

/// A payment, the decision about it and what that was based on.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Decided {
    /// When; the policy's time.
    pub at: Seconds,
    /// Its id, if it was accepted.
    pub payment: Maybe<FixedBytes<16>>,
    /// Its nonce.
    pub nonce: u32,
    /// Who is paid.
    pub payee: Address,
    /// How much, in base units.
    pub amount: u64,
    /// Until when it may be paid.
    pub deadline: Seconds,
    /// Commits to what is paid for.
    pub reference: B256,
    /// The agent's signature, 65 bytes.
    pub signature: Bytes,
    /// The caller's metadata.
    pub metadata: Pairs,
    /// What the policy went by.
    pub inputs: Inputs,
}

/// What the policy goes by, beside the payment, the mandate's documents and the deployment.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Inputs {
    /// The version of the rules: [`RULES`].
    pub rules: u8,
    /// The mandate's state, by name.
    pub state: String,
    /// Whether its intent document was known.
    pub intent: bool,
    /// What could be reserved, in base units.
    pub available: u64,
    /// One more than the highest nonce that was admitted; 0: none was.
    pub next_nonce: u64,
    /// The host's limits.
    pub deadline_min: Seconds,
    /// The host's limits.
    pub deadline_max: Seconds,
    /// The host's limits, in base units.
    pub payment_min: u64,
    /// What its rolling window says, if it has one.
    pub window: Maybe<Window>,
    /// What its gas has cost, if the host has a budget for that.
    pub gas: Maybe<Gas>,
}

/// What a rolling window says of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Window {
    /// What counts in it, in base units.
    pub recent: u64,
    /// Whether the contract has room for the payment, and for what waits, in time.
    pub fits: bool,
}

/// What a mandate's gas has cost today, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Gas {
    /// What it has cost.
    pub spent: u128,
    /// What it may cost a day.
    pub budget: u128,
    /// When the day ends.
    pub renews_at: Seconds,
}

/// A step that payments of one mandate took together.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Step {
    /// When.
    pub at: Seconds,
    /// The state that it led to, by name.
    pub state: String,
    /// Whether a block was taken back.
    pub unmined: bool,
    /// The transaction.
    pub tx: Maybe<B256>,
    /// The block that says so.
    pub block: Maybe<Place>,
    /// Why, by the name of a code.
    pub reason: Maybe<String>,
    /// The payments' nonces. Each is an event of its own, in this order.
    pub nonces: Vec<u32>,
}

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Place {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

/// What may be absent: a list of one, or of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maybe<T>(pub Option<T>);

impl<T: Encodable> Encodable for Maybe<T> {
    fn encode(&self, out: &mut dyn BufMut) {
        let payload_length = self.0.as_ref().map_or(0, Encodable::length);
        Header { list: true, payload_length }.encode(out);
        if let Some(value) = &self.0 {
            value.encode(out);
        }
    }

    fn length(&self) -> usize {
        let payload_length = self.0.as_ref().map_or(0, Encodable::length);
        Header { list: true, payload_length }.length().saturating_add(payload_length)
    }
}

impl<T: Decodable> Decodable for Maybe<T> {
    fn decode(bytes: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let mut payload = Header::decode_bytes(bytes, true)?;
        if payload.is_empty() {
            return Ok(Self(None));
        }
        let value = T::decode(&mut payload)?;
        if payload.is_empty() { Ok(Self(Some(value))) } else { Err(alloy_rlp::Error::UnexpectedLength) }
    }
}

/// Keys and values, in the order of the keys: a list of both in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(pub Metadata);

impl Pairs {
    fn flat(&self) -> Vec<&str> {
        self.0.iter().flat_map(|(key, value)| [key.as_str(), value]).collect()
    }
}

impl Encodable for Pairs {
    fn encode(&self, out: &mut dyn BufMut) {
        alloy_rlp::encode_list::<_, str>(&self.flat(), out);
    }

    fn length(&self) -> usize {
        alloy_rlp::list_length::<_, str>(&self.flat())
    }
}

impl Decodable for Pairs {
    fn decode(bytes: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let flat = Vec::<String>::decode(bytes)?;
        let (pairs, rest) = flat.as_chunks();
        let pairs: BTreeMap<_, _> = pairs.iter().map(|[key, value]| (key.clone(), value.clone())).collect();
        let found = Self(pairs);
        // Another order, or a key twice, would be other bytes of the same.
        if rest.is_empty() && found.flat() == flat {
            Ok(found)
        } else {
            Err(alloy_rlp::Error::Custom("unordered pairs"))
        }
    }
}

impl Entry {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, list): (u8, &dyn Encodable) = match self {
            Self::Imported(note) => (IMPORTED, note),
            Self::Note(note) => (NOTE, note),
            Self::Decision(decided) => (DECISION, decided),
            Self::Step(step) => (STEP, step),
        };
        let mut bytes = Vec::with_capacity(list.length().saturating_add(1));
        bytes.push(kind);
        list.encode(&mut bytes);
        bytes
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`TrailError`] if they are anything else: no two sequences of bytes are the same entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrailError> {
        let Some((kind, mut list)) = bytes.split_first() else { return Err(TrailError::UnknownType(None)) };
        let entry = match *kind {
            IMPORTED => Self::Imported(Note::decode(&mut list)?),
            NOTE => Self::Note(Note::decode(&mut list)?),
            DECISION => Self::Decision(Decided::decode(&mut list)?),
            STEP => Self::Step(Step::decode(&mut list)?),
            kind => return Err(TrailError::UnknownType(Some(kind))),
        };
        match (list.is_empty(), entry.events()) {
            (true, 1..) => Ok(entry),
            (true, 0) => Err(unfit("no event")),
            (false, _) => Err(alloy_rlp::Error::UnexpectedLength.into()),
        }
    }

    /// How many events it tells of.
    #[must_use]
    pub const fn events(&self) -> usize {
        match self {
            Self::Imported(_) | Self::Note(_) | Self::Decision(_) => 1,
            Self::Step(step) => step.nonces.len(),
        }
    }
}

/// The hash of an entry: over the hash of the mandate's entry before it, and its own bytes. The first one's predecessor is the
/// mandate's id.
#[must_use]
pub fn chained(previous: B256, bytes: &[u8]) -> B256 {
    keccak256([previous.as_slice(), bytes].concat())
}

fn unfit(what: impl std::fmt::Display) -> TrailError {
    TrailError::Value(what.to_string())
}

/// The state of a payment with this name.
///
/// # Errors
/// [`TrailError::Value`] if there is none.
pub fn payment_state(name: &str) -> Result<PaymentState, TrailError> {
    let found = PaymentState::ALL.iter().copied().find(|state| state.name() == name);
    found.ok_or_else(|| unfit(format_args!("the unknown state {name:?}")))
}

impl Decided {
    /// The payment's id, if it was accepted.
    #[must_use]
    pub fn id(&self) -> Option<PaymentId> {
        self.payment.0.map(|id| PaymentId(Uuid::from_bytes(id.0)))
    }

    /// The amount.
    ///
    /// # Errors
    /// [`TrailError::Value`] if it is too large for one.
    pub fn amount(&self) -> Result<Amount, TrailError> {
        Amount::from_units(self.amount).map_err(unfit)
    }

    /// The decision again, from what it was based on: the same verdicts, to the letter. `intent` is the document that
    /// matches the terms.
    ///
    /// # Errors
    /// [`TrailError::Value`] if it was made by other rules, or is based on what can't be.
    pub fn replay(
        &self,
        terms: &Terms,
        intent: Option<&Intent>,
        deployment: Deployment,
    ) -> Result<Decision, TrailError> {
        let Inputs { rules, ref state, intent: known, .. } = self.inputs;
        if rules != RULES {
            return Err(unfit(format_args!("the unknown rules {rules}")));
        }
        let units = |units| Amount::from_units(units).map_err(unfit);
        let state = MandateState::ALL.iter().copied().find(|known| known.name() == state);
        let window = match self.inputs.window.0 {
            Some(Window { recent, fits }) => WindowStanding { recent: units(recent)?, fits },
            None => WindowStanding::default(),
        };
        let highest = self.inputs.next_nonce.checked_sub(1).map(u32::try_from).transpose().map_err(unfit)?;
        let context = PolicyContext {
            terms,
            intent: intent.filter(|_| known),
            state: state.ok_or_else(|| unfit("an unknown state of its mandate"))?,
            available: units(self.inputs.available)?,
            highest_nonce: highest,
            window: WindowInput::Standing(window),
            gas: self.inputs.gas.0.map(|Gas { spent, budget, renews_at }| GasUsage { spent, budget, renews_at }),
        };
        let limits = Limits {
            deadline_min: self.inputs.deadline_min,
            deadline_max: self.inputs.deadline_max,
            payment_min: units(self.inputs.payment_min)?,
        };
        let payment =
            Proposal { payee: self.payee, amount: self.amount()?, nonce: self.nonce, deadline: self.deadline };
        Ok(policy::decide(&PolicyInput { context, payment, card: None, deployment, limits, now: self.at }))
    }
}

impl Inputs {
    /// What a decision about a payment is based on.
    #[must_use]
    pub fn of(input: &PolicyInput<'_>) -> Self {
        let PolicyInput { context, limits, .. } = input;
        Self {
            rules: RULES,
            state: context.state.name().into(),
            intent: context.intent.is_some(),
            available: context.available.units(),
            next_nonce: context.highest_nonce.map_or(0, |nonce| u64::from(nonce).saturating_add(1)),
            deadline_min: limits.deadline_min,
            deadline_max: limits.deadline_max,
            payment_min: limits.payment_min.units(),
            window: Maybe((context.terms.window > 0).then(|| {
                let WindowStanding { recent, fits } = policy::window_standing(input);
                Window { recent: recent.units(), fits }
            })),
            gas: Maybe(context.gas.map(|GasUsage { spent, budget, renews_at }| Gas { spent, budget, renews_at })),
        }
    }
}

#[cfg(test)]
mod tests;
