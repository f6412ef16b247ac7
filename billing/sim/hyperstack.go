package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Hyperstack's API (hyperstack-sdk-go, api/openapi.yaml). Its base is /v1, and its key
// goes into an api_key header.

func init() {
	apis["hyperstack"] = api{routes: (*Sim).hyperstackRoutes, account: func(cfg Config) Account {
		return Account{URL: "/v1", Instance: strconv.FormatInt(cfg.VM.ID, 10), Env: map[string]string{"HYPERSTACK_API_KEY": cfg.Key}}
	}}
}

// zoneless is how the API writes an instant: UTC, without saying so.
const zoneless = "2006-01-02T15:04:05"

func (s *Sim) hyperstackRoutes(mux *http.ServeMux) {
	api := func(path string, h func(*http.Request) (int, object)) {
		mux.HandleFunc("GET /v1"+path, func(w http.ResponseWriter, r *http.Request) {
			code, body := refusal(401, "Unauthorized", "unauthorized")
			if r.Header.Get("api_key") == s.cfg.Key {
				code, body = h(r)
			}
			reply(w, code, body)
		})
	}
	api("/core/virtual-machines", s.listVMs)
	api("/core/virtual-machines/{id}", s.getVM)
	api("/core/volumes", s.listVolumes)
	api("/core/volumes/{id}", s.getVolume)
	api("/billing/billing/history/virtual-machine/{id}", func(r *http.Request) (int, object) {
		return s.bill(r, "vm", "billing_history_vm_details", "virtual machine")
	})
	api("/billing/billing/history/volume/{id}", func(r *http.Request) (int, object) {
		return s.bill(r, "volume", "billing_history_volume_details", "volume")
	})
	api("/core/snapshots", s.listSnapshots)
	api("/core/snapshots/{id}", s.getSnapshot)
	api("/billing/billing/history/snapshot/{id}", func(r *http.Request) (int, object) {
		return s.bill(r, "snapshot", "billing_history_volume_details", "snapshot")
	})
	api("/billing/billing/history", s.accountBill)
	api("/billing/billing/usage", s.usage)
	api("/billing/user-credit/credit", s.credit)
	api("/billing/alive", func(*http.Request) (int, object) { return ok(object{}) })
}

func ok(body object) (int, object) {
	body["status"], body["message"] = true, "ok"
	return 200, body
}

func refusal(code int, message, reason string) (int, object) {
	return code, object{"status": false, "message": message, "error_reason": reason}
}

// page cuts a listing as the core API does.
func page(r *http.Request, name string, all []object) (int, object) {
	number := func(key string, fallback int) int {
		if n, err := strconv.Atoi(r.FormValue(key)); err == nil && n > 0 {
			return n
		}
		return fallback
	}
	n, size := number("page", 1), number("pageSize", 100)
	from := min((n-1)*size, len(all))
	return ok(object{"page": n, "page_size": size, "count": len(all), name: all[from:min(from+size, len(all))]})
}

func (s *Sim) listVMs(r *http.Request) (int, object) {
	if s.isDeleted(s.vm) {
		return page(r, "instances", []object{})
	}
	return page(r, "instances", []object{s.describeVM()})
}

func (s *Sim) getVM(r *http.Request) (int, object) {
	if pathID(r) != s.cfg.VM.ID || s.isDeleted(s.vm) {
		return refusal(404, "Virtual machine not found", "not_found")
	}
	return ok(object{"instance": s.describeVM()})
}

func (s *Sim) describeVM() object {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm := s.cfg.VM
	attached := []object{}
	for i, v := range s.cfg.Volumes {
		if !s.attached(i) {
			continue
		}
		attached = append(attached, object{
			"id": i + 1, "status": "ATTACHED", "device": "/dev/vd" + string(rune('c'+i)), "protected": false,
			"created_at": later(v.Born, vm.Born).UTC().Format(zoneless),
			"volume": object{"id": v.ID, "name": v.Name, "size": v.SizeGB, "volume_type": "Cloud-SSD",
				"bootable": false, "description": ""},
		})
	}
	var contract any
	if vm.Contract != 0 {
		contract = vm.Contract
	}
	status := s.vm.last().status
	return object{
		"id": vm.ID, "name": vm.Name, "status": status, "vm_state": "active", "power_state": "RUNNING",
		"created_at": vm.Born.UTC().Format(zoneless), "contract_id": contract,
		"environment": object{"id": 55, "name": "env-sim", "region": "SIMULATED-1", "org_id": s.cfg.Org,
			"features": object{"green_status": "GREEN", "network_optimised": false}},
		"flavor": object{"id": 97, "name": "n3-H100x1", "cpu": 28, "ram": 180, "disk": 100, "ephemeral": 750,
			"gpu": "H100-80G-PCIe", "gpu_count": 1, "labels": []any{}, "features": object{"no_hibernation": false}},
		"fixed_ip": vm.FixedIP, "floating_ip": nil, "floating_ip_status": nil,
		"image": object{"name": "Ubuntu Server 22.04 LTS"}, "keypair": object{"name": "sim"}, "labels": []any{},
		"locked": false, "os": "Ubuntu", "volume_attachments": attached, "security_rules": []any{}, "callback_url": nil,
	}
}

// attached tells whether the machine has its i-th volume. Called with mu held.
func (s *Sim) attached(i int) bool {
	r := s.volumes[i]
	return !r.deleted && !r.detached && s.fault.Mode != MissingVolume
}

// describeVolume is called with mu held.
func (s *Sim) describeVolume(i int) object {
	v := s.cfg.Volumes[i]
	if s.volumes[i].detached {
		return object{"id": v.ID, "name": v.Name, "size": v.SizeGB, "status": "available", "volume_type": "Cloud-SSD",
			"bootable": false, "created_at": v.Born.UTC().Format(zoneless), "attachments": []object{}}
	}
	return object{
		"id": v.ID, "name": v.Name, "size": v.SizeGB, "status": "in-use", "volume_type": "Cloud-SSD", "bootable": false,
		"created_at": v.Born.UTC().Format(zoneless), "updated_at": v.Born.UTC().Format(zoneless),
		"attachments": []object{{"id": i + 1, "instance_id": s.cfg.VM.ID, "device": "/dev/vd" + string(rune('c'+i)),
			"status": "ATTACHED", "protected": false}},
		"environment": object{"name": "env-sim"},
	}
}

func (s *Sim) listVolumes(r *http.Request) (int, object) {
	all := []object{}
	s.mu.Lock()
	for i, v := range s.volumes {
		if !v.deleted {
			all = append(all, s.describeVolume(i))
		}
	}
	s.mu.Unlock()
	return page(r, "volumes", all)
}

func (s *Sim) getVolume(r *http.Request) (int, object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range s.volumes {
		if v.id == pathID(r) && !v.deleted {
			return ok(object{"volume": s.describeVolume(i)})
		}
	}
	return refusal(404, "Volume not found", "not_found")
}

// describeSnapshot is called with mu held.
func (s *Sim) describeSnapshot(r *resource) object {
	born := time.Unix(r.spans[0].from, 0).UTC().Format(time.RFC3339)
	return object{"id": r.id, "vm_id": s.cfg.VM.ID, "name": s.nameOf(r), "description": "", "status": "SUCCESS", "size": 100,
		"region_id": 1, "is_image": false, "has_floating_ip": false, "labels": []string{}, "created_at": born, "updated_at": born}
}

func (s *Sim) listSnapshots(r *http.Request) (int, object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []object{}
	for _, v := range s.snaps {
		if !v.deleted {
			all = append(all, s.describeSnapshot(v))
		}
	}
	return page(r, "snapshots", all)
}

func (s *Sim) getSnapshot(r *http.Request) (int, object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.find("snapshot", pathID(r)); v != nil && !v.deleted {
		return ok(object{"snapshot": s.describeSnapshot(v)})
	}
	return refusal(404, "Snapshot not found", "not_found")
}

// window reads the window that was asked for. Without one the API means its current
// cycle, here the month so far.
func window(r *http.Request, now time.Time) (start, end time.Time, problem object) {
	start, end = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), now.Truncate(time.Second)
	for _, p := range []struct {
		name string
		to   *time.Time
	}{{"start_date", &start}, {"end_date", &end}} {
		if text := r.FormValue(p.name); text != "" {
			t, err := time.Parse(zoneless, text)
			if err != nil {
				return start, end, object{"status": false, "errors": object{p.name: []string{"Not a valid datetime."}}}
			}
			*p.to = t
		}
	}
	return start, end, nil
}

// accountBill answers what everything on the account cost inside a window.
func (s *Sim) accountBill(r *http.Request) (int, object) {
	start, end, problem := window(r, s.cfg.Now().UTC())
	if problem != nil {
		return 400, problem
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	money := func(all ...*resource) json.RawMessage {
		var n int64
		for _, res := range all {
			n += res.billed(start.Unix(), min(end.Unix(), s.shown()))
		}
		return json.RawMessage(decimal(n))
	}
	return ok(object{"billing_history": object{"org_id": s.cfg.Org, "total_count": 1, "billing_history": []object{{
		"attributes": object{"id": fmt.Sprintf("00000000-0000-4000-8000-%012d", s.cfg.Org)},
		"metrics": object{"incurred_bill": money(s.account()...), "non_discounted_bill": money(s.account()...), "vm_cost": money(s.vm),
			"volume_cost": money(s.volumes...), "snapshot_cost": money(s.snaps...), "contract_cost": 0}, // the rest is in none of the parts
	}}}})
}

// bill answers what a resource cost inside a window, and writes the answer down.
func (s *Sim) bill(r *http.Request, kind, envelope, noun string) (int, object) {
	now := s.cfg.Now().UTC()
	start, end, problem := window(r, now)
	if problem != nil {
		return 400, problem
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res := s.find(kind, pathID(r))
	if res == nil || (kind == "volume" && s.fault.Mode == MissingVolume) {
		return refusal(404, noun+" not found", "not_found")
	}
	from, to := start.Unix(), min(end.Unix(), s.shown())
	nanos := res.billed(from, to)
	if len(s.answers) == keptAnswers {
		s.answers = append(s.answers[:0], s.answers[keptAnswers/2:]...)
	}
	s.answers = append(s.answers, Answer{At: now, Resource: res.key(), Start: start, End: end, Nanos: nanos})

	perHour := json.RawMessage(decimal(res.last().rate * 3600))
	metrics := object{
		"incurred_bill": json.RawMessage(decimal(nanos)), "non_discounted_bill": json.RawMessage(decimal(nanos)),
		"price_per_hour": perHour, "non_discounted_price_per_hour": perHour,
		"usage_time": res.seconds(from, to, ""),
	}
	attributes := object{"id": fmt.Sprintf("00000000-0000-4000-8000-%012d", res.id), "infrahub_id": res.id,
		"resource_name": s.nameOf(res)}
	if kind == "vm" {
		for _, state := range []string{"ACTIVE", "SHUTOFF", "HIBERNATED"} {
			metrics["usage_time_"+state] = res.seconds(from, to, state)
		}
	} else {
		attributes["subresource_amount"], attributes["subresource_type"] = s.sizeOf(res), "Cloud-SSD"
	}
	history := []object{{"attributes": attributes, "metrics": metrics}}
	if s.fault.Mode == Empty && strings.Contains(r.URL.Path, s.fault.Only) {
		history = []object{}
	}
	return ok(object{envelope: object{"org_id": s.cfg.Org, "total_count": len(history), "billing_history": history}})
}

func (s *Sim) usage(r *http.Request) (int, object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := []object{}
	for _, res := range s.all() {
		if (r.FormValue("deleted") == "true") != res.deleted {
			continue
		}
		kind := res.kind
		if kind == "vm" {
			kind = "virtual_machine"
		}
		var end any
		if res.deleted {
			end = time.Unix(res.last().from, 0).UTC().Format(zoneless)
		}
		born := res.spans[0].from
		rows = append(rows, object{
			"active": !res.deleted, "bill_per_minute": json.RawMessage(decimal(res.last().rate * 60)),
			"create_time": time.Unix(born, 0).UTC().Format(zoneless), "exclude_billing": false, "name": s.nameOf(res),
			"organization_id": s.cfg.Org, "resource_id": res.id, "resource_type": kind, "terminate_time": end,
			"total_bill": json.RawMessage(decimal(res.billed(born, s.shown()))), "total_up_time": res.seconds(born, s.shown(), ""),
		})
	}
	return ok(object{"data": rows})
}

func (s *Sim) credit(*http.Request) (int, object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.left()
	return ok(object{"data": object{"credit": json.RawMessage(decimal(left)), "threshold": 0, "can_create_instance": left > 0}})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
