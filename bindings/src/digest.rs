//! The EIP-712 messages. Golden vectors (bindings/vectors) hold Solidity and Rust to the same
//! bytes.

use std::borrow::Cow;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct};
use stipend_core::{Amount, MandateId, Seconds, Terms, api};

use crate::convert::{OutOfRange, terms_on_chain, time};

alloy_sol_types::sol! {
    /// What an agent signs to pay. The last member is `ref` in Solidity, which is a word of Rust's:
    /// the macro would write it as `r#ref` into the type string, so that stands in `TYPE` instead.
    #[derive(Debug, PartialEq, Eq)]
    struct Spend {
        bytes32 mandate;
        address payee;
        uint64 amount;
        uint32 nonce;
        uint40 deadline;
        bytes32 reference;
    }

    /// What an agent signs to set an amount aside. For `reference` see [`Spend`].
    #[derive(Debug, PartialEq, Eq)]
    struct Hold {
        bytes32 mandate;
        address payee;
        uint64 amount;
        uint32 nonce;
        uint40 deadline;
        uint40 captureBy;
        bytes32 reference;
    }

    /// What a relayer signs about a payment that it accepted. No contract takes it.
    #[derive(Debug, PartialEq, Eq)]
    struct Receipt {
        bytes32 payment;
        string state;
        uint40 deadline;
        uint40 time;
    }

    /// What an operator signs so that anyone can end its mandate.
    #[derive(Debug, PartialEq, Eq)]
    struct Revoke {
        bytes32 mandate;
    }

    /// What an operator signs so that what is left goes to another recipient.
    #[derive(Debug, PartialEq, Eq)]
    struct Sweep {
        bytes32 mandate;
        address recipient;
        uint40 deadline;
    }

    /// What an operator signs so that anyone can replace its mandate by another one.
    #[derive(Debug, PartialEq, Eq)]
    struct Roll {
        bytes32 from;
        bytes32 to;
        uint64 maxPull;
    }

    /// What an operator signs so that the escrow may pull a mandate's cap (EIP-2612).
    #[derive(Debug, PartialEq, Eq)]
    struct Permit {
        address owner;
        address spender;
        uint256 value;
        uint256 nonce;
        uint256 deadline;
    }

    /// What an operator signs to fund a mandate without ETH (EIP-3009).
    #[derive(Debug, PartialEq, Eq)]
    struct ReceiveWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

impl Spend {
    /// The message's EIP-712 type.
    pub const TYPE: &str =
        "Spend(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,bytes32 ref)";

    /// The message for a payment from `mandate`.
    ///
    /// # Errors
    /// [`OutOfRange`] for a deadline beyond 40 bits.
    pub fn new(
        mandate: MandateId,
        payee: Address,
        amount: Amount,
        nonce: u32,
        deadline: Seconds,
        reference: B256,
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            mandate: mandate.0,
            payee,
            amount: amount.units(),
            nonce,
            deadline: time("deadline", deadline)?,
            reference,
        })
    }
}

impl Hold {
    /// The message's EIP-712 type.
    pub const TYPE: &str =
        "Hold(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,uint40 captureBy,bytes32 ref)";

    /// The message that sets aside, until `capture_by`, what `spend` would pay.
    ///
    /// # Errors
    /// [`OutOfRange`] for a time beyond 40 bits.
    pub fn new(spend: Spend, capture_by: Seconds) -> Result<Self, OutOfRange> {
        let Spend { mandate, payee, amount, nonce, deadline, reference } = spend;
        Ok(Self { mandate, payee, amount, nonce, deadline, captureBy: time("capture_by", capture_by)?, reference })
    }
}

/// Where messages are valid: one chain and one escrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The chain.
    pub chain_id: u64,
    /// The escrow.
    pub escrow: Address,
}

fn domain(name: &'static str, version: &'static str, chain_id: u64, contract: Address) -> Eip712Domain {
    Eip712Domain::new(
        Some(Cow::Borrowed(name)),
        Some(Cow::Borrowed(version)),
        Some(U256::from(chain_id)),
        Some(contract),
        None,
    )
}

impl Domain {
    /// The domain as EIP-712 has it.
    #[must_use]
    pub fn eip712(&self) -> Eip712Domain {
        domain("MandateEscrow", "1", self.chain_id, self.escrow)
    }

    /// The id of the mandate with these terms.
    ///
    /// # Errors
    /// [`OutOfRange`] for a time beyond 40 bits.
    pub fn mandate_id(&self, terms: &Terms) -> Result<MandateId, OutOfRange> {
        Ok(MandateId(terms_on_chain(terms)?.eip712_signing_hash(&self.eip712())))
    }

    /// The digest that the agent signs.
    #[must_use]
    pub fn spend_digest(&self, spend: &Spend) -> B256 {
        self.digest(Spend::TYPE, &spend.eip712_encode_data())
    }

    /// The digest that the agent signs for a hold.
    #[must_use]
    pub fn hold_digest(&self, hold: &Hold) -> B256 {
        self.digest(Hold::TYPE, &hold.eip712_encode_data())
    }

    /// The digest that the relayer signs for a receipt: under a name of its own, so that it can be taken for nothing that
    /// the escrow knows.
    ///
    /// # Errors
    /// [`OutOfRange`] for a time beyond 40 bits.
    pub fn receipt_digest(&self, receipt: &api::Receipt) -> Result<B256, OutOfRange> {
        let message = Receipt {
            payment: receipt.payment,
            state: receipt.state.name().to_owned(),
            deadline: time("deadline", receipt.deadline)?,
            time: time("time", receipt.time)?,
        };
        Ok(message.eip712_signing_hash(&domain("StipendRelayer", "1", self.chain_id, self.escrow)))
    }

    /// The digest that the operator signs so that anyone can end `mandate`.
    #[must_use]
    pub fn revoke_digest(&self, mandate: MandateId) -> B256 {
        Revoke { mandate: mandate.0 }.eip712_signing_hash(&self.eip712())
    }

    /// The digest that the operator signs so that what is left of `mandate` goes to `recipient`, before `deadline`.
    ///
    /// # Errors
    /// [`OutOfRange`] for a time beyond 40 bits.
    pub fn sweep_digest(&self, mandate: MandateId, recipient: Address, deadline: Seconds) -> Result<B256, OutOfRange> {
        let message = Sweep { mandate: mandate.0, recipient, deadline: time("deadline", deadline)? };
        Ok(message.eip712_signing_hash(&self.eip712()))
    }

    /// The digest that the operator signs so that `to` replaces `from`, and at most `max_pull` is pulled for it.
    #[must_use]
    pub fn roll_digest(&self, from: MandateId, to: MandateId, max_pull: Amount) -> B256 {
        Roll { from: from.0, to: to.0, maxPull: max_pull.units() }.eip712_signing_hash(&self.eip712())
    }

    fn digest(&self, type_string: &str, data: &[u8]) -> B256 {
        let words = [keccak256(type_string).as_slice(), data].concat();
        let separator = self.eip712().separator();
        keccak256([&[0x19, 0x01], separator.as_slice(), keccak256(words).as_slice()].concat())
    }
}

/// The EIP-712 domain of a token. Circle's differ in their names: "USD Coin" here, "USDC" there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDomain(B256);

impl TokenDomain {
    /// The domain of the token at `token` with this name and version.
    #[must_use]
    pub fn new(name: &str, version: &str, chain_id: u64, token: Address) -> Self {
        let (name, version) = (Cow::Owned(name.to_owned()), Cow::Owned(version.to_owned()));
        Self(Eip712Domain::new(Some(name), Some(version), Some(U256::from(chain_id)), Some(token), None).separator())
    }

    /// The domain of a token as it tells of itself: its name and version, if they give the separator that
    /// it has. `None` if they do not, or it does not tell.
    #[must_use]
    pub fn confirmed(
        name: Option<&str>,
        version: Option<&str>,
        separator: Option<B256>,
        chain_id: u64,
        token: Address,
    ) -> Option<Self> {
        // Tokens without a version are of their first.
        let domain = Self::new(name?, version.unwrap_or("1"), chain_id, token);
        (separator == Some(domain.0)).then_some(domain)
    }

    fn digest(&self, message: &impl SolStruct) -> B256 {
        keccak256([&[0x19, 0x01], self.0.as_slice(), message.eip712_hash_struct().as_slice()].concat())
    }
}

/// The digest of the permit (EIP-2612) for the escrow to pull `cap` from `operator`, under the token's
/// domain. `nonce` is the token's for this operator.
#[must_use]
pub fn permit_digest(
    at: Domain,
    token: TokenDomain,
    operator: Address,
    cap: Amount,
    nonce: U256,
    deadline: Seconds,
) -> B256 {
    let message = Permit {
        owner: operator,
        spender: at.escrow,
        value: U256::from(cap.units()),
        nonce,
        deadline: U256::from(deadline),
    };
    token.digest(&message)
}

/// When an EIP-3009 authorization is valid: both ends are excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not at this time or before.
    pub after: Seconds,
    /// Not at this time or later.
    pub before: Seconds,
}

/// The digest of the EIP-3009 message by which `operator` funds `mandate` with `cap`, under the domain
/// of the token.
#[must_use]
pub fn authorization_digest(
    at: Domain,
    token: TokenDomain,
    operator: Address,
    cap: Amount,
    validity: Validity,
    mandate: MandateId,
) -> B256 {
    let message = ReceiveWithAuthorization {
        from: operator,
        to: at.escrow,
        value: U256::from(cap.units()),
        validAfter: U256::from(validity.after),
        validBefore: U256::from(validity.before),
        nonce: mandate.0,
    };
    token.digest(&message)
}
