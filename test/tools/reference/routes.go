package main

import "spotinference/server/api"

// routes is docs/api.md's table of the paths that are served.
func routes() string {
	var rows [][]string
	for _, r := range api.Routes() {
		rows = append(rows, []string{r.Method, code(r.Path), r.Does, r.Access.String(), code(r.Endpoint())})
	}
	return table([]string{"method", "path", "what it does", "served", "endpoint in reports"}, rows)
}
