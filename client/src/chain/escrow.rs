use alloy::{
    providers::Provider,
    rpc::types::{Filter, TransactionReceipt, TransactionRequest},
    signers::{SignerSync, local::PrivateKeySigner},
};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, aliases::U40};
use alloy_sol_types::{SolCall, SolEvent, SolStruct, SolValue};
use stipend_bindings::{
    Domain, Spend, TokenDomain, Validity,
    abi::{MandateEscrow, MockUSDC},
    authorization_digest, compact, deployment, is_mandate_escrow, permit_digest, row, terms_from_chain, terms_on_chain,
};
use stipend_core::{Amount, Intent, MandateId, Seconds, Terms, api::Authorization, merkle};

use super::{Chain, ChainError, node};

/// How many blocks a query of logs covers: what public nodes allow, and hours on any chain.
const RECENT_BLOCKS: u64 = 5_000;

/// How many bytes encoded terms have: thirteen words.
const TERMS_LENGTH: usize = 13 * 32;

/// Solidity's `enum Status`: None, Open, Ended.
const STATUS_NONE: u8 = 0;
const STATUS_ENDED: u8 = 2;

/// A `MandateEscrow` and its token.
#[derive(Clone, Debug)]
pub struct Escrow {
    chain: Chain,
    domain: Domain,
    token: Address,
    /// What its messages are signed for; absent where that can't be told.
    token_domain: Option<TokenDomain>,
}

/// What the chain says of a mandate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnChain {
    /// Whether the escrow knows it: it was opened, or revoked before anybody opened it.
    pub known: bool,
    /// Whether it was revoked, swept or rolled.
    pub ended: bool,
    /// What can still be spent, or returned.
    pub remaining: Amount,
    /// What is set aside in holds.
    pub held: Amount,
    /// The nonce above the highest one used: free for whoever counts upwards.
    pub next_nonce: u32,
}

/// What a revocation or a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The transaction.
    pub tx_hash: B256,
    /// What went back with it.
    pub returned: Amount,
}

/// What a refund did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refunded {
    /// The transaction.
    pub tx_hash: B256,
    /// What of it is the mandate's budget again; the rest went to the operator.
    pub restored: Amount,
}

/// What a roll did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolled {
    /// The transaction.
    pub tx_hash: B256,
    /// The mandate that replaces the other one.
    pub mandate: MandateId,
    /// What of its cap was left of the other one.
    pub carried: Amount,
    /// What was left of the other one beyond that, and went back.
    pub returned: Amount,
}

impl Escrow {
    /// The escrow at an address, once it is seen that there is code there and at its token.
    pub async fn at(chain: Chain, address: Address) -> Result<Self, ChainError> {
        if !is_mandate_escrow(&chain.code(address).await?) {
            return Err(ChainError::NotAnEscrow(address));
        }
        let token = chain.view(address, &MandateEscrow::tokenCall {}).await?;
        if !chain.has_code(token).await? {
            return Err(ChainError::NoCode(token));
        }
        let token_domain = token_domain(&chain, token).await?;
        Ok(Self { domain: Domain { chain_id: chain.id, escrow: address }, chain, token, token_domain })
    }

    /// The escrow of a token and a salt, if it was deployed.
    ///
    /// # Errors
    /// [`ChainError::NotAnEscrow`], if something else stands at its address.
    pub async fn deployed(chain: &Chain, token: Address, salt: B256) -> Result<Option<Self>, ChainError> {
        let address = deployment::escrow_address(token, salt);
        if !chain.has_code(address).await? {
            return Ok(None);
        }
        let escrow = Self::at(chain.clone(), address).await?;
        // An escrow that a genesis block or a fork has brought here from elsewhere has other words in its code: its
        // token, the domain of its messages, and the domain of its ids, here that of terms which are all zero.
        let terms = MandateEscrow::Terms::abi_decode(&[0; TERMS_LENGTH]);
        let terms = terms.map_err(|error| ChainError::Other(error.to_string()))?;
        let domain = escrow.domain.eip712();
        let id = terms.eip712_signing_hash(&domain);
        if escrow.token != token
            || escrow.view(&MandateEscrow::domainSeparatorCall {}).await? != domain.separator()
            || escrow.view(&MandateEscrow::idOfCall { terms }).await? != id
        {
            return Err(ChainError::NotAnEscrow(address));
        }
        Ok(Some(escrow))
    }

    /// What it would cost now to deploy the escrow of a token, in gas.
    ///
    /// # Errors
    /// What [`Escrow::deploy`] would fail with.
    pub async fn deployment_gas(chain: &Chain, token: Address, salt: B256) -> Result<u64, ChainError> {
        chain.check_deployment(token).await?;
        let input = deployment::deployer_input(token, salt);
        let request = TransactionRequest::default().to(deployment::DEPLOYER).input(input.into());
        chain.provider.estimate_gas(request).await.map_err(node("eth_estimateGas"))
    }

    /// Deploys the escrow of a token, unless it is there already: then there is no receipt.
    ///
    /// # Errors
    /// [`ChainError::NoDeployer`], [`ChainError::NotAnEscrow`], and what the escrow's constructor says of the token.
    pub async fn deploy(
        chain: &Chain,
        from: &PrivateKeySigner,
        token: Address,
        salt: B256,
    ) -> Result<(Self, Option<TransactionReceipt>), ChainError> {
        if let Some(escrow) = Self::deployed(chain, token, salt).await? {
            return Ok((escrow, None));
        }
        chain.check_deployment(token).await?;
        let input = deployment::deployer_input(token, salt);
        let sent = chain.transact(from, TxKind::Call(deployment::DEPLOYER), input).await;
        // Anybody can deploy it: where it is now there, somebody was faster, and it is the same.
        match (Self::deployed(chain, token, salt).await?, sent) {
            (Some(escrow), sent) => Ok((escrow, sent.ok())),
            (None, Err(error)) => Err(error),
            (None, Ok(receipt)) => Err(ChainError::Other(format!(
                "transaction {} went through, and nothing is at {}",
                receipt.transaction_hash,
                deployment::escrow_address(token, salt)
            ))),
        }
    }

    fn token_domain(&self) -> Result<TokenDomain, ChainError> {
        self.token_domain.ok_or(ChainError::UnknownTokenDomain(self.token))
    }

    /// The chain it is on.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Where signatures for it are valid.
    #[must_use]
    pub const fn domain(&self) -> Domain {
        self.domain
    }

    /// Its token.
    #[must_use]
    pub const fn token(&self) -> Address {
        self.token
    }

    /// The state of a mandate.
    pub async fn mandate_of(&self, id: MandateId) -> Result<OnChain, ChainError> {
        let state = self.view(&MandateEscrow::mandateOfCall { mandate: id.0 }).await?;
        Ok(OnChain {
            known: state.status != STATUS_NONE,
            ended: state.status == STATUS_ENDED,
            remaining: amount(U256::from(state.remaining))?,
            held: amount(U256::from(state.held))?,
            next_nonce: state.nonceBase.saturating_add(u32::try_from(state.nonceBits.bit_len()).unwrap_or(u32::MAX)),
        })
    }

    /// The terms of a mandate that was opened in `first_block` or later, as its `Opened` event tells
    /// them. Looks from the latest block back, a range at a time, and says where each range begins.
    pub async fn terms_of(
        &self,
        id: MandateId,
        first_block: u64,
        mut looking: impl FnMut(u64),
    ) -> Result<Option<Terms>, ChainError> {
        let mut last = self.chain.head().await?.number;
        while last >= first_block {
            let first = last.saturating_sub(RECENT_BLOCKS - 1).max(first_block);
            looking(first);
            let filter = self.opened().from_block(first).to_block(last).topic1(id.0);
            if let Some(event) = self.openings(&filter).await?.first() {
                return Ok(Some(terms_from_chain(&event.terms)?));
            }
            let Some(before) = first.checked_sub(1) else { break };
            last = before;
        }
        Ok(None)
    }

    /// The mandate that `operator` opened lately for an intent document, which has a random nonce
    /// and so stands for one request.
    pub async fn opened_for(&self, operator: Address, intent: &Intent) -> Result<Option<MandateId>, ChainError> {
        let head = self.chain.head().await?.number;
        let filter = self.opened().from_block(head.saturating_sub(RECENT_BLOCKS)).topic2(operator.into_word());
        let hash = intent.hash();
        let openings = self.openings(&filter).await?;
        Ok(openings.into_iter().find(|event| event.terms.intent == hash).map(|event| MandateId(event.mandate)))
    }

    fn opened(&self) -> Filter {
        Filter::new().address(self.domain.escrow).event_signature(MandateEscrow::Opened::SIGNATURE_HASH)
    }

    async fn openings(&self, filter: &Filter) -> Result<Vec<MandateEscrow::Opened>, ChainError> {
        let logs = self.chain.provider.get_logs(filter).await.map_err(node("eth_getLogs"))?;
        let events = logs.iter().map(|log| MandateEscrow::Opened::decode_log(&log.inner).map(|log| log.data));
        events.collect::<Result<_, _>>().map_err(|error| ChainError::Other(format!("an odd Opened event: {error}")))
    }

    /// An account's tokens.
    pub async fn balance_of(&self, account: Address) -> Result<Amount, ChainError> {
        amount(self.chain.view(self.token, &MockUSDC::balanceOfCall { account }).await?)
    }

    /// Lets the escrow pull exactly `cap` from the operator, unless it may pull that much already.
    /// Returns the transaction, if there had to be one.
    pub async fn allow(&self, operator: &PrivateKeySigner, cap: Amount) -> Result<Option<B256>, ChainError> {
        let call = MockUSDC::allowanceCall { owner: operator.address(), spender: self.domain.escrow };
        if self.chain.view(self.token, &call).await? >= U256::from(cap.units()) {
            return Ok(None);
        }
        let call = MockUSDC::approveCall { spender: self.domain.escrow, value: U256::from(cap.units()) };
        Ok(Some(self.chain.send(operator, self.token, &call).await?.transaction_hash))
    }

    /// Opens a mandate; its cap is pulled by allowance.
    pub async fn open(&self, operator: &PrivateKeySigner, terms: &Terms) -> Result<B256, ChainError> {
        let call = MandateEscrow::openCall { terms: terms_on_chain(terms)? };
        Ok(self.chain.send(operator, self.domain.escrow, &call).await?.transaction_hash)
    }

    /// Signs what opens a mandate without ETH: an EIP-3009 authorization whose nonce is the
    /// mandate's id, so that it fits these terms and no others.
    pub fn authorize(
        &self,
        operator: &PrivateKeySigner,
        terms: &Terms,
        valid_before: Seconds,
    ) -> Result<Authorization, ChainError> {
        let id = self.domain.mandate_id(terms)?;
        let validity = Validity { after: 0, before: valid_before };
        let digest =
            authorization_digest(self.domain, self.token_domain()?, operator.address(), terms.cap, validity, id);
        Ok(Authorization { valid_after: 0, valid_before, signature: sign(operator, digest)? })
    }

    /// Opens a mandate; its cap is pulled by a permit that is signed here, in one transaction.
    pub async fn open_with_permit(
        &self,
        operator: &PrivateKeySigner,
        terms: &Terms,
        deadline: Seconds,
    ) -> Result<B256, ChainError> {
        let owner = operator.address();
        let nonce = self.chain.view(self.token, &MockUSDC::noncesCall { owner }).await?;
        let digest = permit_digest(self.domain, self.token_domain()?, owner, terms.cap, nonce, deadline);
        let call = MandateEscrow::openWithPermitCall {
            terms: terms_on_chain(terms)?,
            deadline: U256::from(deadline),
            permit: sign(operator, digest)?,
            // The sender is the operator.
            signature: Bytes::new(),
        };
        Ok(self.chain.send(operator, self.domain.escrow, &call).await?.transaction_hash)
    }

    /// Ends a mandate, as its operator or its agent.
    pub async fn revoke(&self, by: &PrivateKeySigner, terms: &Terms) -> Result<Ended, ChainError> {
        self.end(by, &MandateEscrow::revokeCall { terms: terms_on_chain(terms)? }).await
    }

    /// Signs a revocation, which anyone may send.
    pub fn sign_revocation(&self, operator: &PrivateKeySigner, mandate: MandateId) -> Result<Bytes, ChainError> {
        sign(operator, self.domain.revoke_digest(mandate))
    }

    /// Ends a mandate by its operator's signature.
    pub async fn revoke_with_signature(
        &self,
        from: &PrivateKeySigner,
        terms: &Terms,
        signature: Bytes,
    ) -> Result<Ended, ChainError> {
        self.end(from, &MandateEscrow::revokeWithSignatureCall { terms: terms_on_chain(terms)?, signature }).await
    }

    /// Replaces a mandate by another one, as the operator of both. What is left of `from` is carried to `to`; what its cap
    /// needs beyond that, at most `max_pull`, is pulled by allowance, and what it has no room for goes back.
    ///
    /// # Errors
    /// [`ChainError`]; nothing has changed then, unless it is [`ChainError::NotMined`]. If so much was spent first that
    /// more than `max_pull` would be pulled, it is [`ChainError::Reverted`].
    pub async fn roll(
        &self,
        operator: &PrivateKeySigner,
        from: &Terms,
        to: &Terms,
        max_pull: Amount,
    ) -> Result<Rolled, ChainError> {
        let call = MandateEscrow::rollCall {
            from: terms_on_chain(from)?,
            to: terms_on_chain(to)?,
            maxPull: max_pull.units(),
            // The sender is the operator.
            signature: Bytes::new(),
        };
        let receipt = self.chain.send(operator, self.domain.escrow, &call).await?;
        let logs = || receipt.logs().iter().filter(|log| log.address() == self.domain.escrow);
        let rolled = logs().find_map(|log| MandateEscrow::Rolled::decode_log(&log.inner).ok());
        let rolled = rolled.ok_or_else(|| ChainError::Other("the node shows no Rolled event of a roll".into()))?;
        Ok(Rolled {
            tx_hash: receipt.transaction_hash,
            mandate: MandateId(rolled.to),
            carried: amount(U256::from(rolled.carried))?,
            returned: returned(&receipt, self.domain.escrow),
        })
    }

    /// Returns what is left of an ended mandate to the operator.
    pub async fn sweep(&self, from: &PrivateKeySigner, terms: &Terms) -> Result<Ended, ChainError> {
        self.end(from, &MandateEscrow::sweepCall { terms: terms_on_chain(terms)? }).await
    }

    /// The same to another recipient, as the operator.
    pub async fn sweep_to(
        &self,
        operator: &PrivateKeySigner,
        terms: &Terms,
        recipient: Address,
        deadline: Seconds,
    ) -> Result<Ended, ChainError> {
        let call = MandateEscrow::sweepToCall {
            terms: terms_on_chain(terms)?,
            recipient,
            deadline: U40::try_from(deadline).map_err(|error| ChainError::Other(error.to_string()))?,
            // The sender is the operator.
            signature: Bytes::new(),
        };
        self.end(operator, &call).await
    }

    async fn end(&self, from: &PrivateKeySigner, call: &impl SolCall) -> Result<Ended, ChainError> {
        let receipt = self.chain.send(from, self.domain.escrow, call).await?;
        Ok(Ended { tx_hash: receipt.transaction_hash, returned: returned(&receipt, self.domain.escrow) })
    }

    /// Gives money back to a mandate, which the escrow may pull.
    pub async fn refund(
        &self,
        from: &PrivateKeySigner,
        terms: &Terms,
        amount: Amount,
        reference: B256,
    ) -> Result<Refunded, ChainError> {
        let call =
            MandateEscrow::refundCall { terms: terms_on_chain(terms)?, amount: amount.units(), r#ref: reference };
        let receipt = self.chain.send(from, self.domain.escrow, &call).await?;
        let restored = receipt.logs().iter().filter(|log| log.address() == self.domain.escrow).find_map(|log| {
            Amount::from_units(MandateEscrow::Refunded::decode_log(&log.inner).ok()?.data.restored).ok()
        });
        Ok(Refunded { tx_hash: receipt.transaction_hash, restored: restored.unwrap_or_default() })
    }

    /// Sends a payment that the agent signed straight to the contract.
    pub async fn spend(
        &self,
        from: &PrivateKeySigner,
        terms: &Terms,
        spend: &Spend,
        signature: &[u8],
        payees: Option<&[Address]>,
    ) -> Result<B256, ChainError> {
        let words = compact(signature).map_err(|error| ChainError::Other(error.to_string()))?;
        let call = MandateEscrow::spend_0Call {
            terms: terms_on_chain(terms)?,
            payment: row(spend, words),
            proof: payees.and_then(|payees| merkle::proof(payees, spend.payee)).unwrap_or_default(),
            signature: Bytes::new(),
        };
        Ok(self.chain.send(from, self.domain.escrow, &call).await?.transaction_hash)
    }

    /// Whether the guardian has allowed a submitter.
    pub async fn is_submitter(&self, guardian: Address, submitter: Address) -> Result<bool, ChainError> {
        self.view(&MandateEscrow::isSubmitterCall { guardian, submitter }).await
    }

    /// Allows or removes a submitter, as the guardian.
    pub async fn set_submitter(
        &self,
        guardian: &PrivateKeySigner,
        submitter: Address,
        allowed: bool,
    ) -> Result<B256, ChainError> {
        let call = MandateEscrow::setSubmitterCall { submitter, allowed };
        Ok(self.chain.send(guardian, self.domain.escrow, &call).await?.transaction_hash)
    }

    async fn view<C: SolCall>(&self, call: &C) -> Result<C::Return, ChainError> {
        self.chain.view(self.domain.escrow, call).await
    }
}

/// What a transaction of one verb returned from a mandate.
fn returned(receipt: &TransactionReceipt, escrow: Address) -> Amount {
    let returned = receipt.logs().iter().filter(|log| log.address() == escrow).find_map(|log| {
        let event = MandateEscrow::Returned::decode_log(&log.inner).ok()?.data;
        Amount::from_units(event.fromRemaining.checked_add(event.fromHeld)?).ok()
    });
    returned.unwrap_or_default()
}

/// The domain of a token by its name and version, if that is the one it says it has. A token that tells
/// nothing of the kind has none.
async fn token_domain(chain: &Chain, token: Address) -> Result<Option<TokenDomain>, ChainError> {
    let separator = told(chain.view(token, &MockUSDC::DOMAIN_SEPARATORCall {}).await)?;
    let name = told(chain.view(token, &MockUSDC::nameCall {}).await)?;
    let version = told(chain.view(token, &MockUSDC::versionCall {}).await)?;
    Ok(TokenDomain::confirmed(name.as_deref(), version.as_deref(), separator, chain.id, token))
}

fn told<T>(answer: Result<T, ChainError>) -> Result<Option<T>, ChainError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ChainError::Reverted(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn sign(key: &PrivateKeySigner, digest: B256) -> Result<Bytes, ChainError> {
    let signature = key.sign_hash_sync(&digest).map_err(|error| ChainError::Other(error.to_string()))?;
    Ok(signature.as_bytes().into())
}

fn amount(units: U256) -> Result<Amount, ChainError> {
    let known = u64::try_from(units).ok().and_then(|units| Amount::from_units(units).ok());
    known.ok_or_else(|| ChainError::Other(format!("the chain tells of {units} units, more than can be stored")))
}
