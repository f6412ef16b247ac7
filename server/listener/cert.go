// Package cert says who we are to TLS clients: a certificate from two files, or
// certificates that are fetched by ACME.
//
// It refuses to know what is spoken over TLS, but that it is HTTP/1.1.
//
//	pair, err := listener.NewPair("cert.pem", "key.pem", log)
//	go pair.Run(ctx)
//	tls.Server(conn, pair.TLS())
package listener

import (
	"crypto/tls"
)

// Error is a certificate or a name that cannot be used, and what to do about it.
type Error struct {
	Msg, hint string
	err       error
}

func (e *Error) Error() string { return e.Msg }
func (e *Error) Hint() string  { return e.hint }
func (e *Error) Unwrap() error { return e.err }

// config is what every TLS of ours has. HTTP/2 is not spoken: fasthttp does not.
func config(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: get,
		NextProtos:     append([]string{"http/1.1"}, protocols...),
	}
}
