package billing

import (
	"strings"

	"spotinference/internal/hint"
)

// SplitCommand cuts a command line into words, as for Options.Command; what names it
// in errors: "billing command". White space parts words; '...' keeps all as it is, "..."
// all but \" \\ \$ and \`, and a backslash elsewhere keeps the next character.
//
// No shell reads the words: where an unquoted character would have meant something
// to one, the line is refused, not run as another command than was meant.
func SplitCommand(what, line string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun := false // for a word may be empty: ''
	for rest := line; rest != ""; {
		c := rest[0]
		rest = rest[1:]
		switch {
		case c == '\'':
			text, after, closed := strings.Cut(rest, "'")
			if !closed {
				return nil, hint.Errorf("close it", "%s: a quote is not closed", what)
			}
			word.WriteString(text)
			rest, begun = after, true
		case c == '"':
			after, err := doubleQuoted(what, &word, rest)
			if err != nil {
				return nil, err
			}
			rest, begun = after, true
		case c == '\\':
			if rest == "" {
				return nil, hint.Errorf("take it away", "%s: it ends with a backslash", what)
			}
			word.WriteByte(rest[0])
			rest, begun = rest[1:], true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		case strings.IndexByte("|&;<>()$`*?[", c) >= 0 || (c == '~' || c == '#') && !begun:
			return nil, forShell(what, c)
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if begun {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, hint.Errorf("name a program", "%s: it has no first word", what)
	}
	return words, nil
}

// doubleQuoted adds what stands before the closing quote to word, and returns what
// comes after it.
func doubleQuoted(what string, word *strings.Builder, s string) (string, error) {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return s[i+1:], nil
		case s[i] == '$' || s[i] == '`':
			return "", forShell(what, s[i])
		case s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`", s[i+1]) >= 0:
			i++
		}
		word.WriteByte(s[i])
	}
	return "", hint.Errorf("close it", "%s: a quote is not closed", what)
}

func forShell(what string, c byte) error {
	return hint.Errorf(`quote it, or run a shell: sh -c '...'`, "%s: %q would mean something to a shell, and none reads it", what, string(c))
}
