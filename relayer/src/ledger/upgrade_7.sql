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
