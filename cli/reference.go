package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Flag is a flag of one or more commands, as docs/configuration.md shows it.
type Flag struct {
	Name    string
	Env     string // its variable; "" where it stands on the command line only
	Type    string // string, duration, int, bool, or strings for a list
	Default string // "" for none
	Unit    string
	Least   string // of a number or a duration; "" where there is no bound
	Most    string
	Group   string // its heading in help
	Help    string
	Of      []string // the commands that have it, without the program's name; none: all
}

// Flags are the flags of every command that a person may call, each once where it is the
// same in several: those of all commands first, then serve's, then the others'.
func Flags() []Flag {
	root := newRoot(io.Discard, io.Discard)
	var all []Flag
	add := func(of string, set *pflag.FlagSet) {
		set.SortFlags = false
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" || f.Name == "version" {
				return
			}
			entry := entryOf(f)
			at := slices.IndexFunc(all, func(e Flag) bool { return e.same(entry) })
			if at < 0 {
				at = len(all)
				all = append(all, entry)
			}
			if of != "" {
				all[at].Of = append(all[at].Of, of)
			}
		})
	}
	add("", root.PersistentFlags())
	visitCommands(root, func(c *cobra.Command) {
		if c != root && c.IsAvailableCommand() && !strings.Contains(c.CommandPath(), " completion") {
			add(nameOf(c), c.LocalNonPersistentFlags())
		}
	})
	return all
}

// nameOf is a command without the program's name.
func nameOf(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

func entryOf(f *pflag.Flag) Flag {
	e := Flag{Name: f.Name, Type: f.Value.Type(), Default: f.DefValue, Help: f.Usage}
	if isSetting(f) {
		e.Env = envName(f.Name)
	}
	for note, to := range map[string]*string{groupNote: &e.Group, unitNote: &e.Unit, leastNote: &e.Least, mostNote: &e.Most} {
		*to, _ = noteOf(f, note)
	}
	switch {
	case e.Type == "stringSlice":
		e.Type = "strings"
	case e.Type == "duration" && e.Default == "0s", e.Type == "int" && e.Default == "0":
		e.Default = ""
	}
	if e.Type == "strings" && e.Default == "[]" || e.Type == "bool" && e.Default == "false" {
		e.Default = ""
	}
	return e
}

// same reports whether two commands' flags are one.
func (f Flag) same(g Flag) bool {
	return f.Name == g.Name && f.Env == g.Env && f.Type == g.Type && f.Default == g.Default && f.Help == g.Help
}
