package ledger_test

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

// everything writes rows into each table that only grows, in several commits.
func everything(t *testing.T, led *ledger.Ledger) {
	t.Helper()
	for i := range 4 {
		at := minute(i)
		addSample(t, led, sample(at, withRaw(bill("vm", 100+ledger.Nanos(i)), vmReply(i)), bill("vol", 5)))
		add(t, led, request(fmt.Sprint("a", i), at, 7), request(fmt.Sprint("b", i), at.Add(-time.Hour), 8)) // the order of commits is not that of the keys
		err := led.AddRawEvent(ledger.Event{At: at, Kind: "gate", Subject: "open", Detail: fmt.Sprintf(`{"n":%d}`, i)})
		if err == nil {
			err = led.AddSampleFailure(t.Context(), ledger.SampleFailure{At: at, Call: "GET /", Class: "timeout"})
		}
		if err == nil {
			err = led.AddEngineSample(ledger.EngineSample{At: at, Started: t0, Engine: "llama", Prompt: int64(i)})
		}
		if err == nil {
			power := int64(300)
			err = led.AddGPUMinute(ledger.GPUMinute{UUID: "GPU-1", Name: "H100", Source: "helper", Since: at.Add(-time.Minute), At: at, Readings: 60, PowerAvg: &power})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	perDay := ledger.Nanos(5e9)
	if _, err := led.AddOverride(time.Hour, &perDay, "a demo"); err != nil {
		t.Fatal(err)
	}
	if _, err := led.EndOverride(); err != nil {
		t.Fatal(err)
	}
	for _, k := range []ledger.Key{
		{ID: "key_2", Name: "ann", Digest: [32]byte{1}, Created: t0},
		{ID: "key_1", Name: "bob", Digest: [32]byte{2}, Created: t0, Expires: t0.Add(time.Hour), PerDay: &perDay, RPM: 60, Models: []string{"m"}},
	} {
		if err := led.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := led.RevokeKey("ann", t0); err != nil {
		t.Fatal(err)
	}
}

func chain(t *testing.T, r *ledger.Reader) ledger.Chain {
	t.Helper()
	c, err := r.Chain()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever is changed, removed or put in by hand in a table that only grows, or in
// the chain itself, is found and named.
func TestVerifyFindsWhatWasDoneByHand(t *testing.T) {
	t.Parallel()
	const requests = "finished, id, endpoint, model, key, stream, status, http, started, first, prompt_tokens, cached_tokens, completion_tokens, lower_bound"
	path := filepath.Join(t.TempDir(), "l.db")
	led := openNew(t, path)
	everything(t, led)
	head := chain(t, led.Reader).Head
	if v, err := led.Verify(t.Context(), head.String(), head.Short()); err != nil || len(v.Problems) > 0 || v.Chain.Head != head {
		t.Fatalf("verify: %+v, %v", v, err)
	}
	led.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tampered := func(statements ...string) *ledger.Ledger {
		t.Helper()
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		led := open(t, path)
		putBack := noTriggers(t, led)
		for _, s := range append(statements, putBack...) {
			if err := led.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		return led
	}
	f := func(want string, statements ...string) {
		t.Helper()
		led := tampered(statements...)
		v, err := led.Verify(t.Context(), head.Short())
		if err != nil {
			t.Errorf("%s: %v", statements, err)
		}
		found := false
		for _, p := range v.Problems {
			found = found || strings.Contains(p, want)
		}
		if !found {
			t.Errorf("%s: %q, want %q", statements, v.Problems, want)
		}
		led.Close()
	}
	const changed = "it, or one of its rows, was changed: "
	link := func(n int) string { return fmt.Sprintf("link %d of 2026-11-24T12:00:00Z: ", n) }

	// a row is changed
	f(link(3)+changed+"request 2026-11-23T12:00:00Z", "UPDATE request SET model = 'other' WHERE id = 'a0'")
	f(changed+"request 2026-11-23T11:02:00Z", "UPDATE request SET first = 1 WHERE id = 'b2'")
	f(link(2)+changed+"source 1, sample 1, series 1, series 2, state 1, raw 1, reading 1/1, state 2, raw 2, reading 1/2", "UPDATE source SET step = 1")
	f(link(2)+changed, "UPDATE series SET resource = 'other' WHERE id = 2")
	f(link(2)+changed, "UPDATE state SET rate = 1 WHERE id = 2")
	f(changed+"sample 3, raw 4, ", "UPDATE raw SET body = CAST(body || x'00' AS BLOB) WHERE id = 4")
	f(changed+"sample 3, ", "UPDATE sample SET at = at + 1 WHERE id = 3")
	f(changed+"sample 3, ", "UPDATE reading SET bill = bill + 1 WHERE sample = 3 AND state = 1")
	f(changed+"sample_failure 2", "UPDATE sample_failure SET class = 'network' WHERE id = 2")
	f(changed+"event 2", "UPDATE event SET detail = '' WHERE id = 2")
	f(changed+"engine_sample 2026-11-23T12:01:00Z", "UPDATE engine_sample SET prompt = 0")
	f(changed+"gpu 1, gpu_minute ", "UPDATE gpu SET name = 'A100'")
	f(changed+"gpu_minute 2026-11-23T12:01:00Z/1", "UPDATE gpu_minute SET power_avg = NULL")
	f(changed+"override 1", "UPDATE override SET amount = NULL")
	f(changed+"override_end 1", "UPDATE override_end SET at = at + 1")
	f(changed+"api_key key_1", "UPDATE api_key SET budget = NULL WHERE id = 'key_1'")
	f(changed+"api_key_revoked key_2", "UPDATE api_key_revoked SET at = at + 1")
	f(changed+"event 2", "UPDATE event SET subject = subject || substr(detail, 1, 1), detail = substr(detail, 2) WHERE id = 2") // nothing but a border moves

	// a row is removed
	f("request 2026-11-23T12:00:00Z is gone", "DELETE FROM request WHERE id = 'a0'")
	f("sample 4 is gone", "PRAGMA foreign_keys = 0", "DELETE FROM sample WHERE id = 4")
	f("reading 4/2 is gone", "DELETE FROM reading WHERE sample = 4 AND state = 2")
	f("raw 4 is gone", "PRAGMA foreign_keys = 0", "DELETE FROM raw WHERE id = 4")
	f("sample_failure 1 is gone", "DELETE FROM sample_failure WHERE id = 1")
	f("override 1 is gone", "PRAGMA foreign_keys = 0", "DELETE FROM override")
	f("override_end 1 is gone", "DELETE FROM override_end")
	f("api_key_revoked key_2 is gone", "DELETE FROM api_key_revoked")
	f("api_key key_1 is gone", "DELETE FROM api_key WHERE id = 'key_1'")
	f("event 4 is gone", "DELETE FROM event WHERE id = 4")
	f("engine_sample 2026-11-23T12:03:00Z is gone", "DELETE FROM engine_sample WHERE at = (SELECT max(at) FROM engine_sample)")
	f("gpu_minute 2026-11-23T12:03:00Z/1 is gone", "DELETE FROM gpu_minute WHERE at = (SELECT max(at) FROM gpu_minute)")

	// a row is put in
	const in = ": it is in no link"
	for table, columns := range map[string]string{
		"request 2026-11-23T12:00:30Z": "request SELECT finished + 30000000, id || 'x', " + strings.TrimPrefix(requests, "finished, id, ") + " FROM request WHERE id = 'a0'",
		"request 2026-11-23T13:03:00Z": "request SELECT finished + 3600000000, id || 'x', " + strings.TrimPrefix(requests, "finished, id, ") + " FROM request WHERE id = 'a3'",
		"sample 9":                     "sample VALUES (9, 9, 1)",
		"reading 4/3":                  "reading VALUES (4, 3, 5, NULL)",
		"source 2":                     "source SELECT 2, provider, 'x', currency, truth, step, lag, calibrated, every FROM source",
		"series 3":                     "series (id, resource, epoch, provider, kind, seen) VALUES (3, 'x', 'x', 'x', 'x', 1)",
		"state 3":                      "state SELECT 3, series, kind, 'x', running, rate, created FROM state WHERE id = 1",
		"raw 9":                        "raw SELECT 9, coding, base, body FROM raw WHERE id = 1",
		"sample_failure 5":             "sample_failure VALUES (5, 1, '', '')",
		"event 99":                     "event VALUES (99, 1, '', '', '')",
		"engine_sample 1970-01-01T00:00:00.000001Z": "engine_sample VALUES (1, 1, '', 0, 0, 0, 0)",
		"override 2":     "override VALUES (2, 1, 2, NULL, 'x')",
		"override_end 2": "override_end VALUES (2, 1)",
		"gpu 2":          "gpu VALUES (2, 'x', 'x')",
		"gpu_minute 1970-01-01T00:00:00.000001Z/1": "gpu_minute (at, gpu, since, source, readings) VALUES (1, 1, 1, '', 1)",
	} {
		f(table+in, "PRAGMA foreign_keys = 0", "INSERT INTO "+columns)
	}

	// two rows change places
	f(changed+"request 2026-11-23T12:00:00Z", "UPDATE request SET finished = 1 WHERE id = 'a0'", "UPDATE request SET finished = (SELECT finished FROM request WHERE id = 'b0') - 1 WHERE id = 'b0'",
		"UPDATE request SET finished = (SELECT finished FROM request WHERE id = 'b0') + 3600000001 WHERE id = 'b0'", "UPDATE request SET finished = unixepoch('2026-11-23T11:00:00Z') * 1000000 WHERE id = 'a0'")

	// the chain itself
	f("link 4 of 2026-11-24T12:00:00Z: the link before it is number 2: links are gone", "DELETE FROM chain WHERE id = 3")
	f("request 2026-11-23T12:00:00Z: it is in no link", "DELETE FROM chain WHERE id = 3")
	f("link 2 of 2026-11-24T12:00:00Z: the link before it is number 0: links are gone", "DELETE FROM chain WHERE id = 1")
	f("chain: it has no link", "DELETE FROM chain")
	f(link(1)+"it was changed", "UPDATE chain SET head = zeroblob(32) WHERE id = 1")
	f(changed, "UPDATE chain SET head = zeroblob(32) WHERE id = 5")
	f("link 3 of 2026-11-24T12:00:00.000001Z: "+changed, "UPDATE chain SET at = at + 1 WHERE id = 3")
	f(link(3)+"the list of its rows cannot be read", "UPDATE chain SET covers = x'ff' WHERE id = 3")
	f(link(3)+"the list of its rows cannot be read", "UPDATE chain SET covers = CAST(substr(covers, 1, 4) AS BLOB) WHERE id = 3")
	f("request 2026-11-23T12:00:00Z: it is in no link", "UPDATE chain SET covers = x'' WHERE id = 3")
	f(" is gone", "UPDATE chain SET covers = CAST(covers || covers AS BLOB) WHERE id = 3")

	// and what else must agree
	f("minute 2026-11-23T12:00Z does not sum its requests", "UPDATE minute SET ok = ok + 1")
	f("currency: the ledger's own is not USD", "UPDATE meta SET value = 'EUR' WHERE key = 'currency'")

	// a tail that was cut is seen by who noted the head, as the head file does, and by
	// nobody else
	f(", noted before, is in no link", cutTail...)
	f("its head file names link", cutTail...)
	cut := tampered(cutTail...)
	if err := os.Remove(path + ".head"); err != nil {
		t.Fatal(err)
	}
	verified(t, cut)
}

// cutTail removes the last link of everything with its rows, as if they never were.
var cutTail = []string{"DELETE FROM chain WHERE id = (SELECT max(id) FROM chain)", "DELETE FROM api_key_revoked", "DELETE FROM event WHERE id = (SELECT max(id) FROM event)"}

// noTriggers takes away what keeps rows from being changed, and says how to put it back.
func noTriggers(t *testing.T, led *ledger.Ledger) (putBack []string) {
	t.Helper()
	putBack = names(t, led.Reader, "SELECT sql FROM sqlite_master WHERE type = 'trigger'")
	for _, name := range names(t, led.Reader, "SELECT name FROM sqlite_master WHERE type = 'trigger'") {
		if err := led.Exec("DROP TRIGGER " + name); err != nil {
			t.Fatal(err)
		}
	}
	return putBack
}

func names(t *testing.T, r *ledger.Reader, query string) (all []string) {
	t.Helper()
	all, err := r.Texts(query)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Each table either only grows, by trigger, and is in the chain with all of its
// columns, or is a rollup or a state that is proven or may change.
func TestEveryTableHasItsPlace(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	changes := map[string]string{
		"chain":        "the chain itself",
		"meta":         "settings",
		"open_request": "what runs now",
		"raw_head":     "where the next reply is compared",
		"minute":       "a rollup", "hour": "a rollup", "busy": "a rollup", "sample_hour": "a rollup", "bill_hour": "a rollup", "gap": "a rollup",
	}
	forms := ledger.ChainedTables()
	for _, table := range names(t, led.Reader, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'") {
		columns := names(t, led.Reader, "SELECT name FROM pragma_table_info('"+table+"')")
		if table == "series" { // and the rollups of its first bill
			columns = columns[:6]
			slices.Sort(columns)
		}
		triggers := names(t, led.Reader, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '"+table+"'")
		got, chained := forms[table]
		switch {
		case chained && changes[table] != "" || !chained && changes[table] == "":
			t.Errorf("%s: in the chain %v, said to change %q", table, chained, changes[table])
		case (chained || table == "chain") && len(triggers) != 2:
			t.Errorf("%s: triggers %q, want one against each of update and delete", table, triggers)
		case chained:
			slices.Sort(columns)
			slices.Sort(got)
			if !slices.Equal(got, columns) {
				t.Errorf("%s: chained are %q, of %q", table, got, columns)
			}
		}
	}
	for _, s := range []string{"UPDATE chain SET at = 1", "DELETE FROM chain"} {
		if err := led.Exec(s); err == nil || !strings.Contains(err.Error(), "chain is append-only") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// The order of the commits may differ from that of the keys by more rows than are
// held: nothing is taken for missing or put in.
func TestVerifyHoldsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	var late []ledger.Request
	for i := range 50 {
		late = append(late, request(fmt.Sprint("late", i), t0.Add(time.Duration(i)*time.Second), 1))
		add(t, led, request(fmt.Sprint("early", i), t0.Add(time.Duration(i)*time.Second+time.Millisecond), 1))
	}
	slices.Reverse(late)
	add(t, led, late...) // the clock stepped back
	f := func(want ...string) {
		t.Helper()
		v, err := led.VerifyAhead(t.Context(), 4)
		if err != nil || !slices.Equal(v.Problems, want) || v.Rows["request"] != 100+int64(len(want)) {
			t.Errorf("%q of %v rows, %v; want %q", v.Problems, v.Rows, err, want)
		}
	}
	f()
	if err := led.Exec("INSERT INTO request SELECT finished + 1, id || 'x', endpoint, model, key, stream, 'ok', 200, started, NULL, 0, 0, 0, 0 FROM request WHERE id = 'late3'"); err != nil {
		t.Fatal(err)
	}
	v, err := led.VerifyAhead(t.Context(), 4)
	if err != nil || !slices.Contains(v.Problems, "request: 1 more rows are in no link") {
		t.Errorf("%q, %v", v.Problems, err)
	}
}

// A commit that failed, and may have been written all the same, does not part the
// chain from the rows.
func TestTheChainSurvivesFailedCommits(t *testing.T) {
	t.Parallel()
	for _, written := range []bool{false, true} {
		led := open(t, filepath.Join(t.TempDir(), "l.db"))
		add(t, led, request("a", t0, 1))
		before := chain(t, led.Reader)
		led.FailCommit(written)
		if err := led.AddRequest(request("b", t0.Add(time.Second), 1)); err == nil {
			t.Error("a failed commit was acknowledged")
		}
		led.HealCommit()
		if got, want := chain(t, led.Reader).Links, before.Links+map[bool]int64{true: 1}[written]; got != want {
			t.Errorf("written %v: %d links, want %d", written, got, want)
		}
		add(t, led, request("b", t0.Add(time.Second), 1), request("c", t0.Add(2*time.Second), 1))
		if v, err := led.Verify(t.Context(), before.Head.String()); err != nil || len(v.Problems) > 0 || v.Rows["request"] != 3 {
			t.Errorf("written %v: %+v, %v", written, v, err)
		}
		led.Close()
	}
}

// checker is a checker of the chain that knows nothing but what docs/ledger.md says.
func checker(db *sql.DB) (head []byte, rows int, err error) {
	columns := map[uint64]string{
		1: "request finished,id,endpoint,model,key,stream,status,http,started,first,prompt_tokens,cached_tokens,completion_tokens,lower_bound",
		2: "source id,provider,account,currency,truth,step,lag,calibrated,every", 3: "series id,resource,epoch,provider,kind,seen",
		4: "state id,series,kind,status,running,rate,created", 5: "raw id,coding,base,body", 6: "sample id,at,source", 7: "reading sample,state,bill,raw",
		8: "sample_failure id,at,call,class", 9: "event id,at,kind,subject,detail", 10: "engine_sample at,started,engine,prompt,completion,with_cached,quiet",
		13: "api_key id,name,digest,created,expires,budget,rpm,tpm,models", 14: "api_key_revoked id,at", 15: "override id,at,until,amount,reason", 16: "override_end override,at", 11: "gpu id,uuid,name", 12: "gpu_minute at,gpu,since,source,readings,utilisation_avg,utilisation_max,memory_avg,memory_max,power_avg,power_max,temperature_max,energy",
	}
	var full []byte
	put := func(v any) {
		switch v := v.(type) {
		case nil:
			full = append(full, 0)
		case int64:
			full = binary.BigEndian.AppendUint64(append(full, 1), uint64(v))
		case string:
			full = append(binary.BigEndian.AppendUint64(append(full, 2), uint64(len(v))), v...)
		case []byte:
			full = append(binary.BigEndian.AppendUint64(append(full, 3), uint64(len(v))), v...)
		}
	}
	links, err := db.Query("SELECT id, at, covers, head FROM chain ORDER BY id")
	if err != nil {
		return nil, 0, err
	}
	defer links.Close()
	for head = make([]byte, 32); links.Next(); {
		var id, at int64
		var covers, want []byte
		if err := links.Scan(&id, &at, &covers, &want); err != nil {
			return nil, 0, err
		}
		full = slices.Clone(head)
		put(id)
		put(at)
		last := map[uint64][2]int64{}
		for len(covers) > 0 {
			form, n := binary.Uvarint(covers)
			covers = covers[n:]
			table, list, _ := strings.Cut(columns[form], " ")
			names, key := strings.Split(list, ","), last[form]
			where := names[0] + " = ?"
			if form == 7 || form == 12 {
				where += " AND " + names[1] + " = ?"
			}
			args := []any{}
			if form == 13 || form == 14 {
				size, n := binary.Uvarint(covers)
				args, covers = append(args, string(covers[n:n+int(size)])), covers[n+int(size):]
			}
			for i := 0; len(args) < strings.Count(where, "?"); i++ {
				d, n := binary.Varint(covers)
				covers, key[i] = covers[n:], key[i]+d
				args = append(args, key[i])
			}
			last[form] = key
			values, dest := make([]any, len(names)), make([]any, len(names))
			for i := range values {
				dest[i] = &values[i]
			}
			if err := db.QueryRow("SELECT "+list+" FROM "+table+" WHERE "+where, args...).Scan(dest...); err != nil {
				return nil, 0, err
			}
			put(int64(form))
			for _, v := range values {
				put(v)
			}
			rows++
		}
		sum := sha256.Sum256(full)
		if head = sum[:]; !bytes.Equal(head, want) {
			return nil, 0, fmt.Errorf("link %d: head %x, want %x", id, want, head)
		}
	}
	return head, rows, links.Err()
}

func TestTheDocumentIsEnoughToCheckTheChain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	led := open(t, path)
	everything(t, led)
	add(t, led, request("odd \x00 é", time.UnixMicro(-5), 1)) // before 1970
	v, err := led.Verify(t.Context())
	if err != nil || len(v.Problems) > 0 {
		t.Fatalf("verify: %v, %v", v.Problems, err)
	}
	want := 0
	for _, n := range v.Rows {
		want += int(n)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	head, rows, err := checker(db)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(head, v.Chain.Head[:]) || rows != want {
		t.Errorf("%d rows to head %x, want %d to %s", rows, head, want, v.Chain.Head)
	}
}

// The rows of a ledger that had no chain are linked when it is opened, in links of a
// bounded size.
func TestAnOldLedgerGetsItsChain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "l.db")
	oldLedger(t, path, history{}, traffic(seeded(1), 9000), nil)
	led := open(t, path)
	before := chain(t, led.Reader)
	if before.Links != 1+3 {
		t.Errorf("%d links over 9000 rows, want one over nothing and three over up to 4096", before.Links)
	}
	add(t, led, request("new", minute(1), 1))
	if v, err := led.Verify(t.Context(), before.Head.String()); err != nil || len(v.Problems) > 0 || v.Rows["request"] != 9001 || v.Chain.Links != 5 {
		t.Errorf("verify: %+v, %v", v, err)
	}
}
