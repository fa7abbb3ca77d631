use alloy_primitives::hex;
use proptest::{collection::vec, option, prelude::*, strategy::ValueTree};
use serde_json::{Value, json};

use super::*;
use crate::{
    intent::Policy,
    policy::explain,
    window::{Mined, Pending, WindowUsage},
};

fn maybe<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Maybe<T>> {
    option::of(value).prop_map(Maybe)
}

prop_compose! {
    fn inputs()(
        state in "[a-z]{0,9}", intent: bool, available: u64, next_nonce: u64, limits: (u64, u64, u64),
        window in option::of(any::<(u64, bool)>()), gas in option::of(any::<(u128, u128, u64)>()),
    ) -> Inputs {
        Inputs {
            rules: RULES,
            state,
            intent,
            available,
            next_nonce,
            deadline_min: limits.0,
            deadline_max: limits.1,
            payment_min: limits.2,
            window: Maybe(window.map(|(recent, fits)| Window { recent, fits })),
            gas: Maybe(gas.map(|(spent, budget, renews_at)| Gas { spent, budget, renews_at })),
        }
    }
}

prop_compose! {
    fn decided()(
        at: u64, payment in maybe(any::<[u8; 16]>().prop_map(FixedBytes::new)), nonce: u32, payee: [u8; 20], amount: u64,
        deadline: u64, reference: [u8; 32], signature in vec(any::<u8>(), 0..70),
        metadata in proptest::collection::btree_map(".{0,9}", ".{0,70}", 0..5), inputs in inputs(),
    ) -> Decided {
        Decided {
            at,
            payment,
            nonce,
            payee: payee.into(),
            amount,
            deadline,
            reference: reference.into(),
            signature: signature.into(),
            metadata: Pairs(metadata),
            inputs,
        }
    }
}

prop_compose! {
    fn step()(
        at: u64, state in "[a-z]{0,9}", unmined: bool, tx in maybe(any::<[u8; 32]>().prop_map(B256::new)),
        block in option::of(any::<(u64, [u8; 32])>()), reason in maybe("[a-z_]{0,20}"), nonces in vec(any::<u32>(), 1..70),
    ) -> Step {
        let block = Maybe(block.map(|(number, hash)| Place { number, hash: hash.into() }));
        Step { at, state, unmined, tx, block, reason, nonces }
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (any::<u64>(), ".{0,300}").prop_map(|(at, json)| Entry::Note(Note { at, json })),
        (any::<u64>(), ".{0,300}").prop_map(|(at, json)| Entry::Imported(Note { at, json })),
        decided().prop_map(Entry::Decision),
        step().prop_map(Entry::Step),
    ]
}

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written(entry in entry()) {
        let bytes = entry.encode();
        prop_assert_eq!(Entry::decode(&bytes), Ok(entry));
    }

    /// Bytes that are read at all are the only ones of their entry: nothing can be written in another way.
    #[test]
    fn other_bytes_are_another_entry_or_none(
        entry in entry(), place: prop::sample::Index, change in 1..=u8::MAX, cut: prop::sample::Index,
    ) {
        let bytes = entry.encode();
        let mut other = bytes.clone();
        other[place.index(bytes.len())] ^= change;
        for other in [other, bytes[..cut.index(bytes.len())].to_vec(), [bytes.as_slice(), &[change]].concat()] {
            if let Ok(read) = Entry::decode(&other) {
                prop_assert_ne!(&read, &entry);
                prop_assert_eq!(read.encode(), other);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(read) = Entry::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}

const NOW: Seconds = 1_000_000;

/// A mandate and a payment of it, with everything that a rule can look at close to where it matters.
#[derive(Clone, Debug)]
struct Case {
    terms: Terms,
    intent: Option<Intent>,
    state: MandateState,
    available: Amount,
    highest_nonce: Option<u32>,
    window: WindowUsage,
    gas: Option<GasUsage>,
    limits: Limits,
    payment: Proposal,
}

fn amount(units: u64) -> Amount {
    Amount::from_units(units).unwrap()
}

const DEPLOYMENT: Deployment = Deployment {
    chain_id: 1,
    escrow: Address::repeat_byte(1),
    token: Address::repeat_byte(2),
    guardian: Address::repeat_byte(3),
};

prop_compose! {
    fn case()(
        times in (0..3_u64, 0..3_u64, 0..400_u64), amounts in (0..12_u64, 0..20_u64, 0..15_u64, 0..3_u64),
        window in (0..2_u32, 1..25_u64, vec((0..700_u64, 1..9_u64), 0..5), vec((0..500_u64, 1..9_u64), 0..3)),
        nonces in (option::of(0..200_u32), 0..300_u32), state in prop::sample::select(MandateState::ALL.to_vec()),
        guardian in 2..5_u8, payee in 0..5_u8, known: bool, payees: bool, gas in option::of((0..10_u128, 0..10_u128)),
    ) -> Case {
        let intent = Intent {
            version: 1,
            purpose: "ads".into(),
            policy: Policy { payees: payees.then(|| vec![Address::repeat_byte(4)]), mccs: None },
            nonce: B256::ZERO,
        };
        let (start, expiry, deadline) = times;
        let (window, window_cap, mined, pending) = window;
        let terms = Terms {
            operator: Address::repeat_byte(8),
            agent: Address::repeat_byte(9),
            guardian: Address::repeat_byte(guardian),
            cap: amount(100),
            per_payment: amount(amounts.2),
            window_cap: amount(window_cap),
            window: window * 600,
            start: NOW + start - 1,
            expiry: NOW + expiry * 200,
            capture_end: NOW + 10_000,
            payees: intent.payees_root(),
            intent: intent.hash(),
            refunds_restore_budget: false,
        };
        let mut mined: Vec<_> =
            mined.into_iter().map(|(age, units)| Mined::one(&terms, amount(units), NOW - age)).collect();
        mined.sort_by_key(|mined| mined.at);
        let pending =
            pending.into_iter().map(|(left, units)| Pending { deadline: NOW + left, amount: amount(units) }).collect();
        Case {
            terms,
            intent: known.then_some(intent),
            state,
            available: amount(amounts.1),
            highest_nonce: nonces.0,
            window: WindowUsage { mined, pending },
            gas: gas.map(|(spent, budget)| GasUsage { spent, budget, renews_at: NOW + 5 }),
            limits: Limits { deadline_min: 120, deadline_max: 300, payment_min: amount(amounts.3) },
            payment: Proposal {
                payee: Address::repeat_byte(payee),
                amount: amount(amounts.0),
                nonce: nonces.1,
                deadline: NOW + deadline,
            },
        }
    }
}

impl Case {
    fn input(&self) -> PolicyInput<'_> {
        let context = PolicyContext {
            terms: &self.terms,
            intent: self.intent.as_ref(),
            state: self.state,
            available: self.available,
            highest_nonce: self.highest_nonce,
            window: WindowInput::Usage(&self.window),
            gas: self.gas,
        };
        PolicyInput {
            context,
            payment: self.payment,
            card: None,
            deployment: DEPLOYMENT,
            limits: self.limits,
            now: NOW,
        }
    }

    /// As it is written down.
    fn decided(&self) -> Decided {
        let Proposal { payee, amount, nonce, deadline } = self.payment;
        Decided {
            at: NOW,
            payment: Maybe(None),
            nonce,
            payee,
            amount: amount.units(),
            deadline,
            reference: B256::ZERO,
            signature: Bytes::from_static(&[7; 65]),
            metadata: Pairs::default(),
            inputs: Inputs::of(&self.input()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// From the bytes and the mandate's documents alone.
    #[test]
    fn a_decision_is_replayed_to_the_letter(case in case()) {
        let bytes = Entry::Decision(case.decided()).encode();
        let Ok(Entry::Decision(stored)) = Entry::decode(&bytes) else { panic!("not a decision") };
        let replayed = stored.replay(&case.terms, case.intent.as_ref(), DEPLOYMENT).unwrap();
        prop_assert_eq!(&replayed, &policy::decide(&case.input()));
        prop_assert_eq!(&replayed, &explain(&case.input()).decision);
        prop_assert_eq!(policy::refusal(&case.input()), (!replayed.allow).then_some(replayed));
    }
}

/// A decision by other rules, and what no relayer writes, are not replayed by these rules as if nothing were wrong.
#[test]
fn what_cannot_be_replayed_is_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let case = case().new_tree(&mut runner).unwrap().current();
    let replay = |change: fn(&mut Decided)| {
        let mut decided = case.decided();
        change(&mut decided);
        decided.replay(&case.terms, case.intent.as_ref(), DEPLOYMENT)
    };
    assert!(replay(|_| ()).is_ok());
    for wrong in [
        replay(|decided| decided.inputs.rules = RULES + 1),
        replay(|decided| decided.inputs.state = "shut".into()),
        replay(|decided| decided.inputs.available = u64::MAX),
        replay(|decided| decided.inputs.next_nonce = 1 << 40),
        replay(|decided| decided.amount = u64::MAX),
    ] {
        assert!(matches!(wrong, Err(TrailError::Value(_))), "{wrong:?}");
    }
}

/// What anyone can check an implementation of their own with: docs/reference/trail.md.
#[test]
fn the_vectors_are_those_that_are_published() {
    let mandate = B256::repeat_byte(0x4e);
    let inputs = Inputs {
        rules: RULES,
        state: "open".into(),
        intent: true,
        available: 50_000_000,
        next_nonce: 3,
        deadline_min: 120,
        deadline_max: 86_400,
        payment_min: 0,
        window: Maybe(Some(Window { recent: 1_250_000, fits: true })),
        gas: Maybe(None),
    };
    let decided = |payment, nonce, amount, metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Entry::Decision(Decided {
            at: 1_798_000_001,
            payment: Maybe(payment),
            nonce,
            payee: Address::repeat_byte(0x9a),
            amount,
            deadline: 1_798_003_600,
            reference: B256::repeat_byte(0x0f),
            signature: Bytes::from_static(&[0x5c; 65]),
            metadata: Pairs(metadata),
            inputs: inputs.clone(),
        })
    };
    let body = Body {
        kind: "mandate.opened".into(),
        request: None,
        card: None,
        tx_hash: Some(B256::repeat_byte(0x77)),
        data: json!({ "cap": "50.00", "block": { "number": 12, "hash": B256::repeat_byte(0xb1) } }),
    };
    let entries = [
        ("a note", Entry::Note(Note::new(1_798_000_000, &body).unwrap())),
        (
            "a payment that was accepted",
            decided(Some([0x11; 16].into()), 3, 4_200_000, &[("order", "17"), ("to", "né")]),
        ),
        ("a payment that was refused", decided(None, 4, 60_000_000, &[])),
        (
            "two payments in a transaction that a block holds",
            Entry::Step(Step {
                at: 1_798_000_012,
                state: "mined".into(),
                unmined: false,
                tx: Maybe(Some(B256::repeat_byte(0x78))),
                block: Maybe(Some(Place { number: 13, hash: B256::repeat_byte(0xb2) })),
                reason: Maybe(None),
                nonces: vec![3, 200],
            }),
        ),
        (
            "a payment that failed",
            Entry::Step(Step {
                at: 1_798_000_020,
                state: "failed".into(),
                unmined: false,
                tx: Maybe(None),
                block: Maybe(None),
                reason: Maybe(Some("deadline_passed".into())),
                nonces: vec![5],
            }),
        ),
    ];
    let mut hash = mandate;
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|(what, entry)| {
            let bytes = entry.encode();
            hash = chained(hash, &bytes);
            json!({ "what": what, "bytes": hex::encode_prefixed(bytes), "hash": hash })
        })
        .collect();
    let vectors = json!({ "mandate": format!("mand_{}", hex::encode(mandate)), "entries": entries });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/trail.json");
    if std::env::var_os("STIPEND_WRITE").is_some() {
        std::fs::write(path, serde_json::to_string_pretty(&vectors).unwrap() + "\n").unwrap();
    }
    let published: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(vectors, published);
}
