package gpu

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// lines feeds a decoder and returns the messages that it completed.
func decodeAll(t *testing.T, q *smiQuery, text string) (all []Message, err error) {
	t.Helper()
	decode := q.decoder()
	for line := range strings.Lines(text) {
		m, complete, err := decode([]byte(line))
		if err != nil {
			return all, err
		}
		if complete {
			all = append(all, m)
		}
	}
	return all, nil
}

func TestSMI(t *testing.T) {
	// As --format=csv,noheader,nounits writes them: two cards a round; the second
	// tells little of itself.
	const round = "2, 0, GPU-a, NVIDIA H100 80GB HBM3, 570.86.15, 37, 1024, 81559, 70.25, 700.00, 31, 1980, 2619, 0x0000000000000004, 0x0000000000000004, 3, 0\n" +
		"2, 1, GPU-b, NVIDIA H100 80GB HBM3, 570.86.15, [N/A], [Unknown Error], [N/A], [Not Supported], [N/A], N/A, [GPU is lost], [N/A], [N/A], [N/A], [N/A], [N/A]\n"
	q := &smiQuery{fields: smiFields()}
	got, err := decodeAll(t, q, round+"\n"+round)
	if err != nil {
		t.Fatal(err)
	}
	want := Message{Driver: "570.86.15", Cards: []Reading{
		{
			UUID: "GPU-a", Name: "NVIDIA H100 80GB HBM3", Utilisation: ptr(int64(37)), MemoryUsed: ptr(int64(1 << 30)), MemoryTotal: ptr(int64(81559 << 20)),
			Power: ptr(int64(70250)), PowerLimit: ptr(int64(700000)), Temperature: ptr(int64(31)), SMClock: ptr(int64(1980)), MemoryClock: ptr(int64(2619)),
			EventReasons: ptr(uint64(4)), ECCCorrected: ptr(int64(3)), ECCUncorrected: ptr(int64(0)),
		},
		{Index: 1, UUID: "GPU-b", Name: "NVIDIA H100 80GB HBM3"},
	}}
	if !reflect.DeepEqual(got, []Message{want, want}) {
		t.Errorf("got %+v\nwant %+v twice", got, want)
	}

	// A card that is missing from a round ends it, and is not made up.
	short := strings.SplitAfter(round, "\n")[0]
	got, err = decodeAll(t, q, short+short+short)
	if err != nil || len(got) != 2 || len(got[0].Cards) != 1 {
		t.Errorf("rounds of one card: %+v, %v", got, err)
	}
}

func TestSMIRefuses(t *testing.T) {
	good := strings.Split("1, 0, GPU-a, H100, 570, 37, 1024, 81559, 70.25, 700.00, 31, 1980, 2619, 0x4, 0x4, 3, 0", ", ")
	with := func(i int, v string) string {
		line := append([]string{}, good...)
		line[i] = v
		return strings.Join(line, ", ")
	}
	for _, c := range []struct{ name, line, err string }{
		{"the driver's trouble", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", `NVIDIA-SMI has failed`},
		{"too few", "1, 0, GPU-a", "3 fields, not 17"},
		{"no uuid", with(2, "[N/A]"), `uuid is "[N/A]"`},
		{"an empty uuid", with(2, ""), "no UUID"},
		{"no count", with(0, "[N/A]"), "count"},
		{"a count of none", with(0, "0"), "no card"},
		{"words", with(5, "some"), `utilization.gpu "some": not a number`},
		{"a unit", with(6, "1024 MiB"), `memory.used "1024 MiB": not a number`},
		{"a fraction by another name", with(8, "1/3"), "not a number"},
		{"an exponent", with(8, "1e3"), "not a number"},
		{"a bit mask of words", with(13, "none"), "clocks_event_reasons.active"},
		{"a negative amount", with(6, "-5"), "a figure of"},
		{"too much", with(6, "999999999999999999"), "too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeAll(t, &smiQuery{fields: smiFields()}, c.line)
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %+v, %v, want an error with %q", got, err, c.err)
			}
		})
	}
}

// A field that this nvidia-smi does not know is left out of the next query; one
// without which there is no reading ends the attempts.
func TestSMIForgetsAField(t *testing.T) {
	q := &smiQuery{fields: smiFields()}
	_, err := decodeAll(t, q, "Field \"clocks_event_reasons.active\" is not a valid field to query.\n\n")
	if !errors.Is(err, errAskAgain) {
		t.Fatalf("an unknown field: %v, want errAskAgain", err)
	}
	if args := strings.Join(q.args(), " "); strings.Contains(args, "clocks_event_reasons") || !strings.Contains(args, "clocks_throttle_reasons") {
		t.Errorf("asks %s", args)
	}
	for _, name := range []string{"uuid", "clocks_event_reasons.active", "nonsense"} {
		if _, err := decodeAll(t, q, `Field "`+name+`" is not a valid field to query.`); err == nil || errors.Is(err, errAskAgain) {
			t.Errorf("%s: %v, want an error that ends the attempts", name, err)
		}
	}
}

// Whatever is printed, a message holds a round of cards with names and possible figures.
func FuzzSMI(f *testing.F) {
	f.Add("1, 0, GPU-a, H100, 570, 37, 1024, 81559, 70.25, 700.00, 31, 1980, 2619, 0x4, 0x4, 3, 0\n")
	f.Add("2, 1, GPU-b, H100, 570, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]\n2, 0, GPU-a, H,5,1,1,1,1,1,1,1,1,1,1,1,1\n")
	f.Add("Field \"uuid\" is not a valid field to query.\n")
	f.Add("No devices were found\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, _ := decodeAll(t, &smiQuery{fields: smiFields()}, text)
		for _, m := range all {
			if len(m.Cards) == 0 || m.Error != "" || m.XID != nil {
				t.Fatalf("%q: %+v", text, m)
			}
			if err := check(m.Cards); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}
