-- From version 8 to 9: one index for payments by nonce and by state; what is decided may be in the trail alone for a while.
CREATE TABLE payment_9 (
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
    stage      INTEGER NOT NULL GENERATED ALWAYS AS
        (CASE state WHEN 'reserved' THEN reason IS NOT NULL WHEN 'submitted' THEN 2 WHEN 'mined' THEN 3 ELSE 4 END) VIRTUAL
) STRICT;
INSERT INTO payment_9 (seq, id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, reason, tx_hash, mined_block, mined_hash, mined_at,
    metadata, created_at, updated_at)
    SELECT seq, id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, reason, tx_hash, mined_block, mined_hash, mined_at,
    metadata, created_at, updated_at FROM payment;
DROP TABLE payment;
ALTER TABLE payment_9 RENAME TO payment;
CREATE INDEX payment_by_stage ON payment (stage, mandate, nonce);
CREATE TRIGGER payment_has_its_nonce BEFORE INSERT ON payment
    WHEN EXISTS (SELECT 1 FROM payment WHERE stage IN (0, 1, 2, 3, 4) AND mandate = new.mandate AND nonce = new.nonce)
    BEGIN SELECT raise(ABORT, 'another payment of the mandate has this nonce'); END;
CREATE INDEX payment_due ON payment (deadline) WHERE state NOT IN ('settled', 'failed');
CREATE INDEX payment_mined_in ON payment (mined_hash) WHERE state = 'mined';
CREATE INDEX payment_of_mandate ON payment (mandate, seq);
CREATE INDEX payment_failed ON payment (mandate, seq) WHERE state = 'failed';

CREATE TABLE mandate_trail (
    mandate INTEGER NOT NULL REFERENCES mandate (seq),
    seq     INTEGER NOT NULL,
    PRIMARY KEY (mandate, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO mandate_trail SELECT mandate, seq FROM trail WHERE mandate IS NOT NULL ORDER BY mandate, seq;
DROP INDEX trail_of_mandate;
ALTER TABLE mandate ADD COLUMN applied INTEGER NOT NULL DEFAULT 0;
CREATE TABLE applied (seq INTEGER NOT NULL) STRICT;
INSERT INTO applied SELECT coalesce(max(seq), 0) FROM trail;
