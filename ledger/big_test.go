package ledger_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spotinference/ledger"
)

// A ledger of a year: a sample a minute of three resources, ten million requests.
const (
	yearMinutes  = 365 * 1440
	yearRequests = 10_000_000
	yearRate     = 41_666_667 // nanos a minute, of the machine
)

var yearStart = time.Date(2025, 11, 24, 0, 0, 0, 0, time.UTC)

// makeYear writes it behind the ledger's back, which takes minutes and not hours.
func makeYear(b *testing.B, path string) {
	b.Helper()
	led, err := ledger.Open(ledger.Config{Path: path, Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	if err := led.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	start := yearStart.UnixMicro()
	numbers := func(n int) string {
		return fmt.Sprintf("WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d) ", n-1)
	}
	for _, query := range []string{
		"INSERT INTO meta VALUES ('currency', 'USD')",
		"INSERT INTO source VALUES (1, 'hyperstack', '1234', 'USD', 'resource', 60000000, 300000000, 1, 60000000)",
		"INSERT INTO series (id, resource, epoch, provider, kind, seen) VALUES (1, 'vm/1', 'e', 'hyperstack', 'instance', 1), (2, 'volume/1', 'e', 'hyperstack', 'volume', 1), (3, 'volume/2', 'e', 'hyperstack', 'volume', 1)",
		"INSERT INTO state SELECT id, id, kind, 'ACTIVE', 1, 2500000000, NULL FROM series",
		// A minute in ten thousand is missing, and so is an hour in the summer.
		numbers(yearMinutes) + fmt.Sprintf("INSERT INTO sample SELECT i + 1, %d + i * 60000000, 1 FROM n WHERE i %% 10007 <> 5000 AND i NOT BETWEEN 300000 AND 300060", start),
		fmt.Sprintf("INSERT INTO reading SELECT sample.id, state.id, sample.id * (CASE state.id WHEN 1 THEN %d ELSE 161290 END), NULL FROM sample, state", yearRate),
		numbers(yearRequests) + fmt.Sprintf(`INSERT INTO request SELECT %d + 1 + i * 3153600, printf('%%08x', i), 'chat', 'model-' || (i %% 2), 'key-' || (i %% 3), 0,
			'ok', 200, %d + i * 3153600 - 900000, NULL, 1000 + i %% 100, 0, 300 + i %% 77, 0 FROM n`, start, start),
		"INSERT INTO minute SELECT finished / 60000000, count(*), 0, 0, 0, 0, sum(prompt_tokens), 0, sum(completion_tokens) FROM request GROUP BY 1",
		"INSERT INTO hour SELECT finished / 3600000000, model, key, count(*), 0, 0, 0, 0, sum(prompt_tokens), 0, sum(completion_tokens) FROM request GROUP BY 1, 2, 3",
	} {
		began := time.Now()
		if _, err := db.Exec(query); err != nil {
			b.Fatalf("%.60s: %v", query, err)
		}
		b.Logf("%6.1f s: %.60s", time.Since(began).Seconds(), query)
	}
	if err := ledger.FillRollups(db); err != nil {
		b.Fatal(err)
	}
}

// yearWindow is the last stretch of the year.
func yearWindow(last time.Duration) (from, to time.Time) {
	to = yearStart.Add((yearMinutes - 1) * time.Minute)
	return to.Add(-last), to
}

// questions are what a report asks of the year.
var questions = map[string]func(r *ledger.Reader) (ledger.Spend, ledger.Totals, error){
	"24h": func(r *ledger.Reader) (sp ledger.Spend, t ledger.Totals, err error) {
		from, to := yearWindow(24*time.Hour - 90*time.Second) // off every grid
		if sp, err = r.Spent(from, to); err == nil {
			t, err = r.Totals(from, to)
		}
		return sp, t, err
	},
	"365d": func(r *ledger.Reader) (sp ledger.Spend, t ledger.Totals, err error) {
		from, to := yearWindow(365*24*time.Hour - 90*time.Second)
		if sp, err = r.Spent(from, to); err == nil {
			t, err = r.Totals(from, to)
		}
		if err != nil {
			return sp, t, err
		}
		spends, err := r.SpentBuckets(from, to, 24*time.Hour)
		if err != nil {
			return sp, t, err
		}
		totals, err := r.TotalsBuckets(from, to, 24*time.Hour)
		if err != nil {
			return sp, t, err
		}
		var net ledger.Nanos
		var tokens int64
		for i := range spends {
			net += spends[i].Net
			tokens += totals[i].Usage.CompletionTokens
		}
		if net != sp.Net || tokens != t.Usage.CompletionTokens {
			return sp, t, fmt.Errorf("the buckets sum to %s and %d tokens, the window to %s and %d", net, tokens, sp.Net, t.Usage.CompletionTokens)
		}
		for _, by := range []string{"model", "key"} {
			if _, err := r.TotalsBy(from, to, by); err != nil {
				return sp, t, err
			}
		}
		return sp, t, nil
	},
}

// TestAskTheYear is the process that BenchmarkBigLedger starts: it asks one
// question and tells what that took. Without the variables it has nothing to do.
func TestAskTheYear(t *testing.T) {
	path, question := os.Getenv("SPOTINFERENCE_YEAR"), os.Getenv("SPOTINFERENCE_QUESTION")
	if path == "" {
		return
	}
	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sp, totals, err := questions[question](r)
	if err != nil {
		t.Fatal(err)
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	fmt.Printf("answer %d %d %d %d %d %d\n", sp.Net, sp.Count, len(sp.Gaps), totals.Usage.CompletionTokens, cpu.Microseconds(), usage.Maxrss)
}

// BenchmarkBigLedger makes the year once and asks each question in a process of
// its own, of which all CPU and memory count.
//
//	go test -run XXX -bench BigLedger -benchtime 1x ./ledger
func BenchmarkBigLedger(b *testing.B) {
	path := filepath.Join(b.TempDir(), "year.db")
	makeYear(b, path)
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%.0f MB", float64(st.Size())/1e6)
	for _, q := range []struct {
		name string
		last time.Duration
		cpu  time.Duration
	}{{"24h", 24*time.Hour - 90*time.Second, 50 * time.Millisecond}, {"365d", 365*24*time.Hour - 90*time.Second, time.Second}} {
		b.Run(q.name, func(b *testing.B) {
			wantNet, wantTokens := scanYear(b, path, q.last)
			for b.Loop() {
				ask := exec.Command(os.Args[0], "-test.run", "^TestAskTheYear$")
				ask.Env = append(os.Environ(), "SPOTINFERENCE_YEAR="+path, "SPOTINFERENCE_QUESTION="+q.name)
				out, err := ask.CombinedOutput()
				_, answer, ok := bytes.Cut(out, []byte("answer "))
				if err != nil || !ok {
					b.Fatalf("%v\n%s", err, out)
				}
				var net ledger.Nanos
				var count, gaps, tokens, cpu, rss int64
				if _, err := fmt.Fscan(strings.NewReader(string(answer)), &net, &count, &gaps, &tokens, &cpu, &rss); err != nil {
					b.Fatal(err)
				}
				if net != wantNet || tokens != wantTokens {
					b.Fatalf("net %s and %d tokens, a full scan says %s and %d", net, tokens, wantNet, wantTokens)
				}
				b.ReportMetric(float64(cpu)/1000, "CPU-ms")
				b.ReportMetric(float64(rss)/1000, "MB")
				b.Logf("net %s, %d samples, %d gaps, %d tokens", net, count, gaps, tokens)
				if got := time.Duration(cpu) * time.Microsecond; got > q.cpu || rss > 64_000 {
					b.Errorf("%s of CPU and %d kB, want %s and 64 MB", got, rss, q.cpu)
				}
			}
		})
	}
}

// scanYear reads every row of the window.
func scanYear(b *testing.B, path string, last time.Duration) (net ledger.Nanos, tokens int64) {
	b.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	from, to := yearWindow(last)
	err = db.QueryRow("SELECT sum(completion_tokens) FROM request WHERE finished > ? AND finished <= ?", from.UnixMicro(), to.UnixMicro()).Scan(&tokens)
	if err != nil {
		b.Fatal(err)
	}
	err = db.QueryRow(`SELECT sum(grown) FROM (SELECT bill - lag(bill) OVER (PARTITION BY state ORDER BY sample) AS grown FROM reading
		WHERE sample >= (SELECT max(id) FROM sample WHERE at <= ?) AND sample <= (SELECT max(id) FROM sample WHERE at <= ?))`,
		from.UnixMicro(), to.UnixMicro()).Scan(&net)
	if err != nil {
		b.Fatal(err)
	}
	return net, tokens
}
