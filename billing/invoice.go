package billing

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"spotinference/billing/api"
	"spotinference/internal/hint"
	"spotinference/ledger"
)

// An invoice, or a usage export, is the provider's other word on what was spent:
// a CSV file that a person downloads. There is one reader of such files; an
// adapter only tells in which columns to look.
//
// None of these layouts is documented by its provider, and none was compared with
// a real file: the names of columns are assumptions, taken from the fields of
// each provider's API. A file whose header has none of them is refused, and its
// columns can then be named one by one.

// maxInvoice is far more than a year of a machine's days.
const maxInvoice = 16 << 20

// Layout tells in which columns of an invoice to look.
type Layout struct {
	columns api.InvoiceColumns
	named   bool // a person named the columns: then each must be there
}

// layouts are the layouts with a name: each provider's whose invoice has one, and a
// plain one.
func layouts() map[string]api.InvoiceColumns {
	all := map[string]api.InvoiceColumns{
		"generic": {
			Resource: []string{"resource"},
			Day:      []string{"day"},
			Amount:   []string{"amount"},
			Currency: []string{"currency"},
		},
	}
	for _, a := range adapters() {
		if a.Invoice.Resource != nil {
			all[a.Name] = a.Invoice
		}
	}
	return all
}

// Layouts lists the names that InvoiceLayout knows.
func Layouts() []string { return slices.Sorted(maps.Keys(layouts())) }

// InvoiceLayout is the layout of that name.
func InvoiceLayout(name string) (Layout, error) {
	columns, ok := layouts()[name]
	if !ok {
		return Layout{}, hint.Errorf("use "+strings.Join(Layouts(), ", ")+", or name the columns with --columns", "invoice format %q: not known", name)
	}
	return Layout{columns: columns}, nil
}

// ParseLayout reads a layout of one's own, such as
// "resource=Item,day=Date,amount=Total". Only currency may be left out.
func ParseLayout(text string) (Layout, error) {
	const form = "write it as resource=COLUMN,day=COLUMN,amount=COLUMN,currency=COLUMN, with the names of the file's own header"
	var c api.InvoiceColumns
	to := map[string]*[]string{"resource": &c.Resource, "day": &c.Day, "amount": &c.Amount, "currency": &c.Currency}
	for part := range strings.SplitSeq(text, ",") {
		key, name, ok := strings.Cut(part, "=")
		key, name = strings.TrimSpace(key), strings.TrimSpace(name)
		field := to[key]
		switch {
		case !ok || name == "":
			return Layout{}, hint.Errorf(form, "columns %q: %q names no column", text, part)
		case field == nil:
			return Layout{}, hint.Errorf(form, "columns %q: %q is none of resource, day, amount and currency", text, key)
		case *field != nil:
			return Layout{}, hint.Errorf(form, "columns %q: %s is named twice", text, key)
		}
		*field = []string{name}
	}
	if c.Resource == nil || c.Day == nil || c.Amount == nil {
		return Layout{}, hint.Errorf(form, "columns %q: resource, day and amount must be named", text)
	}
	return Layout{columns: c, named: true}, nil
}

// Invoice is what a provider says that it billed, by resource and day.
type Invoice struct {
	Currency string // "" where the file does not say
	Lines    []InvoiceLine
}

// InvoiceLine is one resource on one day: the sum of all that the file has of it.
type InvoiceLine struct {
	Resource string       // as the file names it
	Day      time.Time    // midnight UTC at which the day begins
	Amount   ledger.Nanos // below zero: a credit
}

// ReadInvoice reads a CSV file with a header. A row that cannot be read whole
// refuses the file: a sum over the others would be none.
func ReadInvoice(r io.Reader, layout Layout) (Invoice, error) {
	limited := &io.LimitedReader{R: r, N: maxInvoice + 1}
	buffered := bufio.NewReader(limited)
	if mark, err := buffered.Peek(3); err == nil && bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = buffered.Discard(3) // what was peeked can be discarded
	}
	rows := csv.NewReader(buffered) // a row of another length than the header's is its error
	rows.ReuseRecord = true
	inv, err := readInvoice(rows, layout)
	if limited.N <= 0 {
		return Invoice{}, fmt.Errorf("invoice is larger than %d bytes", maxInvoice)
	}
	return inv, err
}

func readInvoice(rows *csv.Reader, layout Layout) (Invoice, error) {
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return Invoice{}, errors.New("invoice is empty: not even a header")
	}
	if err != nil {
		return Invoice{}, fmt.Errorf("read invoice: %w", err)
	}
	at, err := layout.find(header)
	if err != nil {
		return Invoice{}, err
	}
	type key struct {
		resource string
		day      time.Time
	}
	sums := make(map[key]ledger.Nanos)
	var inv Invoice
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Invoice{}, fmt.Errorf("read invoice: %w", err)
		}
		line, currency, err := at.read(row)
		if err == nil && inv.Currency != "" && currency != inv.Currency && at.currency >= 0 {
			err = fmt.Errorf("currency %s, the rows before are in %s", currency, inv.Currency)
		}
		k := key{line.Resource, line.Day}
		if err == nil {
			sums[k], err = sums[k].Add(line.Amount)
		}
		if err != nil {
			n, _ := rows.FieldPos(0)
			return Invoice{}, fmt.Errorf("read invoice: line %d: %w", n, err)
		}
		inv.Currency = currency
	}
	if len(sums) == 0 {
		return Invoice{}, errors.New("invoice has a header and no row")
	}
	for k, amount := range sums {
		inv.Lines = append(inv.Lines, InvoiceLine{Resource: k.resource, Day: k.day, Amount: amount})
	}
	slices.SortFunc(inv.Lines, func(a, b InvoiceLine) int {
		return cmp.Or(a.Day.Compare(b.Day), cmp.Compare(a.Resource, b.Resource))
	})
	return inv, nil
}

// columns are the places of a layout's fields in a row; currency is -1 where
// there is none.
type columns struct{ resource, day, amount, currency int }

// find looks the layout's names up in a header. The first name that is there
// counts; twice there, it is no name.
func (l Layout) find(header []string) (columns, error) {
	var failed error
	one := func(field string, names []string, must bool) int {
		for _, name := range names {
			found := -1
			for i, h := range header {
				if !strings.EqualFold(strings.TrimSpace(h), name) {
					continue
				}
				if found >= 0 && failed == nil {
					failed = hint.Errorf("rename one of them", "invoice: two columns are named %q", name)
				}
				found = i
			}
			if found >= 0 {
				return found
			}
		}
		if must && failed == nil {
			failed = hint.Errorf("name the file's columns with --columns resource=...,day=...,amount=...",
				"invoice: no column for %s: none is named %s", field, strings.Join(names, ", "))
		}
		return -1
	}
	at := columns{
		resource: one("the resource", l.columns.Resource, true),
		day:      one("the day", l.columns.Day, true),
		amount:   one("the amount", l.columns.Amount, true),
		// A name that was given must be there; one that is only likely need not be.
		currency: one("the currency", l.columns.Currency, l.named && l.columns.Currency != nil),
	}
	return at, failed
}

// read makes a line of a row, with its currency.
func (at columns) read(row []string) (InvoiceLine, string, error) {
	line := InvoiceLine{Resource: strings.Clone(strings.TrimSpace(row[at.resource]))}
	if line.Resource == "" {
		return line, "", errors.New("no resource")
	}
	if len(line.Resource) > 256 || strings.ContainsFunc(line.Resource, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return line, "", fmt.Errorf("resource %.64q: not an id", line.Resource)
	}
	var err error
	if line.Day, err = invoiceDay(row[at.day]); err != nil {
		return line, "", err
	}
	if line.Amount, err = ledger.ParseNanos(row[at.amount]); err != nil {
		return line, "", err
	}
	if at.currency < 0 {
		return line, "", nil
	}
	currency, err := ledger.Currency(row[at.currency])
	return line, currency, err
}

// invoiceDay reads a day, or an instant and takes its day in UTC. Without a zone
// it is UTC. A day such as 01/02/2026 may be one of two: it is refused.
func invoiceDay(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, layout := range []string{time.DateOnly, time.RFC3339, "2006-01-02T15:04:05", time.DateTime} { // with a fraction of a second or none
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC().Truncate(24 * time.Hour), nil
		}
	}
	return time.Time{}, fmt.Errorf("day %.40q: not of the form 2006-01-02 or 2006-01-02T15:04:05Z", text)
}
