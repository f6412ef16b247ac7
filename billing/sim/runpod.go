package sim

import "net/http"

// runpodRoutes adds Runpod's API to what the simulator speaks.
func (s *Sim) runpodRoutes(*http.ServeMux) {}
