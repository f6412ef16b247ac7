package billing_test

import (
	"slices"
	"testing"

	"spotinference/billing"
)

func TestSplitCommand(t *testing.T) {
	f := func(line string, want ...string) {
		t.Helper()
		got, err := billing.SplitCommand("command", line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("SplitCommand(%q) = %q, %v; want %q", line, got, err, want)
		}
	}
	f("bill", "bill")
	f("  bill\t--box 7\n", "bill", "--box", "7")
	f(`bill 'two words' "it's" a\ b ''`, "bill", "two words", "it's", "a b", "")
	f(`bill --x='a|b' "a\"b\\c\$d" 'e\f'`, "bill", "--x=a|b", `a"b\c$d`, `e\f`)
	f(`sh -c 'curl -s "$URL" | jq .'`, "sh", "-c", `curl -s "$URL" | jq .`)
	f(`bill a~b a#b {x} é`, "bill", "a~b", "a#b", "{x}", "é")
	for _, bad := range []string{"", "  ", "''", `bill 'a`, `bill "a`, `bill \`, "bill | jq", "bill > f", "bill $X", `bill "$X"`, "bill `x`", `bill "` + "`x`" + `"`,
		"bill *", "~/bill", "bill # note", "a;b", "a&", "(a)"} {
		if got, err := billing.SplitCommand("command", bad); err == nil {
			t.Errorf("SplitCommand(%q) = %q, want an error", bad, got)
		}
	}
}
