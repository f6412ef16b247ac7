package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// flooder sends what nobody should: each a connection of its own, read until it ends.
type flooder struct {
	addr, key string
	sent      atomic.Int64
}

// bad are requests that must not be served. %s is the right key, as a header.
var bad = []string{
	"",
	"POST /v1/chat/comp",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%sContent-Le",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%sContent-Length: 100\r\n\r\n{\"messages\":[{\"role\"",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%sContent-Length: 9\r\n\r\n{\"broken\"",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%sContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%sContent-Length: 99999999999\r\n\r\n",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nContent-Length: 56\r\n\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"give me tokens\"}]}",
	"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 56\r\n\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"give me tokens\"}]}",
	"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nx-api-key: \r\nContent-Length: 13\r\n\r\n{\"input\":\"a\"}",
	"GET /metrics/../v1/chat/completions HTTP/1.1\r\nHost: x\r\n%s\r\n",
	"DELETE /v1/models HTTP/1.1\r\nHost: x\r\n%s\r\n",
	"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("a", 40<<10) + "\r\n\r\n",
	"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Many: 1\r\n", 200) + "\r\n",
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

// run floods until ctx ends. It returns an error where something was served.
func (f *flooder) run(ctx context.Context, random *rand.Rand) error {
	for ctx.Err() == nil {
		text := bad[random.IntN(len(bad))]
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, "Authorization: Bearer "+f.key+"\r\n")
		}
		slow := random.IntN(4) == 0
		said, err := f.one(ctx, text, slow)
		if err != nil {
			continue // nobody listens just now
		}
		f.sent.Add(1)
		if strings.HasPrefix(said, "HTTP/1.1 200") {
			return fmt.Errorf("a bad request was served:\n%.500s\n%.500s", text, said)
		}
	}
	return nil
}

// one sends text, byte by byte at the end if slow, and returns what comes soon.
func (f *flooder) one(ctx context.Context, text string, slow bool) (said string, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", f.addr)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if slow && len(text) > 10 {
		last := text[len(text)-10:]
		_, err = io.WriteString(conn, text[:len(text)-10])
		for i := 0; i < len(last) && err == nil; i++ {
			time.Sleep(20 * time.Millisecond)
			_, err = io.WriteString(conn, last[i:i+1])
		}
	} else {
		_, err = io.WriteString(conn, text)
	}
	// What was written in vain may have been answered before.
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return line, nil
}
