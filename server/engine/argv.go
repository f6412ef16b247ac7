package engine

import (
	"strings"

	"spotinference/internal/hint"
)

// argv is a command line read by flag names alone. We don't know which of an
// engine's hundreds of flags take a value, so a value that is spelled like one of
// our flags counts as that flag.
type argv []string

// flagName splits --some_flag=value into --some-flag and value. Both engines read
// an underscore in a long flag as a dash.
func flagName(arg string) (name, value string, inline bool) {
	name = arg
	if !strings.HasPrefix(arg, "--") {
		return name, "", false
	}
	if i := strings.IndexByte(arg, '='); i > 0 {
		name, value, inline = arg[:i], arg[i+1:], true
	}
	return strings.ReplaceAll(name, "_", "-"), value, inline
}

// find returns the index of the first of names in a, and its value: inline, else
// the next argument unless that is a flag itself. The index is -1 where there is none.
func (a argv) find(names ...string) (i int, value string) {
	for i, arg := range a {
		name, value, inline := flagName(arg)
		for _, want := range names {
			if name != want {
				continue
			}
			if !inline && a.valueFollows(i) {
				value = a[i+1]
			}
			return i, value
		}
	}
	return -1, ""
}

// valueFollows says whether the argument after i is i's value. A lone dash and a
// negative number are values.
func (a argv) valueFollows(i int) bool {
	if i+1 >= len(a) {
		return false
	}
	next := a[i+1]
	if !strings.HasPrefix(next, "-") || next == "-" {
		return true
	}
	return next[1] >= '0' && next[1] <= '9'
}

func (a argv) has(names ...string) bool {
	i, _ := a.find(names...)
	return i >= 0
}

// without returns a less every occurrence of a valued flag in names, and what it
// took out, as it was written.
func (a argv) without(names ...string) (rest argv, cut []string) {
	rest = append(argv{}, a...)
	for {
		i, _ := rest.find(names...)
		if i < 0 {
			return rest, cut
		}
		end := i + 1
		if _, _, inline := flagName(rest[i]); !inline && rest.valueFollows(i) {
			end++
		}
		cut = append(cut, strings.Join(rest[i:end], " "))
		rest = append(rest[:i], rest[end:]...)
	}
}

// refusal is a flag that contradicts ours, and what to do instead.
type refusal struct {
	flag, hint string
}

// refuse returns the error for the first of list that is in a.
func (a argv) refuse(engine string, list []refusal) error {
	for _, r := range list {
		if a.has(r.flag) {
			return hint.Errorf(r.hint, "cannot run %s with %s", engine, r.flag)
		}
	}
	return nil
}
