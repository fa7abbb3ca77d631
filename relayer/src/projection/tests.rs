//! The projector against made-up chains.

mod awaiting_hold;
mod charged;
mod openings;
mod proof;
mod pruned;
mod rolled;
mod unswept;
mod windows;

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_sol_types::SolEvent;
use proptest::{collection::vec, prelude::*};
use stipend_bindings::{abi::MandateEscrow, terms_on_chain};
use stipend_core::{Amount, Code, PaymentId, api::NewPayment, card::CardState, policy::Decision};

use super::*;
use crate::ledger::{
    balances::Balances,
    books::{Books, OpenMandate},
    charges, check, feed,
    payments::DecidedPayment,
    transactions::{Attempt, Kind, New},
};

const GUARDIAN: Address = Address::repeat_byte(0xcc);
const SUBMITTER: Address = Address::repeat_byte(0xdd);
const PAYEE: Address = Address::repeat_byte(0x0a);
const MANDATE: MandateId = MandateId(B256::repeat_byte(0x11));
const PROJECTOR: Projector = Projector {
    deployment: Deployment {
        chain_id: 1,
        escrow: Address::repeat_byte(0xee),
        token: Address::repeat_byte(0xef),
        guardian: GUARDIAN,
    },
};
/// Block n has this time, unless a test lets it pass; deadlines lie beyond all blocks unless a test says otherwise.
const DEADLINE: Seconds = 10_000;

fn usdc(units: u64) -> Amount {
    Amount::from_units(units).unwrap()
}

/// A ledger with one open mandate over 1,000 units and a chain of made-up blocks.
struct Scene {
    ledger: Connection,
    /// Tells blocks of one height apart.
    salt: u8,
    /// How far the time of the next block is ahead of its height.
    ahead: Seconds,
}

impl Scene {
    fn new(guardian: Address) -> Self {
        Self::with(guardian, |_| ())
    }

    /// The same on other terms.
    fn with(guardian: Address, change: impl FnOnce(&mut Terms)) -> Self {
        let ledger = Connection::open_in_memory().unwrap();
        ledger.execute_batch(include_str!("../ledger/schema.sql")).unwrap();
        let deployment = PROJECTOR.deployment;
        let row = (deployment.chain_id, deployment.escrow.0.0, deployment.token.0.0, deployment.guardian.0.0);
        ledger.execute("INSERT INTO deployment VALUES (?, ?, ?, ?)", row).unwrap();
        let genesis = Block { number: 0, hash: B256::repeat_byte(0xff), parent: B256::ZERO, time: 0 };
        blocks::restart_at(&ledger, genesis).unwrap();
        transactions::start(&ledger, SUBMITTER, 0).unwrap();
        let mut scene = Self { ledger, salt: 0, ahead: 0 };
        let mut terms = Terms {
            operator: Address::repeat_byte(1),
            agent: Address::repeat_byte(2),
            guardian,
            cap: usdc(1_000),
            per_payment: Amount::ZERO,
            window_cap: Amount::ZERO,
            window: 0,
            start: 0,
            expiry: 20_000,
            capture_end: 30_000,
            payees: B256::ZERO,
            intent: B256::repeat_byte(9),
            refunds_restore_budget: false,
        };
        change(&mut terms);
        mandates::ensure(&scene.ledger, MANDATE, &terms, 0).unwrap();
        let opened = MandateEscrow::Opened {
            mandate: MANDATE.0,
            operator: terms.operator,
            agent: terms.agent,
            terms: terms_on_chain(&terms).unwrap(),
        };
        scene.allow(SUBMITTER);
        scene.mine(vec![log(&opened, B256::ZERO)]);
        scene.finalize();
        scene
    }

    fn allow(&mut self, submitter: Address) {
        self.mine(vec![log(&MandateEscrow::SubmitterSet { guardian: GUARDIAN, submitter, allowed: true }, B256::ZERO)]);
    }

    fn mine(&mut self, logs: Vec<Log>) -> Block {
        self.mine_with(logs, Vec::new())
    }

    /// A block with this time; those after it follow by the second.
    fn mine_at(&mut self, time: Seconds, logs: Vec<Log>) -> Block {
        self.ahead = time - (blocks::head(&self.ledger).unwrap().unwrap().number + 1);
        self.mine(logs)
    }

    fn mine_with(&mut self, mut logs: Vec<Log>, hashes: Vec<B256>) -> Block {
        let head = blocks::head(&self.ledger).unwrap().unwrap();
        self.salt = self.salt.wrapping_add(1);
        let number = head.number + 1;
        let mut hash = B256::left_padding_from(&number.to_be_bytes());
        hash.0[0] = self.salt;
        let block = Block { number, hash, parent: head.hash, time: number + self.ahead };
        (0..).zip(&mut logs).for_each(|(index, log)| log.index = index);
        let receipts =
            hashes.into_iter().map(|hash| Receipt { hash, block: block.hash, succeeded: true, cost: 7 }).collect();
        self.apply(&ChainUpdate {
            ancestor: head,
            committed: vec![MinedBlock { block, logs, receipts }],
            finalized: self.finalized(),
        });
        block
    }

    /// The height up to which blocks are final.
    fn finalized(&self) -> u64 {
        blocks::last_final(&self.ledger).unwrap().unwrap().number
    }

    /// Applies an update, each row of it in a slice of its own.
    fn apply(&self, update: &ChainUpdate) -> Applied {
        let mut progress = Progress::default();
        loop {
            match PROJECTOR.apply(&self.ledger, update, progress, &mut Slice::Rows(1), 0).unwrap() {
                Outcome::Paused(so_far) => progress = so_far,
                Outcome::Done(applied) => return applied,
            }
        }
    }

    /// Takes the last block away, if it is not final.
    fn unmine(&mut self) -> Option<Block> {
        let head = blocks::head(&self.ledger).unwrap().unwrap();
        let ancestor = blocks::by_hash(&self.ledger, head.parent).unwrap();
        let ancestor = ancestor.filter(|_| head.number > self.finalized())?;
        self.apply(&ChainUpdate { ancestor, committed: Vec::new(), finalized: self.finalized() });
        Some(head)
    }

    /// Finalizes everything.
    fn finalize(&mut self) {
        let head = blocks::head(&self.ledger).unwrap().unwrap();
        self.apply(&ChainUpdate { ancestor: head, committed: Vec::new(), finalized: head.number });
    }

    fn admit(&self, nonce: u32, amount: u64, deadline: Seconds) {
        self.admit_at(nonce, amount, deadline, 0);
    }

    fn admit_at(&self, nonce: u32, amount: u64, deadline: Seconds, now: Seconds) {
        let body = NewPayment {
            mandate: MANDATE,
            payee: PAYEE,
            amount: usdc(amount),
            nonce,
            deadline,
            reference: B256::ZERO,
            signature: Bytes::from_static(&[1; 65]),
            metadata: Default::default(),
        };
        let mut digest = B256::repeat_byte(0xab);
        digest.0[..4].copy_from_slice(&nonce.to_be_bytes());
        let mandate = mandates::get(&self.ledger, MANDATE).unwrap().unwrap();
        let decided = DecidedPayment { body: &body, digest, inputs: &feed::tests::inputs() };
        let mut books = Books::default();
        let insert = |open: Option<&mut OpenMandate>| {
            payments::accept(&self.ledger, open.unwrap(), PaymentId::generate(), &decided, now)
        };
        books.change(&self.ledger, MANDATE, mandate.agent, insert).unwrap();
        books.close(&self.ledger).unwrap();
    }

    /// Puts payments into a stored transaction and returns the hash of its attempt.
    fn submit(&self, submitter_nonce: u64, nonces: &[u32]) -> B256 {
        let raw = Bytes::from(submitter_nonce.to_be_bytes());
        let hash = keccak256(&raw);
        let attempt = Attempt { hash, raw, max_fee: 1, priority_fee: 1, sent_at: 0, cancels: false };
        let id = transactions::insert(
            &self.ledger,
            &New {
                submitter: SUBMITTER,
                nonce: submitter_nonce,
                kind: Kind::Settle,
                calldata: Bytes::new(),
                gas_limit: 1,
                attempt,
            },
        )
        .unwrap();
        for nonce in nonces {
            let payment = self.payment(*nonce);
            transactions::attach_payment(&self.ledger, id, payment.seq).unwrap();
            payments::step(
                &self.ledger,
                &payment,
                Transition::Submit,
                TransitionContext { tx_hash: Some(hash), ..TransitionContext::default() },
                0,
            )
            .unwrap();
        }
        hash
    }

    fn payment(&self, nonce: u32) -> payments::PaymentRow {
        payments::by_nonce(&self.ledger, MANDATE, nonce).unwrap().unwrap()
    }

    fn state(&self, nonce: u32) -> (PaymentState, Option<Code>) {
        let payment = self.payment(nonce);
        (payment.state, payment.reason)
    }

    fn mandate(&self) -> mandates::MandateRow {
        mandates::get(&self.ledger, MANDATE).unwrap().unwrap()
    }

    fn balances(&self) -> Balances {
        self.mandate().balances
    }

    /// What the ledger proves of itself, after the commit.
    fn examine(&self) -> check::Report {
        audit::seal(&self.ledger).unwrap();
        check::examine(&self.ledger)
    }

    fn money(&self) -> [u64; 4] {
        let balances = self.balances();
        [balances.available, balances.reserved, balances.paid, balances.returned].map(Amount::units)
    }
}

impl Drop for Scene {
    /// Whatever was played, the ledger proves itself.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let report = self.examine();
            assert_eq!(report.differences(), 0, "{report:#?}");
        }
    }
}

fn log(event: &impl SolEvent, tx_hash: B256) -> Log {
    let data = event.encode_log_data();
    Log { index: 0, tx_hash, topics: data.topics().to_vec(), data: data.data }
}

fn spent(nonce: u32, amount: u64, tx_hash: B256) -> Log {
    log(&MandateEscrow::Spent { mandate: MANDATE.0, payee: PAYEE, amount, nonce, r#ref: B256::ZERO }, tx_hash)
}

fn skipped(nonce: u32, reason: Code, tx_hash: B256) -> Log {
    let reason = reason as u8 + 1;
    log(&MandateEscrow::Skipped { mandate: MANDATE.0, nonce, reason }, tx_hash)
}

fn revoked() -> Vec<Log> {
    vec![log(&MandateEscrow::Revoked { mandate: MANDATE.0, by: Address::repeat_byte(1) }, B256::ZERO)]
}

fn returned(from_remaining: u64) -> Log {
    log(
        &MandateEscrow::Returned {
            mandate: MANDATE.0,
            to: Address::repeat_byte(1),
            fromRemaining: from_remaining,
            fromHeld: 0,
        },
        B256::ZERO,
    )
}

#[test]
fn a_reorged_payment_is_submitted_again_and_paid_once() {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    let hash = scene.submit(0, &[0]);
    scene.mine_with(vec![spent(0, 100, hash)], vec![hash]);
    assert_eq!(scene.state(0).0, PaymentState::Mined);
    assert_eq!(scene.money(), [900, 100, 0, 0]);
    scene.unmine();
    assert_eq!(scene.state(0).0, PaymentState::Submitted);
    assert_eq!(transactions::pending(&scene.ledger).unwrap().len(), 1);
    scene.mine(Vec::new());
    scene.mine_with(vec![spent(0, 100, hash)], vec![hash]);
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Settled);
    assert_eq!(scene.money(), [900, 0, 100, 0]);
}

#[test]
fn a_final_refund_restores_budget_unless_paid_to_the_operator() {
    let refund = |amount, restored| {
        let payer = Address::repeat_byte(0x0a);
        log(&MandateEscrow::Refunded { mandate: MANDATE.0, payer, amount, restored, r#ref: B256::ZERO }, B256::ZERO)
    };
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    let hash = scene.submit(0, &[0]);
    scene.mine_with(vec![spent(0, 100, hash)], vec![hash]);
    scene.finalize();
    scene.mine(vec![refund(80, 60)]);
    scene.unmine();
    scene.finalize();
    assert_eq!(scene.money(), [900, 0, 100, 0]);
    scene.mine(vec![refund(80, 60)]);
    assert_eq!(scene.money(), [900, 0, 100, 0]);
    scene.finalize();
    assert_eq!(scene.money(), [960, 0, 100, 0]);
    assert_eq!((scene.mandate().refunded, scene.balances().restored), (usdc(80), usdc(60)));
    let trail = feed::tests::all(&scene.ledger, Address::repeat_byte(1), None);
    assert_eq!(trail.iter().filter(|entry| entry.kind == "mandate.refunded").count(), 1);

    // After the end nothing is restored.
    let mut logs = revoked();
    logs.extend([returned(960), refund(10, 0)]);
    scene.mine(logs);
    scene.finalize();
    assert_eq!(scene.money(), [0, 0, 100, 960]);
    assert_eq!((scene.mandate().refunded, scene.balances().restored), (usdc(90), usdc(60)));
}

#[test]
fn a_revocation_fails_what_waits_only_when_it_is_final() {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    scene.admit(1, 50, DEADLINE);
    let hash = scene.submit(0, &[0]);
    scene.mine_with(vec![spent(0, 100, hash)], vec![hash]);
    let mut logs = revoked();
    logs.push(returned(900));
    scene.mine(logs.clone());
    assert!(scene.mandate().ended.is_some());
    assert_eq!(scene.state(1).0, PaymentState::Reserved);
    scene.unmine();
    assert!(scene.mandate().ended.is_none());
    scene.mine(logs);
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Settled);
    assert_eq!(scene.state(1), (PaymentState::Failed, Some(Code::Ended)));
    assert_eq!(scene.money(), [0, 0, 100, 900]);
}

/// Whoever opens a mandate for a request of ours under a guardian of their own can spend from it as they
/// like: that freezes nothing here, and is no reason not to start.
#[test]
fn an_outflow_under_another_guardian_freezes_nothing() {
    let other = Address::repeat_byte(0x99);
    for (guardian, frozen) in [(GUARDIAN, true), (other, false), (Address::ZERO, false)] {
        let mut scene = Scene::new(guardian);
        let logs = vec![spent(0, 100, B256::ZERO), held(1, 50)];
        scene.mine(logs.clone());
        assert_eq!(scene.mandate().frozen.is_some(), frozen, "{guardian}");
        let unexplained = mandates::unexplained(&scene.ledger, GUARDIAN).unwrap();
        assert_eq!(unexplained.len(), usize::from(frozen), "{guardian}");
        scene.finalize();
        assert_eq!(scene.money(), [850, 0, 100, 0], "{guardian}");

        // What is known here is followed on whatever chain it is opened, also when it is read anew.
        crate::ledger::rebuild::forget_chain(&scene.ledger, 0).unwrap();
        let genesis = Block { number: 0, hash: B256::repeat_byte(0xfe), parent: B256::ZERO, time: 0 };
        blocks::restart_at(&scene.ledger, genesis).unwrap();
        let terms = scene.mandate().terms;
        scene.mine(opened(0x11, &terms));
        scene.mine(logs);
        scene.finalize();
        assert!(scene.mandate().opened.is_some(), "{guardian}");
        assert_eq!((scene.money(), scene.examine().differences()), ([850, 0, 100, 0], 0), "{guardian}");
    }
}

#[test]
fn a_final_skip_returns_money_if_only_we_submit() {
    for (guardian, stranger, expected) in [
        (GUARDIAN, false, (PaymentState::Failed, Some(Code::TransferFailed))),
        (GUARDIAN, true, (PaymentState::Reserved, Some(Code::TransferFailed))),
        (Address::ZERO, false, (PaymentState::Reserved, Some(Code::TransferFailed))),
        // It came before its mandate's opening: it is sent again.
        (GUARDIAN, false, (PaymentState::Reserved, Some(Code::UnknownMandate))),
        // So is what the rolling window had no room for.
        (GUARDIAN, false, (PaymentState::Reserved, Some(Code::WindowExceeded))),
    ] {
        let reason = expected.1.unwrap();
        let mut scene = Scene::new(guardian);
        if stranger {
            scene.allow(Address::repeat_byte(0x77));
        }
        scene.admit(0, 100, DEADLINE);
        scene.admit(1, 10, DEADLINE);
        let hash = scene.submit(0, &[0, 1]);
        scene.mine_with(vec![skipped(0, reason, hash), spent(1, 10, hash)], vec![hash]);
        assert_eq!(scene.state(0).0, PaymentState::Submitted);
        scene.finalize();
        assert_eq!(scene.state(0), expected);
        assert_eq!(scene.state(1).0, PaymentState::Settled);
        let reserved = if expected.0 == PaymentState::Failed { 0 } else { 100 };
        assert_eq!(scene.money(), [990 - reserved, reserved, 10, 0]);
    }
}

#[test]
fn a_skip_in_an_external_transaction_means_nothing() {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    let ours = scene.submit(0, &[0]);
    scene.mine(vec![skipped(0, Code::BadSignature, B256::repeat_byte(0x66))]);
    scene.finalize();
    assert_eq!(scene.state(0), (PaymentState::Submitted, None));
    scene.mine_with(vec![spent(0, 100, ours)], vec![ours]);
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Settled);
}

#[test]
fn a_deadline_fails_a_payment_only_at_a_final_block() {
    let mut scene = Scene::new(GUARDIAN);
    let head = blocks::head(&scene.ledger).unwrap().unwrap();
    scene.admit(0, 100, head.time + 2);
    scene.submit(0, &[0]);
    scene.mine(Vec::new());
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Submitted);
    scene.mine(Vec::new());
    assert_eq!(scene.state(0).0, PaymentState::Submitted);
    scene.finalize();
    assert_eq!(scene.state(0), (PaymentState::Failed, Some(Code::DeadlinePassed)));
    assert_eq!(scene.money(), [1_000, 0, 0, 0]);
}

#[test]
fn a_used_nonce_fails_other_content_and_retires_lower_ones() {
    let mut scene = Scene::new(Address::ZERO);
    scene.admit(5, 100, DEADLINE);
    scene.admit(90, 30, DEADLINE);
    // The agent itself sent other content under nonce 90, and then a far higher nonce.
    scene.mine(vec![spent(90, 31, B256::ZERO)]);
    assert_eq!(scene.state(90).0, PaymentState::Reserved);
    scene.finalize();
    assert_eq!(scene.state(90), (PaymentState::Failed, Some(Code::NonceUsed)));
    assert_eq!(scene.state(5).0, PaymentState::Reserved);
    scene.mine(vec![spent(93, 1, B256::ZERO)]);
    scene.finalize();
    assert_eq!(scene.state(5), (PaymentState::Failed, Some(Code::NonceRetired)));
    assert_eq!(scene.money(), [968, 0, 32, 0]);
    assert_eq!(scene.mandate().frozen, None);
}

#[test]
fn an_unaccepted_outflow_freezes_a_guarded_mandate() {
    let mut scene = Scene::new(GUARDIAN);
    scene.mine(vec![spent(3, 40, B256::ZERO)]);
    assert!(scene.mandate().frozen.is_some());
    scene.finalize();
    assert_eq!(scene.money(), [960, 0, 40, 0]);
}

#[test]
fn an_unmined_opening_is_not_spendable_until_mined_again() {
    let scene = Scene::new(GUARDIAN);
    let mandate = scene.mandate();
    let location = mandate.opened.unwrap();
    use stipend_core::policy::MandateState::{Open, Opening};
    assert_eq!(mandate.state(location.block, 1), Open);
    assert_eq!(mandate.state(location.block, 2), Opening);
    assert_eq!(mandate.state(location.block + 1, 2), Open);
    mandates::set_opened(&scene.ledger, MANDATE, None).unwrap();
    assert_eq!(scene.mandate().state(99, 1), Opening);
}

proptest! {
    /// Whatever the chain does above finality, at its end every payment was paid exactly once
    /// and the balances agree; on the way nothing final changes and nothing is lost.
    #[test]
    fn reorgs_lose_nothing_and_repeat_nothing(steps in vec((0..4_u8, any::<u8>()), 0..80)) {
        let mut scene = Scene::new(GUARDIAN);
        for nonce in 0..8 {
            scene.admit(nonce, 10 + u64::from(nonce), DEADLINE);
        }
        // Two transactions of four payments each; each is mined once, whole, in nonce order.
        let batches = [(scene.submit(0, &[0, 1, 2, 3]), 0..4_u32), (scene.submit(1, &[4, 5, 6, 7]), 4..8)];
        let mut chain: Vec<Option<usize>> = Vec::new();
        let total: u64 = (10..18).sum();
        for (step, salt) in steps {
            let mined = chain.iter().flatten().count();
            match step {
                0 => {
                    scene.unmine();
                    let height = usize::try_from(blocks::head(&scene.ledger).unwrap().unwrap().number).unwrap() - 2;
                    chain.truncate(height);
                }
                1 if salt % 4 == 0 => scene.finalize(),
                2 if mined < batches.len() => {
                    let (hash, nonces) = &batches[mined];
                    scene.mine_with(nonces.clone().map(|nonce| spent(nonce, 10 + u64::from(nonce), *hash)).collect(), vec![*hash]);
                    chain.push(Some(mined));
                }
                _ => {
                    scene.mine(Vec::new());
                    chain.push(None);
                }
            }
            let [available, reserved, paid, returned] = scene.money();
            prop_assert_eq!(available, 1_000 - total);
            prop_assert_eq!((reserved + paid, returned), (total, 0));
            for (batch, (_, nonces)) in batches.iter().enumerate() {
                let mined = chain.contains(&Some(batch));
                for nonce in nonces.clone() {
                    let state = scene.state(nonce).0;
                    prop_assert_eq!(mined, matches!(state, PaymentState::Mined | PaymentState::Settled), "{} {:?}", nonce, state);
                }
            }
        }
        let mined = chain.iter().flatten().count();
        for (hash, nonces) in &batches[mined..] {
            scene.mine_with(nonces.clone().map(|nonce| spent(nonce, 10 + u64::from(nonce), *hash)).collect(), vec![*hash]);
        }
        scene.finalize();
        prop_assert_eq!(scene.money(), [1_000 - total, 0, total, 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Wherever between two slices the process dies, the ledger proves itself, and what is left half done is finished by
    /// whatever comes next.
    #[test]
    fn a_crash_between_slices_loses_nothing(
        rows in vec(1..4_u32, 1..60), crashes in vec(any::<bool>(), 60), revert: bool, end in 0..3_u8,
    ) {
        let scene = Scene::new(GUARDIAN);
        for nonce in 0..10 {
            scene.admit(nonce, 10, if nonce < 8 { DEADLINE } else { 4 });
        }
        let hash = scene.submit(0, &[0, 1, 2, 3, 4, 5]);
        let genesis = blocks::head(&scene.ledger).unwrap().unwrap();
        let block = |number: u64, salt: u8, parent: Block, logs: Vec<Log>| {
            let logs = (0..).zip(logs).map(|(index, log)| Log { index, ..log }).collect();
            let block = Block { number, hash: B256::repeat_byte(salt), parent: parent.hash, time: number };
            let receipt = |hash| Receipt { hash, block: block.hash, succeeded: true, cost: 7 };
            let receipts = if salt == 0x51 { Vec::new() } else { vec![receipt(hash)] };
            MinedBlock { block, logs, receipts }
        };
        let mut paid: Vec<Log> = (0..4).map(|nonce| spent(nonce, 10, hash)).collect();
        paid.push(skipped(4, Code::TransferFailed, hash));
        let first = block(genesis.number + 1, 0x50, genesis, paid.clone());
        // The block is reverted, and comes back as another one.
        let second = if revert { block(genesis.number + 1, 0x52, genesis, paid) } else { first.clone() };
        let ended = match end {
            0 => Vec::new(),
            1 => revoked(),
            _ => [revoked(), vec![returned(960)]].concat(),
        };
        let mut third = block(genesis.number + 2, 0x51, second.block, ended);
        third.block.time = 5;
        let updates = [
            ChainUpdate { ancestor: genesis, committed: vec![first], finalized: genesis.number },
            ChainUpdate { ancestor: genesis, committed: vec![second], finalized: genesis.number },
            ChainUpdate { ancestor: third.block, committed: Vec::new(), finalized: third.block.number },
        ];
        // One that crashes for ever before a block is stored gets nowhere.
        let (mut rows, mut crashes) = (rows.into_iter().cycle(), crashes.into_iter().chain(std::iter::repeat(false)));
        for (index, mut update) in updates.into_iter().enumerate() {
            if index == 1 && !revert {
                continue;
            }
            if index == 2 {
                let before = blocks::head(&scene.ledger).unwrap().unwrap();
                scene.apply(&ChainUpdate { ancestor: before, committed: vec![third.clone()], finalized: genesis.number });
                update.ancestor = blocks::head(&scene.ledger).unwrap().unwrap();
            }
            let mut progress = Progress::default();
            loop {
                let slice = &mut Slice::Rows(rows.next().unwrap());
                match PROJECTOR.apply(&scene.ledger, &update, progress, slice, 0).unwrap() {
                    Outcome::Done(_) => break,
                    Outcome::Paused(so_far) => progress = so_far,
                }
                let report = scene.examine();
                prop_assert_eq!(report.differences(), 0, "{:#?}", report);
                if crashes.next().unwrap() {
                    // The follower begins anew: it finishes what is half done, and asks what is missing.
                    while !PROJECTOR.resume(&scene.ledger, &mut Slice::Rows(1), 0).unwrap() {}
                    progress = Progress::default();
                    if let Some(known) = update.committed.pop_if(|mined| {
                        blocks::by_hash(&scene.ledger, mined.block.hash).unwrap().is_some()
                    }) {
                        update.ancestor = known.block;
                    }
                }
            }
        }
        let failed = |code| (PaymentState::Failed, Some(code));
        let waiting = if end == 0 { (PaymentState::Reserved, None) } else { failed(Code::Ended) };
        let late = failed(if end == 0 { Code::DeadlinePassed } else { Code::Ended });
        let paid = (PaymentState::Settled, None);
        let states: Vec<_> = (0..10).map(|nonce| scene.state(nonce)).collect();
        let refused = failed(Code::TransferFailed);
        prop_assert_eq!(states, [paid, paid, paid, paid, refused, waiting, waiting, waiting, late, late]);
        let kinds = |kind: &str| {
            let trail = feed::tests::all(&scene.ledger, Address::repeat_byte(1), None);
            trail.into_iter().filter(|entry| entry.kind == kind).count()
        };
        prop_assert_eq!((kinds("payment.settled"), kinds("payment.failed")), (4, if end == 0 { 3 } else { 6 }));
        let [available, reserved, paid, returned] = scene.money();
        let left = if end == 0 { 30 } else { 0 };
        let back = if end == 2 { 960 } else { 0 };
        prop_assert_eq!([available, reserved, paid, returned], [960 - left - back, left, 40, back]);
    }
}

/// A node says what can't be: the block is taken back, and another one follows.
#[test]
fn a_block_that_cannot_be_projected_is_taken_back() {
    let scene = Scene::new(GUARDIAN);
    scene.admit(0, 10, DEADLINE);
    let head = blocks::head(&scene.ledger).unwrap().unwrap();
    let block = Block { number: head.number + 1, hash: B256::repeat_byte(0x50), parent: head.hash, time: 5 };
    let logs = vec![spent(0, 10, B256::ZERO), Log { index: 1, ..spent(1, 10, B256::ZERO) }];
    let update = ChainUpdate {
        ancestor: head,
        committed: vec![MinedBlock { block, logs, receipts: Vec::new() }],
        finalized: scene.finalized(),
    };
    let mut progress = Progress::default();
    while blocks::unfinished(&scene.ledger).unwrap().is_none() {
        match PROJECTOR.apply(&scene.ledger, &update, progress, &mut Slice::Rows(1), 0).unwrap() {
            Outcome::Paused(so_far) => progress = so_far,
            Outcome::Done(_) => panic!("it takes more than one slice"),
        }
    }
    assert!(blocks::take_back(&scene.ledger).unwrap());
    while !PROJECTOR.resume(&scene.ledger, &mut Slice::Rows(1), 0).unwrap() {}
    assert_eq!(blocks::head(&scene.ledger).unwrap(), Some(head));
    assert_eq!(scene.state(0).0, PaymentState::Reserved);
    assert!(!blocks::take_back(&scene.ledger).unwrap());
}

/// What an agent asked for; its id is known.
fn ask(scene: &Scene, amount: u64) -> stipend_core::api::MandateRequest {
    let id = stipend_core::RequestId::generate();
    let body = stipend_core::api::NewMandateRequest::new(usdc(amount), "p", "1h".parse().unwrap());
    let intent =
        stipend_core::Intent { version: 1, purpose: "p".into(), policy: Default::default(), nonce: B256::random() };
    requests::insert(&scene.ledger, id, Address::repeat_byte(2), &body, &intent, 0).unwrap();
    requests::get(&scene.ledger, id).unwrap().unwrap()
}

fn opened(id: u8, terms: &Terms) -> Vec<Log> {
    let event = MandateEscrow::Opened {
        mandate: B256::repeat_byte(id),
        operator: terms.operator,
        agent: terms.agent,
        terms: terms_on_chain(terms).unwrap(),
    };
    vec![log(&event, B256::ZERO)]
}

#[test]
fn a_request_is_answered_once_and_only_by_what_was_asked_for() {
    let mut scene = Scene::new(GUARDIAN);
    let request = ask(&scene, 500);
    let answer = |scene: &Scene| requests::get(&scene.ledger, request.id).unwrap().unwrap().mandate;
    let honest = request.terms(Address::repeat_byte(1), GUARDIAN, 5);

    // A stranger who knows the request opens a mandate over one unit under it.
    let stranger = Terms { operator: Address::repeat_byte(8), cap: usdc(1), ..honest.clone() };
    scene.mine(opened(0x21, &stranger));
    assert_eq!(answer(&scene), None);

    scene.mine(opened(0x22, &honest));
    assert_eq!(answer(&scene), Some(MandateId(B256::repeat_byte(0x22))));
    // Its document is public now: another mandate under it changes nothing.
    scene.mine(opened(0x23, &Terms { operator: Address::repeat_byte(8), ..honest.clone() }));
    assert_eq!(answer(&scene), Some(MandateId(B256::repeat_byte(0x22))));

    scene.unmine();
    assert_eq!(answer(&scene), Some(MandateId(B256::repeat_byte(0x22))));
    scene.unmine();
    assert_eq!(answer(&scene), None);
}

#[test]
fn an_unknown_guardian_history_may_hold_other_submitters() {
    let mut scene = Scene::new(GUARDIAN);
    blocks::add_submitter(&scene.ledger, Address::ZERO).unwrap();
    scene.admit(0, 100, DEADLINE);
    let hash = scene.submit(0, &[0]);
    scene.mine_with(vec![skipped(0, Code::TransferFailed, hash)], vec![hash]);
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Reserved);
}

/// The nonce is used, the call was not made: nothing of it is dead.
#[test]
fn what_a_canceled_transaction_held_waits_again() {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, DEADLINE);
    scene.submit(0, &[0]);
    let [tx] = &transactions::pending(&scene.ledger).unwrap()[..] else { panic!("one transaction waits") };
    assert!(!transactions::is_obsolete(&scene.ledger, tx).unwrap());
    let raw = Bytes::from_static(&[0xca]);
    let hash = keccak256(&raw);
    let cancel = Attempt { hash, raw, max_fee: 2, priority_fee: 2, sent_at: 3, cancels: true };
    transactions::add_attempt(&scene.ledger, tx.id, &cancel).unwrap();
    scene.mine_with(Vec::new(), vec![hash]);
    assert_eq!(transactions::by_id(&scene.ledger, tx.id).unwrap().unwrap().succeeded, Some(false));
    assert_eq!(scene.state(0).0, PaymentState::Submitted);
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Reserved);
}

#[test]
fn a_batch_is_pointless_when_final_blocks_have_ended_all_of_it() {
    let mut scene = Scene::new(GUARDIAN);
    scene.admit(0, 100, 3);
    scene.admit(1, 100, 3);
    scene.admit(2, 100, DEADLINE);
    scene.submit(0, &[0]);
    scene.submit(1, &[1, 2]);
    let obsolete = |scene: &Scene| {
        let pending = transactions::pending(&scene.ledger).unwrap();
        pending.iter().map(|tx| transactions::is_obsolete(&scene.ledger, tx).unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..4 {
        scene.mine(Vec::new());
    }
    assert_eq!(obsolete(&scene), [false, false], "too late, but not for good");
    scene.finalize();
    assert_eq!(scene.state(0).0, PaymentState::Failed);
    assert_eq!(obsolete(&scene), [true, false]);
}

// Cards.

const CAPTURE_BY: Seconds = 25_000;

fn admit_card(scene: &Scene, nonce: u32, amount: u64, deadline: Seconds) -> stipend_core::CardId {
    let body = stipend_core::api::NewCard {
        mandate: MANDATE,
        amount: usdc(amount),
        nonce,
        deadline,
        capture_by: CAPTURE_BY,
        reference: B256::ZERO,
        signature: Bytes::from_static(&[1; 65]),
        metadata: Default::default(),
    };
    let id = stipend_core::CardId::generate();
    let digest = B256::left_padding_from(&nonce.to_be_bytes());
    let decision = Decision { allow: true, rules: Vec::new() };
    let admission = cards::NewCardRow { id, body, digest, payee: PAYEE, expires_at: 20_000 };
    cards::insert(&scene.ledger, &scene.mandate(), &admission, &decision, 0).unwrap();
    id
}

fn card(scene: &Scene, id: stipend_core::CardId) -> cards::CardRow {
    cards::by_id(&scene.ledger, id).unwrap().unwrap()
}

/// Takes a card through these states.
fn walk(scene: &Scene, id: stipend_core::CardId, states: &[CardState]) {
    for state in states {
        cards::step(&scene.ledger, &card(scene, id), *state, None, None, 0).unwrap();
    }
}

fn held(nonce: u32, amount: u64) -> Log {
    let event = MandateEscrow::Held {
        mandate: MANDATE.0,
        payee: PAYEE,
        amount,
        nonce,
        captureBy: alloy_primitives::aliases::U40::from(CAPTURE_BY),
        r#ref: B256::ZERO,
    };
    log(&event, B256::ZERO)
}

fn captured(nonce: u32, amount: u64) -> Log {
    log(&MandateEscrow::Captured { mandate: MANDATE.0, payee: PAYEE, amount, nonce }, B256::ZERO)
}

fn released(nonce: u32, amount: u64) -> Log {
    log(&MandateEscrow::Released { mandate: MANDATE.0, amount, nonce }, B256::ZERO)
}

/// Available, reserved, held, paid.
fn purse(scene: &Scene) -> [u64; 4] {
    let balances = scene.balances();
    [balances.available, balances.reserved, balances.held, balances.paid].map(Amount::units)
}

#[test]
fn a_final_hold_is_captured_and_the_rest_returned() {
    let mut scene = Scene::new(GUARDIAN);
    let id = admit_card(&scene, 0, 250, DEADLINE);
    assert_eq!(purse(&scene), [750, 250, 0, 0]);
    scene.mine(vec![held(0, 250)]);
    assert!(card(&scene, id).held.is_some());
    assert_eq!(purse(&scene), [750, 250, 0, 0]);
    scene.finalize();
    assert_eq!(purse(&scene), [750, 0, 250, 0]);
    walk(&scene, id, &[CardState::Held, CardState::Active, CardState::Used, CardState::Closing]);
    cards::set_to_capture(&scene.ledger, card(&scene, id).seq, usdc(184)).unwrap();
    scene.mine(vec![captured(0, 184), released(0, 66)]);
    assert_eq!(purse(&scene), [750, 0, 250, 0]);
    scene.finalize();
    assert_eq!(purse(&scene), [816, 0, 0, 184]);
    let card = card(&scene, id);
    assert_eq!((card.state, card.captured, card.released), (CardState::Closed, usdc(184), usdc(66)));
}

#[test]
fn a_reorg_takes_a_hold_away_and_it_counts_once_when_it_is_back() {
    let mut scene = Scene::new(GUARDIAN);
    let id = admit_card(&scene, 0, 250, DEADLINE);
    scene.mine(vec![held(0, 250)]);
    scene.unmine();
    assert_eq!(card(&scene, id).held, None);
    assert_eq!(purse(&scene), [750, 250, 0, 0]);
    scene.mine(Vec::new());
    scene.mine(vec![held(0, 250)]);
    scene.finalize();
    assert_eq!(purse(&scene), [750, 0, 250, 0]);
}

#[test]
fn an_impossible_hold_returns_its_money_when_final() {
    let mut scene = Scene::new(GUARDIAN);
    let now = blocks::head(&scene.ledger).unwrap().unwrap().time;
    let late = admit_card(&scene, 0, 100, now + 1);
    let used = admit_card(&scene, 1, 100, DEADLINE);
    let ended = admit_card(&scene, 2, 100, DEADLINE);
    scene.mine(Vec::new());
    assert_eq!(card(&scene, late).state, CardState::Requested);
    scene.finalize();
    assert_eq!((card(&scene, late).state, card(&scene, late).reason), (CardState::Failed, Some(Code::DeadlinePassed)));
    // Another payment under the card's nonce, which freezes the mandate besides.
    scene.mine(vec![spent(1, 5, B256::ZERO)]);
    scene.finalize();
    assert_eq!(card(&scene, used).reason, Some(Code::NonceUsed));
    scene.mine(revoked());
    assert_eq!(card(&scene, ended).state, CardState::Requested);
    scene.finalize();
    assert_eq!(card(&scene, ended).reason, Some(Code::Ended));
    assert_eq!(purse(&scene), [995, 0, 0, 5]);
}

#[test]
fn an_unaccepted_hold_freezes_a_guarded_mandate() {
    let mut scene = Scene::new(GUARDIAN);
    scene.mine(vec![held(7, 300)]);
    assert!(scene.mandate().frozen.is_some());
    scene.finalize();
    assert_eq!(purse(&scene), [700, 0, 300, 0]);
    scene.mine(vec![captured(7, 100)]);
    scene.mine(vec![released(7, 200)]);
    scene.finalize();
    assert_eq!(purse(&scene), [900, 0, 0, 100]);
}

#[test]
fn issuer_events_converge_in_any_order_and_number() {
    let event = |token: &str, kind: &str, cents, created: &str, approved| charges::ChargeEvent {
        token: token.into(),
        transaction: "t".into(),
        created: created.into(),
        kind: kind.into(),
        cents,
        approved,
    };
    let authorized = event("a", "AUTHORIZATION", 184, "2026-01-01T00:00:00Z", true);
    let cleared = event("c", "CLEARING", 184, "2026-01-02T00:00:00Z", true);
    let declined = event("d", "AUTHORIZATION", 10, "2026-01-03T00:00:00Z", false);
    for order in [
        vec![&authorized, &cleared],
        vec![&cleared, &authorized],
        vec![&authorized, &authorized, &declined, &cleared, &cleared],
    ] {
        let mut scene = Scene::new(GUARDIAN);
        let id = admit_card(&scene, 0, 250, DEADLINE);
        scene.mine(vec![held(0, 250)]);
        walk(&scene, id, &[CardState::Held, CardState::Active, CardState::Used]);
        let seq = card(&scene, id).seq;
        cards::set_charged(&scene.ledger, seq, Some(("t", usdc(184)))).unwrap();
        for event in &order {
            charges::ingest(&scene.ledger, seq, std::slice::from_ref(*event)).unwrap();
        }
        // All of them at once, as asking gives them.
        charges::ingest(&scene.ledger, seq, &[authorized.clone(), cleared.clone(), declined.clone()]).unwrap();
        assert_eq!(card(&scene, id).state, CardState::Closing);
        let tally = charges::tally(&scene.ledger, seq).unwrap();
        assert_eq!((tally.pending, tally.cleared), (0, 184));
    }
}

#[test]
fn issuer_events_are_ordered_by_time_and_not_as_text() {
    let event = |token: &str, kind: &str, created: &str| charges::ChargeEvent {
        token: token.into(),
        transaction: "t".into(),
        created: created.into(),
        kind: kind.into(),
        cents: 100,
        approved: true,
    };
    // As text, "…:00.5Z" stands before "…:00Z", and an offset anywhere.
    for (first, second) in
        [("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z"), ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z")]
    {
        let mut scene = Scene::new(GUARDIAN);
        let id = admit_card(&scene, 0, 250, DEADLINE);
        scene.mine(vec![held(0, 250)]);
        walk(&scene, id, &[CardState::Held, CardState::Active, CardState::Used]);
        let seq = card(&scene, id).seq;
        let events = [event("r", "AUTHORIZATION_REVERSAL", second), event("a", "AUTHORIZATION", first)];
        charges::ingest(&scene.ledger, seq, &events).unwrap();
        assert_eq!(charges::tally(&scene.ledger, seq).unwrap().pending, 0, "{first} {second}");
    }
}

#[test]
fn an_external_capture_is_booked_and_closes_the_card() {
    // The payee captures in parts; anybody releases; a sweep takes the rest after the end.
    for (logs, expected) in [
        (vec![vec![captured(0, 100)], vec![captured(0, 150)]], [750, 0, 0, 250, 0]),
        (vec![vec![captured(0, 100)], vec![released(0, 150)]], [900, 0, 0, 100, 0]),
        (vec![vec![released(0, 250)]], [1_000, 0, 0, 0, 0]),
        (vec![vec![captured(0, 100)], vec![swept(750, 150)]], [0, 0, 0, 100, 900]),
    ] {
        for states in [&[][..], &[CardState::Held, CardState::Active], &[CardState::Held, CardState::Closing]] {
            let mut scene = Scene::new(GUARDIAN);
            let id = admit_card(&scene, 0, 250, DEADLINE);
            scene.mine(vec![held(0, 250)]);
            scene.finalize();
            walk(&scene, id, states);
            for logs in &logs {
                scene.mine(logs.clone());
                assert!(!card(&scene, id).left().is_zero());
                scene.finalize();
            }
            let [available, reserved, held, paid] = purse(&scene);
            assert_eq!([available, reserved, held, paid, scene.balances().returned.units()], expected);
            let card = card(&scene, id);
            assert!(card.left().is_zero() && card.state == CardState::Closing, "{card:?}");
            assert!(cards::to_settle(&scene.ledger).unwrap().is_empty());
            assert_eq!(scene.mandate().frozen, None);
        }
    }
}

fn swept(from_remaining: u64, from_held: u64) -> Log {
    let to = Address::repeat_byte(1);
    let event = MandateEscrow::Returned { mandate: MANDATE.0, to, fromRemaining: from_remaining, fromHeld: from_held };
    log(&event, B256::ZERO)
}
