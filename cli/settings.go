package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A setting is a flag that may also stand in the environment, as SPOTINFERENCE_ and its
// name, and in the settings file, as a key of its name. Flag beats environment beats
// file.

const envPrefix = "SPOTINFERENCE_"

// envName is the variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// apiKeyEnv holds the API key. It is no flag: a command line is no secret.
const apiKeyEnv = "SPOTINFERENCE_API_KEY"

// commandKey is the settings file's key for what stands after --.
const commandKey = "command"

// load fills in what the command line left open of cmd's flags. A setting that no
// command knows is an error; one that another command knows is left to it.
func (g *global) load(cmd *cobra.Command) error {
	l := loading{cmd: cmd, settings: settingsOf(cmd.Root()), given: map[string]bool{}}
	cmd.Flags().Visit(func(f *pflag.Flag) { l.given[f.Name] = true })
	if err := l.environment(); err != nil {
		return err
	}
	path, values, err := readFile(g.config)
	if err != nil {
		return err
	}
	if err := l.file(path, values); err != nil {
		return err
	}
	if command, ok := values[commandKey]; ok {
		if g.command, err = textList(command); err != nil {
			return usagef(`write it as command = ["llama-server", "-m", "model.gguf"]`, "%s: command: %w", path, err)
		}
	}
	g.settingsFile, g.given = path, l.given
	if err := l.refuseEmpty(); err != nil {
		return err
	}
	return checkRanges(cmd)
}

// loading fills in the flags of one command.
type loading struct {
	cmd      *cobra.Command
	settings []string        // the names of all settings of all commands
	given    map[string]bool // the flags of cmd that somebody gave a value
}

// set gives a flag the value that stands at from.
func (l loading) set(f *pflag.Flag, value, from string) error {
	if f.Value.Set(value) != nil {
		return usagef("see "+l.cmd.CommandPath()+" --help", "%s: %q is not %s", from, value, describe(f.Value.Type()))
	}
	f.Changed, l.given[f.Name] = true, true
	return nil
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

// environment takes the variables. One that nothing reads is refused: a misspelt budget
// must not be no budget.
func (l loading) environment() error {
	names := map[string]bool{apiKeyEnv: true}
	for _, flag := range l.settings {
		names[envName(flag)] = true
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix) && !names[name] {
			help := "the variables are " + apiKeyEnv + " and SPOTINFERENCE_ with the name of a flag"
			if near := nearest(flagOf(name), l.settings); near != "" {
				help = "did you mean " + envName(near) + "? " + help
			}
			return usagef(help, "%s: no such setting", name)
		}
	}
	var err error
	l.cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value, ok := os.LookupEnv(envName(f.Name))
		if ok && err == nil && !l.given[f.Name] && isSetting(f) {
			err = l.set(f, value, envName(f.Name))
		}
	})
	if err != nil {
		return err
	}
	return l.refuseEmpty()
}

// flagOf is the flag that a variable would be of.
func flagOf(env string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, envPrefix), "_", "-"))
}

// file takes the values of the settings file.
func (l loading) file(path string, values map[string]any) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if key == commandKey {
			continue
		}
		from := path + ": " + key
		if !slices.Contains(l.settings, key) || key == "config" {
			help := "its keys are the flags of serve and report, and command"
			if near := nearest(key, append([]string{commandKey}, l.settings...)); near != "" && near != key {
				help = "did you mean " + near + "? " + help
			}
			return usagef(help, "%s: no such setting", from)
		}
		f := l.cmd.Flags().Lookup(key)
		if f == nil || l.given[key] || !isSetting(f) {
			continue
		}
		if err := l.setAny(f, values[key], from); err != nil {
			return err
		}
	}
	return nil
}

// setAny gives a flag a value of the settings file.
func (l loading) setAny(f *pflag.Flag, value any, from string) error {
	switch value.(type) {
	case string, bool, int64, float64:
		return l.set(f, fmt.Sprint(value), from)
	case []any:
		list, ok := f.Value.(pflag.SliceValue)
		if texts, err := textList(value); ok && err == nil {
			f.Changed = true
			return list.Replace(texts)
		}
	}
	return usagef(`write it as `+f.Name+` = "..."`, "%s: not a plain value", from)
}

// refuseEmpty refuses a setting that was given and is empty: an unset variable in
// somebody's script must not lift a budget.
func (l loading) refuseEmpty() (err error) {
	l.cmd.Flags().VisitAll(func(f *pflag.Flag) {
		empty := f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = len(list.GetSlice()) == 0
		}
		if f.Changed && empty && err == nil {
			help := "leave it out, or give it a value"
			if isSetting(f) {
				help += " (also " + envName(f.Name) + ")"
			}
			err = usagef(help, "--%s is empty", f.Name)
		}
	})
	return err
}

// readFile reads the settings file: the one that was named, which must be there, or the
// first of the customary places that has one.
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

// settingsOf are the names of the settings of every command that a person may call.
func settingsOf(root *cobra.Command) []string {
	names := map[string]bool{}
	visitCommands(root, func(c *cobra.Command) {
		for _, set := range []*pflag.FlagSet{c.LocalFlags(), c.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) {
				if isSetting(f) {
					names[f.Name] = true
				}
			})
		}
	})
	return slices.Sorted(maps.Keys(names))
}

// visitCommands calls f with a command and all below it.
func visitCommands(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, child := range c.Commands() {
		visitCommands(child, f)
	}
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
