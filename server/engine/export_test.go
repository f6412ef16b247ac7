package engine

// Chosen is how the engine would be suspended now.
func (e *Engine) Chosen() Method {
	if m := e.chooseMethod(); m != nil {
		return m.name()
	}
	return Stop
}

// CanEnter says whether a user comes to a directory.
func (u *User) CanEnter(dir string) error { return u.checkCanEnter(dir) }
