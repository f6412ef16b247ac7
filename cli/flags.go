package cli

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flags declares a command's flags. What is to be known of a flag stands where it is
// declared and nowhere else: its name, type, default, range, unit, group and help. From
// that follow the help texts, the checks, the settings of the environment and the file,
// and docs/configuration.md.
type flags struct {
	set   *pflag.FlagSet
	group string // the heading in help
}

// flagsOf declares flags of c. Help shows them in the order in which they are declared.
func flagsOf(c *cobra.Command) flags {
	c.Flags().SortFlags = false
	return flags{set: c.Flags()}
}

// Annotations of a flag.
const (
	groupNote = "group"
	unitNote  = "unit"
	leastNote = "least" // of a number or a duration
	mostNote  = "most"
	onceNote  = "once" // it stands on the command line only: see once
)

// in declares flags under another heading.
func (f flags) in(group string) flags { return flags{f.set, group} }

func (f flags) note(name, note, value string) {
	flag := f.set.Lookup(name)
	if flag.Annotations == nil {
		flag.Annotations = map[string][]string{}
	}
	flag.Annotations[note] = []string{value}
}

func noteOf(f *pflag.Flag, note string) (string, bool) {
	values, ok := f.Annotations[note]
	if !ok {
		return "", false
	}
	return values[0], true
}

func (f flags) text(to *string, name, value, help string) {
	f.set.StringVar(to, name, value, help)
	f.note(name, groupNote, f.group)
}

// amount is a text that holds an amount of money, "" for none.
func (f flags) amount(to *string, name, value, help string) {
	f.text(to, name, value, help)
	f.note(name, unitNote, "the bill's currency")
}

func (f flags) list(to *[]string, name, help string) {
	f.set.StringSliceVar(to, name, nil, help)
	f.note(name, groupNote, f.group)
}

func (f flags) on(to *bool, name, help string) {
	f.set.BoolVar(to, name, false, help)
	f.note(name, groupNote, f.group)
}

// off is a switch that is on unless it is set to false.
func (f flags) off(to *bool, name, help string) {
	f.set.BoolVar(to, name, true, help)
	f.note(name, groupNote, f.group)
}

// duration must be longer than nothing.
func (f flags) duration(to *time.Duration, name string, value time.Duration, help string) {
	f.set.DurationVar(to, name, value, help)
	f.note(name, groupNote, f.group)
	f.note(name, leastNote, time.Nanosecond.String())
}

// grace is a duration that may be zero.
func (f flags) grace(to *time.Duration, name string, value time.Duration, help string) {
	f.duration(to, name, value, help)
	f.note(name, leastNote, "0s")
}

// span is a duration that its command checks.
func (f flags) span(to *time.Duration, name string, value time.Duration, help string) {
	f.set.DurationVar(to, name, value, help)
	f.note(name, groupNote, f.group)
}

// number is a whole number from least to most.
func (f flags) number(to *int, name string, value, least, most int, unit, help string) {
	f.set.IntVar(to, name, value, help)
	f.note(name, groupNote, f.group)
	f.note(name, unitNote, unit)
	f.note(name, leastNote, strconv.Itoa(least))
	f.note(name, mostNote, strconv.Itoa(most))
}

// rate is a limit a minute, 0 for none, that its command checks.
func (f flags) rate(to *int, name, unit, help string) {
	f.set.IntVar(to, name, 0, help)
	f.note(name, groupNote, f.group)
	f.note(name, unitNote, unit)
}

// once marks flags that stand on the command line only: they are of one thing that is
// made, and a setting would be of all.
func (f flags) once(names ...string) {
	for _, name := range names {
		f.note(name, onceNote, "")
	}
}

// isSetting reports whether a flag may stand in the environment and the settings file.
func isSetting(f *pflag.Flag) bool {
	_, once := noteOf(f, onceNote)
	return !once && f.Name != "help" && f.Name != "version"
}

// checkRanges refuses the first flag, by name, whose value is out of its range.
func checkRanges(cmd *cobra.Command) (err error) {
	name := nameOf(cmd)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		least, ok := noteOf(f, leastNote)
		if !ok || err != nil {
			return
		}
		switch f.Value.Type() {
		case "duration":
			value, _ := time.ParseDuration(f.Value.String()) // as it prints it
			if floor, _ := time.ParseDuration(least); value < floor {
				err = usagef("give a duration such as 1m", "%s: --%s %s: too short", name, f.Name, value)
			}
		case "int":
			most, _ := noteOf(f, mostNote)
			value, _ := strconv.Atoi(f.Value.String())
			low, _ := strconv.Atoi(least)
			high, _ := strconv.Atoi(most)
			if value < low || value > high {
				err = usagef("give a number from "+least+" to "+most, "%s: --%s %d: out of range", name, f.Name, value)
			}
		}
	})
	return err
}
