//! Mandates, and payments from them that are signed beforehand.

use std::{collections::VecDeque, net::SocketAddr, thread};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_primitives::{Address, B256, Bytes, keccak256};
use eyre::{OptionExt, Result, eyre};
use serde::de::DeserializeOwned;
use stipend_bindings::{Domain, Spend, abi::MandateEscrow, compact, row, terms_on_chain};
use stipend_client::now;
use stipend_core::{
    Amount, MandateId, Seconds, Terms,
    api::{NewPayment, NewPayments},
};

use crate::{http::post, limits::CORES};

/// What each payment is over, in units: counting money is counting payments.
pub(crate) const AMOUNT: u64 = 1_000;

/// Over how many payees.
pub(crate) const PAYEES: u64 = 1_000;

/// How many payments a call of many sends.
pub(crate) const BATCH: usize = 50;

/// What a mandate is opened for, in units.
pub(crate) const CAP: u64 = 1_000_000_000_000;

/// How long a signature lives.
const LIFETIME: Seconds = 6 * 3_600;
const DAY: Seconds = 86_400;

/// The key of somebody, always the same for the same name.
pub(crate) fn key(name: &str) -> Result<PrivateKeySigner> {
    Ok(PrivateKeySigner::from_bytes(&keccak256(format!("stipend bench: {name}")))?)
}

pub(crate) fn payee(number: u64) -> Address {
    Address::from_word(keccak256(format!("stipend bench: payee {}", number % PAYEES)))
}

/// A mandate, and the key of its agent.
#[derive(Clone, Debug)]
pub(crate) struct Mandate {
    pub(crate) id: MandateId,
    pub(crate) terms: Terms,
    pub(crate) agent: PrivateKeySigner,
    number: u64,
    next_nonce: u32,
}

impl Mandate {
    /// With these terms, opened or not; `agent` is the agent's key. Each number pays other payees first.
    pub(crate) fn new(domain: Domain, number: u64, agent: PrivateKeySigner, terms: Terms) -> Result<Self> {
        Ok(Self { id: domain.mandate_id(&terms)?, terms, agent, number, next_nonce: 0 })
    }

    /// Of which no relayer knows, and for which anybody may submit.
    pub(crate) fn unguarded(domain: Domain, number: u64, operator: Address, start: Seconds) -> Result<Self> {
        let agent = key(&format!("unguarded agent {number}"))?;
        let terms = Terms {
            operator,
            agent: agent.address(),
            guardian: Address::ZERO,
            cap: Amount::from_units(CAP)?,
            per_payment: Amount::ZERO,
            window_cap: Amount::ZERO,
            window: 0,
            start,
            expiry: start + 30 * DAY,
            capture_end: start + 70 * DAY,
            payees: B256::ZERO,
            intent: B256::ZERO,
            refunds_restore_budget: true,
        };
        Self::new(domain, number, agent, terms)
    }

    /// Its next payment, unsigned. A thousand in a row go to as many payees, so that none can be paid together.
    fn next(&mut self) -> Result<Spend> {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        let payee = payee(u64::from(nonce) + 10 * self.number);
        Ok(Spend::new(self.id, payee, Amount::from_units(AMOUNT)?, nonce, now() + LIFETIME, B256::ZERO)?)
    }

    /// Its next payments as the contract takes them.
    pub(crate) fn group(&mut self, domain: Domain, rows: usize) -> Result<MandateEscrow::Group> {
        let spends: Vec<Spend> = (0..rows).map(|_| self.next()).collect::<Result<_>>()?;
        let sign = |spend: Spend| Ok(row(&spend, compact(&sign(domain, &self.agent, &spend)?)?));
        let payments = spends.into_iter().map(sign).collect::<Result<_>>()?;
        Ok(MandateEscrow::Group { terms: terms_on_chain(&self.terms)?, payments })
    }
}

fn sign(domain: Domain, agent: &PrivateKeySigner, spend: &Spend) -> Result<[u8; 65]> {
    Ok(agent.sign_hash_sync(&domain.spend_digest(spend))?.as_bytes())
}

/// Signed payments, as requests that are ready to be written, from mandates in turn.
#[derive(Debug)]
pub(crate) struct Payments {
    domain: Domain,
    relayer: SocketAddr,
    mandates: Vec<Mandate>,
    turn: usize,
    pub(crate) ready: VecDeque<Vec<u8>>,
}

impl Payments {
    pub(crate) fn new(domain: Domain, relayer: SocketAddr, mandates: Vec<Mandate>) -> Self {
        Self { domain, relayer, mandates, turn: 0, ready: VecDeque::new() }
    }

    /// Leaves out this many nonces of each mandate, and what is ready.
    pub(crate) fn skip(&mut self, nonces: u32) {
        self.ready.clear();
        self.mandates.iter_mut().for_each(|mandate| mandate.next_nonce += nonces);
    }

    /// The next `count` payments without their requests.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<NewPayment>> {
        self.prepare(count)?;
        self.ready.drain(..count).map(|request| body(&request)).collect()
    }

    /// The next payments as calls of [`BATCH`] each, as many as there are ready.
    pub(crate) fn batches(&mut self) -> Result<VecDeque<Vec<u8>>> {
        let payments = self.take(self.ready.len() - self.ready.len() % BATCH)?;
        let calls = payments.chunks(BATCH).map(|part| {
            let body = serde_json::to_vec(&NewPayments { payments: part.to_vec() })?;
            Ok(post(self.relayer, "/v1/payments/batch", &[], &body))
        });
        calls.collect()
    }

    /// Takes back what was not sent of [`batches`](Self::batches): no nonces are left out.
    pub(crate) fn take_back(&mut self, batches: &VecDeque<Vec<u8>>) -> Result<()> {
        for call in batches.iter().rev() {
            let NewPayments { payments } = body(call)?;
            for payment in payments.iter().rev() {
                self.ready.push_front(single(self.relayer, payment)?);
            }
        }
        Ok(())
    }

    /// Signs until `count` are ready, on all cores.
    pub(crate) fn prepare(&mut self, count: usize) -> Result<()> {
        let missing = count.saturating_sub(self.ready.len());
        let mut unsigned = Vec::with_capacity(missing);
        for _ in 0..missing {
            self.turn = (self.turn + 1) % self.mandates.len();
            let Some(mandate) = self.mandates.get_mut(self.turn) else { break };
            unsigned.push((mandate.next()?, mandate.agent.clone()));
        }
        let (domain, relayer) = (self.domain, self.relayer);
        let signing = |part: &[(Spend, PrivateKeySigner)]| -> Result<Vec<Vec<u8>>> {
            part.iter().map(|(spend, agent)| request(domain, relayer, agent, spend)).collect()
        };
        let parts = thread::scope(|scope| {
            let parts = unsigned.chunks(missing.div_ceil(CORES).max(1));
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || signing(part))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| eyre!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        self.ready.extend(parts.into_iter().flatten());
        Ok(())
    }
}

/// What a request holds.
fn body<T: DeserializeOwned>(request: &[u8]) -> Result<T> {
    let head = request.windows(4).position(|window| window == b"\r\n\r\n").ok_or_eyre("no request")?;
    Ok(serde_json::from_slice(request.get(head + 4..).unwrap_or_default())?)
}

fn request(domain: Domain, relayer: SocketAddr, agent: &PrivateKeySigner, spend: &Spend) -> Result<Vec<u8>> {
    let payment = NewPayment {
        mandate: MandateId(spend.mandate),
        payee: spend.payee,
        amount: Amount::from_units(spend.amount)?,
        nonce: spend.nonce,
        deadline: spend.deadline.to(),
        reference: spend.reference,
        signature: Bytes::copy_from_slice(&sign(domain, agent, spend)?),
        metadata: Default::default(),
    };
    single(relayer, &payment)
}

fn single(relayer: SocketAddr, payment: &NewPayment) -> Result<Vec<u8>> {
    Ok(post(relayer, "/v1/payments", &[], &serde_json::to_vec(payment)?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use stipend_bindings::recover;

    use super::*;

    fn mandates(count: u64) -> (Domain, Vec<Mandate>) {
        let domain = Domain { chain_id: 31_337, escrow: Address::repeat_byte(1) };
        let mandates = (0..count).map(|number| Mandate::unguarded(domain, number, payee(0), 0).unwrap());
        (domain, mandates.collect())
    }

    #[test]
    fn payments_come_from_mandates_in_turn_by_dense_nonces() {
        let (domain, mandates) = mandates(3);
        let mut payments = Payments::new(domain, ([127, 0, 0, 1], 80).into(), mandates);
        payments.prepare(5).unwrap();
        payments.prepare(9).unwrap();
        assert_eq!(payments.ready.len(), 9);
        let mut seen = HashSet::new();
        for request in &payments.ready {
            let payment = body(request).unwrap();
            let NewPayment { mandate, payee, amount, nonce, deadline, reference, ref signature, .. } = payment;
            let spend = Spend::new(mandate, payee, amount, nonce, deadline, reference).unwrap();
            let signer = recover(domain.spend_digest(&spend), signature).unwrap();
            assert!(payments.mandates.iter().any(|known| known.id == mandate && known.agent.address() == signer));
            assert!(nonce < 3 && seen.insert((mandate, nonce)));
        }
    }

    #[test]
    fn what_was_not_sent_of_batches_comes_next() {
        let (domain, mandates) = mandates(3);
        let mut payments = Payments::new(domain, ([127, 0, 0, 1], 80).into(), mandates);
        payments.prepare(3 * BATCH + 7).unwrap();
        let before = payments.ready.clone();
        let mut batches = payments.batches().unwrap();
        assert_eq!((batches.len(), payments.ready.len()), (3, 7));
        batches.pop_front();
        payments.take_back(&batches).unwrap();
        assert!(payments.ready.iter().eq(before.iter().skip(BATCH)));
    }

    #[test]
    fn payments_in_a_row_are_to_different_payees() {
        let (domain, mut mandates) = mandates(1);
        let group = mandates[0].group(domain, 100).unwrap();
        let payees: HashSet<Address> = group.payments.iter().map(|payment| payment.payee).collect();
        assert_eq!(payees.len(), 100);
    }
}
