package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// settings are a command's flags after the environment and the settings file
// have filled in what the command line left open. Flag beats environment beats
// file.
type settings struct {
	flags   *pflag.FlagSet
	command []string // "command" of the file: what stands after -- where nothing does
	file    string   // the file that was read; "" for none
}

func (s settings) text(flag string) string {
	return s.flags.Lookup(flag).Value.String()
}

func (s settings) on(flag string) bool { return s.text(flag) == "true" }

// typed marks a flag that stands on the command line and nowhere else: it is of one thing
// that is made, and a setting would be of all.
func typed(f *pflag.FlagSet, name string) {
	f.Lookup(name).Annotations = map[string][]string{typedMark: nil}
}

const typedMark = "typed"

func isTyped(f *pflag.Flag) bool {
	_, is := f.Annotations[typedMark]
	return is
}

// envName is the variable of a flag.
func envName(flag string) string {
	return "SPOTINFERENCE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// loadSettings fills in cmd's flags. A setting that no command knows is an
// error; one that another command knows is left to it.
func loadSettings(cmd *cobra.Command) (settings, error) {
	s := settings{flags: cmd.Flags()}
	given := map[string]bool{}
	s.flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })

	var err error
	set := func(f *pflag.Flag, value, from string) {
		if err == nil && f.Value.Set(value) != nil {
			err = usagef("see "+cmd.CommandPath()+" --help", "%s: %q is not %s", from, value, describe(f.Value.Type()))
		}
		f.Changed = true
		given[f.Name] = true
	}
	if err := refuseUnknownEnv(cmd.Root()); err != nil {
		return s, err
	}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if value, ok := os.LookupEnv(envName(f.Name)); ok && !given[f.Name] && f.Name != "help" && !isTyped(f) {
			set(f, value, envName(f.Name))
		}
	})
	if err != nil {
		return s, err
	}

	if err := s.refuseEmpty(); err != nil {
		return s, err
	}
	path, values, err := readFile(s.text("config"))
	if err != nil {
		return s, err
	}
	s.file = path
	known := allFlags(cmd.Root())
	for _, key := range sortedKeys(values) {
		value := values[key]
		from := path + ": " + key
		if key == "command" {
			if s.command, err = textList(value); err != nil {
				return s, usagef(`write it as command = ["llama-server", "-m", "model.gguf"]`, "%s: %w", from, err)
			}
			continue
		}
		if !known[key] || key == "config" || key == "help" {
			return s, usagef("its keys are the flags of serve and report, and command", "%s: no such setting", from)
		}
		f := s.flags.Lookup(key)
		if f == nil || given[key] || isTyped(f) {
			continue
		}
		switch value.(type) {
		case string, bool, int64, float64:
			set(f, fmt.Sprint(value), from)
		case []any:
			list, ok := f.Value.(pflag.SliceValue)
			texts, notTexts := textList(value)
			if !ok || notTexts != nil {
				err = usagef(`write it as `+key+` = "..."`, "%s: not a plain value", from)
			} else if err = list.Replace(texts); err == nil {
				f.Changed = true
			}
		default:
			err = usagef(`write it as `+key+` = "..."`, "%s: not a plain value", from)
		}
		if err != nil {
			return s, err
		}
	}
	return s, s.refuseEmpty()
}

func describe(kind string) string {
	switch kind {
	case "bool":
		return "true or false"
	case "duration":
		return "a duration such as 1m"
	}
	return "a " + kind
}

// apiKeyEnv holds the API key. It is no flag: a command line is no secret.
const apiKeyEnv = "SPOTINFERENCE_API_KEY"

// refuseUnknownEnv refuses a variable of ours that nothing reads: a misspelt
// budget must not be no budget.
func refuseUnknownEnv(root *cobra.Command) error {
	known := map[string]bool{apiKeyEnv: true}
	for flag, setting := range allFlags(root) {
		known[envName(flag)] = setting
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "SPOTINFERENCE_") && !known[name] {
			return usagef("the variables are "+apiKeyEnv+" and SPOTINFERENCE_ with the name of a flag", "%s: no such setting", name)
		}
	}
	return nil
}

// refuseEmpty refuses a setting that was given and is empty: an unset variable
// in somebody's script must not lift a budget.
func (s settings) refuseEmpty() (err error) {
	s.flags.VisitAll(func(f *pflag.Flag) {
		empty := f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = len(list.GetSlice()) == 0
		}
		if f.Changed && empty && err == nil {
			hint := "leave it out, or give it a value"
			if !isTyped(f) {
				hint += " (also " + envName(f.Name) + ")"
			}
			err = usagef(hint, "--%s is empty", f.Name)
		}
	})
	return err
}

// readFile reads the settings file: the one that was named, which must be
// there, or the first of the customary places that has one.
func readFile(named string) (path string, values map[string]any, err error) {
	places := []string{named}
	if named == "" {
		places = []string{"spotinference.toml"}
		if dir, err := os.UserConfigDir(); err == nil { // $XDG_CONFIG_HOME, or ~/.config
			places = append(places, filepath.Join(dir, "spotinference", "config.toml"))
		}
	}
	for _, path := range places {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && named == "" {
			continue
		}
		if err != nil {
			return "", nil, usagef("name a file that can be read", "read settings: %w", err)
		}
		if _, err := toml.Decode(string(text), &values); err != nil {
			return "", nil, usagef("", "read settings %s: %w", path, err)
		}
		return path, values, nil
	}
	return "", nil, nil
}

// allFlags are the names of the flags of every command a person may call, true for those
// that are settings, too.
func allFlags(root *cobra.Command) map[string]bool {
	names := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, set := range []*pflag.FlagSet{c.LocalFlags(), c.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) { names[f.Name] = names[f.Name] || !isTyped(f) })
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(root)
	return names
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func textList(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, errors.New("not a list of texts")
	}
	var out []string
	for _, e := range list {
		text, ok := e.(string)
		if !ok {
			return nil, errors.New("not a list of texts")
		}
		out = append(out, text)
	}
	return out, nil
}

// ledgerPath is where the ledger is: the one that was named, or the default of
// its sort.
func ledgerPath(s settings) (string, error) { return ledgerPathOf(s, s.on("demo")) }

func ledgerPathOf(s settings, demo bool) (string, error) {
	if path := s.text("ledger"); path != "" {
		return path, nil
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("give it a place with --ledger", "find the ledger: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	name := "ledger.db"
	if demo {
		name = "demo.db"
	}
	return filepath.Join(dir, "spotinference", name), nil
}
