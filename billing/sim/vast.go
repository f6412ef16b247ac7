package sim

import "net/http"

// vastRoutes adds Vast's API to what the simulator speaks.
func (s *Sim) vastRoutes(*http.ServeMux) {}
