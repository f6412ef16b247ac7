package main

import (
	"fmt"
	"strconv"

	"spotinference/server/refusal"
)

// refusals is docs/api.md's table of everything that a client may be told instead of an
// answer.
func refusals() string {
	var rows [][]string
	for _, r := range refusal.All() {
		status := "the engine's"
		if r.Status != 0 {
			status = strconv.Itoa(r.Status)
		}
		if r.Quota {
			status += ", or `--quota-status`"
		}
		kind := code(r.Type)
		if r.Code != "" {
			kind += " " + code(r.Code)
		}
		retry := r.Retry
		if r.RetryAfter > 0 {
			retry = fmt.Sprintf("after %.0f s", r.RetryAfter.Seconds())
		}
		if r.Hopeless {
			if retry != "" {
				retry += "; "
			}
			retry += "`x-should-retry: false`"
		}
		rows = append(rows, []string{status, kind, r.When, r.Message, retry})
	}
	return table([]string{"status", "type, code", "when", "sentence", "retry"}, rows)
}
