package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Vast.ai's API (docs.vast.ai/api-reference) over the same machine, volumes and
// books: the machine is instance-N, its amounts are rounded to 0.001, and the days of
// a listing are whole ones. Its base is the server's root, not /v1.

const (
	vastDefaultPage = 20
	vastMaxPage     = 500
	vastToken       = `{"values":{"id":%d}}`
)

func init() {
	apis["vast"] = api{routes: (*Sim).vastRoutes, fault: (*Sim).vastFault, account: func(cfg Config) Account {
		return Account{Instance: strconv.FormatInt(cfg.VM.ID, 10), Env: map[string]string{"VAST_API_KEY": cfg.Key}}
	}}
}

func (s *Sim) vastRoutes(mux *http.ServeMux) {
	api := func(path string, h func(*http.Request) (int, object)) {
		mux.HandleFunc("GET /api/"+path, func(w http.ResponseWriter, r *http.Request) {
			code, body := s.vastAuth(r)
			if code == 200 {
				code, body = h(r)
			}
			reply(w, code, body)
		})
	}
	api("v0/charges/{$}", s.vastCharges)
	api("v0/users/current/{$}", s.vastUser)
	api("v0/instances/{id}/{$}", func(r *http.Request) (int, object) {
		if pathID(r) != s.cfg.VM.ID || s.isDeleted(s.vm) {
			return vastRefusal(404, "no_such_instance", "Instance not found")
		}
		return 200, object{"instances": s.vastInstance()}
	})
	api("v1/instances/{$}", func(r *http.Request) (int, object) {
		all := []object{}
		if !s.isDeleted(s.vm) {
			all = append(all, s.vastInstance())
		}
		code, body := vastPage(r, "instances", all)
		if code == 200 {
			body["total_instances"] = body["total"]
			delete(body, "total")
			delete(body, "count")
		}
		return code, body
	})
	api("v0/volumes", s.vastVolumes)
	api("v1/invoices/{$}", s.vastInvoices)
}

// vastAuth tells a missing key from one that belongs to nobody, as the API does.
func (s *Sim) vastAuth(r *http.Request) (int, object) {
	switch key, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); {
	case !found:
		return vastRefusal(403, "auth_error", "Missing authorization")
	case key != s.cfg.Key:
		return vastRefusal(404, "no_such_user", "No user with this key")
	}
	return 200, nil
}

func vastRefusal(code int, word, message string) (int, object) {
	return code, object{"success": false, "error": word, "msg": message}
}

// vastInvalid is a refusal that comes as a success.
func vastInvalid(message string) (int, object) { return vastRefusal(200, "invalid_args", message) }

// vastFault answers a call in the API's own way of failing, where it has one.
func (s *Sim) vastFault(w http.ResponseWriter, r *http.Request, f Fault) bool {
	if !strings.HasPrefix(r.URL.Path, "/api/v") {
		return false
	}
	switch f.Mode {
	case TooMany:
		w.Header().Set("Content-Type", "text/plain")
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
		}
		w.WriteHeader(429)
		fmt.Fprint(w, "API requests too frequent")
	case Unauthorized:
		code, body := vastRefusal(401, "auth_error", "Invalid authorization")
		reply(w, code, body)
	case StatusFalse:
		code, body := vastInvalid("bad filter")
		reply(w, code, body)
	default:
		return false
	}
	return true
}

// vastPage cuts a listing as the API does: so many from where a token says.
func vastPage(r *http.Request, name string, all []object) (int, object) {
	limit, from := vastDefaultPage, 0
	if text := r.FormValue("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > vastMaxPage {
			return vastInvalid("limit must be from 1 to 500")
		}
		limit = n
	}
	if text := r.FormValue("after_token"); text != "" {
		b, err := base64.StdEncoding.DecodeString(text)
		if n, _ := fmt.Sscanf(string(b), vastToken, &from); err != nil || n != 1 || from < 0 || from > len(all) {
			return vastInvalid("bad after_token")
		}
	}
	to := min(from+limit, len(all))
	var next any
	if to < len(all) {
		next = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, vastToken, to))
	}
	return 200, object{"success": true, "count": to - from, "total": len(all), "next_token": next, name: all[from:to]}
}

// vastAmount is money as the API writes it: rounded to three decimals.
func vastAmount(nanos int64) (int64, json.RawMessage) {
	const unit = 1_000_000
	half := int64(unit / 2)
	if nanos < 0 {
		half = -half
	}
	rounded := (nanos + half) / unit * unit
	return rounded, json.RawMessage(decimal(rounded))
}

// vastSource is what the API calls r, in a charge.
func vastSource(r *resource) string { return fmt.Sprintf("%s-%d", vastType(r), r.id) }

func vastType(r *resource) string {
	if r.kind == "volume" {
		return r.kind
	}
	return "instance" // the account's other one, too
}

// vastCharges lists what each contract was charged in the days of the filter, and
// writes the amounts down.
func (s *Sim) vastCharges(r *http.Request) (int, object) {
	var filter struct {
		Day *struct {
			From *int64 `json:"gte"`
			To   *int64 `json:"lte"`
		} `json:"day"`
		Type *struct {
			In []string `json:"in"`
		} `json:"type"`
	}
	if err := json.Unmarshal([]byte(r.FormValue("select_filters")), &filter); err != nil {
		return vastInvalid("bad filter")
	}
	if filter.Day == nil || filter.Day.From == nil || filter.Day.To == nil {
		return vastInvalid("day is required")
	}
	const day = 24 * 60 * 60
	from := *filter.Day.From / day * day
	end := (*filter.Day.To/day + 1) * day

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now().UTC()
	to := min(end, s.shown())
	rows, answers := []object{}, []Answer{}
	for _, res := range s.account() {
		switch {
		case res == s.other && res.billed(from, to) == 0,
			filter.Type != nil && !slices.Contains(filter.Type.In, vastType(res)),
			res.kind == "volume" && s.fault.Mode == MissingVolume,
			s.fault.Mode == Empty && strings.Contains(r.URL.Path, s.fault.Only),
			res.spans[0].from > to || from > to:
			continue
		}
		nanos, amount := vastAmount(res.billed(from, to))
		start, seconds, part := max(from, res.spans[0].from), res.seconds(from, to, ""), "gpu"
		if res.kind == "volume" {
			part = "disk"
		}
		description := fmt.Sprintf("%d.%03d hours at $%s/hour", seconds/3600, seconds%3600*1000/3600, decimal(res.last().rate*3600))
		rows = append(rows, object{
			"start": start, "end": to, "type": vastType(res), "source": vastSource(res), "amount": amount,
			"description": fmt.Sprintf("%s %d Charges - %d days", strings.ToUpper(vastType(res)[:1])+vastType(res)[1:], res.id, (to-from)/day+1),
			"metadata":    object{"label": s.nameOf(res)},
			"items": []object{{"start": start, "end": to, "type": part, "source": vastSource(res), "amount": amount,
				"description": description, "metadata": object{}, "items": []object{}}},
		})
		answers = append(answers, Answer{At: now, Resource: res.key(), Start: time.Unix(from, 0).UTC(), End: time.Unix(end, 0).UTC(), Nanos: nanos})
	}
	code, body := vastPage(r, "results", rows)
	if code == 200 && body["success"] == true && r.FormValue("after_token") == "" { // once a listing, not once a page
		if len(s.answers)+len(answers) > keptAnswers {
			s.answers = append(s.answers[:0], s.answers[keptAnswers/2:]...)
		}
		s.answers = append(s.answers, answers...)
	}
	return code, body
}

func (s *Sim) vastUser(*http.Request) (int, object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return 200, object{"id": s.cfg.Org, "email": "sim@example.com", "balance": 0, "credit": json.RawMessage(decimal(s.left()))}
}

// vastStates are the machine's states in the API's two words: of the container, and
// of the contract. A stopped instance pays for its disk, a frozen one in full.
func vastStates(status string) (actual any, state string) {
	switch status {
	case "ACTIVE":
		return "running", "running"
	case "SHUTOFF":
		return "frozen", "running"
	case "HIBERNATED":
		return "stopped", "stopped"
	}
	return nil, "unloaded" // the others cost nothing
}

func (s *Sim) vastInstance() object {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm := s.cfg.VM
	actual, state := vastStates(s.vm.last().status)
	perHour := json.RawMessage(decimal(s.vm.last().rate * 3600))
	volumes := []object{}
	for i, v := range s.cfg.Volumes {
		if !s.attached(i) {
			continue
		}
		volumes = append(volumes, object{"id": v.ID, "total_space": v.SizeGB, "avail_space": v.SizeGB})
	}
	return object{
		"id": vm.ID, "label": vm.Name, "actual_status": actual, "intended_status": "running", "cur_state": state, "next_state": "running",
		"dph_base": perHour, "dph_total": perHour, "storage_total_cost": 0, "is_bid": false, "min_bid": 0,
		"instance":   object{"gpuCostPerHour": perHour, "diskHour": 0, "totalHour": perHour, "discountedTotalPerHour": perHour},
		"start_date": vm.Born.Unix(), "end_date": vm.Born.AddDate(1, 0, 0).Unix(),
		"public_ipaddr": "203.0.113.9", "machine_id": 9911, "gpu_name": "H100 PCIE", "num_gpus": 1, "volume_info": volumes,
	}
}

func (s *Sim) vastVolumes(*http.Request) (int, object) {
	volumes := []object{}
	for i, v := range s.cfg.Volumes {
		if s.isDeleted(s.volumes[i]) {
			continue
		}
		volumes = append(volumes, object{"id": v.ID, "label": v.Name, "disk_space": v.SizeGB, "start_date": v.Born.Unix(),
			"status": "running", "machine_id": 9911, "instances": []int64{s.cfg.VM.ID}})
	}
	return 200, object{"volumes": volumes}
}

// vastInvoices holds the one top-up that the account had.
func (s *Sim) vastInvoices(r *http.Request) (int, object) {
	_, amount := vastAmount(s.cfg.Credit)
	return vastPage(r, "results", []object{{"type": "credit", "source": "stripe", "description": "Credit", "amount": amount,
		"start": s.cfg.VM.Born.Unix(), "end": s.cfg.VM.Born.Unix(), "metadata": object{}, "items": []object{}}})
}
