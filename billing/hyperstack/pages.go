package hyperstack

import (
	"fmt"
	"net/url"

	"spotinference/billing/api"
)

// pages reads a listing to its end: fetch returns one page, how many items it
// holds, the size of a full page and the total that the provider claims. A listing
// that does not add up is no listing.
func pages(fetch func(page int) (items, size, total int, f *api.Failure)) *api.Failure {
	const maxPages = 100
	got := 0
	for page := 1; page <= maxPages; page++ {
		items, size, total, f := fetch(page)
		if f != nil {
			return f
		}
		got += items
		if items >= size && size > 0 {
			continue
		}
		if got != total {
			return api.Fail(api.Incomplete, "listing has %d of %d entries", got, total)
		}
		return nil
	}
	return api.Fail(api.Incomplete, "listing does not end within %d pages", maxPages)
}

func pageQuery(page, size int) url.Values {
	return url.Values{"page": {fmt.Sprint(page)}, "pageSize": {fmt.Sprint(size)}}
}
