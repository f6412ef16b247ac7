package sim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What Verda's API says of the same account (verdacloud-sdk-go, pkg/verda): one
// balance that falls, and rates. Its base is /v1; the client secret is Config.Key, with
// any client id.

func init() {
	apis["verda"] = api{routes: (*Sim).verdaRoutes, account: func(cfg Config) Account {
		return Account{URL: "/v1", Env: map[string]string{"VERDA_CLIENT_ID": "demo-client-id", "VERDA_CLIENT_SECRET": cfg.Key}}
	}}
}

// TokenLife is how long an access token is good for.
const TokenLife = time.Hour

func (s *Sim) verdaRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/oauth2/token", s.verdaToken)
	api := func(path string, h func() any) {
		mux.HandleFunc("GET /v1"+path, func(w http.ResponseWriter, r *http.Request) {
			token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok || !s.verdaHonours("access", token) {
				verdaRefuse(w, 401, "unauthorized_request", "Access token is missing or invalid")
				return
			}
			reply(w, 200, h())
		})
	}
	api("/balance", s.verdaBalance)
	api("/instances", s.verdaInstances)
	api("/volumes", s.verdaVolumes)
	api("/volumes/trash", func() any { return []object{} })
}

func verdaRefuse(w http.ResponseWriter, code int, word, message string) {
	reply(w, code, object{"code": word, "message": message})
}

func (s *Sim) verdaToken(w http.ResponseWriter, r *http.Request) {
	var form struct {
		Grant   string `json:"grant_type"`
		ID      string `json:"client_id"`
		Secret  string `json:"client_secret"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&form); err != nil {
		verdaRefuse(w, 400, "invalid_request", "The body is not JSON")
		return
	}
	switch form.Grant {
	case "client_credentials":
		if form.ID == "" || form.Secret != s.cfg.Key {
			verdaRefuse(w, 401, "unauthorized_request", "Invalid client credentials")
			return
		}
	case "refresh_token":
		if !s.verdaHonours("refresh", form.Refresh) {
			verdaRefuse(w, 401, "unauthorized_request", "Invalid refresh token")
			return
		}
	default:
		verdaRefuse(w, 400, "invalid_request", "Unknown grant type")
		return
	}
	reply(w, 200, object{
		"access_token": s.verdaSign("access", TokenLife), "refresh_token": s.verdaSign("refresh", 24*TokenLife),
		"token_type": "Bearer", "expires_in": int64(TokenLife / time.Second), "scope": "cloud-api-v1",
	})
}

// verdaSign makes a token that says itself when it ends, so that none need be kept.
func (s *Sim) verdaSign(use string, life time.Duration) string {
	return s.verdaSeal(use, s.cfg.Now().Add(life).Unix())
}

func (s *Sim) verdaSeal(use string, ends int64) string {
	text := fmt.Sprintf("%s.%d", use, ends)
	mac := hmac.New(sha256.New, []byte(s.cfg.Key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (s *Sim) verdaHonours(use, token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	ends, err := strconv.ParseInt(parts[1], 10, 64)
	return err == nil && ends > s.cfg.Now().Unix() && hmac.Equal([]byte(token), []byte(s.verdaSeal(use, ends)))
}

// verdaBalance is the credit less all that the books hold, and is written down as
// every bill that is given out.
func (s *Sim) verdaBalance() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault.Mode == Empty {
		return object{"currency": "usd"}
	}
	var spent int64
	start := s.vm.spans[0].from
	for _, r := range s.account() {
		spent += r.billed(r.spans[0].from, s.shown())
		start = min(start, r.spans[0].from)
	}
	if len(s.answers) == keptAnswers {
		s.answers = append(s.answers[:0], s.answers[keptAnswers/2:]...)
	}
	s.answers = append(s.answers, Answer{At: s.cfg.Now().UTC(), Resource: "account",
		Start: time.Unix(start, 0).UTC(), End: time.Unix(s.shown(), 0).UTC(), Nanos: spent})
	return object{"amount": json.RawMessage(decimal(s.cfg.Credit - spent)), "currency": "usd"}
}

// VerdaInstance is the id that the machine has in Verda's API.
func (s *Sim) VerdaInstance() string {
	return fmt.Sprintf("b9a1c0de-0000-4000-8000-%012d", s.cfg.VM.ID)
}

func verdaVolumeID(id int64) string { return fmt.Sprintf("c0ffee00-0000-4000-8000-%012d", id) }

func (s *Sim) verdaInstances() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm := s.cfg.VM
	status := strings.ToLower(s.vm.last().status)
	switch status {
	case "active":
		status = "running"
	case "shutoff":
		status = "offline"
	case "hibernated":
		status = "hibernating" // the API has no other word for it
	}
	contract := "PAY_AS_YOU_GO"
	if vm.Contract != 0 {
		contract = "LONG_TERM"
	}
	volumes := []string{}
	for _, v := range s.cfg.Volumes {
		volumes = append(volumes, verdaVolumeID(v.ID))
	}
	return []object{{
		"id": s.VerdaInstance(), "ip": vm.FixedIP, "status": status, "created_at": vm.Born.UTC().Format("2006-01-02T15:04:05.000Z"),
		"cpu": object{"description": "30 CPU", "number_of_cores": 30}, "gpu": object{"description": "1x H100 SXM5 80GB", "number_of_gpus": 1},
		"gpu_memory": object{"description": "80GB GPU RAM", "size_in_gigabytes": 80},
		"memory":     object{"description": "120GB RAM", "size_in_gigabytes": 120}, "storage": object{"description": "dynamic"},
		"hostname": vm.Name, "description": "", "location": "SIM-01",
		"price_per_hour": decimal(vm.RatePerHour), // as a string, which the API does at times
		"is_spot":        false, "instance_type": "1H100.80S.30V", "image": "ubuntu-24.04-cuda-12.8-open", "os_name": "Ubuntu 24.04",
		"startup_script_id": nil, "ssh_key_ids": []string{}, "os_volume_id": nil, "jupyter_token": "",
		"contract": contract, "pricing": "FIXED_PRICE", "volume_ids": volumes, "tags": []string{},
	}}
}

func (s *Sim) verdaVolumes() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []object{}
	for i, v := range s.cfg.Volumes {
		if s.fault.Mode == MissingVolume {
			break
		}
		all = append(all, object{
			"id": verdaVolumeID(v.ID), "name": v.Name, "size": v.SizeGB, "type": "NVMe", "status": "attached",
			"created_at": v.Born.UTC().Format(time.RFC3339), "instance_id": s.VerdaInstance(), "instances": []object{},
			"location": "SIM-01", "contract": "PAY_AS_YOU_GO", "is_os_volume": false, "target": "vd" + string(rune('b'+i)),
			"ssh_key_ids": []string{}, "pseudo_path": nil, "create_directory_command": nil, "mount_command": nil,
			"filesystem_to_fstab_command": nil, "base_hourly_cost": json.RawMessage(decimal(v.RatePerHour)),
			"monthly_price": json.RawMessage(decimal(v.RatePerHour * 730)), "currency": "usd", "long_term": nil, "tags": []string{},
		})
	}
	return all
}
