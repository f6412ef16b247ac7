package engine

// Chosen is how the engine would be suspended now.
func (e *Engine) Chosen() Method {
	if r := e.choose(); r != nil {
		return r.method()
	}
	return Stop
}
