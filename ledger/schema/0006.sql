-- API keys, without the keys: digest is the SHA-256 of one. A key's row never changes; that
-- it was revoked is a row of its own. budget is for a day, rpm and tpm for a minute, models
-- a JSON array of names; NULL is no limit.
CREATE TABLE api_key (
	id      TEXT    PRIMARY KEY,
	name    TEXT    NOT NULL,
	digest  BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
	created INTEGER NOT NULL,
	expires INTEGER CHECK (expires > created),
	budget  INTEGER CHECK (budget > 0),
	rpm     INTEGER CHECK (rpm > 0),
	tpm     INTEGER CHECK (tpm > 0),
	models  TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key_revoked (
	id TEXT    PRIMARY KEY REFERENCES api_key (id),
	at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER api_key_update BEFORE UPDATE ON api_key BEGIN SELECT RAISE(ABORT, 'api_key is append-only'); END;
CREATE TRIGGER api_key_delete BEFORE DELETE ON api_key BEGIN SELECT RAISE(ABORT, 'api_key is append-only'); END;
CREATE TRIGGER api_key_revoked_update BEFORE UPDATE ON api_key_revoked BEGIN SELECT RAISE(ABORT, 'api_key_revoked is append-only'); END;
CREATE TRIGGER api_key_revoked_delete BEFORE DELETE ON api_key_revoked BEGIN SELECT RAISE(ABORT, 'api_key_revoked is append-only'); END;
