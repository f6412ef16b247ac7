package report_test

import (
	"errors"
	"testing"
	"time"

	"spotinference/internal/hint"
	"spotinference/ledger/report"
)

func TestParseWindow(t *testing.T) {
	t.Parallel()
	good := func(s string, want time.Duration) {
		t.Helper()
		if got, err := report.ParseWindow(s); err != nil || got != want {
			t.Errorf("ParseWindow(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	good("24h", 24*time.Hour)
	good("90s", 90*time.Second)
	good("1h30m", 90*time.Minute)
	good("1.5h", 90*time.Minute)
	good("7d", 7*24*time.Hour)
	good("1d12h", 36*time.Hour)
	good("0d1h", time.Hour)
	good("36500d", 36500*24*time.Hour)

	bad := func(s, want string) {
		t.Helper()
		_, err := report.ParseWindow(s)
		if !errors.Is(err, report.ErrQuestion) {
			t.Errorf("ParseWindow(%q) = %v, want a report.ErrQuestion", s, err)
			return
		}
		if err.Error() != want || hint.Of(err) != report.WindowHint {
			t.Errorf("ParseWindow(%q): %q, hint %q, want %q, %q", s, err, hint.Of(err), want, report.WindowHint)
		}
	}
	bad("yesterday", `window "yesterday": not a duration`)
	bad("", `window "": not a duration`)
	bad("24", `window "24": not a duration`)
	bad("d", `window "d": not a duration`)
	bad("1.5d", `window "1.5d": not a duration`)
	bad("+1d", `window "+1d": not a duration`)
	bad("-1d", `window "-1d": not a duration`)
	bad("1d-2h", `window "1d-2h": not a duration`)
	bad("1d+2h", `window "1d+2h": not a duration`)
	bad("1d2d", `window "1d2d": not a duration`)
	bad(" 1h", `window " 1h": not a duration`)
	bad("36501d", `window "36501d": not a duration`)
	bad("99999999999999999999d", `window "99999999999999999999d": not a duration`)
	bad("36500d1h", `window "36500d1h": longer than 100 years`)
	bad("2000000h", `window "2000000h": longer than 100 years`)
	bad("0", `window "0": not a positive duration`)
	bad("0d", `window "0d": not a positive duration`)
	bad("-1h", `window "-1h": not a positive duration`)
	bad("1ns", `window "1ns": not a positive duration`)
}

func TestParseUntil(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 10, 17, 11, 0, 0, 0, time.UTC)
	good := func(s string, want time.Time, wantExplicit bool) {
		t.Helper()
		got, explicit, err := report.ParseUntil(s, now)
		if err != nil || !got.Equal(want) || explicit != wantExplicit {
			t.Errorf("ParseUntil(%q) = %v, %v, %v, want %v, %v", s, got, explicit, err, want, wantExplicit)
		}
	}
	good("", now, false)
	good("now", now, false)
	good("2026-10-17T11:00:00Z", now, true)
	good("2026-10-17T12:30:00.5+02:00", time.Date(2026, 10, 17, 10, 30, 0, 500_000_000, time.UTC), true)
	good("2026-10-17", time.Date(2026, 10, 17, 0, 0, 0, 0, time.UTC), true)

	bad := func(s, want string) {
		t.Helper()
		_, _, err := report.ParseUntil(s, now)
		if !errors.Is(err, report.ErrQuestion) || err.Error() != want || hint.Of(err) != report.UntilHint {
			t.Errorf("ParseUntil(%q) = %v, want %q with a hint", s, err, want)
		}
	}
	bad("yesterday", `until "yesterday": not a time`)
	bad("2026-10-17 10:00:00", `until "2026-10-17 10:00:00": not a time`)
	bad("2026-02-30", `until "2026-02-30": not a time`)
	bad("2026-10-17T11:00:01Z", `until "2026-10-17T11:00:01Z": in the future`)
	bad("2026-10-18", `until "2026-10-18": in the future`)
}

func TestParseFormat(t *testing.T) {
	t.Parallel()
	for _, f := range []report.Format{report.Text, report.JSON, report.CSV, report.SVG} {
		if got, err := report.ParseFormat(string(f)); err != nil || got != f {
			t.Errorf("ParseFormat(%q) = %q, %v", f, got, err)
		}
	}
	_, err := report.ParseFormat("xml")
	if !errors.Is(err, report.ErrQuestion) || err.Error() != `format "xml": not a format` || hint.Of(err) != "use text, json or csv; report cost also svg" {
		t.Errorf("ParseFormat(xml) = %v", err)
	}
}
