package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"spotinference/ledger"
)

// proof is what a spend can be computed again from.
type proof struct {
	samples []ledger.Sample // those with a bill that was subtracted, in order
	series  []provenSeries
	voids   []ledger.Void // the samples in the window that are in no sum
	voided  ledger.Nanos  // what a budget counts for them
}

// provenSeries is one subtraction with its sources.
type provenSeries struct {
	ledger.ResourceSpend
	falls       []ledger.Fall
	born        bool   // after the window began: the base is no sample's bill
	first, last []byte // the replies that the bills were read from, nil where none was kept
}

// prove gathers the samples and the replies behind a spend.
func prove(r *ledger.Reader, sp ledger.Spend) (p proof, err error) {
	if p.voids, err = r.Voids(sp.From.At, sp.To.At); err != nil {
		return p, err
	}
	p.voided = sp.Voided
	ids := []int64{sp.From.ID, sp.To.ID}
	for _, s := range sp.Resources {
		ps := provenSeries{ResourceSpend: s}
		if ps.falls, err = r.Falls(s.Resource, s.Epoch, s.First.At, s.Last.At); err != nil {
			return p, err
		}
		if ps.first, err = r.Raw(s.First.ID, s.Resource, s.Epoch); err != nil {
			return p, err
		}
		if ps.last, err = r.Raw(s.Last.ID, s.Resource, s.Epoch); err != nil {
			return p, err
		}
		p.series = append(p.series, ps)
		ids = append(ids, s.First.ID, s.Last.ID)
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		s, ok, err := r.Sample(id)
		if err != nil {
			return p, err
		}
		if !ok {
			return p, fmt.Errorf("sample #%d is not there", id)
		}
		p.samples = append(p.samples, s)
		for i, ps := range p.series {
			if ps.First.ID != id {
				continue
			}
			for _, ln := range s.Lines {
				if ln.Resource == ps.Resource && ln.Epoch == ps.Epoch && ln.Bill != nil && *ln.Bill != ps.Base {
					p.series[i].born = true
				}
			}
		}
	}
	return p, nil
}

// proofText shows the way from the provider's replies to the figure. All of its
// numbers are exact, and those of the subtraction stand below each other.
func (c CostReport) proofText() string {
	var b strings.Builder
	b.WriteString("\nHow this was computed\n")
	for _, s := range c.source.proof.samples {
		fmt.Fprintf(&b, "\nSample #%d, %s\n", s.ID, stamp(s.At))
		t := table{{"resource", "kind", "status", "rate per hour", "bill", "epoch"}}
		for _, ln := range s.Lines {
			t = append(t, []string{printable(ln.Resource), string(ln.Kind), printable(ln.Status), amountOrUnknown(ln.Rate), amountOrUnknown(ln.Bill), printable(ln.Epoch)})
		}
		if len(s.Lines) == 0 {
			b.WriteString("  no resource is on the bill\n")
			continue
		}
		t.write(&b, "  ", 3, 4)
	}

	b.WriteString("\nThe provider's replies that the bills were read from\n")
	c.source.proof.replies(&b)

	fmt.Fprintf(&b, "\nThe subtraction, in %s\n", c.Currency)
	var net []string
	for _, s := range c.source.proof.series {
		s.write(&b)
		net = append(net, s.Net.String())
	}
	if len(net) > 0 {
		fmt.Fprintf(&b, "\n  spend = %s = %s\n", sum(net), *c.Spend.Net)
	} else {
		fmt.Fprintf(&b, "\n  spend = %s: nothing is on the bill\n", *c.Spend.Net)
	}

	c.source.proof.writeVoids(&b, c.Currency)

	b.WriteString("\nThe division\n\n")
	fmt.Fprintf(&b, "  output tokens of the %s that finished after %s,\n  up to and including %s: %d\n",
		plural(c.Requests, "request"), stamp(*c.Window.From), stamp(*c.Window.To), c.CompletionTokens)
	if c.CostPerMillion == nil {
		b.WriteString("  no output token: there is nothing to divide by\n")
	} else {
		fmt.Fprintf(&b, "  %s / %d * 1000000 = %s %s per million output tokens\n", *c.Spend.Net, c.CompletionTokens, *c.CostPerMillion, c.Currency)
	}
	return b.String()
}

// writeVoids names the samples that were taken out of every sum.
func (p proof) writeVoids(b *strings.Builder, currency string) {
	if len(p.voids) == 0 {
		return
	}
	b.WriteString("\nSamples that are in no sum, by somebody's word\n\n")
	for _, v := range p.voids {
		fmt.Fprintf(b, "  #%d of %s, void since %s: %s\n", v.Sample.ID, stamp(v.Sample.At), stamp(v.At), printable(v.Reason))
	}
	if p.voided != 0 {
		fmt.Fprintf(b, "  a budget of this window counts %s %s for them all the same\n", p.voided, currency)
	}
}

// write shows one subtraction, the larger number above.
func (s provenSeries) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n  %s %s, epoch %s\n", s.Kind, printable(s.Resource), printable(s.Epoch))
	from := fmt.Sprintf("- bill in sample #%d", s.First.ID)
	if s.born {
		from = "- bill when it was created, within the window"
	}
	rows := [][2]string{{fmt.Sprintf("  bill in sample #%d", s.Last.ID), s.Bill.String()}, {from, s.Base.String()}, {"= spend", s.Net.String()}}
	for _, f := range s.falls {
		rows = append(rows, [2]string{fmt.Sprintf("+ fell from sample #%d to #%d by", f.From.ID, f.To.ID), f.By.String()})
	}
	if s.Gross != s.Net || len(s.falls) > 0 {
		rows = append(rows, [2]string{"= spend before credits", s.Gross.String()})
	}
	label, whole := 0, 0
	for _, r := range rows {
		label, whole = max(label, len(r[0])), max(whole, strings.IndexByte(r[1]+".", '.'))
	}
	for _, r := range rows {
		fmt.Fprintf(b, "    %-*s   %*s%s\n", label, r[0], whole-strings.IndexByte(r[1]+".", '.'), "", r[1])
	}
}

// replies prints each reply once, as it came, with its digest.
func (p proof) replies(b *strings.Builder) {
	printed := map[[32]byte]string{}
	show := func(s provenSeries, sample int64, body []byte) {
		title := fmt.Sprintf("%s in sample #%d", printable(s.Resource), sample)
		if body == nil {
			fmt.Fprintf(b, "\n  %s: none was kept\n", title)
			return
		}
		hash := sha256.Sum256(body)
		if first, ok := printed[hash]; ok {
			fmt.Fprintf(b, "\n  %s: the same as %s\n", title, first)
			return
		}
		printed[hash] = title
		fmt.Fprintf(b, "\n  %s: %s, sha256 %s\n", title, plural(int64(len(body)), "byte"), hex.EncodeToString(hash[:]))
		if clean(string(body)) {
			for line := range strings.Lines(string(body)) {
				b.WriteString("    " + strings.TrimRight(line, "\r\n") + "\n")
			}
		} else {
			fmt.Fprintf(b, "    %+q\n", body) // what would move a terminal's cursor
		}
	}
	for _, s := range p.series {
		show(s, s.First.ID, s.first)
		if s.Last.ID != s.First.ID {
			show(s, s.Last.ID, s.last)
		}
	}
}

// clean tells whether a terminal shows s as it is.
func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\t\r\n", r) })
}

// printable is a word of the provider's, or of a client's, on one line.
func printable(s string) string {
	if s == "" || !clean(s) || strings.ContainsAny(s, "\t\r\n") {
		return fmt.Sprintf("%+q", s)
	}
	return s
}

func amountOrUnknown(n *ledger.Nanos) string {
	if n == nil {
		return "not known"
	}
	return n.String()
}

// sum writes a sum of numbers, the negative ones in brackets.
func sum(terms []string) string {
	for i, t := range terms {
		if i > 0 && strings.HasPrefix(t, "-") {
			terms[i] = "(" + t + ")"
		}
	}
	return strings.Join(terms, " + ")
}
