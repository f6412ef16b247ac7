package main

import (
	"fmt"
	"strings"
	"time"
)

// line is an outcome for whoever watches.
func (o outcome) line() string {
	head := fmt.Sprintf("%-18s %-18s", o.agent, o.scenario.name)
	if o.err != nil {
		return fmt.Sprintf("FAIL %s %v", head, o.err)
	}
	verdict, how := "PASS", fmt.Sprintf("exit %d", o.exit)
	if len(o.problems) > 0 {
		verdict = "FAIL"
	}
	if o.stopped {
		how = "stopped"
	}
	text := fmt.Sprintf("%s %s %-7s tries %-2d (%s) %5.1f s, longest gap %4.1f s: %.110q", verdict, head, how, len(o.posts()), o.statuses(), o.lasted().Seconds(),
		o.longest().Seconds(), o.reads())
	for _, p := range o.problems {
		text += "\n     " + p
	}
	return text
}

// statuses are the answers' statuses, each with how often it came.
func (o outcome) statuses() string {
	var parts []string
	last, n := "", 0
	flush := func() {
		if n > 1 {
			last = fmt.Sprintf("%d×%s", n, last)
		}
		if n > 0 {
			parts = append(parts, last)
		}
	}
	for _, a := range o.posts() {
		if text := fmt.Sprint(a.Status); text == last {
			n++
		} else {
			flush()
			last, n = text, 1
		}
	}
	flush()
	return strings.Join(parts, " ")
}

// lasted is how long the agent tried: from its first try to its end.
func (o outcome) lasted() time.Duration {
	if len(o.tries) == 0 {
		return 0
	}
	return o.ended.Sub(o.tries[0].At)
}

// cell is an outcome for the table: tries and seconds, and whether a person reads why.
func (o outcome) cell() string {
	if o.err != nil {
		return "?"
	}
	seconds, tries := fmt.Sprintf("%.0f s", o.lasted().Seconds()), fmt.Sprint(len(o.posts()))
	var text string
	switch {
	case o.stopped:
		text = tries + " in > " + seconds
	case o.printsAnswer() && len(o.posts()) == 1:
		text = "answer, " + seconds
	case o.printsAnswer():
		text = "answer, " + tries + " in " + seconds
	default:
		text = tries + " in " + seconds
	}
	if !o.printsAnswer() && !o.saysWhy() {
		text += " †"
	}
	if len(o.problems) > 0 {
		text = "**" + text + "**"
	}
	return text
}

// table is all outcomes in Markdown: a row for each scenario, a column for each agent.
func table(opts options, outcomes []outcome) string {
	var columns []string
	for _, a := range opts.agents {
		if !a.variant {
			columns = append(columns, a.name)
		}
	}
	var b strings.Builder
	row := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(append([]string{""}, columns...)...)
	row(append([]string{"---"}, repeat("---", len(columns))...)...)
	for _, sc := range opts.scenarios {
		cells := []string{sc.title}
		for _, name := range columns {
			cell := ""
			if o, ok := find(outcomes, name, sc.name); ok {
				cell = o.cell()
			}
			cells = append(cells, cell)
		}
		row(cells...)
	}
	b.WriteString("\n\"n in s\": requests until it ended, and the seconds from the first; >: it was stopped; †: it does not print our sentence.\n")
	return b.String()
}

func repeat(text string, n int) (all []string) {
	for range n {
		all = append(all, text)
	}
	return all
}
