package sim

import "net/http"

// verdaRoutes adds Verda's API to what the simulator speaks.
func (s *Sim) verdaRoutes(*http.ServeMux) {}
