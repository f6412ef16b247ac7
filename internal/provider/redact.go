package provider

import (
	"bytes"
	"strings"

	"spotinference/internal/hint"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// Secrets are cut out of everything that leaves: texts, errors, replies that are kept.
type Secrets []string

// Text is text without the secrets.
func (s Secrets) Text(text string) string {
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, Redacted)
	}
	return text
}

// Bytes is body without the secrets.
func (s Secrets) Bytes(body []byte) []byte {
	for _, secret := range s {
		body = bytes.ReplaceAll(body, []byte(secret), []byte(Redacted))
	}
	return body
}

// redacted is an error whose text a secret has been cut out of. It ends the chain on
// purpose: what lies below still holds the secret.
type redacted string

func (r redacted) Error() string { return string(r) }

// Error is err without the secrets, and with its hint. It is err itself where its text
// holds none.
func (s Secrets) Error(err error) error {
	if err == nil {
		return nil
	}
	text, advice := err.Error(), hint.Of(err)
	if s.Text(text) == text && s.Text(advice) == advice {
		return err
	}
	return hint.Wrap(redacted(s.Text(text)), s.Text(advice))
}
