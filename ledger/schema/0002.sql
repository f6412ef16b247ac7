-- A year of minutes must stay small and quick: what seldom changes is written once and
-- referred to, and the sums that a long window needs are kept by the hour, in the same
-- transaction as the rows that they sum. The sums by the hour are filled by the program.

-- What a sample says of itself.
CREATE TABLE source (
	id         INTEGER PRIMARY KEY,
	provider   TEXT    NOT NULL,
	account    TEXT    NOT NULL,
	currency   TEXT    NOT NULL,
	truth      TEXT    NOT NULL CHECK (truth IN ('resource', 'account', 'none')),
	step       INTEGER NOT NULL,
	lag        INTEGER NOT NULL,
	calibrated INTEGER NOT NULL CHECK (calibrated IN (0, 1)),
	every      INTEGER NOT NULL,
	UNIQUE (provider, account, currency, truth, step, lag, calibrated, every)
) STRICT;

CREATE TABLE new_sample (
	id     INTEGER PRIMARY KEY,
	at     INTEGER NOT NULL UNIQUE,
	source INTEGER NOT NULL REFERENCES source (id)
) STRICT;

-- One bill: two figures may be subtracted only inside one of these. kind and seen are of
-- its first line; first, first_at, base and created are of its first line with a bill, NULL
-- before that. rolled: by then another epoch of the resource had been seen.
CREATE TABLE series (
	id       INTEGER PRIMARY KEY,
	resource TEXT    NOT NULL,
	epoch    TEXT    NOT NULL,
	provider TEXT    NOT NULL,
	kind     TEXT    NOT NULL,
	seen     INTEGER NOT NULL,
	rolled   INTEGER NOT NULL DEFAULT 0 CHECK (rolled IN (0, 1)),
	first    INTEGER,
	first_at INTEGER,
	base     INTEGER,
	created  INTEGER,
	UNIQUE (resource, epoch, provider)
) STRICT;

-- What a line says beside its bill.
CREATE TABLE state (
	id      INTEGER PRIMARY KEY,
	series  INTEGER NOT NULL REFERENCES series (id),
	kind    TEXT    NOT NULL,
	status  TEXT    NOT NULL,
	running INTEGER NOT NULL CHECK (running IN (0, 1)),
	rate    INTEGER,
	created INTEGER
) STRICT;
CREATE INDEX state_series ON state (series, rate, status);

-- Billing replies as they came. coding 0: gzip; 1: deflate; 2: what differs from the reply
-- base, which is itself whole.
CREATE TABLE new_raw (
	id     INTEGER PRIMARY KEY,
	coding INTEGER NOT NULL CHECK (coding IN (0, 1, 2)),
	base   INTEGER REFERENCES new_raw (id),
	body   BLOB    NOT NULL,
	CHECK ((coding = 2) = (base IS NOT NULL))
) STRICT;

-- NULL is "not known", never zero.
CREATE TABLE reading (
	sample INTEGER NOT NULL REFERENCES new_sample (id),
	state  INTEGER NOT NULL REFERENCES state (id),
	bill   INTEGER,
	raw    INTEGER REFERENCES new_raw (id),
	PRIMARY KEY (sample, state)
) STRICT, WITHOUT ROWID;

-- What the next reply of a series is compared with: the newest one, and the newest whole
-- one, written in that hour.
CREATE TABLE raw_head (
	series  INTEGER PRIMARY KEY REFERENCES series (id),
	newest  INTEGER NOT NULL REFERENCES new_raw (id),
	whole   INTEGER NOT NULL REFERENCES new_raw (id),
	hour    INTEGER NOT NULL
) STRICT;

INSERT INTO source (provider, account, currency, truth, step, lag, calibrated, every)
	SELECT DISTINCT provider, account, currency, truth, step, lag, calibrated, every FROM sample ORDER BY id;
INSERT INTO new_sample SELECT sample.id, at, source.id FROM sample
	JOIN source USING (provider, account, currency, truth, step, lag, calibrated, every) ORDER BY sample.id;
INSERT INTO series (resource, epoch, provider, kind, seen) -- SQLite takes kind from the row of the minimum
	SELECT resource, epoch, provider, line.kind, min(sample) FROM line JOIN sample ON sample.id = line.sample GROUP BY 1, 2, 3 ORDER BY 5, 1, 2;
INSERT INTO state (series, kind, status, running, rate, created)
	SELECT DISTINCT series.id, line.kind, status, running, rate, line.created
	FROM line JOIN sample ON sample.id = line.sample JOIN series USING (resource, epoch, provider) ORDER BY line.sample;
CREATE TABLE raw_number (hash BLOB PRIMARY KEY, id INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO raw_number SELECT hash, row_number() OVER (ORDER BY hash) FROM raw;
INSERT INTO new_raw SELECT raw_number.id, 0, NULL, body FROM raw JOIN raw_number USING (hash) ORDER BY 1;
INSERT INTO reading SELECT line.sample, state.id, bill, raw_number.id
	FROM line JOIN sample ON sample.id = line.sample JOIN series USING (resource, epoch, provider)
	JOIN state ON state.series = series.id AND state.rate IS line.rate AND state.status = line.status
		AND state.kind = line.kind AND state.running = line.running AND state.created IS line.created
	LEFT JOIN raw_number ON raw_number.hash = line.raw ORDER BY 1, 2;
DROP TABLE raw_number;
DROP TABLE line;
DROP TABLE raw;
DROP TABLE sample;
ALTER TABLE new_sample RENAME TO sample;
ALTER TABLE new_raw RENAME TO raw;

-- Samples and lines in full, for readers.
CREATE VIEW full_sample AS SELECT sample.id, at, provider, account, currency, truth, step, lag, calibrated, every
	FROM sample JOIN source ON source.id = sample.source;
CREATE VIEW line AS SELECT reading.sample, resource, epoch, state.kind, status, running, rate, bill, state.created, raw
	FROM reading JOIN state ON state.id = reading.state JOIN series ON series.id = state.series;

-- An hour of samples, those after its start up to and including its end: the last one, how
-- many, and how many of them carry a flag.
CREATE TABLE sample_hour (
	hour         INTEGER PRIMARY KEY,
	last         INTEGER NOT NULL,
	last_at      INTEGER NOT NULL,
	source       INTEGER NOT NULL,
	samples      INTEGER NOT NULL,
	uncalibrated INTEGER NOT NULL,
	account      INTEGER NOT NULL
) STRICT;

-- The same hour of one series. seen: the sample of its last line; unknown: lines without a
-- bill; last, last_at, bill: the last bill, NULL where none is known; net, gross: what the
-- bills grew by, the first one against the last before the hour; fell: how often one fell.
CREATE TABLE bill_hour (
	hour    INTEGER NOT NULL,
	series  INTEGER NOT NULL REFERENCES series (id),
	seen    INTEGER NOT NULL,
	unknown INTEGER NOT NULL,
	last    INTEGER,
	last_at INTEGER,
	bill    INTEGER,
	net     INTEGER NOT NULL,
	gross   INTEGER NOT NULL,
	fell    INTEGER NOT NULL,
	PRIMARY KEY (hour, series)
) STRICT, WITHOUT ROWID;
CREATE INDEX bill_hour_series ON bill_hour (series, hour);

-- Samples that came late: the span before them in which one is missing.
CREATE TABLE gap (
	sample  INTEGER PRIMARY KEY,
	from_at INTEGER NOT NULL,
	to_at   INTEGER NOT NULL
) STRICT;

-- The sum of request by the hour of finished, which begins as its first minute does.
CREATE TABLE hour (
	hour              INTEGER NOT NULL,
	model             TEXT    NOT NULL,
	key               TEXT    NOT NULL,
	ok                INTEGER NOT NULL,
	aborted           INTEGER NOT NULL,
	failed            INTEGER NOT NULL,
	lost              INTEGER NOT NULL,
	lower_bound       INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL,
	PRIMARY KEY (hour, model, key)
) STRICT, WITHOUT ROWID;
INSERT INTO hour SELECT finished / 3600000000 - (finished % 3600000000 < 0), model, key, sum(status = 'ok'), sum(status = 'aborted'),
	sum(status = 'failed'), sum(status = 'lost'), sum(lower_bound), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens)
	FROM request GROUP BY 1, 2, 3;

CREATE TRIGGER sample_update BEFORE UPDATE ON sample BEGIN SELECT RAISE(ABORT, 'sample is append-only'); END;
CREATE TRIGGER sample_delete BEFORE DELETE ON sample BEGIN SELECT RAISE(ABORT, 'sample is append-only'); END;
CREATE TRIGGER source_update BEFORE UPDATE ON source BEGIN SELECT RAISE(ABORT, 'source is append-only'); END;
CREATE TRIGGER source_delete BEFORE DELETE ON source BEGIN SELECT RAISE(ABORT, 'source is append-only'); END;
CREATE TRIGGER state_update BEFORE UPDATE ON state BEGIN SELECT RAISE(ABORT, 'state is append-only'); END;
CREATE TRIGGER state_delete BEFORE DELETE ON state BEGIN SELECT RAISE(ABORT, 'state is append-only'); END;
CREATE TRIGGER series_delete BEFORE DELETE ON series BEGIN SELECT RAISE(ABORT, 'series is append-only'); END;
CREATE TRIGGER series_update BEFORE UPDATE OF id, resource, epoch, provider, kind, seen ON series
	BEGIN SELECT RAISE(ABORT, 'series is append-only'); END;
CREATE TRIGGER reading_update BEFORE UPDATE ON reading BEGIN SELECT RAISE(ABORT, 'reading is append-only'); END;
CREATE TRIGGER reading_delete BEFORE DELETE ON reading BEGIN SELECT RAISE(ABORT, 'reading is append-only'); END;
CREATE TRIGGER raw_update BEFORE UPDATE ON raw BEGIN SELECT RAISE(ABORT, 'raw is append-only'); END;
CREATE TRIGGER raw_delete BEFORE DELETE ON raw BEGIN SELECT RAISE(ABORT, 'raw is append-only'); END;
