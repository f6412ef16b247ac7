package main

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// posts are the tries that asked for an answer.
func (o outcome) posts() (all []attempt) {
	for _, a := range o.tries {
		if a.Method == http.MethodPost {
			all = append(all, a)
		}
	}
	return all
}

// sentence is the last error that the agent was answered, "" where it was none.
func (o outcome) sentence() string {
	for _, a := range slices.Backward(o.posts()) {
		if a.Said.Error != "" {
			return a.Said.Error
		}
	}
	return ""
}

// saysWhy reports whether the agent printed one of the errors that it was answered.
func (o outcome) saysWhy() bool {
	text := bare(o.output)
	for _, a := range o.posts() {
		if a.Said.Error != "" && strings.Contains(text, bare(a.Said.Error)) {
			return true
		}
	}
	return false
}

// printsAnswer reports whether it ended well, with an answer.
func (o outcome) printsAnswer() bool {
	whole := func(a attempt) bool { return a.Status == http.StatusOK && a.Said.Whole }
	return !o.stopped && o.exit == 0 && strings.TrimSpace(o.output) != "" && slices.ContainsFunc(o.posts(), whole)
}

// longest is the longest time between two tries, and from the last to where the agent
// was stopped.
func (o outcome) longest() (gap time.Duration) {
	posts := o.posts()
	for i, a := range posts {
		if i > 0 {
			gap = max(gap, a.At.Sub(posts[i-1].At))
		}
	}
	if o.stopped && len(posts) > 0 {
		gap = max(gap, o.ended.Sub(posts[len(posts)-1].At))
	}
	return gap
}

// judge returns what an agent did that it should not do.
func judge(o outcome) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	want, posts := o.scenario.want, o.posts()
	if len(posts) == 0 {
		problem("it asked nothing")
		return problems
	}
	refused := slices.IndexFunc(posts, func(a attempt) bool { return a.Status == want.status })
	if want.status != 0 && refused < 0 {
		problem("it was never answered %d: its last answer was %d", want.status, posts[len(posts)-1].Status)
	}
	if want.ends {
		after := o.ended.Sub(posts[max(refused, 0)].At)
		if o.stopped || after > endsWithin {
			problem("it tried on for %s", after.Round(time.Second))
		}
		if !o.saysWhy() && !slices.Contains(o.scenario.ownWords, o.agent) {
			problem("it does not print our sentence: %s", o.sentence())
		}
	}
	if gap := o.longest(); want.keepsOn && gap > longestGap {
		problem("no try for %s", gap.Round(time.Second))
	}
	if want.answered && !o.printsAnswer() {
		problem("no answer")
	}
	left := func(a attempt) bool { return a.Left && a.Prompt }
	if want.stays && slices.ContainsFunc(posts, left) {
		problem("it left while it waited")
	}
	if want.reasonsOK && !o.printsAnswer() && (o.stopped || !o.saysWhy()) {
		problem("neither an answer nor our sentence")
	}
	return problems
}

// unaccounted are the answers that an agent had whole and that are not in the ledger as
// it was told.
func unaccounted(tries []attempt, rows map[string]row) (problems []string) {
	for _, a := range tries {
		if a.Status != http.StatusOK || !a.Said.Whole || a.Said.Usage == nil {
			continue
		}
		r, ok := rows[a.ID]
		switch {
		case !ok:
			problems = append(problems, "the ledger has no row of "+a.ID)
		case r.Status != "ok" || r.usage != *a.Said.Usage:
			problems = append(problems, fmt.Sprintf("%s: the ledger has %s %v, the agent was told %v", a.ID, r.Status, r.usage, *a.Said.Usage))
		}
	}
	return problems
}

var (
	escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)
	// frame is a line about the agent itself, and not about what it was asked.
	frame = regexp.MustCompile(`^(at \S+ ?\(|DeprecationWarning: |Warning: AI SDK )`)
)

// plain takes the colours of a terminal off a text.
func plain(text string) string { return escapes.ReplaceAllString(text, "") }

// bare is a text without its line breaks, quotes and escapes: some agents wrap what they
// were told, or print it as JSON.
func bare(text string) string {
	return strings.Join(strings.Fields(strings.NewReplacer(`\n`, " ", `\`, "", `"`, "").Replace(text)), " ")
}

// reads is the line that tells a person most: the one with our sentence, else the last.
func (o outcome) reads() (line string) {
	sentence := bare(o.sentence())
	for one := range strings.Lines(o.output) {
		one = strings.TrimSpace(one)
		if one == "" || frame.MatchString(one) {
			continue
		}
		line = one
		if sentence != "" && strings.Contains(bare(one), sentence) {
			break
		}
	}
	return line
}
