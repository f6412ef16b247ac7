package sim

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// runpodBucket begins the bucket of size that t lies in, and the next one.
func runpodBucket(t time.Time, size string) (from, to time.Time) {
	t = t.UTC()
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch size {
	case "hour":
		from = t.Truncate(time.Hour)
		to = from.Add(time.Hour)
	case "day":
		from, to = day, day.AddDate(0, 0, 1)
	case "week":
		from = day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
		to = from.AddDate(0, 0, 7)
	case "month":
		from = day.AddDate(0, 0, 1-day.Day())
		to = from.AddDate(0, 1, 0)
	case "year":
		from = time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
		to = from.AddDate(1, 0, 0)
	}
	return from, to
}

// runpodWindow resolves what was asked for, as the API says that it does.
func (s *Sim) runpodWindow(r *http.Request, now time.Time) (size string, from, to time.Time, problem string) {
	q := r.URL.Query()
	size = "day"
	if q.Has("bucketSize") {
		size = q.Get("bucketSize")
	}
	if !slices.Contains([]string{"hour", "day", "week", "month", "year"}, size) {
		return "", from, to, "bucketSize is none of hour, day, week, month, year"
	}
	if q.Has("lastN") {
		n, err := strconv.Atoi(q.Get("lastN"))
		if err != nil || n < 1 || n > 100_000 || q.Has("startTime") || q.Has("endTime") {
			return "", from, to, "lastN is a number from 1, without startTime and endTime"
		}
		from, to = runpodBucket(now, size)
		for ; n > 1; n-- {
			from, _ = runpodBucket(from.Add(-time.Second), size)
		}
		return size, from, to, ""
	}
	from, to = now.AddDate(0, 0, -30), now
	for name, t := range map[string]*time.Time{"startTime": &from, "endTime": &to} {
		if q.Has(name) {
			at, err := time.Parse(time.RFC3339, q.Get(name))
			if err != nil {
				return "", from, to, name + " is not an RFC 3339 time"
			}
			*t = at.UTC()
		}
	}
	from, _ = runpodBucket(from, size)
	if start, next := runpodBucket(to, size); !to.Equal(start) {
		to = next
	}
	if !from.Before(to) {
		return "", from, to, "startTime is not before endTime"
	}
	return size, from, to, ""
}

// runpodPart is what an hour, or more of them, cost in nano-USD. Disk is what the
// machine costs while it does not run, storage what a volume does.
type runpodPart struct{ gpu, disk, storage int64 }

func (p runpodPart) total() int64 { return p.gpu + p.disk + p.storage }

func (p runpodPart) plus(q runpodPart) runpodPart {
	return runpodPart{p.gpu + q.gpu, p.disk + q.disk, p.storage + q.storage}
}

// amounts writes p as the records of kind do, "" for those of the whole account.
func (p runpodPart) amounts(kind string) object {
	money := func(n int64) json.RawMessage { return json.RawMessage(decimal(n)) }
	o := object{"totalAmount": money(p.total())}
	switch kind {
	case "vm":
		o["gpuAmount"], o["cpuAmount"], o["diskAmount"] = money(p.gpu), money(0), money(p.disk)
	case "volume":
		o["standardAmount"], o["highPerformanceAmount"] = money(p.storage), money(0)
	default:
		for _, name := range []string{"podCpu", "serverlessGpu", "serverlessCpu", "serverlessDisk", "serverlessFee",
			"storageHighPerformance", "endpoint", "clusterGpu", "clusterDisk", "clusterNetworking"} {
			o[name+"Amount"] = money(0)
		}
		o["podGpuAmount"], o["podDiskAmount"], o["storageStandardAmount"] = money(p.gpu), money(p.disk), money(p.storage)
	}
	return o
}

// runpodHours is a resource's whole bill, by the Unix time of the hour's start. The
// hour of its birth is there from the first second on. Called with mu held.
func (s *Sim) runpodHours(r *resource) map[int64]runpodPart {
	const hour = 3600
	shown, first := s.shown(), r.spans[0].from/hour*hour
	hours := make(map[int64]runpodPart)
	for from := first; from <= shown; from += hour {
		var p runpodPart
		r.each(from, min(from+hour, shown), func(span span, seconds int64) {
			if r.kind == "volume" {
				p.storage += span.rate * seconds
				return
			}
			disk := min(span.rate, s.cfg.VM.HibernatedPerHour/3600)
			p.gpu, p.disk = p.gpu+(span.rate-disk)*seconds, p.disk+disk*seconds
		})
		hours[from] = p
	}
	for _, f := range r.refunds {
		if f.at > shown {
			continue
		}
		left := f.nanos
		for from := (f.at - 1) / hour * hour; left > 0 && from >= first; from -= hour {
			p := hours[from]
			gpu := min(left, max(p.gpu, 0))
			disk := min(left-gpu, max(p.disk, 0))
			if from == first {
				gpu = left - disk
			}
			p.gpu, p.disk, left = p.gpu-gpu, p.disk-disk, left-gpu-disk
			hours[from] = p
		}
	}
	return hours
}

// runpodBill answers the buckets of a window, and writes the answer down. filter is
// the parameter that names one resource of kind; both are "" for the account.
func (s *Sim) runpodBill(r *http.Request, filter, kind string) (int, object) {
	now := s.cfg.Now().UTC()
	size, from, to, problem := s.runpodWindow(r, now)
	if problem != "" {
		return 400, runpodProblem(400, problem)
	}
	query := object{"startTime": from.Format(time.RFC3339), "endTime": to.Format(time.RFC3339), "bucketSize": size}
	only := ""
	if filter != "" {
		query[filter] = nil
		if only = r.URL.Query().Get(filter); only != "" {
			query[filter] = only
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := s.fault.Mode == Empty && strings.Contains(r.URL.Path, s.fault.Only)
	records, totals, unique := []object{}, runpodPart{}, make(map[string]bool)
	buckets := make(map[string]map[int64]runpodPart) // by resource, "" for the account
	for _, res := range s.account() {
		name := runpodName(res.kind, res.id)
		switch {
		case empty, res == s.other && (filter != "" || res.billed(from.Unix(), to.Unix()) == 0), kind != "" && res.kind != kind, only != "" && name != only,
			res.kind == "volume" && s.fault.Mode == MissingVolume:
			continue
		}
		var sum runpodPart
		owner := name
		if filter == "" {
			owner = ""
		}
		if buckets[owner] == nil {
			buckets[owner] = make(map[int64]runpodPart)
		}
		for hour, p := range s.runpodHours(res) {
			if from.Unix() <= hour && hour < to.Unix() {
				start, _ := runpodBucket(time.Unix(hour, 0), size)
				buckets[owner][start.Unix()] = buckets[owner][start.Unix()].plus(p)
				sum, unique[name] = sum.plus(p), true
			}
		}
		totals = totals.plus(sum)
		s.runpodAnswered(Answer{At: now, Resource: res.key(), Start: from, End: to, Nanos: sum.total()})
	}
	for _, owner := range slices.Sorted(maps.Keys(buckets)) {
		for _, unix := range slices.Sorted(maps.Keys(buckets[owner])) {
			rec := buckets[owner][unix].amounts(kind)
			start, end := runpodBucket(time.Unix(unix, 0), size)
			rec["startTime"], rec["endTime"] = start.Format(time.RFC3339), end.Format(time.RFC3339)
			if filter != "" {
				rec[filter] = owner
			}
			records = append(records, rec)
		}
	}
	metadata := object{"query": query, "recordCount": len(records), "totals": totals.amounts(kind)}
	switch kind {
	case "vm":
		metadata["uniquePodCount"] = len(unique)
	case "volume":
		metadata["uniqueNetworkVolumeCount"] = len(unique)
	}
	return 200, object{"records": records, "metadata": metadata}
}

// runpodAnswered keeps the newest answers. Called with mu held.
func (s *Sim) runpodAnswered(a Answer) {
	if len(s.answers) == keptAnswers {
		s.answers = append(s.answers[:0], s.answers[keptAnswers/2:]...)
	}
	s.answers = append(s.answers, a)
}
