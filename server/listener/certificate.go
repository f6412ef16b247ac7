package listener

import (
	"context"
	"crypto/tls"
)

// certificates prove to TLS clients who we are.
type certificates interface {
	// config shows the newest one.
	config() *tls.Config
	// run keeps them fresh until ctx ends.
	run(ctx context.Context) error
}

// tlsConfig is what every TLS of ours has. HTTP/2 is not spoken: fasthttp does not.
func tlsConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: get,
		NextProtos:     append([]string{"http/1.1"}, protocols...),
	}
}
