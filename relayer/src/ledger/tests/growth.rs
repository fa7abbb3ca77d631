//! No statement of a serving relayer takes more work on a ledger with a longer history.
//!
//! Two ledgers hold the same open things, one of them ten times the history of the other, and go through the same
//! operations. Judged is what each statement does, not its query plan: a search reads a mandate's whole history too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::Path,
};

use alloy_primitives::{Bytes, keccak256};
use rusqlite::Connection;
use stipend_core::{
    CardId, Code, Intent, PaymentId, RequestId, Seconds, Terms,
    api::{NewCard, NewMandateRequest, NewPayment, PaymentState},
    card::CardState,
    policy::Decision,
};
use uuid::Uuid;

use super::*;
use crate::ledger::{
    balances::{LedgerEvent, Transition},
    blocks::{self, Block, Log},
    booking,
    books::{Books, OpenMandate},
    cards,
    charges::{Answer, ChargeEvent},
    gas,
    journal::{self, EntryRefs, GasPayer},
    keep_statements,
    mandates::{self, TxLocation},
    openings::{self, Opening},
    pages::List,
    payments::{self, DecidedPayment, ExternalOutflow, Filter, Spent, TransitionContext},
    requests::{self, IdempotentCall},
    revocations::{self, Revocation},
    sql::{
        Sql,
        cost::{self, Run},
    },
    transactions::{self, Attempt, Kind, New},
    window,
};

const AGENT: Address = Address::repeat_byte(0xa1);
const OPERATOR: Address = Address::repeat_byte(0xb1);
const GUARDIAN: Address = Address::repeat_byte(0xcc);
const SUBMITTER: Address = Address::repeat_byte(0xdd);
const PAYEE: Address = Address::repeat_byte(0x0a);
/// The head's time. Deadlines and expiries of what is open lie behind it.
const NOW: Seconds = 1_000_000;
const LATER: Seconds = 2_000_000;
/// Copied to become the history, which is of this mandate for the most part.
const PAST: MandateId = MandateId(B256::repeat_byte(0x11));
/// Those that are approved while the test runs: opened, overtaken by that, revoked, and one that another is rolled into.
const OPEN: MandateId = MandateId(B256::repeat_byte(0x22));
const GIVEN_UP: MandateId = MandateId(B256::repeat_byte(0x33));
const REVOKED: MandateId = MandateId(B256::repeat_byte(0x44));
const ROLLED: MandateId = MandateId(B256::repeat_byte(0x55));
const REQUEST: RequestId = RequestId(Uuid::from_bytes([1; 16]));
/// The first nonce that is free.
const NEXT: u32 = 10_000_000;

/// How many payments were settled.
const SHORT: u64 = 6_000;
const LONG: u64 = 30_000;
/// A statement may take so many hundredths of the work on the longer history, and so much more: a walk that has a limit
/// may reach it there alone.
const HUNDREDTHS: u64 = 125;
const SLACK: u64 = 100;

fn usdc(units: u64) -> Amount {
    Amount::from_units(units).unwrap()
}

fn place(block: u64) -> TxLocation {
    TxLocation { block, hash: B256::with_last_byte(block as u8), tx: B256::repeat_byte(0x99) }
}

fn terms(agent: Address) -> Terms {
    Terms {
        operator: OPERATOR,
        agent,
        guardian: GUARDIAN,
        cap: usdc(1 << 40),
        per_payment: Amount::ZERO,
        window_cap: usdc(1 << 40),
        // All of the past counts in it.
        window: 3_000_000,
        start: 0,
        expiry: LATER,
        capture_end: LATER + 1_000,
        payees: B256::ZERO,
        intent: B256::repeat_byte(9),
        refunds_restore_budget: false,
    }
}

fn attempt(nonce: u64) -> Attempt {
    let raw = Bytes::from([vec![0xee; 200], nonce.to_be_bytes().to_vec()].concat());
    Attempt { hash: keccak256(&raw), raw, max_fee: 1, priority_fee: 1, sent_at: 1, cancels: false }
}

/// A stored transaction with the next nonce.
fn transaction(ledger: &Connection, kind: Kind) -> u64 {
    let nonce = transactions::next_nonce(ledger, SUBMITTER).unwrap().unwrap();
    let (calldata, attempt) = (Bytes::from(vec![0xcd; 200]), attempt(nonce));
    let new = New { submitter: SUBMITTER, nonce, kind, calldata, gas_limit: 1, attempt };
    transactions::insert(ledger, &new).unwrap()
}

/// Puts payments into a transaction.
fn submit(ledger: &Connection, of: &[&payments::PaymentRow]) -> u64 {
    let tx = transaction(ledger, Kind::Settle);
    for payment in of {
        transactions::attach_payment(ledger, tx, payment.seq).unwrap();
        step(ledger, payment, Transition::Submit, TransitionContext::default());
    }
    tx
}

fn admit(ledger: &Connection, mandate: MandateId, nonce: u32, deadline: Seconds) -> payments::PaymentRow {
    let body = NewPayment {
        mandate,
        payee: PAYEE,
        amount: usdc(10),
        nonce,
        deadline,
        reference: B256::repeat_byte(0x0f),
        signature: Bytes::from_static(&[1; 65]),
        metadata: Default::default(),
    };
    let digest = keccak256([mandate.0.as_slice(), &nonce.to_be_bytes(), b"payment"].concat());
    let (id, row) = (PaymentId::generate(), mandates::get(ledger, mandate).unwrap().unwrap());
    let decided = DecidedPayment { body: &body, digest, inputs: &feed::tests::inputs() };
    let mut books = Books::default();
    let insert = |open: Option<&mut OpenMandate>| payments::accept(ledger, open.unwrap(), id, &decided, NOW);
    books.change(ledger, mandate, row.agent, insert).unwrap();
    match nonce % 2 {
        0 => books.close(ledger).unwrap(),
        _ => assert_eq!(books.apply_due(ledger, audit::last(ledger).unwrap()).unwrap(), audit::last(ledger).unwrap()),
    }
    payments::by_id(ledger, id).unwrap().unwrap()
}

fn admit_card(ledger: &Connection, mandate: MandateId, nonce: u32, deadline: Seconds) -> cards::CardRow {
    let body = NewCard {
        mandate,
        amount: usdc(20_000),
        nonce,
        deadline,
        capture_by: LATER,
        reference: B256::ZERO,
        signature: Bytes::from_static(&[1; 65]),
        metadata: Default::default(),
    };
    let digest = keccak256([mandate.0.as_slice(), &nonce.to_be_bytes(), b"card"].concat());
    let (id, row) = (CardId::generate(), mandates::get(ledger, mandate).unwrap().unwrap());
    let new = cards::NewCardRow { id, body, digest, payee: PAYEE, expires_at: LATER };
    cards::insert(ledger, &row, &new, &Decision { allow: true, rules: Vec::new() }, NOW).unwrap();
    cards::by_id(ledger, id).unwrap().unwrap()
}

fn step(ledger: &Connection, payment: &payments::PaymentRow, step: Transition, context: TransitionContext) {
    let payment = payments::by_id(ledger, payment.id).unwrap().unwrap();
    payments::step(ledger, &payment, step, context, NOW).unwrap();
}

fn walk(ledger: &Connection, card: &cards::CardRow, states: &[CardState]) {
    for state in states {
        let card = cards::by_seq(ledger, card.seq).unwrap().unwrap();
        cards::step(ledger, &card, *state, None, None, NOW).unwrap();
    }
}

fn event(token: &str, kind: &str, cents: i64) -> ChargeEvent {
    ChargeEvent {
        token: token.into(),
        transaction: "transaction".into(),
        created: "2026-01-01T00:00:00Z".into(),
        kind: kind.into(),
        cents,
        approved: true,
    }
}

/// Inserts a copy of the rows of `table` that match `which` for each `i` in `range`, with other values in some columns.
fn copy(ledger: &Connection, range: &Range<u64>, table: &str, which: &str, others: &[(&str, &str)]) {
    let mut columns = ledger.prepare("SELECT name FROM pragma_table_info(?)").unwrap();
    let columns: Vec<String> = columns.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let other = |column: &String| others.iter().find(|(name, _)| name == column).map(|(_, value)| (*value).to_owned());
    let values: Vec<String> = columns.iter().map(|column| other(column).unwrap_or_else(|| column.clone())).collect();
    let statement = format!(
        "WITH RECURSIVE n (i) AS (SELECT {} UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO {table} ({}) SELECT {} FROM (SELECT * FROM {table} WHERE {which}), n",
        range.start,
        range.end - 1,
        columns.join(", "),
        values.join(", "),
    );
    ledger.execute(&statement, []).unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// A blob of so many bytes that stands for the `i`th of what has this letter.
fn key(letter: char, bytes: usize) -> String {
    format!("CAST(printf('{letter}%0{}d', i) AS BLOB)", bytes - 1)
}

/// A ledger with `history` settled payments, the most of them of one mandate, and what belongs to such a history; half
/// of it from before the things that are open.
fn filled(history: u64) -> Connection {
    let ledger = Connection::open_in_memory().unwrap();
    keep_statements(&ledger).unwrap();
    ledger.execute_batch(include_str!("../schema.sql")).unwrap();
    ledger.execute("INSERT INTO deployment VALUES (1, zeroblob(20), zeroblob(20), zeroblob(20))", []).unwrap();
    blocks::restart_at(&ledger, block(0, 0)).unwrap();
    blocks::add_submitter(&ledger, SUBMITTER).unwrap();
    transactions::start(&ledger, SUBMITTER, 0).unwrap();
    live_through(&ledger);
    pass(&ledger, 100..100 + history / 2);
    // Between the two there are places for what is open.
    pass(&ledger, 2_000 + history / 2..2_000 + history);
    ledger
}

fn block(number: u64, time: Seconds) -> Block {
    Block { number, hash: place(number).hash, parent: place(number.saturating_sub(1)).hash, time }
}

/// One of each kind, from its beginning to its end.
fn live_through(ledger: &Connection) {
    let body = NewMandateRequest::new(usdc(1_000_000), "ads", "1d".parse().unwrap());
    let intent = Intent { version: 1, purpose: "ads".into(), policy: Default::default(), nonce: B256::ZERO };
    requests::insert(ledger, REQUEST, AGENT, &body, &intent, 1).unwrap();
    requests::set_mandate(ledger, REQUEST, Some(PAST)).unwrap();
    let call = IdempotentCall { fingerprint: B256::ZERO, subject: Uuid::nil() };
    requests::remember(ledger, PAST.0.as_slice(), "key", call).unwrap();
    mandates::ensure(ledger, PAST, &terms(AGENT), 1).unwrap();
    mandates::set_opened(ledger, PAST, Some(place(0))).unwrap();
    let log = Log { index: 0, tx_hash: B256::ZERO, topics: Vec::new(), data: Bytes::new() };
    append(ledger, block(1, 1), &[log]);

    let payment = admit(ledger, PAST, 0, LATER);
    let tx = submit(ledger, &[&payment]);
    transactions::set_mined(ledger, tx, place(1), true, 7).unwrap();
    step(ledger, &payment, Transition::Mine, TransitionContext::mined(place(1)));
    step(ledger, &payment, Transition::Settle, TransitionContext::mined(place(1)));
    let failed = admit(ledger, PAST, 1, LATER);
    let context = TransitionContext { reason: Some(Code::DeadlinePassed), ..TransitionContext::default() };
    step(ledger, &failed, Transition::Fail, context);
    let outflow = Spent { mandate: PAST, nonce: 2, payee: PAYEE, amount: usdc(5) };
    payments::insert_external(ledger, ExternalOutflow::Payment, &outflow, place(1)).unwrap();
    window::record(ledger, PAST, [usdc(10)], place(1)).unwrap();

    let card = admit_card(ledger, PAST, 3, LATER);
    cards::set_held(ledger, card.seq, Some(place(1))).unwrap();
    cards::set_hold_final(ledger, card.seq).unwrap();
    cards::set_issued(ledger, card.seq, "past", "1234").unwrap();
    let answer = Answer { card: Some(card.seq), cents: 100, declined: None };
    charges::remember_answer(ledger, "past", answer, 1).unwrap();
    charges::ingest(ledger, card.seq, &[event("past", "CLEARING", 100)]).unwrap();
    charges::add_webhook(ledger, "past", 1).unwrap();
    let outcome = cards::HoldOutcome { captured: card.amount, released: Amount::ZERO };
    cards::set_settled(ledger, card.seq, outcome, Some(B256::ZERO)).unwrap();
    cards::set_to_capture(ledger, card.seq, card.amount).unwrap();
    cards::set_shares(ledger, &card, Amount::ZERO, usdc(1)).unwrap();
    ledger.execute("UPDATE card SET state = 'closed', updated_at = 1", []).unwrap();
    mandates::add_refunded(ledger, PAST, PAYEE, usdc(1_000)).unwrap();

    let asked = audit::NewAuditEntry { kind: "mandate.requested".to_owned(), agent: Some(AGENT), ..Default::default() };
    audit::append(ledger, 1, asked).unwrap();
    mandates::count_approval(ledger, OPERATOR, 1).unwrap();
    audit::seal(ledger).unwrap();
    transactions::set_final(ledger, tx).unwrap();
    blocks::mark_final(ledger, block(1, 1)).unwrap();
    // Whoever it was that ended the mandates.
    revocations::add(ledger, &Revocation { mandate: PAST, calldata: Bytes::from_static(&[1]) }).unwrap();
    revocations::set_done(ledger, PAST).unwrap();
}

/// Time goes by, and leaves more of what lived.
fn pass(ledger: &Connection, range: Range<u64>) {
    let tenth = range.start..range.start + (range.end - range.start) / 10;
    let fifth = range.start..range.start + (range.end - range.start) / 5;
    let (of_mandate, of_request) = (key('m', 32), key('r', 16));
    let seq = "1000000 + i * 10";

    // Mandates of the same agent and operator, and of others: ended and empty; expired, with next to nothing left; the same
    // with next to nothing held.
    let whose = |name: &str, letter| format!("CASE WHEN i % 8 THEN {name} ELSE {} END", key(letter, 20));
    let kind = |first: &str, second: &str, third: &str| {
        format!("CASE i % 3 WHEN 0 THEN {first} WHEN 1 THEN {second} ELSE {third} END")
    };
    copy(
        ledger,
        &fifth,
        "mandate",
        "seq = 1",
        &[
            ("seq", "NULL"),
            ("id", &of_mandate),
            ("agent", &whose("agent", 'x')),
            ("operator", &whose("operator", 'y')),
            ("request", &of_request),
            ("expiry", "1"),
            ("lapsed", "1"),
            ("opened_hash", &key('o', 32)),
            ("ended_block", &kind("0", "NULL", "NULL")),
            ("ended_hash", &kind(&key('e', 32), "NULL", "NULL")),
            ("ended_tx", &kind("opened_tx", "NULL", "NULL")),
            ("cap", "100"),
            ("available", &kind("0", "1", "0")),
            ("held", &kind("0", "0", "1")),
            ("paid", &kind("100", "99", "99")),
            ("restored", "0"),
            ("reserved", "0"),
            ("returned", "0"),
        ],
    );
    let asked = [("id", of_request.as_str()), ("intent_hash", &key('i', 32)), ("mandate", &of_mandate)];
    copy(ledger, &fifth, "request", "mandate = (SELECT id FROM mandate WHERE seq = 1)", &asked);
    let first = "mandate = (SELECT id FROM mandate WHERE seq = 1)";
    copy(ledger, &fifth, "revocation", first, &[("mandate", &of_mandate)]);
    let payer = key('p', 20);
    let treasury = format!("{first} AND owed > 0");
    copy(ledger, &fifth, "refund", &treasury, &[("mandate", &of_mandate)]);
    copy(ledger, &fifth, "refund", &treasury, &[("payer", &payer), ("owed", "0")]);

    let settled = [
        ("seq", seq),
        ("id", &key('p', 16)),
        ("nonce", "1000 + i"),
        ("digest", &key('d', 32)),
        ("mined_hash", &key('b', 32)),
    ];
    copy(ledger, &range, "payment", "seq = 1", &settled);
    let failed =
        [("seq", "1000005 + i * 10"), ("id", &key('f', 16)), ("nonce", "1000000 + i"), ("digest", &key('f', 32))];
    copy(ledger, &tenth, "payment", "seq = 2", &failed);
    let elsewhere = [
        ("seq", "1000007 + i * 10"),
        ("id", &key('o', 16)),
        ("mandate", &of_mandate),
        ("nonce", "0"),
        ("digest", &key('o', 32)),
    ];
    copy(ledger, &fifth, "payment", "seq = 1", &elsewhere);
    copy(ledger, &tenth, "external_outflow", "nonce = 2", &[("nonce", "2000000 + i")]);
    let past = [("at", "1000 + i"), ("amount", "i"), ("units", "i")];
    copy(ledger, &range, "window_total", "amount = 10 AND at = 1", &past);

    copy(
        ledger,
        &range,
        "tx",
        "id = 1",
        &[("id", seq), ("nonce", "1000 + i"), ("mined_hash", &key('b', 32)), ("pruned", "1")],
    );
    copy(ledger, &range, "attempt", "tx = 1", &[("hash", &key('a', 32)), ("tx", seq)]);
    copy(ledger, &range, "tx_payment", "tx = 1", &[("tx", seq), ("payment", seq)]);
    copy(ledger, &range, "journal", "seq = 1", &[("seq", "NULL"), ("payment", seq), ("tx", seq)]);
    let next = "(SELECT max(seq) FROM trail) + 1 + i - (SELECT min(i) FROM n)";
    for which in ["mandate IS NOT NULL", "mandate IS NULL"] {
        let which = format!("seq = (SELECT min(seq) FROM trail WHERE {which})");
        copy(ledger, &range, "trail", &which, &[("seq", next)]);
    }
    audit::seal(ledger).unwrap();
    copy(ledger, &range, "head", "seq = (SELECT min(seq) FROM head)", &[("seq", "-i")]);
    copy(ledger, &range, "approval", "TRUE LIMIT 1", &[("at", "1 + i % 2")]);

    let closed = [
        ("seq", seq),
        ("id", &key('c', 16)),
        ("nonce", "3000000 + i"),
        ("digest", &key('c', 32)),
        ("held_hash", &key('b', 32)),
        ("token", "printf('token%d', i)"),
    ];
    copy(ledger, &tenth, "card", "seq = 1", &closed);
    let sent =
        [("id", "1000005 + i * 10"), ("nonce", "2000000 + i"), ("kind", "'capture'"), ("card", seq), ("pruned", "1")];
    copy(ledger, &tenth, "tx", "id = 1", &sent);
    let answered = [("transaction_token", "printf('asked%d', i)"), ("card", seq)];
    copy(ledger, &tenth, "charge", "transaction_token = 'past'", &answered);
    copy(ledger, &tenth, "issuer_event", "token = 'past'", &[("token", "printf('told%d', i)"), ("card", seq)]);
    let now = NOW.to_string();
    copy(ledger, &range, "webhook", "id = 'past'", &[("id", "printf('webhook%d', i)"), ("at", &now)]);
    copy(ledger, &range, "idempotency", "key = 'key'", &[("key", "printf('key%d', i)")]);
}

/// Everything that a serving relayer does with its ledger, on the mandate with the long history. What it does is of the
/// same size on every ledger.
fn serve(ledger: &Connection) {
    append(ledger, block(2, NOW), &[]);
    let log = Log { index: 0, tx_hash: B256::ZERO, topics: vec![B256::ZERO], data: Bytes::new() };
    ask(ledger);
    settle(ledger, log);
    hold(ledger);
    end(ledger);
    read(ledger);
}

/// Appends a block that is projected to its end.
fn append(ledger: &Connection, block: Block, logs: &[Log]) {
    blocks::forget_logs(ledger, block.number).unwrap();
    for log in logs {
        blocks::add_log(ledger, block.number, log).unwrap();
    }
    blocks::push(ledger, block).unwrap();
    assert!(blocks::unfinished(ledger).unwrap().is_some());
    for log in blocks::next_logs(ledger, block, 64).unwrap() {
        blocks::log_done(ledger, block, &log).unwrap();
    }
    blocks::mark(ledger, block, None).unwrap();
    assert!(!blocks::take_back(ledger).unwrap());
}

/// Requests, approvals and revocations.
fn ask(ledger: &Connection) {
    let body = NewMandateRequest::new(usdc(1_000_000), "ads", "1d".parse().unwrap());
    let request = RequestId(Uuid::from_bytes([2; 16]));
    let intent = Intent { version: 1, purpose: "more".into(), policy: Default::default(), nonce: B256::ZERO };
    requests::insert(ledger, request, AGENT, &body, &intent, NOW).unwrap();
    assert!(requests::get(ledger, request).unwrap().is_some());
    assert!(requests::of_intent(ledger, AGENT, intent.hash()).unwrap().is_some());
    assert!(requests::recall(ledger, AGENT.as_slice(), "new").unwrap().is_none());
    let call = IdempotentCall { fingerprint: B256::ZERO, subject: request.0 };
    requests::remember(ledger, AGENT.as_slice(), "new", call).unwrap();
    let asked = audit::NewAuditEntry { kind: "mandate.requested".into(), agent: Some(AGENT), ..Default::default() };
    audit::append(ledger, NOW, asked).unwrap();
    audit::seal(ledger).unwrap();
    mandates::count_approval(ledger, OPERATOR, NOW).unwrap();
    mandates::quota_free_at(ledger, OPERATOR, 50, NOW).unwrap();
    mandates::total_quota_free_at(ledger, 500, NOW).unwrap();

    let approved = Terms { intent: intent.hash(), ..terms(AGENT) };
    for id in [OPEN, GIVEN_UP, REVOKED] {
        mandates::ensure(ledger, id, &approved, NOW).unwrap();
        ledger.execute("UPDATE mandate SET request = ? WHERE id = ?", (Sql(request), Sql(id))).unwrap();
        openings::add(ledger, &Opening { mandate: id, calldata: Bytes::new() }, LATER).unwrap();
    }
    assert!(openings::of_request(ledger, request).unwrap().is_some());
    assert_eq!(openings::waiting(ledger).unwrap().len(), 3);
    let tx = transaction(ledger, Kind::Open(OPEN));
    assert!(openings::attach_to_tx(ledger, OPEN, tx).unwrap());
    is_obsolete(ledger, tx);
    transactions::gas_payers(ledger, &transactions::by_id(ledger, tx).unwrap().unwrap()).unwrap();
    openings::detach_from_tx(ledger, OPEN).unwrap();
    openings::withdraw(ledger, REVOKED, None, NOW).unwrap();
    mandates::set_opened(ledger, OPEN, Some(place(2))).unwrap();
    requests::set_mandate(ledger, request, Some(OPEN)).unwrap();
    assert_eq!(openings::give_up(ledger, request, OPEN).unwrap(), [GIVEN_UP]);
    mandates::ensure(ledger, ROLLED, &Terms { agent: GUARDIAN, ..approved }, NOW).unwrap();
    mandates::inherit_intent(ledger, OPEN, ROLLED).unwrap();
    assert!(mandates::get(ledger, ROLLED).unwrap().unwrap().intent.is_some());

    assert!(revocations::add(ledger, &Revocation { mandate: REVOKED, calldata: Bytes::new() }).unwrap());
    assert_eq!(revocations::waiting(ledger).unwrap().len(), 1);
    let tx = transaction(ledger, Kind::Revoke(REVOKED));
    revocations::set_tx(ledger, REVOKED, Some(tx)).unwrap();
    is_obsolete(ledger, tx);
    mandates::set_ended(ledger, REVOKED, Some(place(2))).unwrap();
    assert_eq!(mandates::touched_by(ledger, place(2).hash).unwrap().len(), 2);
    revocations::set_done(ledger, REVOKED).unwrap();
}

fn is_obsolete(ledger: &Connection, tx: u64) -> bool {
    transactions::is_obsolete(ledger, &transactions::by_id(ledger, tx).unwrap().unwrap()).unwrap()
}

/// Payments, from their admission to their end.
fn settle(ledger: &Connection, log: Log) {
    let mandate = mandates::get(ledger, PAST).unwrap().unwrap();
    assert!(mandates::of_agent(ledger, PAST, mandate.agent).unwrap().is_some());
    assert!(mandates::of_agent(ledger, PAST, mandate.operator).unwrap().is_none());
    assert!(payments::by_nonce(ledger, PAST, NEXT).unwrap().is_none());
    assert!(!payments::is_external(ledger, PAST, NEXT).unwrap());
    assert!(window::usage(ledger, &mandate, &[], NOW).unwrap().mined.len() > 30);
    gas::spent(ledger, PAST, NOW).unwrap();
    gas::expected(ledger, PAST, 0).unwrap();
    let admitted: Vec<_> = (NEXT..NEXT + 8).map(|nonce| admit(ledger, PAST, nonce, LATER)).collect();
    let [first, second, third, fourth, fifth, rest @ ..] = &admitted[..] else { panic!("eight were admitted") };
    let late = admit(ledger, PAST, NEXT + 20, NOW);

    assert_eq!(payments::next_to_send(ledger, MandateId::default()).unwrap(), Some(PAST));
    assert_eq!(payments::to_send(ledger, PAST, NOW, 3).unwrap().len(), 3);
    assert!(payments::wait_to_be_sent(ledger, 3).unwrap());
    payments::set_reason(ledger, fifth.seq, Some(Code::TransferFailed)).unwrap();
    assert_eq!(payments::refused(ledger, Default::default(), NOW, 10).unwrap().len(), 1);
    assert!(payments::lowest_needed(ledger, PAST, NOW).unwrap().is_some());
    assert!(payments::lowest_live(ledger, PAST, NOW).unwrap().is_some());
    assert!(payments::first_waiting(ledger, PAST).unwrap().is_some());
    assert_eq!(payments::first_overdue(ledger, NOW).unwrap().unwrap().id, late.id);
    step(ledger, &late, Transition::Fail, TransitionContext::default());

    let tx = submit(ledger, &[first, second]);
    let other = submit(ledger, &[third, fourth]);
    transactions::add_attempt(ledger, tx, &attempt(1 << 32)).unwrap();
    payments::set_tx_hash(ledger, tx, attempt(1 << 32).hash).unwrap();
    assert_eq!(transactions::pending(ledger).unwrap().len(), 4);
    assert_eq!(transactions::pending_of(ledger, SUBMITTER).unwrap().len(), 4);
    assert_eq!(transactions::unfinished(ledger).unwrap().len(), 4);
    assert_eq!(transactions::live_hashes(ledger).unwrap().len(), 5);
    assert_eq!(transactions::mandates_of(ledger, tx).unwrap(), [PAST]);
    assert_eq!(transactions::attempts(ledger, tx).unwrap().len(), 2);
    assert!(!is_obsolete(ledger, tx));

    append(ledger, block(3, NOW + 1), &[log]);
    let hash = attempt(1 << 32).hash;
    assert_eq!(transactions::of_attempt(ledger, hash).unwrap().unwrap().id, tx);
    let rows = transactions::row_count(ledger, tx).unwrap();
    assert_eq!(transactions::rows_of_attempt(ledger, hash).unwrap(), Some(rows));
    transactions::calldata(ledger, tx).unwrap();
    assert!(!transactions::cancels(ledger, hash).unwrap());
    transactions::set_mined(ledger, tx, place(3), true, 7).unwrap();
    transactions::set_mined(ledger, other, place(3), true, 7).unwrap();
    step(ledger, first, Transition::Mine, TransitionContext::mined(place(3)));
    transactions::set_skipped(ledger, tx, second.seq, Code::TransferFailed).unwrap();
    assert!(transactions::skipped(ledger, tx, second.seq).unwrap().is_some());
    assert!(transactions::holds_live(ledger, second.seq).unwrap());
    assert!(!transactions::has_reverted(ledger, second.seq).unwrap());
    assert!(window::usage(ledger, &mandate, &[], NOW).unwrap().pending.len() > 3);

    // A reorg, and the same block again.
    transactions::unmine(ledger, place(3).hash).unwrap();
    assert_eq!(payments::first_mined_in(ledger, place(3).hash).unwrap().unwrap().id, first.id);
    step(ledger, first, Transition::Unmine { held: true }, TransitionContext::default());
    blocks::pop(ledger, block(3, NOW + 1)).unwrap();
    append(ledger, block(3, NOW + 1), &[]);
    transactions::set_mined(ledger, tx, place(3), true, 7).unwrap();
    step(ledger, first, Transition::Mine, TransitionContext::mined(place(3)));

    assert_eq!(blocks::next_to_finalize(ledger, 2).unwrap().unwrap().number, 2);
    blocks::mark_final(ledger, block(2, NOW)).unwrap();
    step(ledger, first, Transition::Settle, TransitionContext::mined(place(3)));
    window::record(ledger, PAST, [first.amount], place(3)).unwrap();
    assert_eq!(payments::first_ruled_out_by(ledger, PAST, NEXT + 1).unwrap().unwrap().id, second.id);
    assert!(payments::first_ruled_out_by(ledger, PAST, NEXT + 1_000).unwrap().is_some());
    assert!(payments::first_left_by(ledger, tx).unwrap().is_some());
    let outflow = Spent { mandate: PAST, nonce: NEXT + 30, payee: PAYEE, amount: usdc(5) };
    payments::insert_external(ledger, ExternalOutflow::Payment, &outflow, place(3)).unwrap();
    let row = mandates::get(ledger, PAST).unwrap().unwrap();
    booking::book(ledger, &row, LedgerEvent::Pay(usdc(5)), EntryRefs::default(), NOW).unwrap();
    while let Some(tx) = transactions::next_to_finalize(ledger, place(3).hash).unwrap() {
        transactions::set_final(ledger, tx.id).unwrap();
        gas::charge(ledger, &tx, NOW).unwrap();
        let refs = EntryRefs { tx: Some(tx.id), ..EntryRefs::default() };
        journal::charge_gas(ledger, 7, &[GasPayer { mandate: Some(row.seq), rows: 1 }], refs, NOW).unwrap();
    }
    transactions::set_superseded(ledger, other).unwrap();
    blocks::mark_final(ledger, block(3, NOW + 1)).unwrap();
    // Far behind it, the bytes go.
    transactions::prune(ledger, 1_000).unwrap();
    let attempts = transactions::attempts(ledger, tx).unwrap();
    assert!(attempts.iter().all(|attempt| transactions::raw(ledger, attempt.hash).unwrap().is_empty()));
    for payment in rest {
        let failed = TransitionContext { reason: Some(Code::Ended), ..TransitionContext::default() };
        step(ledger, payment, Transition::Fail, failed);
    }
    mandates::add_refunded(ledger, PAST, PAYEE, usdc(1)).unwrap();
    payments::settles_within(ledger).unwrap();
}

/// Cards, from their admission to their end.
fn hold(ledger: &Connection) {
    assert!(cards::by_digest(ledger, B256::ZERO).unwrap().is_none());
    assert!(cards::by_nonce(ledger, PAST, NEXT + 40).unwrap().is_none());
    let mandate = mandates::get(ledger, PAST).unwrap().unwrap();
    let [kept, lost] =
        [LATER, NOW].map(|deadline| admit_card(ledger, PAST, NEXT + 40 + (deadline == NOW) as u32, deadline));
    assert_eq!(cards::live(ledger).unwrap().len(), 2);
    assert_eq!(cards::to_hold(ledger, NOW).unwrap().len(), 1);
    assert_eq!(cards::awaiting_hold(ledger, PAST).unwrap().len(), 2);
    let overdue = cards::overdue(ledger, NOW).unwrap().remove(0);
    assert_eq!(overdue.id, lost.id);
    cards::give_up_hold(ledger, overdue, Code::DeadlinePassed, NOW).unwrap();
    let tx = transaction(ledger, Kind::Hold(kept.seq));
    assert_eq!(transactions::mandates_of(ledger, tx).unwrap(), [PAST]);
    assert!(!is_obsolete(ledger, tx));
    cards::set_held(ledger, kept.seq, Some(place(3))).unwrap();
    assert_eq!(cards::held_in(ledger, place(3).hash).unwrap().len(), 1);
    cards::set_hold_final(ledger, kept.seq).unwrap();
    let refs = EntryRefs::card(kept.seq);
    booking::book(ledger, &mandates::get(ledger, PAST).unwrap().unwrap(), LedgerEvent::Place(kept.amount), refs, NOW)
        .unwrap();
    assert_eq!(cards::holding(ledger, PAST).unwrap().len(), 1);
    walk(ledger, &kept, &[CardState::Held]);
    cards::set_issued(ledger, kept.seq, "new", "1234").unwrap();
    cards::set_paused(ledger, kept.seq, true).unwrap();
    walk(ledger, &kept, &[CardState::Active]);

    assert!(charges::answered(ledger, "question").unwrap().is_none());
    assert_eq!(cards::by_token(ledger, "new").unwrap().unwrap().id, kept.id);
    assert_eq!(charges::approvals(ledger, kept.seq).unwrap(), 0);
    let answer = Answer { card: Some(kept.seq), cents: 100, declined: None };
    charges::remember_answer(ledger, "question", answer, NOW).unwrap();
    cards::set_charged(ledger, kept.seq, Some(("question", usdc(1_000_000)))).unwrap();
    assert!(charges::add_webhook(ledger, "new", NOW).unwrap());
    charges::ingest(ledger, kept.seq, &[event("new", "CLEARING", 1)]).unwrap();
    assert_eq!(charges::unknown_kind(ledger, kept.seq).unwrap(), None);
    charges::awaits_clearing(ledger, kept.seq, NOW).unwrap();
    charges::approved_tally(ledger, kept.seq).unwrap();
    let captured = usdc(10_000);
    cards::set_to_capture(ledger, kept.seq, captured).unwrap();
    assert_eq!(cards::to_settle(ledger).unwrap().len(), 1);
    let outcome = cards::HoldOutcome { captured, released: kept.amount.checked_sub(captured).unwrap() };
    cards::set_settled(ledger, kept.seq, outcome, Some(B256::ZERO)).unwrap();
    journal::credit_treasury(ledger, mandate.seq, captured, refs, NOW).unwrap();
    let card = cards::by_seq(ledger, kept.seq).unwrap().unwrap();
    cards::finish(ledger, card, None, None, NOW).unwrap();
    // More than was captured: the host bears it.
    charges::ingest(ledger, kept.seq, &[event("late", "CLEARING", 100)]).unwrap();
    assert!(!cards::by_seq(ledger, kept.seq).unwrap().unwrap().shortfall.is_zero());
    assert_eq!(cards::closed_after(ledger, Default::default()).unwrap().len(), 10);
    cards::refunds_due(ledger).unwrap();
}

/// Mandates that come to their end.
fn end(ledger: &Connection) {
    mandates::freeze(ledger, OPEN, "a test").unwrap();
    assert!(mandates::any_frozen(ledger).unwrap().is_some());
    assert_eq!(mandates::unexplained(ledger, GUARDIAN).unwrap().len(), 1);
    assert_eq!(mandates::all_frozen(ledger).unwrap().len(), 1);
    mandates::set_examined(ledger, OPEN, true).unwrap();
    assert_eq!(openings::lapsed(ledger, LATER).unwrap().len(), 1);
    assert_eq!(mandates::to_sweep(ledger, GUARDIAN, usdc(10), LATER).unwrap().len(), 1);
    while let Some((id, _)) = mandates::first_lapsing(ledger, LATER).unwrap() {
        mandates::set_lapsed(ledger, id).unwrap();
    }
    assert_eq!(mandates::to_sweep(ledger, GUARDIAN, usdc(10), LATER).unwrap().len(), 1);
    let tx = transaction(ledger, Kind::Sweep(OPEN));
    assert!(!is_obsolete(ledger, tx));
    assert_eq!(mandates::to_sweep(ledger, GUARDIAN, usdc(10), LATER).unwrap().len(), 0);
}

/// What readers and the follower ask for.
fn read(ledger: &Connection) {
    for reader in [AGENT, OPERATOR] {
        requests::list(ledger, reader, None, 20).unwrap();
        requests::list(ledger, reader, Some(RequestId(Uuid::from_bytes([0x80; 16]))), 20).unwrap();
        for before in [None, Some(1_000_000)] {
            mandates::list(ledger, reader, before, 20).unwrap();
        }
        for mandate in [None, Some(PAST), Some(OPEN)] {
            let first = List { reader, mandate, cursor: None, limit: 20 };
            let page = payments::list(ledger, first, Filter::default()).unwrap();
            if let Some(cursor) = page.next {
                payments::list(ledger, List { cursor: Some(cursor), ..first }, Filter::default()).unwrap();
            }
            for state in PaymentState::ALL {
                payments::list(ledger, first, Filter { state: Some(state), reference: None }).unwrap();
            }
            let filter = Filter { reference: Some(B256::repeat_byte(0xfe)), ..Filter::default() };
            payments::list(ledger, first, filter).unwrap();
            cards::list(ledger, first).unwrap();
            let last = audit::last(ledger).unwrap();
            for after in [0, 1_000, last - 1_100, last - 100] {
                let query = feed::Query { reader, mandate, after, limit: 20 };
                feed::list(ledger, query).unwrap();
                feed::list_raw(ledger, query).unwrap();
            }
            feed::latest(ledger, reader, mandate, 20).unwrap();
        }
    }
    assert!(blocks::by_hash(ledger, place(3).hash).unwrap().is_some());
    assert!(blocks::hash_at(ledger, 3).unwrap().is_some());
    assert!(blocks::last_final(ledger).unwrap().is_some());
    assert!(!blocks::is_partial(ledger).unwrap());
    assert!(blocks::only_our_submitters(ledger).unwrap());
    assert_eq!(transactions::submitters(ledger).unwrap(), [SUBMITTER]);
    blocks::add_submitter(ledger, SUBMITTER).unwrap();
    transactions::start(ledger, SUBMITTER, 0).unwrap();
    transactions::adopt(ledger, SUBMITTER, 0).unwrap();
}

/// What is not judged, by file and function, and why.
const EXEMPT: &[(&str, &str)] = &[
    // At the start, and by the host's commands.
    ("ledger.rs", ""),
    ("check.rs", ""),
    ("rebuild.rs", ""),
    ("blocks.rs", "restart_at"),
    ("journal.rs", "reverse_gas"),
    ("audit.rs", "verify"),
    ("audit.rs", "import"),
    ("books.rs", "recover"),
    ("payments.rs", "external_txs"),
    ("payments.rs", "reopen"),
    ("cards.rs", "concluded"),
    // The frame of each commit, and the last entry by its key.
    ("writer.rs", ""),
    // As much as was committed since the last one.
    ("checkpointer.rs", ""),
];

/// What is known to grow, by file and function.
const GROWS: &[(&str, &str)] = &[
    // By the reader's mandates, each of which is asked once.
    ("feed.rs", "merged"),
    ("feed.rs", "chains"),
];

/// Where a statement is called: file, function, line.
type Site = (String, String, u32);

/// Every call of a statement in the ledger's source.
fn sites() -> BTreeSet<Site> {
    const CALLS: &[&str] = &[
        ".rows(",
        ".row(",
        ".value(",
        ".change(",
        "::select(",
        "insert!(",
        ".execute(",
        ".execute_batch(",
        ".query_row(",
        ".prepare(",
        ".prepare_cached(",
    ];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger");
    let mut files: Vec<_> = [source.clone(), source.join("cards")]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.push(source.with_extension("rs"));
    let mut sites = BTreeSet::new();
    for path in files {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        // They are what is called.
        if ["sql.rs", "tests.rs"].contains(&file.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut function = String::new();
        for (line, text) in (1..).zip(text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines()) {
            let code = text.split("//").next().unwrap();
            if let Some((_, rest)) = code.split_once("fn ") {
                function = rest.split(['(', '<']).next().unwrap().to_owned();
            }
            if CALLS.iter().any(|call| code.contains(call)) {
                sites.insert((file.clone(), function.clone(), line));
            }
        }
    }
    sites
}

fn is_in(list: &[(&str, &str)], (file, function, _): &Site) -> bool {
    list.iter().any(|(in_file, of)| in_file == file && (of.is_empty() || of == function))
}

/// How SQLite runs it.
fn plan(ledger: &Connection, statement: &str) -> String {
    let mut plan = ledger.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    let parameters = vec![rusqlite::types::Null; plan.parameter_count()];
    let lines = plan.query_map(rusqlite::params_from_iter(parameters), |row| row.get("detail")).unwrap();
    lines.map(Result::unwrap).collect::<Vec<String>>().join("; ")
}

/// Each statement's work, in all runs together, by where it is called.
fn work(runs: Vec<Run>) -> BTreeMap<(String, u32, String), (u64, u64)> {
    let mut work = BTreeMap::new();
    for Run { at, statement, steps, recompiled } in runs {
        let file = Path::new(at.file()).file_name().unwrap().to_str().unwrap().to_owned();
        let (all, anew) = work.entry((file, at.line(), statement)).or_insert((0, 0));
        (*all, *anew) = (*all + steps, *anew + recompiled);
    }
    work
}

#[test]
fn what_a_serving_relayer_does_takes_no_more_work_on_a_longer_history() {
    let [short, long] = [SHORT, LONG].map(filled);
    let [less, more] = [&short, &long].map(|ledger| work(cost::of(|| serve(ledger))));
    let sites = sites();
    let site = |file: &str, line: u32| sites.iter().find(|site| site.0 == file && site.2 == line);

    let mut wrong = Vec::new();
    let mut grows = BTreeSet::new();
    for ((file, line, statement), (steps, anew)) in &more {
        let before = less.get(&(file.clone(), *line, statement.clone())).map_or(0, |(steps, _)| *steps);
        let Some(site) = site(file, *line) else {
            wrong.push(format!("{file}:{line} is not found in the source: {statement}"));
            continue;
        };
        if *steps > before * HUNDREDTHS / 100 + SLACK && !is_in(EXEMPT, site) {
            grows.insert((site.0.as_str(), site.1.as_str()));
            if !is_in(GROWS, site) {
                let plan = plan(&long, statement);
                wrong.push(format!("{file}:{line}: {before} steps become {steps}\n    {statement}\n    {plan}"));
            }
        }
        if *anew > 0 {
            wrong.push(format!("{file}:{line} is compiled anew for other values: {statement}"));
        }
    }
    for unmet in GROWS.iter().filter(|known| !grows.contains(known)) {
        wrong.push(format!("{unmet:?} does not grow any longer"));
    }
    let runs = |(file, _, line): &Site| more.keys().any(|(of, at, _)| (of, at) == (file, line));
    for never in sites.iter().filter(|site| !runs(site) && !is_in(EXEMPT, site)) {
        wrong.push(format!("{never:?} is never run by this test"));
    }
    for exempt in EXEMPT.iter().filter(|exempt| !sites.iter().any(|site| is_in(&[**exempt], site))) {
        wrong.push(format!("{exempt:?} has no statement any longer"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every payment of the pages of a list, and how many pages there are.
fn walk_pages(ledger: &Connection, mut list: List, filter: Filter) -> (Vec<u64>, usize) {
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = payments::list(ledger, list, filter).unwrap();
        assert!(page.rows.len() <= list.limit as usize);
        found.extend(page.rows.iter().map(|payment| payment.seq));
        pages += 1;
        match page.next {
            // As a client gives it back.
            Some(next) => list.cursor = Some(next.to_string().parse().unwrap()),
            None => return (found, pages),
        }
    }
}

/// Those of more mandates than are merged, too, and those that few of many are.
#[test]
fn pages_give_all_that_matches_newest_first() {
    let ledger = filled(SHORT);
    admit(&ledger, PAST, NEXT, LATER);
    ledger.execute("UPDATE payment SET ref = zeroblob(32) WHERE seq % 1000 = 0", []).unwrap();
    let expected = |mandate: &str, condition: &str| -> Vec<u64> {
        let query = format!(
            "SELECT payment.seq FROM payment JOIN mandate ON mandate.id = mandate
             WHERE (mandate.agent = ?1 OR mandate.operator = ?1) AND {mandate} AND {condition} ORDER BY payment.seq DESC"
        );
        let mut query = ledger.prepare(&query).unwrap();
        query.query_map([Sql(OPERATOR)], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let of_state = |state| Filter { state: Some(state), ..Filter::default() };
    let referring = Filter { reference: Some(B256::ZERO), ..Filter::default() };
    for (filter, condition) in [
        (Filter::default(), "TRUE"),
        (of_state(PaymentState::Settled), "state = 'settled'"),
        (of_state(PaymentState::Failed), "state = 'failed'"),
        (of_state(PaymentState::Reserved), "state = 'reserved'"),
        (of_state(PaymentState::Mined), "FALSE"),
        (referring, "ref = zeroblob(32)"),
        (Filter { state: Some(PaymentState::Failed), ..referring }, "state = 'failed' AND ref = zeroblob(32)"),
    ] {
        let list = List { reader: OPERATOR, mandate: Some(PAST), cursor: None, limit: 100 };
        let all = expected("mandate.seq = 1", condition);
        let (found, pages) = walk_pages(&ledger, list, filter);
        assert_eq!(found, all, "{condition}");
        // What does not match is passed over, a thousand a page.
        assert!(pages <= all.len() / 100 + 1 + SHORT as usize / 1_000 + 1, "{condition}: {pages} pages");

        let (mut found, _) = walk_pages(&ledger, List { mandate: None, ..list }, filter);
        let newest = found.iter().zip(&found[1.min(found.len())..]).filter(|(one, next)| one < next).count();
        assert!(newest <= 1, "{condition}: each group of mandates comes newest first");
        found.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(found, expected("TRUE", condition), "{condition}");
    }
    let stranger = List { reader: GUARDIAN, mandate: Some(PAST), cursor: None, limit: 100 };
    assert_eq!(walk_pages(&ledger, stranger, Filter::default()), (Vec::new(), 1));
}
