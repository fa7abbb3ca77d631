use std::collections::BTreeSet;

use stipend_core::{
    PaymentId,
    api::PaymentState,
    policy::Limits,
    trail::{Inputs, Maybe, RULES, chained},
};

use super::{
    super::audit::{NewAuditEntry, append, last, seal, verify},
    super::books,
    *,
};

/// All that a reader may see.
pub(crate) fn all(connection: &Connection, reader: Address, mandate: Option<MandateId>) -> Vec<AuditEntry> {
    list(connection, Query { reader, mandate, after: 0, limit: 100_000 }).unwrap()
}

/// What a decision is based on, for tests that ask for none.
pub(crate) fn inputs() -> Inputs {
    let Limits { deadline_min, deadline_max, payment_min } = Limits::default();
    Inputs {
        rules: RULES,
        state: "open".into(),
        intent: false,
        available: 0,
        next_nonce: 0,
        deadline_min,
        deadline_max,
        payment_min: payment_min.units(),
        window: Maybe(None),
        gas: Maybe(None),
    }
}

const AGENT: Address = Address::repeat_byte(1);
const OPERATOR: Address = Address::repeat_byte(2);

fn ledger() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    let deployment = "INSERT INTO deployment VALUES (1, zeroblob(20), zeroblob(20), zeroblob(20))";
    connection.execute(deployment, []).unwrap();
    connection
}

/// A mandate of both.
fn mandate(connection: &Connection, byte: u8) -> MandateId {
    let id = MandateId(B256::repeat_byte(byte));
    let terms = Terms { operator: OPERATOR, agent: AGENT, cap: "5".parse().unwrap(), ..books::tests::terms() };
    mandates::ensure(connection, id, &terms, 0).unwrap();
    id
}

fn note(connection: &Connection, mandate: Option<MandateId>, kind: &str) {
    let agent = mandate.is_none().then_some(AGENT);
    append(connection, 5, NewAuditEntry { kind: kind.into(), agent, mandate, ..Default::default() }).unwrap();
}

fn kinds(entries: &[AuditEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.kind.as_str()).collect()
}

/// What is wrong, by place.
fn broken(connection: &Connection) -> Vec<u64> {
    let mut broken = Vec::new();
    verify(connection, |seq, intact| broken.extend((!intact).then_some(seq))).unwrap();
    broken
}

#[test]
fn each_mandate_has_a_chain_that_its_readers_can_check_alone() {
    let connection = ledger();
    let [one, other] = [0x11, 0x22].map(|byte| mandate(&connection, byte));
    for (mandate, kind) in [(Some(one), "a"), (Some(other), "b"), (None, "c"), (Some(one), "d"), (None, "e")] {
        note(&connection, mandate, kind);
    }
    for (mandate, start, kinds) in [(Some(one), one.0, ["a", "d"]), (None, B256::ZERO, ["c", "e"])] {
        let raw = list_raw(&connection, Query { reader: OPERATOR, mandate: Some(one), after: 0, limit: 9 }).unwrap();
        let raw = if mandate.is_some() {
            raw
        } else {
            let all = list_raw(&connection, Query { reader: AGENT, mandate: None, after: 0, limit: 9 }).unwrap();
            all.into_iter().filter(|entry| entry.mandate.is_none()).collect()
        };
        let mut hash = start;
        for (entry, kind) in raw.iter().zip(kinds) {
            hash = chained(hash, &entry.bytes);
            assert_eq!(hash, entry.hash);
            let Entry::Note(note) = Entry::decode(&entry.bytes).unwrap() else { panic!("{entry:?}") };
            assert_eq!(note.read::<Body>().unwrap().kind, kind);
        }
        assert_eq!(raw.len(), 2);
    }
}

#[test]
fn an_edit_an_omission_or_another_order_shows() {
    let connection = ledger();
    let [one, other] = [0x11, 0x22].map(|byte| mandate(&connection, byte));
    for _ in 0..3 {
        note(&connection, Some(one), "a");
        note(&connection, Some(other), "b");
        seal(&connection).unwrap();
    }
    assert_eq!(broken(&connection), Vec::<u64>::new());
    connection.execute_batch(
        "DROP TRIGGER trail_is_kept; DROP TRIGGER trail_is_whole; DROP TRIGGER head_is_kept; DROP TRIGGER head_is_whole",
    ).unwrap();
    for (corruption, expected) in [
        ("UPDATE trail SET body = CAST(body || x'00' AS BLOB) WHERE seq = 3", vec![3]),
        ("UPDATE trail SET hash = zeroblob(32) WHERE seq = 3", vec![3, 4, 5]),
        ("DELETE FROM trail WHERE seq = 3", vec![4, 5]),
        // What no chain shows, the heads do: the tail of a mandate, all of a mandate, a mandate's entries elsewhere.
        ("DELETE FROM trail WHERE seq > 4", vec![5]),
        ("DELETE FROM trail WHERE seq = 6", vec![6]),
        ("UPDATE trail SET seq = 7 WHERE seq = 6", vec![7]),
        ("DELETE FROM trail WHERE mandate = 2", vec![3, 5]),
        ("UPDATE head SET hash = zeroblob(32) WHERE seq = 4", vec![4, 6]),
        ("DELETE FROM head WHERE seq = 4", vec![6]),
        ("DELETE FROM head WHERE seq = 6", vec![7]),
        ("UPDATE trail SET mandate = 2 WHERE seq = 3", vec![3, 4, 5]),
    ] {
        connection.execute_batch(&format!("SAVEPOINT intact; {corruption}")).unwrap();
        let found = broken(&connection);
        assert!(!found.is_empty() && found.starts_with(&expected[..1]), "{corruption}: {found:?}");
        connection.execute_batch("ROLLBACK TO intact").unwrap();
    }
}

/// However far behind a reader is, and however many mandates it has, it sees everything once, in order.
#[test]
fn a_reader_sees_all_of_its_own_in_order() {
    let connection = ledger();
    let mandates: Vec<_> = (1..40).map(|byte| mandate(&connection, byte)).collect();
    let stranger = mandate(&connection, 0xaa);
    connection
        .execute("UPDATE mandate SET agent = zeroblob(20), operator = zeroblob(20) WHERE id = ?", [Sql(stranger)])
        .unwrap();
    for turn in 0..60 {
        for (index, id) in mandates.iter().enumerate() {
            if turn % (index + 1) == 0 {
                note(&connection, Some(*id), "a");
                note(&connection, Some(stranger), "b");
            }
        }
        note(&connection, None, "c");
    }
    let expected: Vec<u64> =
        all_rows(&connection, "SELECT seq FROM trail WHERE mandate IS NULL OR mandate < 40 ORDER BY seq");
    assert!(last(&connection).unwrap() > RECENT / 2 && expected.len() > 200);
    for limit in [1, 7, 100] {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let page = list(&connection, Query { reader: AGENT, mandate: None, after, limit }).unwrap();
            let Some(last) = page.last() else { break };
            after = last.seq;
            found.extend(page.iter().map(|entry| entry.seq));
        }
        assert_eq!(found, expected, "{limit}");
    }
    let newest: Vec<u64> = latest(&connection, AGENT, None, 9).unwrap().iter().map(|entry| entry.seq).collect();
    assert_eq!(newest, expected[expected.len() - 9..]);
    let merged = merged(&connection, &chains(&connection, AGENT, None).unwrap(), Direction::On, 0, 100_000).unwrap();
    assert_eq!(merged, expected);
    // An operator does not see what its agents asked for in general.
    let kinds: BTreeSet<_> = all(&connection, OPERATOR, None).into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, BTreeSet::from(["a".to_owned()]));
    assert_eq!(all(&connection, AGENT, Some(stranger)), []);
}

fn all_rows(connection: &Connection, query: &str) -> Vec<u64> {
    connection.rows(query, []).unwrap()
}

#[test]
fn payments_that_step_together_are_events_of_their_own() {
    use super::super::{
        balances::Transition,
        books::{Books, OpenMandate},
        payments::{DecidedPayment, TransitionContext, accept, by_nonce, step_all},
    };
    let connection = ledger();
    let id = mandate(&connection, 0x11);
    let mut books = Books::default();
    for nonce in 0..5 {
        let body = stipend_core::api::NewPayment {
            mandate: id,
            payee: Address::repeat_byte(3),
            amount: "0.50".parse().unwrap(),
            nonce,
            deadline: 99,
            reference: B256::ZERO,
            signature: vec![7; 65].into(),
            metadata: Default::default(),
        };
        let digest = B256::with_last_byte(nonce as u8);
        let new = DecidedPayment { body: &body, digest, inputs: &inputs() };
        let store = |open: Option<&mut OpenMandate>| accept(&connection, open.unwrap(), PaymentId::generate(), &new, 3);
        books.change(&connection, id, AGENT, store).unwrap();
    }
    books.close(&connection).unwrap();
    let rows: Vec<_> = (0..5).map(|nonce| by_nonce(&connection, id, nonce).unwrap().unwrap()).collect();
    let context = TransitionContext { tx_hash: Some(B256::repeat_byte(8)), ..Default::default() };
    step_all(&connection, &rows, Transition::Submit, context, 4).unwrap();
    let events = all(&connection, AGENT, Some(id));
    assert_eq!(kinds(&events), [["payment.reserved"; 5], ["payment.submitted"; 5]].concat());
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    let (first, last) = (&events[5], &events[9]);
    assert_eq!((first.payment, last.payment), (Some(rows[0].id), Some(rows[4].id)));
    assert_eq!((first.hash, first.tx_hash, first.at), (last.hash, context.tx_hash, 4));
    assert_eq!(last.data, json!({ "amount": "0.50", "nonce": 4, "payee": rows[4].payee.to_string() }));
    assert_eq!(by_nonce(&connection, id, 4).unwrap().unwrap().state, PaymentState::Submitted);
    // From the middle of them, and back to there.
    let query = Query { reader: OPERATOR, mandate: Some(id), after: 7, limit: 2 };
    assert_eq!(list(&connection, query).unwrap(), events[7..9]);
    assert_eq!(latest(&connection, OPERATOR, None, 2).unwrap(), events[8..]);
    assert_eq!(list_raw(&connection, query).unwrap().len(), 1);
    seal(&connection).unwrap();
    assert_eq!(broken(&connection), Vec::<u64>::new());
}
