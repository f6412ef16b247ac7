package report

import (
	"fmt"
	"strings"

	"spotinference/ledger"
)

// Chain is where the ledger stood when a report was made. A head that is kept elsewhere
// proves later that nothing which the report is made of was changed or cut off.
type Chain struct {
	Head  string `json:"head"`
	Links int64  `json:"links"`

	short string
}

// chainOf asks after all else, so that the head stands for every row that was read.
func chainOf(r *ledger.Reader) (Chain, error) {
	c, err := r.Chain()
	return Chain{Head: c.Head.String(), Links: c.Links, short: c.Head.Short()}, err
}

func (c Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\nLedger: head %s after %s.\n", c.short, plural(c.Links, "link"))
}

func (c Chain) cells() []cell {
	return []cell{{"chain_head", c.Head}, {"chain_links", integer(c.Links)}}
}
