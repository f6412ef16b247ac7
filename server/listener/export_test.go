package listener

import "crypto/tls"

// TLS is what clients are shown.
func (l *Listener) TLS() *tls.Config { return l.tls }
