package report

import "spotinference/ledger"

// PerMillion is the quotient, "" where there is none.
func PerMillion(net ledger.Nanos, tokens int64) string {
	return decimalOrEmpty(perMillion(net, tokens))
}

var (
	Money  = money
	Length = length
)
