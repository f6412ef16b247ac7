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

// tables are all outcomes in Markdown: of the agents, of the libraries, of the other
// set-ups, and how much each asks.
func tables(opts options, outcomes []outcome) string {
	var b strings.Builder
	b.WriteString(table(opts, outcomes, func(a agent) bool { return !a.variant && !a.library }))
	b.WriteString(table(opts, outcomes, func(a agent) bool { return !a.variant && a.library }))
	b.WriteString(table(opts, outcomes, func(a agent) bool { return a.variant }))
	b.WriteString("\"n in s\": requests until it ended, and the seconds from the first; >: it was stopped; †: it does not print our sentence.\n")
	for _, sc := range opts.scenarios {
		if sc.variants {
			b.WriteString(sizes(opts, outcomes, sc))
		}
	}
	return b.String()
}

// table has a row for each scenario and a column for each agent of a kind.
func table(opts options, outcomes []outcome, kind func(agent) bool) string {
	var columns, lines []string
	for _, a := range opts.agents {
		if kind(a) {
			columns = append(columns, a.name)
		}
	}
	for _, sc := range opts.scenarios {
		cells, seen := []string{sc.title}, false
		for _, name := range columns {
			o, ok := find(outcomes, name, sc.name)
			if seen = seen || ok; ok {
				cells = append(cells, o.cell())
			} else {
				cells = append(cells, "")
			}
		}
		if seen {
			lines = append(lines, tableRow(cells))
		}
	}
	if lines == nil {
		return ""
	}
	return tableHead(append([]string{""}, columns...)) + strings.Join(lines, "") + "\n"
}

// sizes tells what one prompt makes of requests, bytes and tokens.
func sizes(opts options, outcomes []outcome, sc scenario) string {
	text := "\n" + tableHead([]string{sc.title, "requests", "bytes", "tools", "prompt tokens"})
	for _, a := range opts.agents {
		o, ok := find(outcomes, a.name, sc.name)
		if !ok {
			continue
		}
		var asked, bytes, tools, tokens []string
		for _, p := range o.tries {
			asked = append(asked, p.Method+" "+p.Path)
			bytes = append(bytes, fmt.Sprint(p.Bytes))
			tools = append(tools, fmt.Sprint(p.Tools))
			if p.Said.Usage != nil {
				tokens = append(tokens, fmt.Sprint(p.Said.Usage.Prompt))
			}
		}
		text += tableRow([]string{a.name, strings.Join(asked, ", "), strings.Join(bytes, " + "), strings.Join(tools, " + "), strings.Join(tokens, " + ")})
	}
	return text
}

func tableRow(cells []string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

func tableHead(cells []string) string {
	return tableRow(cells) + strings.Repeat("| --- ", len(cells)) + "|\n"
}
