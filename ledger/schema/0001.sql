-- Times are microseconds since 1970 UTC, money is nano-units (1e-9), booleans are 0 or 1.
-- What happened is append-only, by trigger: a mistake in our own code must not rewrite history.

CREATE TABLE meta (
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- finished is the row id: one index fewer, and commits land at the end of the file.
CREATE TABLE request (
	finished          INTEGER PRIMARY KEY,
	id                TEXT    NOT NULL UNIQUE,
	endpoint          TEXT    NOT NULL,
	model             TEXT    NOT NULL,
	key               TEXT    NOT NULL,
	stream            INTEGER NOT NULL CHECK (stream IN (0, 1)),
	status            TEXT    NOT NULL CHECK (status IN ('ok', 'aborted', 'failed', 'lost')),
	http              INTEGER NOT NULL,
	started           INTEGER NOT NULL,
	first             INTEGER,
	prompt_tokens     INTEGER NOT NULL CHECK (prompt_tokens >= 0),
	cached_tokens     INTEGER NOT NULL CHECK (cached_tokens >= 0),
	completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
	lower_bound       INTEGER NOT NULL CHECK (lower_bound IN (0, 1))
) STRICT;

-- The sum of request by the minute of finished, kept in the same transaction.
CREATE TABLE minute (
	minute            INTEGER PRIMARY KEY,
	ok                INTEGER NOT NULL,
	aborted           INTEGER NOT NULL,
	failed            INTEGER NOT NULL,
	lost              INTEGER NOT NULL,
	lower_bound       INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL
) STRICT;

-- The requests that run now, rewritten once a second: what a crash leaves behind.
CREATE TABLE open_request (
	id                TEXT    PRIMARY KEY,
	endpoint          TEXT    NOT NULL,
	model             TEXT    NOT NULL,
	key               TEXT    NOT NULL,
	stream            INTEGER NOT NULL,
	started           INTEGER NOT NULL,
	saved             INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sample (
	id         INTEGER PRIMARY KEY,
	at         INTEGER NOT NULL UNIQUE,
	provider   TEXT    NOT NULL,
	account    TEXT    NOT NULL,
	currency   TEXT    NOT NULL,
	truth      TEXT    NOT NULL CHECK (truth IN ('resource', 'account', 'none')),
	step       INTEGER NOT NULL,
	lag        INTEGER NOT NULL,
	calibrated INTEGER NOT NULL CHECK (calibrated IN (0, 1)),
	every      INTEGER NOT NULL
) STRICT;

-- NULL in rate or bill is "not known", never zero.
CREATE TABLE line (
	sample   INTEGER NOT NULL REFERENCES sample (id),
	resource TEXT    NOT NULL,
	epoch    TEXT    NOT NULL,
	kind     TEXT    NOT NULL,
	status   TEXT    NOT NULL,
	running  INTEGER NOT NULL CHECK (running IN (0, 1)),
	rate     INTEGER,
	bill     INTEGER,
	created  INTEGER,
	raw      BLOB REFERENCES raw (hash),
	PRIMARY KEY (sample, resource, epoch)
) STRICT, WITHOUT ROWID;

-- Billing replies as they came, by SHA-256 of the reply, compressed with gzip.
CREATE TABLE raw (
	hash BLOB PRIMARY KEY,
	body BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sample_failure (
	id    INTEGER PRIMARY KEY,
	at    INTEGER NOT NULL,
	call  TEXT    NOT NULL,
	class TEXT    NOT NULL
) STRICT;

CREATE TABLE event (
	id      INTEGER PRIMARY KEY,
	at      INTEGER NOT NULL,
	kind    TEXT    NOT NULL,
	subject TEXT    NOT NULL,
	detail  TEXT    NOT NULL
) STRICT;

CREATE TRIGGER request_update BEFORE UPDATE ON request BEGIN SELECT RAISE(ABORT, 'request is append-only'); END;
CREATE TRIGGER request_delete BEFORE DELETE ON request BEGIN SELECT RAISE(ABORT, 'request is append-only'); END;
CREATE TRIGGER sample_update BEFORE UPDATE ON sample BEGIN SELECT RAISE(ABORT, 'sample is append-only'); END;
CREATE TRIGGER sample_delete BEFORE DELETE ON sample BEGIN SELECT RAISE(ABORT, 'sample is append-only'); END;
CREATE TRIGGER line_update BEFORE UPDATE ON line BEGIN SELECT RAISE(ABORT, 'line is append-only'); END;
CREATE TRIGGER line_delete BEFORE DELETE ON line BEGIN SELECT RAISE(ABORT, 'line is append-only'); END;
CREATE TRIGGER raw_update BEFORE UPDATE ON raw BEGIN SELECT RAISE(ABORT, 'raw is append-only'); END;
CREATE TRIGGER raw_delete BEFORE DELETE ON raw BEGIN SELECT RAISE(ABORT, 'raw is append-only'); END;
CREATE TRIGGER sample_failure_update BEFORE UPDATE ON sample_failure BEGIN SELECT RAISE(ABORT, 'sample_failure is append-only'); END;
CREATE TRIGGER sample_failure_delete BEFORE DELETE ON sample_failure BEGIN SELECT RAISE(ABORT, 'sample_failure is append-only'); END;
CREATE TRIGGER event_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'event is append-only'); END;
CREATE TRIGGER event_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'event is append-only'); END;
