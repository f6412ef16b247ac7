package ledger_test

import (
	"math"
	"slices"
	"testing"

	"spotinference/ledger"
)

func TestParseNanos(t *testing.T) {
	t.Parallel()
	f := func(text string, want ledger.Nanos) {
		t.Helper()
		if got, err := ledger.ParseNanos(text); err != nil || got != want {
			t.Errorf("ParseNanos(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	f("0", 0)
	f("2.5", 2_500_000_000)
	f("62.541666666666664", 62_541_666_667)
	f("1.4799118041992184e-11", 0)
	f("-1.75", -1_750_000_000)
	f("1E2", 100_000_000_000)
	f(" 0.0000000005 ", 1) // half away from zero
	f("-0.0000000005", -1)
	f("0.00000000049", 0)
	f("9223372036.854775807", math.MaxInt64)

	bad := func(text string) {
		t.Helper()
		if got, err := ledger.ParseNanos(text); err == nil {
			t.Errorf("ParseNanos(%q) = %d, want an error", text, got)
		}
	}
	bad("")
	bad("NaN")
	bad("Infinity")
	bad("1e400")
	bad("1e-400")
	bad("0x10")
	bad("1/3")
	bad("1_000")
	bad("2,5")
	bad("$2")
	bad("9223372036.854775808")
	bad("-9223372036.854775808")
	bad("1e999999999999999999999")
	bad("--1")
	bad("e5")
}

func TestNanosString(t *testing.T) {
	t.Parallel()
	f := func(n ledger.Nanos, want string) {
		t.Helper()
		if got := n.String(); got != want {
			t.Errorf("Nanos(%d) = %q, want %q", int64(n), got, want)
		}
	}
	f(0, "0")
	f(1, "0.000000001")
	f(-1, "-0.000000001")
	f(2_500_000_000, "2.5")
	f(12_000_000_000, "12")
	f(math.MaxInt64, "9223372036.854775807")
	f(math.MinInt64, "-9223372036.854775808")
}

func TestNanosOverflowIsAnError(t *testing.T) {
	t.Parallel()
	f := func(got ledger.Nanos, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("got %d, want an error", got)
		}
	}
	f(ledger.Nanos(math.MaxInt64).Add(1))
	f(ledger.Nanos(math.MinInt64).Add(-1))
	f(ledger.Nanos(math.MinInt64).Sub(1))
	f(ledger.Nanos(0).Sub(math.MinInt64))
	if s, err := ledger.Nanos(5).Sub(7); err != nil || s != -2 {
		t.Errorf("5 - 7 = %d, %v", s, err)
	}
}

func FuzzParseNanos(f *testing.F) {
	for _, s := range []string{"0", "62.541666666666664", "1.4799118041992184e-11", "-1e18", "1e400", "NaN", "0.0000000005"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ledger.ParseNanos(s)
		if err != nil {
			return
		}
		// What we print is what we read.
		if again, err := ledger.ParseNanos(n.String()); err != nil || again != n {
			t.Fatalf("%q → %d → %q → %d, %v", s, n, n.String(), again, err)
		}
	})
}

func TestAllot(t *testing.T) {
	t.Parallel()
	f := func(n ledger.Nanos, weights []int64, want ...ledger.Nanos) {
		t.Helper()
		if got := n.Allot(weights); !slices.Equal(got, want) {
			t.Errorf("%d by %v = %v, want %v", n, weights, got, want)
		}
	}
	f(10, []int64{1, 1, 1}, 4, 3, 3)
	f(-10, []int64{1, 1, 1}, -4, -3, -3)
	f(2, []int64{1, 1, 1}, 1, 1, 0)
	f(10, []int64{1, 2, 4}, 1, 3, 6) // 1.43, 2.86, 5.71
	f(7, []int64{0, 5, 0}, 0, 7, 0)
	f(0, []int64{3, 5}, 0, 0)
	f(1<<62, []int64{1 << 62, 1 << 62}, 1<<61, 1<<61)
	f(5, []int64{0, 0})
	f(5, nil)
}

func TestNanosText(t *testing.T) {
	t.Parallel()
	n := ledger.Nanos(-2_500_000_000)
	if got := n.Text(); got == nil || *got != "-2.5" {
		t.Errorf("text %v", got)
	}
	var none *ledger.Nanos
	if got := none.Text(); got != nil {
		t.Errorf("the text of what is not known: %q", *got)
	}
}
