package ledger_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

// Whatever is changed behind the ledger's back, Verify says what.
func TestVerifyFindsWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	f := func(want string, statements ...string) {
		t.Helper()
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		for i := range 5 {
			addSample(t, led, sample(minute(i*20), withRaw(bill("vm", 100), vmReply(i)), withRaw(bill("vol", 5), volumeReply(i, 1))))
			r := request(string(rune('a'+i)), minute(i*20), 7)
			r.Model = "m"
			add(t, led, r)
		}
		verified(t, led)
		for _, s := range statements {
			if err := led.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		got, err := led.Verify(t.Context())
		if err != nil {
			t.Errorf("%s: %v", statements, err)
		}
		if !strings.Contains(strings.Join(got.Problems, "\n"), want) {
			t.Errorf("%s: %q, want %q", statements, got.Problems, want)
		}
		led.Close()
	}
	f("minute 2026-11-23T12:20Z does not sum its requests", "UPDATE minute SET completion_tokens = completion_tokens + 1 WHERE minute % 60 = 20")
	f("minute 2026-11-23T12:00Z", "DELETE FROM minute WHERE minute % 60 = 0 AND minute % 24 = 0 OR minute = (SELECT min(minute) FROM minute)")
	f("minute 1970-01-01T00:07Z", "INSERT INTO minute VALUES (7, 0, 0, 0, 0, 0, 0, 0, 0)")
	f("hour 2026-11-23T13Z of model 'm', key '' does not sum its requests", "UPDATE hour SET ok = ok - 1 WHERE hour % 24 = 13")
	f("hour 2026-11-23T12Z of the bill of vm: does not sum its samples", "UPDATE bill_hour SET net = 1 WHERE series = 1")
	f("hour 2026-11-23T12Z of the bill of vol: is missing", "DELETE FROM bill_hour WHERE series = 2")
	f("hours of bills: 7 are kept, the samples make 6", "INSERT INTO bill_hour SELECT hour + 9, series, seen, unknown, last, last_at, bill, net, gross, fell FROM bill_hour LIMIT 1")
	f("hour of samples 2026-11-23T11Z: does not sum its samples", "UPDATE sample_hour SET samples = 9")
	f("gap before sample 3: is missing", "DELETE FROM gap WHERE sample = 3")
	f("gaps: 5 are kept, the samples make 4", "INSERT INTO gap VALUES (99, 1, 2)")
	f("first bill of vm, epoch e1: does not sum its samples", "UPDATE series SET base = base + 1 WHERE id = 1")
	f("raw reply 1:", "DROP TRIGGER raw_update", "UPDATE raw SET body = substr(body, 1, 20) WHERE id = 1")
	f("row 9 of raw_head has no parent in ", "PRAGMA foreign_keys = 0", "INSERT INTO raw_head VALUES (9, 1, 1, 1)")
	f("hour 2026-11-23T13Z of model '\ufffd[2J\ufffd', key ''", "UPDATE hour SET model = char(27) || '[2J' || CAST(x'a0' AS TEXT) WHERE hour % 24 = 13") // no terminal is told what a file says
	f("NULL value in request.model", "PRAGMA writable_schema = 1", "UPDATE sqlite_schema SET sql = replace(sql, 'model             TEXT    NOT NULL', 'model             TEXT') WHERE name = 'request'", "PRAGMA writable_schema = RESET",
		"INSERT INTO request VALUES (1, 'z', 'chat', NULL, '', 0, 'ok', 200, 1, NULL, 0, 0, 0, 0)",
		"PRAGMA writable_schema = 1", "UPDATE sqlite_schema SET sql = replace(sql, 'model             TEXT', 'model             TEXT    NOT NULL') WHERE name = 'request'", "PRAGMA writable_schema = RESET")
}

// A ledger's own rules are proven, too: rows that are whole say nothing through a view
// that lies, and a trigger may write what nobody sees.
func TestVerifyFindsAnotherSchema(t *testing.T) {
	t.Parallel()
	f := func(want string, statements ...string) {
		t.Helper()
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		everything(t, led)
		verified(t, led)
		for _, s := range statements {
			if err := led.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		v, err := led.Verify(t.Context())
		if err != nil || len(v.Problems) == 0 || v.Problems[0] != want {
			t.Errorf("%s: %q, %v, want %q", statements, v.Problems, err, want)
		}
		led.Close()
	}
	const writable, done = "PRAGMA writable_schema = 1", "PRAGMA writable_schema = RESET"
	f("schema: trigger event_delete is missing", "DROP TRIGGER event_delete")
	f("schema: trigger x was put in by hand", "CREATE TRIGGER x AFTER INSERT ON request BEGIN UPDATE hour SET completion_tokens = 0; END")
	f("schema: trigger event_delete was changed", "DROP TRIGGER event_delete", "CREATE TRIGGER event_delete BEFORE DELETE ON event BEGIN SELECT 1; END")
	f("schema: view line was changed", "DROP VIEW line", `CREATE VIEW line AS SELECT reading.sample, resource, epoch, state.kind, status, running, rate, 2 * bill AS bill, state.created, raw
		FROM reading JOIN state ON state.id = reading.state JOIN series ON series.id = state.series`)
	f("schema: view full_sample is missing", "DROP VIEW full_sample") // without it some questions cannot be asked at all
	f("schema: table x was put in by hand", "CREATE TABLE x (y)")
	f("schema: table request was changed", "ALTER TABLE request ADD COLUMN note TEXT")
	f("schema: table override was changed", writable, "UPDATE sqlite_schema SET sql = replace(sql, ' CHECK (amount > 0)', '') WHERE name = 'override'", done)
	f("schema: index state_series is missing", "DROP INDEX state_series")
}

// A file of which a page is lost is one that does not fit, whichever page it is, and not
// one of which nothing can be said.
func TestVerifyABrokenFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := open(t, path)
	everything(t, led)
	led.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	said := 0
	for at := page; at < len(whole); at += page {
		broken := slices.Clone(whole)
		for i := range page {
			broken[at+i] = 0xff
		}
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ledger.OpenReader(path, false)
		if err != nil {
			continue // not even the schema can be read
		}
		v, err := r.Verify(t.Context())
		if err != nil || len(v.Problems) == 0 {
			t.Errorf("page %d: %q, %v", at/page+1, v.Problems, err)
		}
		said += len(v.Problems)
		r.Close()
	}
	if said == 0 {
		t.Error("no page was broken")
	}
}

// Bounded: a resource that was born a moment ago must not make the gate read the
// year before it.
func TestFrozenLooksNoFurtherThanItMust(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	addSample(t, led, sample(minute(0), bill("vm", 5)), sample(minute(1)), sample(minute(2)))
	for i := 100; i < 104; i++ {
		addSample(t, led, sample(minute(i), bill("vm", 5)))
	}
	_, since, frozen, err := led.Frozen()
	if err != nil || frozen || !since.Equal(minute(100)) {
		// The first sight is from before a span that is longer than the lag.
		t.Errorf("frozen = %v since %v, %v", frozen, since.Format(time.TimeOnly), err)
	}
}
