package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Runpod's face of the same cloud: REST v2 (runpod/docs, api-reference-v2/openapi.json)
// over the same machine, volumes and books. The machine is the pod "pod701234", its
// volumes are network volumes, "vol45678". The base of this API is the server's root,
// and its key goes into an Authorization header.
//
// A bill is told in buckets. A refund restates the hour that it falls into, and the
// hours before that where one is not enough, so that no hour's bill is below zero as
// long as there is any to take from.
func (s *Sim) runpodRoutes(mux *http.ServeMux) {
	limit := &runpodLimit{}
	api := func(path string, h func(*http.Request) (int, object)) {
		mux.HandleFunc("GET /v2"+path, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+s.cfg.Key {
				runpodReply(w, 401, runpodProblem(401, "missing bearer token"))
				return
			}
			if !s.runpodAllow(w, limit) {
				runpodReply(w, 429, runpodProblem(429, "rate limit exceeded for the minute window"))
				return
			}
			code, body := h(r)
			runpodReply(w, code, body)
		})
	}
	api("/pods", func(*http.Request) (int, object) { return 200, object{"pods": []object{s.runpodDescribe()}} })
	api("/pods/{id}", func(r *http.Request) (int, object) {
		if r.PathValue("id") != runpodName("vm", s.cfg.VM.ID) {
			return 404, runpodProblem(404, "pod not found")
		}
		return 200, s.runpodDescribe()
	})
	api("/network-volumes", func(*http.Request) (int, object) {
		all := []object{}
		for _, v := range s.cfg.Volumes {
			all = append(all, object{"id": runpodName("volume", v.ID), "name": v.Name, "size": v.SizeGB,
				"dataCenter": "SIM-1", "type": "STANDARD"})
		}
		return 200, object{"networkVolumes": all}
	})
	api("/billing/pods", func(r *http.Request) (int, object) { return s.runpodBill(r, "podId", "vm") })
	api("/billing/network-volumes", func(r *http.Request) (int, object) {
		return s.runpodBill(r, "networkVolumeId", "volume")
	})
	api("/billing", func(r *http.Request) (int, object) { return s.runpodBill(r, "", "") })
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			runpodReply(w, 405, runpodProblem(405, "the simulator is read only"))
			return
		}
		runpodReply(w, 404, runpodProblem(404, "resource not found"))
	})
}

func runpodReply(w http.ResponseWriter, code int, body any) {
	kind := "application/json"
	if code != 200 {
		kind = "application/problem+json"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body) // to a client that may have left
}

func runpodProblem(code int, detail string) object {
	return object{"title": http.StatusText(code), "status": code, "detail": detail}
}

// runpodFault answers a call of this API that is to go wrong in its own words, and
// reports whether it did.
func (s *Sim) runpodFault(w http.ResponseWriter, r *http.Request, f Fault) bool {
	if !strings.HasPrefix(r.URL.Path, "/v2/") {
		return false
	}
	switch f.Mode {
	case ServerError:
		runpodReply(w, 500, runpodProblem(500, "internal error"))
	case TooMany:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		runpodReply(w, 429, runpodProblem(429, "rate limit exceeded for the minute window"))
	case Unauthorized:
		runpodReply(w, 401, runpodProblem(401, "invalid bearer token"))
	case NaN:
		rec := &recorder{header: w.Header(), code: 200}
		s.mux.ServeHTTP(rec, r)
		w.WriteHeader(rec.code)
		w.Write(runpodAmount.ReplaceAll(rec.body.Bytes(), []byte(`"totalAmount":NaN`)))
	default:
		return false
	}
	return true
}

var runpodAmount = regexp.MustCompile(`"totalAmount":[-0-9.]+`)

// runpodName is a resource's id in this API.
func runpodName(kind string, id int64) string {
	if kind == "volume" {
		return "vol" + strconv.FormatInt(id, 10)
	}
	return "pod" + strconv.FormatInt(id, 10)
}

// runpodLimit counts the calls of the minute, guarded by the Sim's mu.
type runpodLimit struct {
	minute int64
	used   int
}

const runpodQuota = 60 // calls a minute: the example in the specification

// runpodAllow counts a call, and says in the header what is left.
func (s *Sim) runpodAllow(w http.ResponseWriter, l *runpodLimit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now().Unix()
	if now/60 != l.minute {
		l.minute, l.used = now/60, 0
	}
	l.used++
	reset := 60 - now%60
	w.Header().Set("RateLimit", fmt.Sprintf(`"minute";r=%d;t=%d`, max(runpodQuota-l.used, 0), reset))
	w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"minute";q=%d;w=60`, runpodQuota))
	if l.used > runpodQuota {
		w.Header().Set("Retry-After", strconv.FormatInt(reset, 10))
		return false
	}
	return true
}

// runpodStatus puts the machine's state into this API's words. Others are passed on.
func runpodStatus(state string) string {
	switch state {
	case "ACTIVE", "SHUTOFF":
		return "RUNNING"
	case "HIBERNATED":
		return "EXITED"
	}
	return state
}

func (s *Sim) runpodDescribe() object {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, last := s.cfg.VM, s.vm.last()
	status, cost, actions := runpodStatus(last.status), decimal(last.rate*3600), []string{"stop", "restart", "terminate"}
	var runtime any = object{"uptime": max(0, s.cfg.Now().Unix()-vm.Born.Unix()), "gpus": []object{{"util": 3, "memoryUtil": 80}},
		"cpu": object{"util": 4}, "memory": object{"util": 20}, "ports": []object{}}
	if status == "EXITED" || status == "TERMINATED" {
		cost, actions, runtime = "0.0", []string{"start", "terminate"}, nil // though the disk is billed
	}
	mounts := object{}
	if len(s.cfg.Volumes) > 0 && s.fault.Mode != MissingVolume {
		network := []object{}
		for _, v := range s.cfg.Volumes {
			network = append(network, object{"volumeId": runpodName("volume", v.ID), "path": "/" + v.Name})
		}
		mounts["network"] = network
	}
	born := vm.Born.UTC().Format(time.RFC3339)
	return object{
		"id": runpodName("vm", vm.ID), "name": vm.Name, "image": "sim/engine:1", "args": "", "disk": 50,
		"ports": []string{"8000/http"}, "env": object{}, "registry": nil, "status": status, "actions": actions,
		"mounts": mounts, "gpu": object{"id": "NVIDIA H100 80GB HBM3", "count": 1}, "cloud": "SECURE",
		"dataCenterId": "SIM-1", "cudaVersion": "12.8", "ssh": object{"proxy": nil, "direct": nil}, "template": nil,
		"cost": json.RawMessage(cost), "locked": false, "globalNetworking": object{"enabled": false},
		"runtime": runtime, "createdAt": born, "startedAt": born,
	}
}

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
	for _, res := range append([]*resource{s.vm}, s.volumes...) {
		name := runpodName(res.kind, res.id)
		switch {
		case empty, kind != "" && res.kind != kind, only != "" && name != only,
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
