package loopback_test

import (
	"net"
	"testing"

	"spotinference/internal/loopback"
)

func TestHost(t *testing.T) {
	f := func(host string, want bool) {
		t.Helper()
		if got := loopback.Host(host); got != want {
			t.Errorf("Host(%q) = %v, want %v", host, got, want)
		}
	}
	f("localhost", true)
	f("127.0.0.1", true)
	f("127.8.9.10", true)
	f("::1", true)
	f("::ffff:127.0.0.1", true)

	f("", false)
	f("0.0.0.0", false)
	f("::", false)
	f("10.0.0.1", false)
	f("::ffff:10.0.0.1", false)
	f("127.0.0.1.example.com", false)
	f("localhost.example.com", false)
	f("127.1", false)           // some resolvers read it so
	f("127.0.0.1:8080", false)  // with a port
	f("[::1]", false)           // in brackets
	f("0177.0.0.1", false)      // octal
	f("169.254.169.254", false) // link-local: the host's metadata
}

func TestAddr(t *testing.T) {
	f := func(addr net.Addr, want bool) {
		t.Helper()
		if got := loopback.Addr(addr); got != want {
			t.Errorf("Addr(%v) = %v, want %v", addr, got, want)
		}
	}
	f(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}, true)
	f(&net.TCPAddr{IP: net.IPv6loopback, Port: 8080}, true)
	f(&net.UnixAddr{Name: "/run/s.sock", Net: "unix"}, true)
	f(&net.TCPAddr{IP: net.IPv4zero, Port: 8080}, false)
	f(&net.TCPAddr{IP: net.IPv6unspecified, Port: 8080}, false)
	f(&net.TCPAddr{Port: 8080}, false) // all addresses
	f(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8080}, false)
}
