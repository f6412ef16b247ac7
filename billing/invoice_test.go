package billing_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"spotinference/billing"
	"spotinference/ledger"
)

func layout(t testing.TB, name string) billing.Layout {
	t.Helper()
	l, err := billing.InvoiceLayout(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// These files were written by hand, by the names that each layout expects.
func TestReadInvoice(t *testing.T) {
	fifth := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	sixth := fifth.AddDate(0, 0, 1)
	reads := func(name string, want billing.Invoice) {
		t.Helper()
		f, err := os.Open(filepath.Join("testdata", "invoices", name+".csv"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := billing.ReadInvoice(f, layout(t, name)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	// A byte order mark, CRLF, a comma in quotes, and zeros at the end.
	reads("hyperstack", billing.Invoice{Currency: "USD", Lines: []billing.InvoiceLine{
		{"45678", fifth, 518_400_000}, {"701234", fifth, 60_480_000_000},
		{"45678", sixth, 518_400_000}, {"701234", sixth, 57_960_000_000},
	}})
	// Hours of a day are summed.
	reads("runpod", billing.Invoice{Lines: []billing.InvoiceLine{
		{"7h9k2m4n6p", fifth, 2_713_000_000}, {"7h9k2m4n6p", sixth, 678_250_000},
	}})
	// A credit is negative, an amount may have an exponent.
	reads("vast", billing.Invoice{Lines: []billing.InvoiceLine{
		{"instance-9012345", fifth, 27_540_000_000}, {"volume-9012346", fifth, 1_000_000},
	}})
}

func TestReadInvoiceByColumns(t *testing.T) {
	l, err := billing.ParseLayout("resource=Item, day = Period Start,amount=Net,currency=Cur")
	if err != nil {
		t.Fatal(err)
	}
	inv, err := billing.ReadInvoice(strings.NewReader("net,Gross, ITEM ,period start,CUR\n-1.25,0,x,2026-02-28 23:59:59,eur\n2,0,x,2026-02-28T23:00:00-05:00,EUR\n"), l)
	want := billing.Invoice{Currency: "EUR", Lines: []billing.InvoiceLine{
		{"x", time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC), -1_250_000_000},
		{"x", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), 2_000_000_000}, // the day of UTC
	}}
	if err != nil || !reflect.DeepEqual(inv, want) {
		t.Errorf("ReadInvoice = %+v, %v, want %+v", inv, err, want)
	}
	// A column that was named must be there, be it the currency's.
	if _, err := billing.ReadInvoice(strings.NewReader("Item,Period Start,Net\nx,2026-01-05,1\n"), l); err == nil || !strings.Contains(err.Error(), "no column for the currency") {
		t.Errorf("ReadInvoice without the currency's column: %v", err)
	}
	if l, err = billing.ParseLayout("resource=a,day=b,amount=c"); err != nil {
		t.Fatal(err)
	}
	if inv, err := billing.ReadInvoice(strings.NewReader("a,b,c\nx,2026-01-05,1\n"), l); err != nil || inv.Currency != "" {
		t.Errorf("ReadInvoice = %+v, %v", inv, err)
	}
}

func TestReadInvoiceRefuses(t *testing.T) {
	refused := func(want, text string) {
		t.Helper()
		inv, err := billing.ReadInvoice(strings.NewReader(text), layout(t, "generic"))
		if err == nil || !strings.Contains(err.Error(), want) || len(inv.Lines) > 0 {
			t.Errorf("ReadInvoice(%q) = %+v, %v, want %q", text, inv, err, want)
		}
	}
	const header = "resource,day,amount,currency\n"
	const good = "x,2026-01-05,1,USD\n"
	refused("not even a header", "")
	refused("a header and no row", header)
	refused("no column for the amount: none is named amount", "resource,day,cost\nx,2026-01-05,1\n")
	refused("no column for the resource", good)
	refused(`two columns are named "amount"`, "resource,day,amount,Amount\nx,2026-01-05,1,2\n")
	refused("no column for the resource", "resource;day;amount\nx;2026-01-05;1\n")
	// A row that cannot be read whole.
	refused("line 3: no resource", header+good+" ,2026-01-05,1,USD\n")
	refused(`line 3: day "05/01/2026"`, header+good+"x,05/01/2026,1,USD\n")
	refused(`line 3: day "2026-02-30"`, header+good+"x,2026-02-30,1,USD\n")
	refused(`line 3: day ""`, header+good+"x,,1,USD\n")
	refused(`line 3: day "2026-01"`, header+good+"x,2026-01,1,USD\n")
	refused(`line 3: money ""`, header+good+"x,2026-01-05,,USD\n")
	refused(`line 3: money "$1"`, header+good+"x,2026-01-05,$1,USD\n")
	refused(`line 3: money "1,000.00"`, header+good+"x,2026-01-05,\"1,000.00\",USD\n")
	refused(`line 3: money "NaN"`, header+good+"x,2026-01-05,NaN,USD\n")
	refused(`line 3: money "1e400"`, header+good+"x,2026-01-05,1e400,USD\n")
	refused(`line 3: currency ""`, header+good+"x,2026-01-05,1,\n")
	refused("line 3: currency EUR, the rows before are in USD", header+good+"x,2026-01-05,1,EUR\n")
	refused("not an id", header+"\"x\ny\",2026-01-05,1,USD\n")
	refused("not an id", header+strings.Repeat("x", 300)+",2026-01-05,1,USD\n")
	refused("line 4: sum of", header+"x,2026-01-05,9000000000,USD\nx,2026-01-06,9000000000,USD\nx,2026-01-05,9000000000,USD\n")
	// No CSV.
	refused("wrong number of fields", header+good+"x,2026-01-05\n")
	refused("read invoice: parse error on line 2", header+`x,2026-01-05,"1,USD`+"\n")
	refused("read invoice: parse error on line 2", header+`x,2026-01-05,1"1",USD`+"\n")
	refused("no column", "<html><body>Sign in</body></html>")
	refused("no column", "%PDF-1.7\n")
}

// A file without an end is given up, not read.
func TestReadInvoiceIsBounded(t *testing.T) {
	t.Parallel()
	row := strings.Repeat("x", 250) + ",2026-01-05,1,USD\n"
	endless := io.MultiReader(strings.NewReader("resource,day,amount,currency\n"), repeated(row))
	if inv, err := billing.ReadInvoice(endless, layout(t, "generic")); err == nil || !strings.Contains(err.Error(), "larger than 16777216 bytes") || len(inv.Lines) > 0 {
		t.Errorf("ReadInvoice = %+v, %v", inv, err)
	}
	if _, err := billing.ReadInvoice(repeated("x"), layout(t, "generic")); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("ReadInvoice of one endless field: %v", err)
	}
}

// repeat is a text without an end.
type repeat struct {
	text string
	at   int
}

// repeated is text without an end, that is read by blocks.
func repeated(text string) *repeat { return &repeat{text: strings.Repeat(text, 1+4096/len(text))} }

func (r *repeat) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		c := copy(p[n:], r.text[r.at:])
		n, r.at = n+c, (r.at+c)%len(r.text)
	}
	return len(p), nil
}

func TestLayouts(t *testing.T) {
	if got, want := billing.Layouts(), []string{"generic", "hyperstack", "runpod", "vast"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Layouts = %v, want %v", got, want)
	}
	if _, err := billing.InvoiceLayout("lambda"); err == nil || !strings.Contains(err.Error(), `invoice format "lambda": not known`) {
		t.Errorf("InvoiceLayout = %v", err)
	}
	refused := func(want, text string) {
		t.Helper()
		if _, err := billing.ParseLayout(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseLayout(%q) = %v, want %q", text, err, want)
		}
	}
	refused("names no column", "")
	refused("names no column", "resource=a,day,amount=c")
	refused("names no column", "resource=a,day=,amount=c")
	refused("is none of resource, day, amount and currency", "resource=a,date=b,amount=c")
	refused("resource is named twice", "resource=a,resource=b")
	refused("resource, day and amount must be named", "resource=a,amount=c")
}

// What is read is a sum of what stands in the file, whatever the file is: its days
// are days, its resources are ids, each pair is there once, and it does not matter
// in how many pieces the bytes come.
func FuzzReadInvoice(f *testing.F) {
	files, err := filepath.Glob("testdata/invoices/*.csv")
	if err != nil || len(files) < 3 {
		f.Fatalf("%d invoices: %v", len(files), err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("resource,day,amount,currency\nx,2026-01-05,1,USD\nx,2026-01-05,-1e-9,usd\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, name := range billing.Layouts() {
			inv, err := billing.ReadInvoice(bytes.NewReader(text), layout(t, name))
			again, err2 := billing.ReadInvoice(byByte{bytes.NewReader(text)}, layout(t, name))
			if (err == nil) != (err2 == nil) || !reflect.DeepEqual(inv, again) {
				t.Fatalf("%s: read at once %+v, %v; byte by byte %+v, %v", name, inv, err, again, err2)
			}
			if err != nil {
				if len(inv.Lines) > 0 {
					t.Fatalf("%s: %v, and %d lines", name, err, len(inv.Lines))
				}
				continue
			}
			type key struct {
				resource string
				day      time.Time
			}
			seen := map[key]bool{}
			for _, l := range inv.Lines {
				k := key{l.Resource, l.Day}
				if l.Resource == "" || !l.Day.Equal(l.Day.Truncate(24*time.Hour)) || seen[k] {
					t.Fatalf("%s: line %+v", name, l)
				}
				seen[k] = true
				if n, err := ledger.ParseNanos(l.Amount.String()); err != nil || n != l.Amount {
					t.Fatalf("%s: amount %s: %v", name, l.Amount, err)
				}
			}
			if len(inv.Lines) == 0 {
				t.Fatalf("%s: no line and no error", name)
			}
		}
	})
}

// byByte reads one byte at a time.
type byByte struct{ io.Reader }

func (r byByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }
