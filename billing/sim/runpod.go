package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Runpod's API: REST v2 (runpod/docs, api-reference-v2/openapi.json)
// over the same machine, volumes and books. The machine is the pod "pod701234", its
// volumes are network volumes, "vol45678". The base of this API is the server's root,
// and its key goes into an Authorization header.
//
// A bill is told in buckets. A refund restates the hour that it falls into, and the
// hours before that where one is not enough, so that no hour's bill is below zero as
// long as there is any to take from.

func init() {
	apis["runpod"] = api{routes: (*Sim).runpodRoutes, fault: (*Sim).runpodFault, account: func(cfg Config) Account {
		return Account{Instance: runpodName("vm", cfg.VM.ID), Env: map[string]string{"RUNPOD_API_KEY": cfg.Key}}
	}}
}

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
	api("/pods", func(*http.Request) (int, object) {
		if s.isDeleted(s.vm) {
			return 200, object{"pods": []object{}}
		}
		return 200, object{"pods": []object{s.runpodDescribe()}}
	})
	api("/pods/{id}", func(r *http.Request) (int, object) {
		if r.PathValue("id") != runpodName("vm", s.cfg.VM.ID) || s.isDeleted(s.vm) {
			return 404, runpodProblem(404, "pod not found")
		}
		return 200, s.runpodDescribe()
	})
	api("/network-volumes", func(*http.Request) (int, object) {
		all := []object{}
		for i, v := range s.cfg.Volumes {
			if s.isDeleted(s.volumes[i]) {
				continue
			}
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
	mux.HandleFunc("POST /graphql", func(w http.ResponseWriter, r *http.Request) { // the older API's one query
		var q struct{ Query string }
		s.mu.Lock()
		left := s.left()
		s.mu.Unlock()
		switch err := json.NewDecoder(r.Body).Decode(&q); {
		case r.Header.Get("Authorization") != "Bearer "+s.cfg.Key:
			reply(w, 401, object{"errors": []object{{"message": "Unauthorized"}}})
		case err != nil || q.Query != "query{myself{clientBalance}}":
			reply(w, 200, object{"errors": []object{{"message": "Cannot query that"}}})
		default:
			reply(w, 200, object{"data": object{"myself": object{"clientBalance": json.RawMessage(decimal(left))}}})
		}
	})
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
	default:
		return false
	}
	return true
}

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
		for i, v := range s.cfg.Volumes {
			if !s.attached(i) {
				continue
			}
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
