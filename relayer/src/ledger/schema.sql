-- The ledger. Amounts are base units, times are seconds since 1970, ids and hashes are raw bytes.
-- One writer; readers see whole commits. Per mandate
-- `cap + restored + overdrawn = available + reserved + held + paid + returned + carried`.

-- Which deployment this ledger belongs to: a ledger is never used for another chain or escrow.
CREATE TABLE deployment (
    chain_id INTEGER NOT NULL,
    escrow   BLOB    NOT NULL,
    token    BLOB    NOT NULL,
    guardian BLOB    NOT NULL
) STRICT;

-- What an agent asked for.
CREATE TABLE request (
    id          BLOB PRIMARY KEY,
    agent       BLOB    NOT NULL,
    body        TEXT    NOT NULL, -- api::NewMandateRequest
    intent      TEXT    NOT NULL, -- the canonical document
    intent_hash BLOB    NOT NULL UNIQUE,
    mandate     BLOB,             -- the one that came of it
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX request_of_agent ON request (agent, id);

CREATE TABLE mandate (
    seq          INTEGER PRIMARY KEY,
    id           BLOB    NOT NULL UNIQUE,
    operator     BLOB    NOT NULL,
    agent        BLOB    NOT NULL,
    terms        TEXT    NOT NULL, -- core::Terms
    intent       TEXT,             -- only if its hash and its payees are those of the terms
    request      BLOB,
    expiry       INTEGER NOT NULL,
    cap          INTEGER NOT NULL CHECK (cap > 0),
    restored     INTEGER NOT NULL DEFAULT 0 CHECK (restored >= 0),
    refunded     INTEGER NOT NULL DEFAULT 0, -- what payees gave back, wherever it went
    overdrawn    INTEGER NOT NULL DEFAULT 0 CHECK (overdrawn >= 0), -- claimed by the chain and by a reservation
    available    INTEGER NOT NULL CHECK (available >= 0),
    reserved     INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    held         INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    paid         INTEGER NOT NULL DEFAULT 0 CHECK (paid >= 0),
    returned     INTEGER NOT NULL DEFAULT 0 CHECK (returned >= 0),
    carried      INTEGER NOT NULL DEFAULT 0 CHECK (carried >= 0), -- by a roll, to the mandate that replaces it
    opened_block INTEGER, opened_hash BLOB, opened_tx BLOB, -- absent while not mined
    ended_block  INTEGER, ended_hash  BLOB, ended_tx  BLOB,
    frozen       TEXT,             -- why the relayer stopped it
    examined     INTEGER NOT NULL DEFAULT 0, -- whether a repair has looked into that
    created_at   INTEGER NOT NULL,
    lapsed       INTEGER NOT NULL DEFAULT 0, -- a final block has reached its expiry
    applied      INTEGER NOT NULL DEFAULT 0, -- its decisions up to this place of the trail are in the other tables
    CHECK (cap + restored + overdrawn = available + reserved + held + paid + returned + carried),
    CHECK (overdrawn = 0 OR available = 0),
    CHECK (refunded >= restored)
) STRICT;
CREATE INDEX mandate_of_agent ON mandate (agent, seq);
CREATE INDEX mandate_of_operator ON mandate (operator, seq);
CREATE INDEX mandate_opened_in ON mandate (opened_hash) WHERE opened_hash IS NOT NULL;
CREATE INDEX mandate_ended_in ON mandate (ended_hash) WHERE ended_hash IS NOT NULL;

CREATE INDEX mandate_lapsing ON mandate (expiry) WHERE NOT lapsed;
CREATE INDEX mandate_remainder ON mandate (cap + restored - paid - returned - carried) WHERE lapsed OR ended_hash IS NOT NULL;
CREATE INDEX mandate_frozen ON mandate (id) WHERE frozen IS NOT NULL;

CREATE TABLE payment (
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
    reason     TEXT,             -- why it failed, or why it still waits
    tx_hash    BLOB,             -- the last one sent, or the one mined
    mined_block INTEGER, mined_hash BLOB, mined_at INTEGER, -- the last is the block's time
    metadata   TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- To be sent, refused by a simulation, submitted, mined, at its end.
    stage      INTEGER NOT NULL GENERATED ALWAYS AS
        (CASE state WHEN 'reserved' THEN reason IS NOT NULL WHEN 'submitted' THEN 2 WHEN 'mined' THEN 3 ELSE 4 END) VIRTUAL
) STRICT;
-- What is open is apart from what is at its end, however much that is. One index for all of it: with many mandates nearly
-- each entry that a commit adds is another page.
CREATE INDEX payment_by_stage ON payment (stage, mandate, nonce);
CREATE TRIGGER payment_has_its_nonce BEFORE INSERT ON payment
    WHEN EXISTS (SELECT 1 FROM payment WHERE stage IN (0, 1, 2, 3, 4) AND mandate = new.mandate AND nonce = new.nonce)
    BEGIN SELECT raise(ABORT, 'another payment of the mandate has this nonce'); END;
CREATE INDEX payment_due ON payment (deadline) WHERE state NOT IN ('settled', 'failed');
CREATE INDEX payment_mined_in ON payment (mined_hash) WHERE state = 'mined';
CREATE INDEX payment_of_mandate ON payment (mandate, seq);
CREATE INDEX payment_failed ON payment (mandate, seq) WHERE state = 'failed';

-- Payments and holds that the chain knows and this ledger never accepted: booked as facts.
CREATE TABLE external_outflow (
    mandate    BLOB    NOT NULL REFERENCES mandate (id),
    nonce      INTEGER NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN ('pay', 'hold')),
    payee      BLOB    NOT NULL,
    amount     INTEGER NOT NULL,
    tx_hash    BLOB    NOT NULL,
    at         INTEGER NOT NULL, -- the block's time
    PRIMARY KEY (mandate, nonce)
) STRICT;

-- What of a mandate's payments and holds was final at a block's time, in all: what its rolling window took between two
-- times is a difference of two rows. Rows that no window reaches any more are removed.
CREATE TABLE window_total (
    mandate BLOB    NOT NULL REFERENCES mandate (id),
    at      INTEGER NOT NULL,
    amount  INTEGER NOT NULL,
    units   INTEGER NOT NULL, -- of the contract's register, each payment rounded up
    PRIMARY KEY (mandate, at)
) STRICT, WITHOUT ROWID;

-- A card and the hold behind it. `captured` and `released` are final; what is held on chain is what
-- is left of the amount once `hold_final` is set.
CREATE TABLE card (
    seq        INTEGER PRIMARY KEY,
    id         BLOB    NOT NULL UNIQUE,
    mandate    BLOB    NOT NULL REFERENCES mandate (id),
    nonce      INTEGER NOT NULL,
    payee      BLOB    NOT NULL, -- the card program's treasury
    amount     INTEGER NOT NULL CHECK (amount > 0),
    deadline   INTEGER NOT NULL,
    capture_by INTEGER NOT NULL,
    ref        BLOB    NOT NULL,
    digest     BLOB    NOT NULL UNIQUE,
    signature  BLOB    NOT NULL,
    expires_at INTEGER NOT NULL, -- from this second on it can't be charged
    state      TEXT    NOT NULL,
    reason     TEXT,
    held_block INTEGER, held_hash BLOB, held_at INTEGER, held_tx BLOB, -- absent while the hold is not mined
    hold_final INTEGER NOT NULL DEFAULT 0,
    settle_tx  BLOB,
    last_four  TEXT,             -- not behind the token, whose digits it would join to look like a number
    token      TEXT UNIQUE,      -- the issuer's name of it
    paused     INTEGER NOT NULL DEFAULT 0, -- at the issuer, or about to be, because the hold was unmined
    charge     TEXT,             -- the issuer's transaction that was approved
    authorized INTEGER,
    to_capture INTEGER,          -- how its hold is to be settled, once that is certain
    shortfall  INTEGER NOT NULL DEFAULT 0 CHECK (shortfall >= 0), -- taken by the issuer beyond what is captured
    owed_back  INTEGER NOT NULL DEFAULT 0 CHECK (owed_back >= 0), -- captured beyond what the issuer took
    captured   INTEGER NOT NULL DEFAULT 0 CHECK (captured >= 0),
    released   INTEGER NOT NULL DEFAULT 0 CHECK (released >= 0),
    metadata   TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (mandate, nonce),
    CHECK (captured + released <= amount)
) STRICT;
CREATE INDEX card_live ON card (state) WHERE state NOT IN ('closed', 'failed');
CREATE INDEX card_closed ON card (updated_at, seq) WHERE state = 'closed';
CREATE INDEX card_held_in ON card (held_hash) WHERE held_hash IS NOT NULL;
CREATE INDEX card_of_mandate ON card (mandate, seq);
CREATE INDEX card_unsettled ON card (mandate, nonce) WHERE amount > captured + released AND state <> 'failed';

-- What each payer gave back to a mandate, in final blocks, and what the treasury among them owes it for cards.
CREATE TABLE refund (
    mandate BLOB    NOT NULL REFERENCES mandate (id),
    payer   BLOB    NOT NULL,
    amount  INTEGER NOT NULL CHECK (amount >= 0),
    owed    INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0),
    PRIMARY KEY (mandate, payer)
) STRICT, WITHOUT ROWID;
CREATE INDEX refund_due ON refund (mandate) WHERE owed > amount;

-- What the issuer asked and was answered: the same question gets the same answer.
CREATE TABLE charge (
    transaction_token TEXT PRIMARY KEY,
    card    INTEGER REFERENCES card (seq),
    cents   INTEGER NOT NULL,
    verdict TEXT,                -- the code of a decline; absent: approved
    at      INTEGER NOT NULL
) STRICT;
CREATE INDEX charge_of_card ON charge (card);

-- What the issuer's transactions did, each event once, whatever order they arrive in.
CREATE TABLE issuer_event (
    token       TEXT PRIMARY KEY,
    card        INTEGER NOT NULL REFERENCES card (seq),
    transaction_token TEXT NOT NULL,
    kind        TEXT    NOT NULL,
    created     TEXT    NOT NULL, -- the issuer's time, which orders them
    cents       INTEGER NOT NULL,
    approved    INTEGER NOT NULL,
    at          INTEGER NOT NULL  -- when it was taken in
) STRICT;
CREATE INDEX issuer_event_of_card ON issuer_event (card);

-- Webhooks that were taken lately: a repeated one changes nothing.
CREATE TABLE webhook (id TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_taken ON webhook (at);

-- What a key bought: a repeated call gets the first one's answer.
CREATE TABLE idempotency (
    scope       BLOB NOT NULL, -- the agent (requests) or the mandate (payments)
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL, -- of what was asked
    subject     BLOB NOT NULL, -- the id of what came of it
    PRIMARY KEY (scope, key)
) STRICT;

-- Openings by an operator's authorization that were accepted and are not final.
CREATE TABLE opening (
    mandate      BLOB PRIMARY KEY REFERENCES mandate (id),
    calldata     BLOB    NOT NULL,
    valid_before INTEGER NOT NULL, -- from this second on the token refuses it
    tx           INTEGER REFERENCES tx (id) -- absent: waits for a transaction
) STRICT;

-- Operators' messages that end a mandate, accepted: at most one per mandate.
CREATE TABLE revocation (
    mandate  BLOB PRIMARY KEY REFERENCES mandate (id),
    calldata BLOB    NOT NULL,
    tx       INTEGER REFERENCES tx (id), -- absent: waits for a transaction
    done     INTEGER NOT NULL DEFAULT 0 -- the mandate's end is final
) STRICT;
CREATE INDEX revocation_waiting ON revocation (mandate) WHERE tx IS NULL AND NOT done;

-- A transaction owns a nonce; its attempts are signed bytes with that nonce. The row is written
-- with its first attempt before anything is sent.
CREATE TABLE tx (
    id          INTEGER PRIMARY KEY,
    submitter   BLOB    NOT NULL,
    nonce       INTEGER NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('settle', 'open', 'revoke', 'sweep', 'hold', 'capture', 'release')),
    mandate     BLOB,             -- of an opening, a revocation or a sweep
    card        INTEGER REFERENCES card (seq), -- of a hold, a capture or a release
    calldata    BLOB    NOT NULL,
    gas_limit   INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'mined', 'final')),
    mined_block INTEGER, mined_hash BLOB, mined_tx BLOB,
    succeeded   INTEGER,
    gas_cost    BLOB,             -- wei, once mined, as sixteen bytes: digits could look like a card's number
    pruned      INTEGER NOT NULL DEFAULT 0, -- final for long: the calldata and the attempts' bytes are gone
    UNIQUE (submitter, nonce)
) STRICT;
CREATE INDEX tx_live ON tx (submitter, nonce) WHERE state <> 'final';
CREATE INDEX tx_mined_in ON tx (mined_hash) WHERE state = 'mined';
CREATE INDEX tx_of_card ON tx (card) WHERE card IS NOT NULL;
CREATE INDEX tx_whole ON tx (mined_block) WHERE state = 'final' AND NOT pruned;

CREATE TABLE attempt (
    hash         BLOB PRIMARY KEY,
    tx           INTEGER NOT NULL REFERENCES tx (id),
    raw          BLOB    NOT NULL, -- the signed bytes
    max_fee      INTEGER NOT NULL, -- wei
    priority_fee INTEGER NOT NULL,
    sent_at      INTEGER NOT NULL, -- the head's height
    cancels      INTEGER NOT NULL DEFAULT 0 -- it uses the nonce for nothing, instead of for the call
) STRICT;
CREATE INDEX attempt_of_tx ON attempt (tx);

-- What the final transactions of a day (since 1970, UTC) cost for a mandate, in wei as sixteen bytes.
CREATE TABLE mandate_gas (
    day     INTEGER NOT NULL,
    mandate BLOB    NOT NULL,
    wei     BLOB    NOT NULL,
    PRIMARY KEY (day, mandate)
) STRICT, WITHOUT ROWID;

-- Which payments ride in which transaction.
CREATE TABLE tx_payment (
    tx      INTEGER NOT NULL REFERENCES tx (id),
    payment INTEGER NOT NULL REFERENCES payment (seq),
    skipped TEXT,                  -- the code, where the mined transaction skipped the row
    PRIMARY KEY (tx, payment)
) STRICT, WITHOUT ROWID;
CREATE INDEX tx_of_payment ON tx_payment (payment);

-- The chain as it is followed: a hash-linked list, and the escrow's logs of blocks that are not
-- final yet.
CREATE TABLE block (
    number INTEGER PRIMARY KEY,
    hash   BLOB    NOT NULL UNIQUE,
    parent BLOB    NOT NULL,
    time   INTEGER NOT NULL,
    final  INTEGER NOT NULL DEFAULT 0,
    unfinished TEXT,                   -- what is half done of it: at most one block
    next_log   INTEGER NOT NULL DEFAULT 0 -- the first log that this has not come to
) STRICT;
CREATE INDEX block_unfinished ON block (number) WHERE unfinished IS NOT NULL;
CREATE TABLE log (
    number  INTEGER NOT NULL,
    idx     INTEGER NOT NULL,
    tx_hash BLOB    NOT NULL,
    topics  BLOB    NOT NULL,
    data    BLOB    NOT NULL,
    PRIMARY KEY (number, idx)
) STRICT;

-- Every submitter that the guardian ever allowed.
CREATE TABLE submitter (address BLOB PRIMARY KEY) STRICT;

-- The chain's nonce of a submitter when this ledger began to use it. Whatever the chain counts
-- beyond it must be in `tx`.
CREATE TABLE submitter_start (
    address BLOB PRIMARY KEY,
    nonce   INTEGER NOT NULL
) STRICT;

-- Double entry: every posting, in the commit of the balances that it explains. Amounts are base
-- units, of the account `gas` wei.
CREATE TABLE journal (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    mandate INTEGER REFERENCES mandate (seq),
    payment INTEGER REFERENCES payment (seq),
    card    INTEGER REFERENCES card (seq),
    tx      INTEGER REFERENCES tx (id),
    block   INTEGER,              -- the final one that states the fact
    cause   TEXT    NOT NULL,
    debit   TEXT    NOT NULL,     -- from this account …
    credit  TEXT    NOT NULL,     -- … to that one
    amount  INTEGER NOT NULL CHECK (amount > 0)
) STRICT;
CREATE TRIGGER journal_is_kept BEFORE UPDATE ON journal BEGIN SELECT raise(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_is_whole BEFORE DELETE ON journal BEGIN SELECT raise(ABORT, 'the journal is append-only'); END;

-- What the host has to do with: its card program's treasury, what an issuer took beyond it, and
-- the gas of final transactions (in two numbers, since wei outgrow one).
CREATE TABLE host (
    treasury  INTEGER NOT NULL DEFAULT 0 CHECK (treasury >= 0),
    shortfall INTEGER NOT NULL DEFAULT 0 CHECK (shortfall >= 0),
    owed_back INTEGER NOT NULL DEFAULT 0 CHECK (owed_back >= 0),
    gas_ether INTEGER NOT NULL DEFAULT 0 CHECK (gas_ether >= 0),
    gas_wei   INTEGER NOT NULL DEFAULT 0 CHECK (gas_wei >= 0 AND gas_wei < 1000000000000000000)
) STRICT;
INSERT INTO host DEFAULT VALUES;

-- The audit trail, append-only, and what the event stream sends. Each mandate's entries are a hash chain, and so are those of
-- none; the heads seal all of them.
CREATE TABLE trail (
    seq     INTEGER PRIMARY KEY, -- of its last event: an entry of several has as many places
    mandate INTEGER REFERENCES mandate (seq),
    agent   BLOB,                -- who may read what belongs to no mandate
    body    BLOB    NOT NULL,    -- canonical bytes: docs/reference/trail.md
    hash    BLOB    NOT NULL
) STRICT;
CREATE INDEX trail_of_agent ON trail (agent, seq) WHERE mandate IS NULL;
CREATE INDEX trail_of_agents ON trail (seq) WHERE mandate IS NULL;
CREATE TRIGGER trail_is_kept BEFORE UPDATE ON trail BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
CREATE TRIGGER trail_is_whole BEFORE DELETE ON trail BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
-- Each mandate's entries.
CREATE TABLE mandate_trail (
    mandate INTEGER NOT NULL REFERENCES mandate (seq),
    seq     INTEGER NOT NULL,
    PRIMARY KEY (mandate, seq)
) STRICT, WITHOUT ROWID;
-- Up to this place, what was decided of any mandate is in the other tables. What was decided behind it may be in the trail
-- alone, and is added when the ledger is opened.
CREATE TABLE applied (seq INTEGER NOT NULL) STRICT;
INSERT INTO applied VALUES (0);
CREATE TABLE head (
    seq  INTEGER PRIMARY KEY, -- of the last event that it seals
    hash BLOB    NOT NULL
) STRICT;
CREATE TRIGGER head_is_kept BEFORE UPDATE ON head BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
CREATE TRIGGER head_is_whole BEFORE DELETE ON head BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;

-- When which operator's message that opens a mandate was accepted: what quotas count.
CREATE TABLE approval (
    at       INTEGER NOT NULL,
    operator BLOB    NOT NULL
) STRICT;
CREATE INDEX approval_at ON approval (at);
CREATE INDEX approval_of_operator ON approval (operator, at);
