package main

import (
	"crypto/tls"
	"net"
	"os"
	"syscall"
)

// outletMode is the way in which an outlet writes.
type outletMode int

const (
	blocking outletMode = iota // each write waits for the socket
	batching                   // writes are collected, and leave together
	queuing                    // no write waits; what the socket does not accept is kept
)

// batchSize is the number of bytes that leave together. Without it, the system calls of the
// upstream would limit the rate of frames, not the relay.
const batchSize = 8 << 10

// outlet is the socket below a connection, with or without TLS.
type outlet struct {
	*net.TCPConn
	mode   outletMode
	raw    syscall.RawConn
	push   func(fd uintptr) bool // made once, because a closure for each frame would be garbage
	queue  []byte                // written, but not accepted by the socket
	sent   int                   // bytes at the beginning of the queue that the socket has accepted
	broken error
}

func newOutlet(conn *net.TCPConn) (*outlet, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	o := &outlet{TCPConn: conn, raw: raw}
	o.push = func(fd uintptr) bool {
		n, err := rawWrite(int(fd), o.queue[o.sent:])
		o.sent += n
		if err != nil && !later(err) {
			o.broken = os.NewSyscallError("write", err)
		}
		return true // the rest is written by a later call
	}
	return o, nil
}

func (o *outlet) Write(from []byte) (int, error) {
	if o.mode == blocking {
		return o.TCPConn.Write(from)
	}
	o.queue = append(o.queue, from...)
	if o.mode == queuing {
		o.flush()
		return len(from), o.broken
	}
	if len(o.queue) < batchSize {
		return len(from), nil
	}
	return len(from), o.drain()
}

// flush returns whether the socket has accepted everything; it does not wait.
func (o *outlet) flush() bool {
	if len(o.queue) > 0 && o.broken == nil {
		if err := o.raw.Write(o.push); err != nil {
			o.broken = err
		}
	}
	if o.sent == len(o.queue) {
		o.queue, o.sent = o.queue[:0], 0
	}
	return len(o.queue) == 0
}

// drain waits until the socket has accepted everything.
func (o *outlet) drain() error {
	_, err := o.TCPConn.Write(o.queue[o.sent:])
	o.queue, o.sent = o.queue[:0], 0
	return err
}

// over returns the connection on an outlet: the outlet itself, or TLS if there is a configuration.
func over(o *outlet, config *tls.Config) net.Conn {
	if config == nil {
		return o
	}
	return tls.Server(o, config)
}

// serverTLS reads a certificate and its key.
func serverTLS(certificate, key string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
