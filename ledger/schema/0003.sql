-- The time in which at least one finished request ran: what the stretches from started to
-- finished make together, as spans that neither overlap nor touch. A row holds some that
-- follow on each other. start: where its first one begins; before: microseconds busy until
-- then; spans: the length of the first one, then for each other one its distance from the
-- one before and its length, all as unsigned varints. Filled by the program.
CREATE TABLE busy (
	start  INTEGER PRIMARY KEY,
	before INTEGER NOT NULL,
	spans  BLOB    NOT NULL
) STRICT;

-- The same check of a request's status in other words: for a list of more than two, SQLite
-- builds a table in memory with each row that it checks, a third of what a row costs. No
-- row changes, so that the words may be changed where they stand.
PRAGMA writable_schema = 1;
UPDATE sqlite_schema SET sql = replace(sql, 'status IN (''ok'', ''aborted'', ''failed'', ''lost'')',
	'status = ''ok'' OR status = ''aborted'' OR status = ''failed'' OR status = ''lost''') WHERE type = 'table' AND name = 'request';
PRAGMA writable_schema = RESET;
