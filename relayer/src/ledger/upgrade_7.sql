-- From version 7 to 8: the audit trail is bytes, in a chain for each mandate. Its entries are taken over by the program.
CREATE TABLE trail (
    seq     INTEGER PRIMARY KEY,
    mandate INTEGER REFERENCES mandate (seq),
    agent   BLOB,
    body    BLOB    NOT NULL,
    hash    BLOB    NOT NULL
) STRICT;
CREATE INDEX trail_of_mandate ON trail (mandate, seq) WHERE mandate IS NOT NULL;
CREATE INDEX trail_of_agent ON trail (agent, seq) WHERE mandate IS NULL;
CREATE INDEX trail_of_agents ON trail (seq) WHERE mandate IS NULL;
CREATE TRIGGER trail_is_kept BEFORE UPDATE ON trail BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
CREATE TRIGGER trail_is_whole BEFORE DELETE ON trail BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
CREATE TABLE head (
    seq  INTEGER PRIMARY KEY,
    hash BLOB    NOT NULL
) STRICT;
CREATE TRIGGER head_is_kept BEFORE UPDATE ON head BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
CREATE TRIGGER head_is_whole BEFORE DELETE ON head BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;

CREATE TABLE approval (
    at       INTEGER NOT NULL,
    operator BLOB    NOT NULL
) STRICT;
CREATE INDEX approval_at ON approval (at);
CREATE INDEX approval_of_operator ON approval (operator, at);
INSERT INTO approval (at, operator) SELECT at, operator FROM audit WHERE kind = 'mandate.approved' ORDER BY seq;

-- A payment is known by its mandate and nonce: no index of random hashes grows with all that ever was.
CREATE TABLE payment_8 (
    seq        INTEGER PRIMARY KEY,
    id         BLOB    NOT NULL UNIQUE,
    mandate    BLOB    NOT NULL REFERENCES mandate (id),
    nonce      INTEGER NOT NULL,
    payee      BLOB    NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    deadline   INTEGER NOT NULL,
    ref        BLOB    NOT NULL,
    digest     BLOB    NOT NULL,
    signature  BLOB    NOT NULL,
    state      TEXT    NOT NULL,
    reason     TEXT,
    tx_hash    BLOB,
    mined_block INTEGER, mined_hash BLOB, mined_at INTEGER,
    metadata   TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (mandate, nonce)
) STRICT;
INSERT INTO payment_8 (seq, id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, reason, tx_hash, mined_block, mined_hash, mined_at,
    metadata, created_at, updated_at)
    SELECT seq, id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, reason, tx_hash, mined_block, mined_hash, mined_at,
    metadata, created_at, updated_at FROM payment;
DROP TABLE payment;
ALTER TABLE payment_8 RENAME TO payment;
CREATE INDEX payment_live ON payment (state, mandate, nonce) WHERE state NOT IN ('settled', 'failed');
CREATE INDEX payment_fresh ON payment (mandate, nonce) WHERE state = 'reserved' AND reason IS NULL;
CREATE INDEX payment_refused ON payment (mandate, nonce) WHERE state = 'reserved' AND reason IS NOT NULL;
CREATE INDEX payment_due ON payment (deadline) WHERE state NOT IN ('settled', 'failed');
CREATE INDEX payment_mined_in ON payment (mined_hash) WHERE state = 'mined';
CREATE INDEX payment_of_mandate ON payment (mandate, seq);
CREATE INDEX payment_failed ON payment (mandate, seq) WHERE state = 'failed';
