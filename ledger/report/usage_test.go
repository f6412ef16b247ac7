package report_test

import (
	"reflect"
	"testing"

	"spotinference/ledger"
	"spotinference/ledger/report"
)

func usage(b *book, from, to float64, demo bool) report.UsageReport {
	b.t.Helper()
	u, err := report.Usage(b.Reader, ledger.Window{From: at(from), To: at(to)}, demo)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func TestUsage(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.served(0, 1000) // at the start: not in (from, to]
	b.served(1, 1_234_567)
	b.served(59, 10, cut)
	b.served(60, 5, lost) // at the end: in it
	b.served(60.01, 1000)
	u := usage(b, 0, 60, false)

	same(t, "text", written(t, u, report.Text), `
Usage from 2026-10-17 08:00:00 to 09:00:00 UTC (1h)

requests                3   1 ok, 1 aborted by the client, 1 lost in a crash
prompt tokens         300   75 of them cached (25%)
output tokens   1,234,582

note: 2 requests were cut before their last count; they made at least the tokens
  shown.
Counted: requests that finished in this window, also those that were cut short.
  Not counted: requests that are still running.
`)
	same(t, "json", written(t, u, report.JSON), `
{
  "window": {
    "from": "2026-10-17T08:00:00Z",
    "to": "2026-10-17T09:00:00Z"
  },
  "requests": 3,
  "prompt_tokens": 300,
  "cached_tokens": 75,
  "completion_tokens": 1234582,
  "by_status": {
    "ok": 1,
    "aborted": 1,
    "failed": 0,
    "lost": 1
  },
  "demo": false
}
`)
	same(t, "csv", written(t, u, report.CSV), `
window_from,window_to,requests,prompt_tokens,cached_tokens,completion_tokens,by_status_ok,by_status_aborted,by_status_failed,by_status_lost,demo,overrides
2026-10-17T08:00:00Z,2026-10-17T09:00:00Z,3,300,75,1234582,1,1,0,1,false,
`)
	sameColumns(t, written(t, u, report.CSV), written(t, u, report.JSON))
}

func TestUsageOfNothing(t *testing.T) {
	t.Parallel()
	u := usage(open(t), 0, 60*24*7, true)
	same(t, "text", written(t, u, report.Text), `
Usage from 2026-10-17 08:00:00 to 2026-10-24 08:00:00 UTC (7d)
demo: simulated figures

requests        0
prompt tokens   0
output tokens   0

Counted: requests that finished in this window, also those that were cut short.
  Not counted: requests that are still running.
`)
	want := []string{"by_status.aborted", "by_status.failed", "by_status.lost", "by_status.ok", "cached_tokens",
		"completion_tokens", "demo", "prompt_tokens", "requests", "window.from", "window.to"}
	if got := keys(t, written(t, u, report.JSON)); !reflect.DeepEqual(got, want) {
		t.Errorf("json fields %v, want %v", got, want)
	}
}

func TestUsageRefusesNoWindow(t *testing.T) {
	t.Parallel()
	_, err := report.Usage(open(t).Reader, ledger.Window{From: at(1), To: at(1)}, false)
	if want := "report usage: window from 2026-10-17T08:01:00Z to 2026-10-17T08:01:00Z is empty"; err == nil || err.Error() != want {
		t.Errorf("Usage = %v, want %s", err, want)
	}
}
