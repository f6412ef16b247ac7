package ledger_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"spotinference/ledger"
)

// vmReply is a billing reply of the form that Hyperstack gives for a machine.
func vmReply(minute int) []byte {
	bill := 2.5 * float64(minute) / 60
	return fmt.Appendf(nil, `{"status":true,"message":"Getting virtual machine billing history details successful","billing_history_vm_details":{"org_id":1234,"total_count":1,`+
		`"billing_history":[{"attributes":{"id":"3f0c8f0e-7a52-4a83-9a1c-2f4c2a1b8e77","infrahub_id":701234,"resource_name":"spot-h100-a"},`+
		`"metrics":{"incurred_bill":%[1]v,"non_discounted_bill":%[1]v,"price_per_hour":2.5,"non_discounted_price_per_hour":2.5,"usage_time":%[2]d,`+
		`"usage_time_ACTIVE":%[2]d,"usage_time_SHUTOFF":0,"usage_time_HIBERNATED":0}}]}}`, bill, minute*60)
}

// volumeReply is the same for a volume.
func volumeReply(minute, n int) []byte {
	bill := 0.0096774 * float64(minute) / 60
	return fmt.Appendf(nil, `{"status":true,"message":"Getting volume billing history details successful","billing_history_volume_details":{"org_id":1234,"total_count":1,`+
		`"billing_history":[{"attributes":{"id":"b1d5e3a4-%04d-4c12-8f5e-9a3b7c2d1e0f","infrahub_id":80%04[1]d,"resource_name":"models","subresource_amount":100,"subresource_type":"Cloud-SSD"},`+
		`"metrics":{"incurred_bill":%[2]v,"non_discounted_bill":%[2]v,"price_per_hour":0.0096774,"non_discounted_price_per_hour":0.0096774,"usage_time":%[3]d}}]}}`, n, bill, minute*60)
}

// bucketReply is a reply that grows: hour buckets, of which the last moves.
func bucketReply(minute int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"records":[`)
	sum := 0
	for h := range minute/60 + 1 {
		cents := min(minute-60*h, 60) * 226
		sum += cents
		fmt.Fprintf(&b, `{"startTime":"2026-11-%02dT%02d:00:00Z","podId":"7h9k2m4n6p","totalAmount":%d.%04d,"gpuAmount":1.34,"cpuAmount":0,"diskAmount":0.0165},`,
			1+h/24, h%24, cents/10000, cents%10000)
	}
	fmt.Fprintf(&b, `{}],"metadata":{"totals":{"totalAmount":%d.%04d}}}`, sum/10000, sum%10000)
	return b.Bytes()
}

func withRaw(ln ledger.Line, raw []byte) ledger.Line { ln.Raw = raw; return ln }

// A reply comes back as it came, whatever stands before it, and a row of it never
// refers to more than one other.
func TestRawComesBackAsItCame(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 50_000)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	kinds := map[string]func(i int) []byte{
		"vm":     vmReply,
		"volume": func(i int) []byte { return volumeReply(i/5, 1) },
		"bucket": func(i int) []byte { return bucketReply(20_000 + i) }, // longer than deflate can look back
		"noise":  func(i int) []byte { return noise[i*100 : 10_000+i*100] },
		"empty":  func(i int) []byte { return noise[:i%3] },
		"none":   func(int) []byte { return nil },
		"shrink": func(i int) []byte { return noise[:1000-i] },
	}
	led := openFar(t, filepath.Join(t.TempDir(), "l.db"))
	defer led.Close()
	const samples = 130
	var all []ledger.Sample
	for i := range samples {
		s := sample(minute(i))
		for name, reply := range kinds {
			s.Lines = append(s.Lines, withRaw(bill(name, ledger.Nanos(i)), reply(i)))
		}
		all = append(all, s)
	}
	if err := led.AddSamples(all); err != nil {
		t.Fatal(err)
	}
	for i := range samples {
		for name, reply := range kinds {
			if got, err := led.Raw(int64(i+1), name, "e1"); err != nil || !bytes.Equal(got, reply(i)) || (got == nil) != (reply(i) == nil) {
				t.Fatalf("%s %d: %d bytes, %v, want %d", name, i, len(got), err, len(reply(i)))
			}
		}
	}
	if n, err := led.Count("SELECT count(*) FROM raw JOIN raw AS base ON base.id = raw.base WHERE base.base IS NOT NULL"); err != nil || n != 0 {
		t.Errorf("%d replies hang on one that hangs on another, %v", n, err)
	}
	for name, most := range map[string]int64{"vm": 60, "volume": 60, "bucket": 500} {
		n, err := led.Count("SELECT avg(length(body)) FROM raw WHERE base IS NOT NULL AND id IN (SELECT raw FROM line WHERE resource = '" + name + "')")
		if err != nil || n > most {
			t.Errorf("%s: a difference takes %d bytes, %v", name, n, err)
		}
	}
	verified(t, led)
}

func TestARawReplyIsKeptOnce(t *testing.T) {
	t.Parallel()
	led := open(t, filepath.Join(t.TempDir(), "l.db"))
	shared, still := vmReply(1), vmReply(2)
	for i := range 100 { // more than an hour
		addSample(t, led, sample(minute(i), withRaw(bill("a", 1), still), withRaw(bill("b", 1), shared), withRaw(bill("c", 1), shared)))
	}
	if n, err := led.Count("SELECT count(*) FROM raw"); err != nil || n != 2 {
		t.Errorf("%d replies are kept, %v, want 2", n, err)
	}
	for _, r := range []string{"b", "c"} {
		if got, err := led.Raw(77, r, "e1"); err != nil || !bytes.Equal(got, shared) {
			t.Errorf("%s: %q, %v", r, got, err)
		}
	}
}

// A week of replies as they come from a machine and two volumes, by the way that
// they are written; the figures of a year follow from it.
func BenchmarkGrowth(b *testing.B) {
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "l.db")
		led, err := ledger.Open(ledger.Config{Path: path, Log: quiet(), Now: func() time.Time { return t0.AddDate(10, 0, 0) }})
		if err != nil {
			b.Fatal(err)
		}
		const days = 7
		created := t0.Add(-48 * time.Hour)
		line := func(resource string, kind ledger.Kind, rate, bill ledger.Nanos, raw []byte) ledger.Line {
			return ledger.Line{Resource: resource, Kind: kind, Status: "ACTIVE", Running: true, Rate: &rate, Bill: &bill,
				Epoch: "anchor:2026-11-22T11:00:00Z", Created: created, Raw: raw}
		}
		size := func() int64 {
			n, err := led.Count("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
		empty := size()
		for day := range days {
			var all []ledger.Sample
			for m := range 1440 {
				i := day*1440 + m
				all = append(all, ledger.Sample{At: t0.Add(time.Duration(i) * time.Minute), Provider: "hyperstack", Account: "1234", Currency: "USD",
					Truth: ledger.TruthResource, Step: time.Minute, Lag: 5 * time.Minute, Calibrated: true, Every: time.Minute, Lines: []ledger.Line{
						line("vm/701234", ledger.Instance, 2_500_000_000, ledger.Nanos(i)*41_666_667, vmReply(i+2880)),
						line("volume/800001", ledger.Volume, 9_677_400, ledger.Nanos(i)*161_290, volumeReply(i+2880, 1)),
						line("volume/800002", ledger.Volume, 9_677_400, ledger.Nanos(i)*161_290, volumeReply(i+2880, 2)),
					}})
			}
			if err := led.AddSamples(all); err != nil {
				b.Fatal(err)
			}
		}
		perSample := float64(size()-empty) / (days * 1440)
		b.ReportMetric(perSample, "B/sample")
		b.ReportMetric(perSample*525_600/1e6, "MB/year")
		for _, table := range []string{"raw", "reading", "sample", "sqlite_autoindex_sample_1", "bill_hour"} {
			n, err := led.Count("SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name = '" + table + "'")
			if err == nil {
				b.Logf("%s: %.1f B/sample", table, float64(n)/(days*1440))
			}
		}
		if err := led.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
