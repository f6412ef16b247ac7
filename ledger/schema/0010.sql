-- Samples that are in no sum any more, by somebody's word: the sample stays as it is. A
-- sample that lies after at was ahead of the clock then.
CREATE TABLE sample_void (
	sample INTEGER PRIMARY KEY REFERENCES sample (id),
	at     INTEGER NOT NULL,
	reason TEXT    NOT NULL CHECK (trim(reason) <> '')
) STRICT;
CREATE TRIGGER sample_void_update BEFORE UPDATE ON sample_void BEGIN SELECT RAISE(ABORT, 'sample_void is append-only'); END;
CREATE TRIGGER sample_void_delete BEFORE DELETE ON sample_void BEGIN SELECT RAISE(ABORT, 'sample_void is append-only'); END;

-- The samples that count, for all who ask for a figure.
CREATE VIEW counted AS SELECT id, at, source FROM sample WHERE id NOT IN (SELECT sample FROM sample_void);
DROP VIEW full_sample;
CREATE VIEW full_sample AS SELECT counted.id, at, provider, account, currency, truth, step, lag, calibrated, every
	FROM counted JOIN source ON source.id = counted.source;
