package ledger_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"spotinference/ledger"
)

// oldLedger makes a ledger of schema 1 with a history's samples and some requests.
func oldLedger(t *testing.T, path string, h history, requests []ledger.Request, raw func(sample, line int) []byte) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := os.ReadFile("schema/0001.sql")
	if err != nil {
		t.Fatal(err)
	}
	exec(string(schema))
	exec("PRAGMA user_version = 1; PRAGMA application_id = 0x53504946; INSERT INTO meta VALUES ('demo', '0'), ('currency', 'USD')")
	null := func(n *ledger.Nanos) any {
		if n == nil {
			return nil
		}
		return int64(*n)
	}
	exec("BEGIN")
	for i, s := range h.samples {
		exec("INSERT INTO sample VALUES (?, ?, ?, '', ?, ?, ?, ?, ?, ?)", i+1, s.At.UnixMicro(), s.Provider, s.Currency, string(s.Truth),
			s.Step.Microseconds(), s.Lag.Microseconds(), s.Calibrated, s.Every.Microseconds())
		for j, ln := range s.Lines {
			var created, hash any
			if !ln.Created.IsZero() {
				created = ln.Created.UnixMicro()
			}
			if body := raw(i, j); body != nil {
				sum := sha256.Sum256(body)
				var packed bytes.Buffer
				z := gzip.NewWriter(&packed)
				if _, err := z.Write(body); err != nil {
					t.Fatal(err)
				}
				if err := z.Close(); err != nil {
					t.Fatal(err)
				}
				hash = sum[:]
				exec("INSERT INTO raw VALUES (?, ?) ON CONFLICT DO NOTHING", hash, packed.Bytes())
			}
			exec("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", i+1, ln.Resource, ln.Epoch, string(ln.Kind), ln.Status, ln.Running, null(ln.Rate), null(ln.Bill), created, hash)
		}
	}
	for _, r := range requests {
		exec("INSERT INTO request VALUES (?, ?, ?, ?, ?, 0, ?, 200, ?, NULL, ?, ?, ?, ?)", r.Finished.UnixMicro(), r.ID, r.Endpoint, r.Model, r.Key,
			string(r.Status), r.Started.UnixMicro(), r.Usage.PromptTokens, r.Usage.CachedTokens, r.Usage.CompletionTokens, r.LowerBound)
	}
	exec("INSERT INTO minute SELECT finished / 60000000, sum(status = 'ok'), sum(status = 'aborted'), sum(status = 'failed'), sum(status = 'lost'), sum(lower_bound), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens) FROM request GROUP BY 1")
	exec("COMMIT")
}

// A ledger of the first schema answers as before: samples, lines, replies, spend
// and tokens; and so does one that goes on from there.
func TestAFirstLedgerMigrates(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		r := seeded(seed)
		h := makeHistory(r, t0, "m")
		if len(h.samples) < 3 {
			continue
		}
		h.first = 1
		requests := randomRequests(r, 200, t0, h.samples[len(h.samples)-1].At.Add(time.Hour))
		raw := func(i, j int) []byte {
			if j == 2 {
				return nil
			}
			return fmt.Appendf(nil, `{"bill":%d}`, i/2)
		}
		path := filepath.Join(t.TempDir(), "l.db")
		cut := len(h.samples) * 2 / 3
		old := h
		old.samples = h.samples[:cut]
		oldLedger(t, path, old, requests[:100], raw)
		led := openFar(t, path)
		verified(t, led)
		for i, want := range old.samples {
			got, ok, err := led.Sample(int64(i + 1))
			if err != nil || !ok || !got.At.Equal(want.At) || got.Every != want.Every || got.Truth != want.Truth || len(got.Lines) != len(want.Lines) {
				t.Fatalf("seed %d: sample %d = %+v, %v, %v, want %+v", seed, i+1, got, ok, err, want)
			}
			for j, ln := range want.Lines {
				body, err := led.Raw(int64(i+1), ln.Resource, ln.Epoch)
				if err != nil || !bytes.Equal(body, raw(i, j)) {
					t.Fatalf("seed %d: raw of sample %d line %d = %q, %v", seed, i+1, j, body, err)
				}
			}
		}
		for _, s := range h.samples[cut:] {
			addSample(t, led, s)
		}
		add(t, led, requests[100:]...)
		verified(t, led)
		for range 20 {
			from, to := window(r, h)
			got, err := led.Spent(from, to)
			if err != nil {
				t.Fatal(err)
			}
			if want := h.scan(from, to); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d (%v, %v]:\n got %+v\nwant %+v\n%s", seed, from, to, got, want, h)
			}
			if got, want := totals(t, led.Reader, from, to), sumOf(requests, from, to); got != want {
				t.Fatalf("seed %d (%v, %v]: totals %+v, want %+v", seed, from, to, got, want)
			}
		}
		led.Close()
	}
}

// A status that the ledger does not know is refused, whichever schema began it.
func TestStatusIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	oldLedger(t, filepath.Join(dir, "old.db"), history{}, traffic(seeded(1), 20), nil)
	for _, name := range []string{"new.db", "old.db"} {
		led := open(t, filepath.Join(dir, name))
		for status, want := range map[ledger.Status]bool{ledger.OK: true, ledger.Aborted: true, ledger.Failed: true, ledger.Lost: true, "odd": false, "": false} {
			q := request(string(status)+"!", minute(1), 1)
			q.Status = status
			if err := led.AddRequest(q); (err == nil) != want {
				t.Errorf("%s: status %q = %v", name, status, err)
			}
		}
		verified(t, led)
		led.Close()
	}
}
