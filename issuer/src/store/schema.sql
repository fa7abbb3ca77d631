-- The issuer's books. Times are microseconds since 1970, tokens are text, `body` is JSON.
-- A card's number and CVV are integers: no search for digits finds one in this file.

CREATE TABLE card (
    seq     INTEGER PRIMARY KEY,
    token   TEXT    NOT NULL UNIQUE,
    account TEXT    NOT NULL,
    number  INTEGER NOT NULL UNIQUE,
    cvv     INTEGER NOT NULL,
    state   TEXT    NOT NULL,
    memo    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    body    TEXT    NOT NULL -- card::Card
) STRICT;

-- What a create call with an idempotency key was answered, without the card's number and CVV.
CREATE TABLE answered (
    key     TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    card    TEXT NOT NULL REFERENCES card (token),
    answer  TEXT NOT NULL
) STRICT;

CREATE TABLE purchase (
    seq     INTEGER PRIMARY KEY,
    token   TEXT    NOT NULL UNIQUE,
    account TEXT    NOT NULL,
    card    TEXT    NOT NULL REFERENCES card (token),
    status  TEXT    NOT NULL,
    result  TEXT    NOT NULL,
    created INTEGER NOT NULL,
    body    TEXT    NOT NULL -- transaction::Transaction
) STRICT;
CREATE INDEX purchase_of_card ON purchase (card, seq);

CREATE TABLE event (
    seq     INTEGER PRIMARY KEY,
    token   TEXT    NOT NULL UNIQUE,
    type    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    payload TEXT    NOT NULL -- as it is delivered
) STRICT;

CREATE TABLE subscription (
    seq         INTEGER PRIMARY KEY,
    token       TEXT    NOT NULL UNIQUE,
    url         TEXT    NOT NULL,
    description TEXT    NOT NULL,
    disabled    INTEGER NOT NULL,
    event_types TEXT,             -- a JSON list; absent: all
    secret      TEXT    NOT NULL,
    old_secret  TEXT,
    old_until   INTEGER,
    created     INTEGER NOT NULL
) STRICT;

CREATE TABLE delivery (
    event        INTEGER NOT NULL REFERENCES event (seq),
    subscription INTEGER NOT NULL REFERENCES subscription (seq) ON DELETE CASCADE,
    attempts     INTEGER NOT NULL DEFAULT 0,
    due          INTEGER,          -- absent: delivered, or given up
    delivered    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (event, subscription)
) STRICT;
CREATE INDEX delivery_due ON delivery (due) WHERE due IS NOT NULL;

-- One row: who answers the real-time question. Nothing is signed before the secret was fetched.
CREATE TABLE responder (
    url        TEXT,
    secret     TEXT,
    old_secret TEXT,
    old_until  INTEGER
) STRICT;
INSERT INTO responder DEFAULT VALUES;
