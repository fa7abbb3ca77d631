//! A history: what settled payments leave behind in a ledger, in the order in which they would have come. One settled payment
//! is the model of all. Balances, and the trail's hashes, are left as they are not checked in serving: `stipend ledger check`
//! would object.

use std::{collections::BTreeMap, path::Path};

use alloy_primitives::FixedBytes;
use eyre::{OptionExt, Result};
use rusqlite::{Connection, Transaction, named_params};
use stipend_core::trail::{Decided, Entry, Maybe, Step};

/// Payments of one batch, and the bytes of its calldata.
const BATCH: u64 = 150;
const CALLDATA: u64 = 36_000;

/// Batches of one commit.
const COMMIT: u64 = 60;

/// Numbers from `:first` on, below `:end`; each is a payment.
const PAYMENTS: &str = "
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end)
    INSERT INTO payment
    SELECT :seq + i, CAST(unhex(printf('%016x', i)) || randomblob(8) AS BLOB), m.id, :nonce + i / :mandates,
        randomblob(20), p.amount, p.deadline, p.ref, randomblob(32), randomblob(65), p.state, p.reason,
        CAST(unhex(printf('%064x', i / :batch)) AS BLOB), p.mined_block, p.mined_hash, p.mined_at, p.metadata,
        p.created_at, p.updated_at
    FROM n CROSS JOIN mandate m ON m.seq = 1 + i % :mandates CROSS JOIN payment p ON p.seq = :model
    ORDER BY i";

/// The same for their batches.
const BATCHES: &str = "
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end)
    INSERT INTO tx
    SELECT :tx + i, zeroblob(20), i, t.kind, t.mandate, t.card, randomblob(:calldata), t.gas_limit, t.state,
        t.mined_block, t.mined_hash, CAST(unhex(printf('%064x', i)) AS BLOB), t.succeeded, t.gas_cost, 0
    FROM n CROSS JOIN tx t ON t.id = :tx - 1";
const ATTEMPTS: &str = "
    INSERT INTO attempt SELECT t.mined_tx, t.id, randomblob(:calldata), a.max_fee, a.priority_fee, a.sent_at, 0
    FROM tx t, (SELECT * FROM attempt WHERE tx = :tx - 1 LIMIT 1) a WHERE t.id >= :tx + :first AND t.id < :tx + :end";

/// Which of the payments from `:first` on, below `:end`, are in which of them.
const ROWS: &str = "INSERT INTO tx_payment SELECT :tx + (seq - :seq) / :batch, seq, NULL FROM payment WHERE seq >= :first AND seq < :end";

/// What the model left in the trail.
struct Model {
    decided: Decided,
    steps: Vec<Step>,
    amount: u64,
}

impl Model {
    fn of(connection: &Connection, payment: u64) -> Result<Self> {
        let of_model =
            "SELECT nonce, amount, (SELECT seq FROM mandate WHERE id = payment.mandate) FROM payment WHERE seq = ?";
        let (nonce, amount, mandate): (u32, u64, u64) =
            connection.query_row(of_model, [payment], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let mut bodies = connection.prepare("SELECT body FROM trail WHERE mandate = ? ORDER BY seq")?;
        let (mut decided, mut steps) = (None, Vec::new());
        for body in bodies.query_map([mandate], |row| row.get::<_, Vec<u8>>(0))? {
            match Entry::decode(&body?)? {
                Entry::Decision(found) if found.nonce == nonce => decided = Some(found),
                Entry::Step(step) if step.nonces.contains(&nonce) => steps.push(step),
                _ => {}
            }
        }
        Ok(Self { decided: decided.ok_or_eyre("the model was not accepted")?, steps, amount })
    }

    /// What a batch leaves in trail and journal: payments by id, mandate and nonce.
    fn write(&self, ledger: &Transaction<'_>, payments: &[(FixedBytes<16>, u64, u32)]) -> Result<()> {
        let mut seq: u64 = ledger.query_row("SELECT max(seq) FROM trail", [], |row| row.get(0))?;
        let mut entry = ledger.prepare_cached("INSERT INTO trail VALUES (?, ?, NULL, ?, randomblob(32))")?;
        let mut listed = ledger.prepare_cached("INSERT INTO mandate_trail VALUES (?, ?)")?;
        let mut posting = ledger.prepare_cached(
            "INSERT INTO journal (at, mandate, cause, debit, credit, amount) VALUES (?, ?, ?, ?, ?, ?)",
        )?;
        let mut together: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (id, mandate, nonce) in payments {
            seq += 1;
            let decided = Decided { payment: Maybe(Some(*id)), nonce: *nonce, ..self.decided.clone() };
            entry.execute((seq, mandate, Entry::Decision(decided).encode()))?;
            listed.execute((mandate, seq))?;
            together.entry(*mandate).or_default().push(*nonce);
        }
        for step in &self.steps {
            for (mandate, nonces) in &together {
                seq += nonces.len() as u64;
                let step = Step { nonces: nonces.clone(), ..step.clone() };
                entry.execute((seq, mandate, Entry::Step(step).encode()))?;
                listed.execute((mandate, seq))?;
            }
        }
        ledger.execute("INSERT INTO head VALUES (?, randomblob(32))", [seq])?;
        ledger.execute("UPDATE applied SET seq = ?", [seq])?;
        for (mandate, nonces) in together {
            let amount = self.amount * nonces.len() as u64;
            for (cause, debit, credit) in
                [("reserve", "available", "reserved"), ("settle", "reserved", "paid"), ("gas", "host", "gas")]
            {
                posting.execute((self.decided.at, mandate, cause, debit, credit, amount))?;
            }
        }
        Ok(())
    }
}

/// Adds `count` settled payments, of all mandates in turn, whose nonces begin at `nonce`, to a ledger that nobody has open.
///
/// # Errors
/// If the ledger's last payment is not settled, or has another schema.
pub(crate) fn prefill(ledger: &Path, count: u64, nonce: u32) -> Result<()> {
    let mut connection = Connection::open(ledger)?;
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000")?;
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0));
    let mandates = one("SELECT count(*) FROM mandate")?;
    let model = one("SELECT max(seq) FROM payment WHERE state = 'settled'")?;
    let seq = one("SELECT max(seq) + 1 FROM payment")?;
    let tx = one("SELECT max(id) + 1 FROM tx")?;
    let left = Model::of(&connection, model)?;
    let batches = count.div_ceil(BATCH);
    for first in (0..batches).step_by(usize::try_from(COMMIT)?) {
        let end = (first + COMMIT).min(batches);
        let (from, to) = (first * BATCH, (end * BATCH).min(count));
        let transaction = connection.transaction()?;
        let range = named_params! { ":first": first, ":end": end, ":tx": tx, ":calldata": CALLDATA };
        transaction.prepare_cached(BATCHES)?.execute(range)?;
        transaction.prepare_cached(ATTEMPTS)?.execute(range)?;
        transaction.prepare_cached(PAYMENTS)?.execute(named_params! {
            ":first": from, ":end": to, ":seq": seq, ":nonce": nonce, ":mandates": mandates, ":batch": BATCH, ":model": model,
        })?;
        let (from, to) = (seq + from, seq + to);
        let range = named_params! { ":first": from, ":end": to, ":seq": seq, ":tx": tx, ":batch": BATCH };
        transaction.prepare_cached(ROWS)?.execute(range)?;
        let payments: Vec<(FixedBytes<16>, u64, u32)> = {
            let stored = "SELECT p.id, m.seq, p.nonce FROM payment p JOIN mandate m ON m.id = p.mandate
                WHERE p.seq >= ? AND p.seq < ? ORDER BY p.seq";
            let mut stored = transaction.prepare_cached(stored)?;
            let row = |row: &rusqlite::Row<'_>| Ok((FixedBytes(row.get(0)?), row.get(1)?, row.get(2)?));
            stored.query_map((from, to), row)?.collect::<Result<_, _>>()?
        };
        for batch in payments.chunks(usize::try_from(BATCH)?) {
            left.write(&transaction, batch)?;
        }
        transaction.commit()?;
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}
