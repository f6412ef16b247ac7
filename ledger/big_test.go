package ledger_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"spotinference/ledger"
)

// A ledger of a year: a sample a minute of three resources, and ten million requests
// in the first 100 minutes of every two hours. They overlap here and there, and so
// do not fill that time. Then the engine is suspended, until the next ones wake it.
const (
	yearMinutes   = 365 * 1440
	yearBlocks    = yearMinutes / 120
	blockRequests = 2284
	yearRate      = 41_666_667 // nanos a minute, of the machine
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
	const at = "(%[1]d + i / %[2]d * 7200000000 + i %% %[2]d * (6000000000 / %[2]d) + 1)"
	for _, query := range []string{
		"INSERT INTO meta VALUES ('currency', 'USD'), ('provider', 'hyperstack')",
		"INSERT INTO source VALUES (1, 'hyperstack', '1234', 'USD', 'resource', 60000000, 300000000, 1, 60000000)",
		"INSERT INTO series (id, resource, epoch, provider, kind, seen) VALUES (1, 'vm/1', 'e', 'hyperstack', 'instance', 1), (2, 'volume/1', 'e', 'hyperstack', 'volume', 1), (3, 'volume/2', 'e', 'hyperstack', 'volume', 1)",
		"INSERT INTO state SELECT id, id, kind, 'ACTIVE', 1, 2500000000, NULL FROM series",
		// Samples come some milliseconds after the minute. A minute in ten thousand
		// is missing, and so is an hour in the summer.
		numbers(yearMinutes) + fmt.Sprintf("INSERT INTO sample SELECT i + 1, %d + i * 60000000 + i %% 997 * 100, 1 FROM n WHERE i %% 10007 <> 5000 AND i NOT BETWEEN 300000 AND 300060", start),
		fmt.Sprintf("INSERT INTO reading SELECT sample.id, state.id, sample.id * (CASE state.id WHEN 1 THEN %d ELSE 161290 END), NULL FROM sample, state", yearRate),
		numbers(yearBlocks*blockRequests) + fmt.Sprintf(`INSERT INTO request SELECT `+at+`, printf('%%08x', i), 'chat', 'model-' || (i %% 2), 'key-' || (i %% 3), 0,
			'ok', 200, `+at+` - 300000 - i * 7919 %% 4001 * 1000, NULL, 1000 + i %% 100, 0, 300 + i %% 77, 0 FROM n`, start, blockRequests),
		"INSERT INTO minute SELECT finished / 60000000, count(*), 0, 0, 0, 0, sum(prompt_tokens), 0, sum(completion_tokens) FROM request GROUP BY 1",
		"INSERT INTO hour SELECT finished / 3600000000, model, key, count(*), 0, 0, 0, 0, sum(prompt_tokens), 0, sum(completion_tokens) FROM request GROUP BY 1, 2, 3",
		fmt.Sprintf("INSERT INTO event (at, kind, subject, detail) VALUES (%d, 'gateway', 'started', '')", start-9e6),
		numbers(yearBlocks) + fmt.Sprintf(`INSERT INTO event (at, kind, subject, detail)
			SELECT %d + i * 7200000000 + column1, 'engine', column2, '' FROM n, (VALUES (0, 'suspended→waking'), (9876543, 'waking→ready'), (6900000000, 'ready→suspending'), (6901234567, 'suspending→suspended'))`, start),
	} {
		began := time.Now()
		if _, err := db.Exec(query); err != nil {
			b.Fatalf("%.60s: %v", query, err)
		}
		b.Logf("%6.1f s: %.60s", time.Since(began).Seconds(), query)
	}
	began := time.Now()
	if err := ledger.FillRollups(db); err != nil {
		b.Fatal(err)
	}
	b.Logf("%6.1f s: rollups", time.Since(began).Seconds())
}

// year is the path of the year: of SPOTINFERENCE_YEAR where that is set, made there
// if nothing is; else made for this one time.
func year(b *testing.B) string {
	path := os.Getenv("SPOTINFERENCE_YEAR")
	if path == "" {
		path = filepath.Join(b.TempDir(), "year.db")
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		makeYear(b, path)
	}
	led, err := ledger.Open(ledger.Config{Path: path, Log: quiet()}) // one that was made before may have to migrate
	if err != nil {
		b.Fatal(err)
	}
	if err := led.Close(); err != nil {
		b.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%.0f MB", float64(st.Size())/1e6)
	return path
}

// BenchmarkReportCost runs the program over the year, and measures all of its
// process: CPU, start-up included, and memory.
//
//	go test -run XXX -bench ReportCost -benchtime 5x ./ledger
func BenchmarkReportCost(b *testing.B) {
	path := year(b)
	program := filepath.Join(b.TempDir(), "spotinference")
	if out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	for _, q := range []struct {
		name string
		last time.Duration
		args []string
		cpu  time.Duration
	}{
		{"24h", 24 * time.Hour, []string{"--window", "24h"}, 50 * time.Millisecond},
		{"365d", 365 * 24 * time.Hour, []string{"--window", "365d", "--bucket", "24h"}, time.Second},
	} {
		b.Run(q.name, func(b *testing.B) {
			until := yearStart.Add(yearMinutes * time.Minute).Add(-90 * time.Second)
			want := scanYear(b, path, until.Add(-q.last), until)
			var cpu, most time.Duration
			var rss int64
			for b.Loop() {
				ask := exec.Command(program, slices.Concat([]string{"report", "cost", "--ledger", path, "--until", until.Format(time.RFC3339), "--output", "json"}, q.args)...)
				ask.Env = []string{} // the program reads no variable of ours
				var stderr bytes.Buffer
				ask.Stderr = &stderr
				out, err := ask.Output()
				if err != nil {
					b.Fatalf("%v: %s", err, stderr.String())
				}
				if got := summary(b, out); got != want {
					b.Fatalf("%s, a full scan says %s", got, want)
				}
				spent := ask.ProcessState.UserTime() + ask.ProcessState.SystemTime()
				cpu, most = cpu+spent, max(most, spent)
				rss = max(rss, ask.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
			}
			b.Log(want)
			b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "CPU-ms")
			b.ReportMetric(float64(rss)/1000, "MB")
			if most > q.cpu || rss > 64_000 {
				b.Errorf("%s of CPU and %d kB at most, want %s and 64 MB", most, rss, q.cpu)
			}
		})
	}
}

// summary is what a report must agree in with a full scan.
func summary(b *testing.B, out []byte) string {
	b.Helper()
	var c struct {
		Spend            struct{ Net string }
		Requests         int64
		CompletionTokens int64 `json:"completion_tokens"`
		Utilisation      string
		Split            map[string]*string
		Buckets          []struct {
			Net              string
			CompletionTokens int64 `json:"completion_tokens"`
		}
	}
	if err := json.Unmarshal(out, &c); err != nil {
		b.Fatal(err)
	}
	parse := func(s string) (n ledger.Nanos) {
		n, err := ledger.ParseNanos(s)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	var net, parts ledger.Nanos
	var tokens int64
	for _, k := range c.Buckets {
		net, tokens = net+parse(k.Net), tokens+k.CompletionTokens
	}
	for _, part := range c.Split {
		if part == nil {
			b.Fatal("the spend is not split")
		}
		parts += parse(*part)
	}
	if all := parse(c.Spend.Net); net != all || parts != all || tokens != c.CompletionTokens {
		b.Fatalf("net %s and %d tokens, the buckets sum to %s and %d, the parts to %s", all, c.CompletionTokens, net, tokens, parts)
	}
	return fmt.Sprintf("net %s, %d requests, %d tokens, busy %s", c.Spend.Net, c.Requests, c.CompletionTokens, c.Utilisation)
}

// scanYear reads every row of the window.
func scanYear(b *testing.B, path string, from, to time.Time) string {
	b.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var first, last, requests, tokens int64
	err = db.QueryRow("SELECT (SELECT max(at) FROM sample WHERE at <= max(?1, (SELECT min(at) FROM sample))), (SELECT max(at) FROM sample WHERE at <= ?2)", from.UnixMicro(), to.UnixMicro()).Scan(&first, &last)
	if err != nil {
		b.Fatal(err)
	}
	var net ledger.Nanos
	err = db.QueryRow(`SELECT sum(grown) FROM (SELECT bill - lag(bill) OVER (PARTITION BY state ORDER BY at) AS grown
		FROM reading JOIN sample ON sample.id = sample WHERE at >= ? AND at <= ?)`, first, last).Scan(&net)
	if err != nil {
		b.Fatal(err)
	}
	rows, err := db.Query("SELECT started, finished, completion_tokens FROM request WHERE finished > ? ORDER BY started", first)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	var busy int64
	end := first // of what was counted
	for rows.Next() {
		var started, finished, made int64
		if err := rows.Scan(&started, &finished, &made); err != nil {
			b.Fatal(err)
		}
		if finished <= last {
			requests, tokens = requests+1, tokens+made
		}
		if until := min(finished, last); until > end {
			busy += until - max(started, end)
			end = until
		}
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	utilisation := strconv.FormatFloat(float64(busy)/float64(last-first), 'f', 4, 64)
	return fmt.Sprintf("net %s, %d requests, %d tokens, busy %s", net, requests, tokens, utilisation)
}
