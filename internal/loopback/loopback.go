// Package loopback tells whether an address is this machine's own, so that nobody
// outside can reach it or listen in.
//
// It resolves no name: of all names only "localhost" is taken to be this machine.
package loopback

import (
	"net"
	"net/netip"
)

// Host reports whether host, a name or an IP address without a port, is this machine.
// It is false for what is neither.
func Host(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Addr reports whether addr, where something listens, can be reached from this machine
// only: a loopback IP address, or what is no TCP address, such as a Unix socket.
func Addr(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
