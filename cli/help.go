package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// exitsNote is where a command keeps what it exits with beyond the ordinary.
const exitsNote = "exits"

// exits adds lines to what a command's help says of its exit status.
func exits(c *cobra.Command, lines ...string) *cobra.Command {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[exitsNote] = strings.Join(lines, "\n")
	return c
}

// exitsOf is what a command exits with, a line each.
func exitsOf(c *cobra.Command) []string {
	lines := []string{"0  it is done", "1  it failed", "2  the command line or a setting cannot be used"}
	own := c.Annotations[exitsNote]
	if own == "" {
		return lines
	}
	for line := range strings.SplitSeq(own, "\n") {
		if at := slices.IndexFunc(lines, func(l string) bool { return l[0] == line[0] }); at >= 0 {
			lines[at] = line
		} else {
			lines = append(lines, line)
		}
	}
	return lines
}

// help prints a command's help to stdout.
func help(cmd *cobra.Command, _ []string) {
	w := cmd.OutOrStdout()
	writeHelp(w, cmd, widthOf(w))
}

// writeHelp prints a command's help, no wider than width columns where that is not 0;
// what is to be copied stays on its line.
func writeHelp(w io.Writer, cmd *cobra.Command, width int) {
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(w, "%s\n\n", fold(strings.TrimSpace(text), 0, width))
	writeUsage(w, cmd, width)
}

// usage is what cobra prints where help is not asked for.
func usage(cmd *cobra.Command) error {
	writeUsage(cmd.OutOrStderr(), cmd, widthOf(cmd.OutOrStderr()))
	return nil
}

// writeUsage prints all of a command's help but for its first text.
func writeUsage(w io.Writer, cmd *cobra.Command, width int) {
	fmt.Fprintln(w, "Usage:")
	if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s [command]\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintln(w, "\nCommands:")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				fmt.Fprintf(w, "  %-*s %s\n", cmd.NamePadding(), c.Name(), fold(c.Short, cmd.NamePadding()+3, width))
			}
		}
	}
	for _, group := range groupsOf(cmd.LocalFlags()) {
		heading := "Flags"
		if group.name != "" {
			heading = group.name
		}
		fmt.Fprintf(w, "\n%s:\n%s", heading, group.flags.FlagUsagesWrapped(width))
	}
	if cmd.HasAvailableInheritedFlags() {
		fmt.Fprintf(w, "\nFlags of every command:\n%s", cmd.InheritedFlags().FlagUsagesWrapped(width))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nMore about a command: %s [command] --help\n", cmd.CommandPath())
		return
	}
	fmt.Fprintln(w, "\nExit status:")
	for _, line := range exitsOf(cmd) {
		fmt.Fprintf(w, "  %s\n", fold(line, 5, width))
	}
}

// fold breaks text into lines of at most width columns, the first of which begins in
// column indent already; those that follow are indented so. A paragraph with an indented
// line is left as it stands, and so is everything where width is 0.
func fold(text string, indent, width int) string {
	if width == 0 {
		return text
	}
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		if strings.Contains("\n"+p, "\n ") {
			continue
		}
		var b strings.Builder
		column := indent
		for n, word := range strings.Fields(p) {
			length := len([]rune(word))
			switch {
			case n == 0:
			case column+1+length > width:
				b.WriteString("\n" + strings.Repeat(" ", indent))
				column = indent
			default:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += length
		}
		paragraphs[i] = b.String()
	}
	return strings.Join(paragraphs, "\n\n")
}

// flagGroup are the flags under one heading.
type flagGroup struct {
	name  string
	flags *pflag.FlagSet
}

// groupsOf cuts a command's flags into their groups, in the order in which they were
// declared; those without one come last.
func groupsOf(set *pflag.FlagSet) []flagGroup {
	var groups []flagGroup
	add := func(name string, f *pflag.Flag) {
		at := slices.IndexFunc(groups, func(g flagGroup) bool { return g.name == name })
		if at < 0 {
			at = len(groups)
			groups = append(groups, flagGroup{name, pflag.NewFlagSet(name, pflag.ContinueOnError)})
			groups[at].flags.SortFlags = false
		}
		groups[at].flags.AddFlag(f)
	}
	set.VisitAll(func(f *pflag.Flag) {
		if name, _ := noteOf(f, groupNote); name != "" && !f.Hidden {
			add(name, f)
		}
	})
	set.VisitAll(func(f *pflag.Flag) {
		if name, _ := noteOf(f, groupNote); name == "" && !f.Hidden {
			add(name, f)
		}
	})
	return groups
}

// widthOf is how many columns the terminal behind w has, 0 where it is none: then a
// flag is a line, for grep to find.
func widthOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
