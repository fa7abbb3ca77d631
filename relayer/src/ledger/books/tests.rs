use stipend_core::{PaymentId, api::NewPayment};

use super::*;
use crate::ledger::{
    audit::NewAuditEntry,
    feed::tests::inputs,
    payments::{self, DecidedPayment},
};

pub(in crate::ledger) const AGENT: Address = Address::repeat_byte(1);
pub(in crate::ledger) const MANDATE: MandateId = MandateId(B256::repeat_byte(2));

fn usdc(units: u64) -> Amount {
    Amount::from_units(units).unwrap()
}

fn ledger() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    mandates::ensure(&connection, MANDATE, &terms(), 0).unwrap();
    connection
}

pub(in crate::ledger) fn terms() -> Terms {
    Terms {
        operator: AGENT,
        agent: AGENT,
        guardian: AGENT,
        cap: usdc(100),
        per_payment: Amount::ZERO,
        window_cap: Amount::ZERO,
        window: 0,
        start: 0,
        expiry: 1,
        capture_end: 1,
        payees: B256::ZERO,
        intent: B256::ZERO,
        refunds_restore_budget: false,
    }
}

pub(in crate::ledger) fn payment(nonce: u32, amount: u64) -> NewPayment {
    NewPayment {
        mandate: MANDATE,
        payee: AGENT,
        amount: usdc(amount),
        nonce,
        deadline: 1,
        reference: B256::ZERO,
        signature: vec![1; 65].into(),
        metadata: Default::default(),
    }
}

fn try_pay(
    connection: &Connection,
    books: &mut Books,
    (nonce, amount): (u32, u64),
    fails: bool,
) -> Result<(), LedgerError> {
    try_pay_from(connection, books, payment(nonce, amount), fails)
}

fn try_pay_from(connection: &Connection, books: &mut Books, body: NewPayment, fails: bool) -> Result<(), LedgerError> {
    let new = DecidedPayment { body: &body, digest: B256::with_last_byte(body.nonce as u8), inputs: &inputs() };
    books.change(connection, body.mandate, AGENT, |open| {
        payments::accept(connection, open.unwrap(), PaymentId::generate(), &new, 7)?;
        if fails { Err(LedgerError::Full) } else { Ok(()) }
    })
}

fn standing(connection: &Connection) -> (Amount, Amount, Option<u32>) {
    let standing = mandates::standing(connection, MANDATE, AGENT).unwrap().unwrap();
    (standing.balances.available, standing.balances.reserved, standing.highest_nonce)
}

#[test]
fn what_a_commit_reserves_is_written_once() {
    let (connection, mut books) = (ledger(), Books::default());
    for payment in [(0, 10), (1, 20), (2, 30)] {
        try_pay(&connection, &mut books, payment, false).unwrap();
    }
    let seen = books.change(&connection, MANDATE, AGENT, |open| {
        let mandate = open.unwrap().mandate();
        Ok((mandate.balances.available, mandate.highest_nonce))
    });
    assert_eq!(seen.unwrap(), (usdc(40), Some(2)));
    assert_eq!(standing(&connection).1, Amount::ZERO);
    books.close(&connection).unwrap();
    assert_eq!(standing(&connection), (usdc(40), usdc(60), Some(2)));
    let entered: Vec<Amount> = connection.rows("SELECT amount FROM journal WHERE cause = 'reserve'", []).unwrap();
    assert_eq!(entered, [usdc(60)]);
    // Nothing is written twice.
    books.close(&connection).unwrap();
    assert_eq!(standing(&connection).1, usdc(60));
}

#[test]
fn a_command_that_fails_leaves_the_books_as_they_were() {
    let (connection, mut books) = (ledger(), Books::default());
    let failing = |books: &mut Books, payment, fails| {
        connection.execute_batch("SAVEPOINT command").unwrap();
        try_pay(&connection, books, payment, fails).unwrap_err();
        connection.execute_batch("ROLLBACK TO command; RELEASE command").unwrap();
    };
    // The first of its mandate; what is taken already, too much, and after all was in order but what came behind it.
    failing(&mut books, (0, 10), true);
    try_pay(&connection, &mut books, (0, 10), false).unwrap();
    for (payment, fails) in [((0, 20), false), ((1, 91), false), ((1, 20), true)] {
        failing(&mut books, payment, fails);
    }
    // One that never came to a mandate.
    connection.execute_batch("ALTER TABLE mandate RENAME TO elsewhere").unwrap();
    let lost = books.change(&connection, MandateId(B256::ZERO), AGENT, |_| Ok(()));
    assert!(matches!(lost, Err(LedgerError::Database(_))));
    connection.execute_batch("ALTER TABLE elsewhere RENAME TO mandate").unwrap();
    try_pay(&connection, &mut books, (2, 30), false).unwrap();
    books.close(&connection).unwrap();
    audit::seal(&connection).unwrap();
    assert_eq!(standing(&connection), (usdc(60), usdc(40), Some(2)));
    audit::verify(&connection, |seq, intact| assert!(intact, "entry {seq}")).unwrap();
}

const DOMAIN: Domain = Domain { chain_id: 1, escrow: Address::repeat_byte(9) };

/// All that the tables say of payments, in text.
fn tables(connection: &Connection) -> Vec<String> {
    let queries = [
        "SELECT seq || hex(id) || hex(mandate) || nonce || hex(payee) || amount || deadline || hex(ref) || hex(digest)
            || hex(signature) || state || metadata || created_at || updated_at FROM payment ORDER BY seq",
        "SELECT mandate || ' ' || seq FROM mandate_trail ORDER BY mandate, seq",
        "SELECT available || ' ' || reserved FROM mandate ORDER BY seq",
        "SELECT mandate || debit || credit || sum(amount) FROM journal GROUP BY mandate, debit, credit ORDER BY 1",
        "SELECT seq || '' FROM applied",
    ];
    queries.iter().flat_map(|query| connection.rows::<String>(query, []).unwrap()).collect()
}

/// Wherever the books were closed last, the trail alone says what was accepted since.
#[test]
fn what_was_not_closed_is_recovered_from_the_trail() {
    const PAYMENTS: u32 = 6;
    for closed_before in 0..=PAYMENTS {
        let (connection, mut books) = (ledger(), Books::default());
        let digest_of = |nonce| {
            let spend = Spend::new(MANDATE, AGENT, usdc(10), nonce, 1, B256::ZERO).unwrap();
            DOMAIN.spend_digest(&spend)
        };
        for nonce in 0..PAYMENTS {
            if nonce == closed_before {
                books.close(&connection).unwrap();
                audit::append(&connection, 8, NewAuditEntry { mandate: Some(MANDATE), ..Default::default() }).unwrap();
            }
            let body = payment(nonce, 10);
            let new = DecidedPayment { body: &body, digest: digest_of(nonce), inputs: &inputs() };
            let accept = |open: Option<&mut OpenMandate>| {
                let open = open.unwrap();
                // One in three is refused: that is in the trail alone, too.
                match nonce % 3 {
                    2 => payments::deny(&connection, open, &new, 7),
                    _ => payments::accept(&connection, open, PaymentId::generate(), &new, 7).map(drop),
                }
            };
            books.change(&connection, MANDATE, AGENT, accept).unwrap();
        }
        audit::seal(&connection).unwrap();
        let rows = connection.value::<u32>("SELECT count(*) FROM payment", []).unwrap();
        let closed = if closed_before < PAYMENTS { closed_before } else { 0 };
        assert_eq!(rows as usize, (0..closed).filter(|nonce| nonce % 3 != 2).count());

        connection.execute_batch("SAVEPOINT crash").unwrap();
        recover(&connection, DOMAIN).unwrap();
        let recovered = tables(&connection);
        assert_eq!(standing(&connection), (usdc(60), usdc(40), Some(4)));
        // Once is enough.
        recover(&connection, DOMAIN).unwrap();
        assert_eq!(tables(&connection), recovered);
        connection.execute_batch("ROLLBACK TO crash").unwrap();

        books.close(&connection).unwrap();
        assert_eq!(tables(&connection), recovered, "closed before {closed_before}");
    }
}

/// Of several mandates, each has its turn: at first at once, then after a while, or when there is much of all of them.
#[test]
fn mandates_are_put_into_the_tables_in_turn() {
    let [one, other] = [MandateId(B256::repeat_byte(3)), MandateId(B256::repeat_byte(4))];
    let (connection, mut books) = (ledger(), Books::default());
    for (id, start) in [(one, 1), (other, 2)] {
        mandates::ensure(&connection, id, &Terms { cap: usdc(10_000), start, ..terms() }, 0).unwrap();
    }
    let pay = |books: &mut Books, mandate, nonce| {
        try_pay_from(&connection, books, NewPayment { mandate, ..payment(nonce, 1) }, false).unwrap();
    };
    let apply = |books: &mut Books| books.apply_due(&connection, audit::last(&connection).unwrap()).unwrap();
    let rows = |mandate| {
        let query = "SELECT count(*) FROM payment WHERE mandate = ?";
        connection.value::<u32>(query, [Sql(mandate)]).unwrap()
    };
    pay(&mut books, one, 0);
    pay(&mut books, other, 0);
    assert_eq!(apply(&mut books), 2);
    assert!(books.is_applied());

    pay(&mut books, one, 1);
    pay(&mut books, other, 1);
    let due = books.due().unwrap();
    // Unless this has taken as long as their turn is away, they wait for it.
    if apply(&mut books) == 2 {
        assert_eq!((rows(one), rows(other), books.due()), (1, 1, Some(due)));
        (2..MOST as u32).for_each(|nonce| pay(&mut books, one, nonce));
        let early = apply(&mut books) == 2;
        // Both together are as many as there may be; one more, and the first one's turn has come.
        pay(&mut books, other, 2);
        apply(&mut books);
        assert_eq!(rows(one), MOST as u32);
        assert!(early || due <= Instant::now(), "its turn came too early");
    }
    // By then it is.
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
    while !books.is_applied() {
        apply(&mut books);
    }
    assert!(rows(other) >= 2);
    assert_eq!(connection.value::<u64>("SELECT seq FROM applied", []).unwrap(), audit::last(&connection).unwrap());
}

#[test]
fn a_nonce_is_accepted_once() {
    let (connection, mut books) = (ledger(), Books::default());
    try_pay(&connection, &mut books, (3, 10), false).unwrap();
    for close in [false, true] {
        if close {
            books.close(&connection).unwrap();
        }
        let twice = try_pay(&connection, &mut books, (3, 10), false);
        assert!(matches!(twice, Err(LedgerError::Inconsistent(_))), "{twice:?}");
    }
    // Nor does the table take it, whoever asks.
    let copied = connection.execute(
        "INSERT INTO payment (id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, metadata, created_at, updated_at)
         SELECT x'00', mandate, nonce, payee, amount, deadline, ref, digest, signature, 'failed', metadata, 0, 0 FROM payment",
        [],
    );
    assert!(copied.unwrap_err().to_string().contains("has this nonce"));
}

#[test]
fn another_agent_opens_nothing() {
    let (connection, mut books) = (ledger(), Books::default());
    let opens = |books: &mut Books, agent| books.change(&connection, MANDATE, agent, |open| Ok(open.is_some()));
    assert!(!opens(&mut books, Address::ZERO).unwrap());
    assert!(opens(&mut books, AGENT).unwrap());
    assert!(!opens(&mut books, Address::ZERO).unwrap());
    assert!(opens(&mut books, AGENT).unwrap());
}
