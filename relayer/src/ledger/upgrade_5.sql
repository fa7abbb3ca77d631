-- From version 5 to 6: a roll carries what is left to another mandate. SQLite changes no CHECK of a table, so it is made
-- anew; foreign keys point at it by name.
CREATE TABLE mandate_new (
    seq          INTEGER PRIMARY KEY,
    id           BLOB    NOT NULL UNIQUE,
    operator     BLOB    NOT NULL,
    agent        BLOB    NOT NULL,
    terms        TEXT    NOT NULL,
    intent       TEXT,
    request      BLOB,
    expiry       INTEGER NOT NULL,
    cap          INTEGER NOT NULL CHECK (cap > 0),
    restored     INTEGER NOT NULL DEFAULT 0 CHECK (restored >= 0),
    refunded     INTEGER NOT NULL DEFAULT 0,
    overdrawn    INTEGER NOT NULL DEFAULT 0 CHECK (overdrawn >= 0),
    available    INTEGER NOT NULL CHECK (available >= 0),
    reserved     INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    held         INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    paid         INTEGER NOT NULL DEFAULT 0 CHECK (paid >= 0),
    returned     INTEGER NOT NULL DEFAULT 0 CHECK (returned >= 0),
    carried      INTEGER NOT NULL DEFAULT 0 CHECK (carried >= 0),
    opened_block INTEGER, opened_hash BLOB, opened_tx BLOB,
    ended_block  INTEGER, ended_hash  BLOB, ended_tx  BLOB,
    frozen       TEXT,
    examined     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    CHECK (cap + restored + overdrawn = available + reserved + held + paid + returned + carried),
    CHECK (overdrawn = 0 OR available = 0),
    CHECK (refunded >= restored)
) STRICT;
INSERT INTO mandate_new (seq, id, operator, agent, terms, intent, request, expiry, cap, restored, refunded, overdrawn, available,
        reserved, held, paid, returned, opened_block, opened_hash, opened_tx, ended_block, ended_hash, ended_tx, frozen,
        examined, created_at)
    SELECT seq, id, operator, agent, terms, intent, request, expiry, cap, restored, refunded, overdrawn, available,
        reserved, held, paid, returned, opened_block, opened_hash, opened_tx, ended_block, ended_hash, ended_tx, frozen,
        examined, created_at FROM mandate;
DROP TABLE mandate;
ALTER TABLE mandate_new RENAME TO mandate;
CREATE INDEX mandate_of_agent ON mandate (agent, seq);
CREATE INDEX mandate_of_operator ON mandate (operator, seq);
CREATE INDEX mandate_opened_in ON mandate (opened_hash) WHERE opened_hash IS NOT NULL;
CREATE INDEX mandate_ended_in ON mandate (ended_hash) WHERE ended_hash IS NOT NULL;
CREATE INDEX mandate_expiring ON mandate (expiry) WHERE ended_hash IS NULL;
CREATE INDEX mandate_unreturned ON mandate (ended_block) WHERE ended_block IS NOT NULL AND cap + restored > held + paid + returned + carried;
CREATE INDEX mandate_holding ON mandate (expiry) WHERE held > 0;
CREATE INDEX mandate_frozen ON mandate (id) WHERE frozen IS NOT NULL;
