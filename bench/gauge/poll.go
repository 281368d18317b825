package main

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// The system calls below never block, or block while this process has nothing else to do. They
// bypass Go's scheduler, whose bookkeeping would take as long as they do, and whose wake-up after
// a wait would be measured as latency of the relay.

func rawRead(fd int, into []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd),
		uintptr(unsafe.Pointer(&into[0])), uintptr(len(into)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func rawWrite(fd int, from []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd),
		uintptr(unsafe.Pointer(&from[0])), uintptr(len(from)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// later returns whether an error only means that the call must be repeated.
func later(err error) bool { return err == syscall.EAGAIN || err == syscall.EINTR }

// blockingRead reads from a blocking connection, with a clear error for a timeout.
func blockingRead(fd int, into []byte) (int, error) {
	for {
		n, err := rawRead(fd, into)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errors.New("no answer before the timeout")
		default:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// giveWay lets another process of this core run, if one is ready.
func giveWay() { syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }

// patience is the time without data from the other side after which a call fails.
const patience = 10 * time.Second

// dial opens a blocking connection. On loopback that takes microseconds, unless the other side's
// backlog is full. No call on it blocks for longer than patience.
func dial(to target, patience time.Duration) (int, error) { return dialFrom(0, to, patience) }

// bindAddressNoPort lets the kernel choose the port when the connection is opened, so that
// connections to different servers may share it.
const bindAddressNoPort = 24

// dialFrom opens a connection from 127.0.0.HOST; from any address if it is zero. One address has
// too few ports for many short connections, each of which keeps its port for a while.
func dialFrom(host uint8, to target, patience time.Duration) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	limit := syscall.NsecToTimeval(int64(patience))
	for _, option := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &limit)
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	if host != 0 {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1)
		own := syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, host}}
		if err := syscall.Bind(fd, &own); err != nil {
			_ = syscall.Close(fd)
			return -1, os.NewSyscallError("bind", err)
		}
	}
	address := to.address
	for {
		err := syscall.Connect(fd, &address)
		if err == nil {
			return fd, nil
		}
		if err != syscall.EINTR { // then Linux continues to connect, and the next call waits
			_ = syscall.Close(fd)
			return -1, os.NewSyscallError("connect", err)
		}
	}
}

// send writes a request that fits into the socket's buffer.
func send(fd int, request []byte) error {
	n, err := rawWrite(fd, request)
	if err != nil {
		return os.NewSyscallError("write", err)
	}
	if n < len(request) {
		return errors.New("a request was written only in part")
	}
	return nil
}

// poller finds the readable ones of many sockets, by the numbers given to them.
type poller struct {
	fd    int
	ready [256]syscall.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &poller{fd: fd}, os.NewSyscallError("epoll_create1", err)
}

// add watches a file and makes it non-blocking.
func (p *poller) add(fd, number int) error {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(number)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &event))
}

// watch changes whether a watched socket is also reported when it accepts data.
func (p *poller) watch(fd, number int, writable bool) error {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(number)}
	if writable {
		event.Events |= syscall.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_MOD, fd, &event))
}

// wait blocks for some milliseconds (-1: indefinitely) and returns the readable sockets.
func (p *poller) wait(milliseconds int) []syscall.EpollEvent {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.ready[0])), uintptr(len(p.ready)), uintptr(milliseconds), 0, 0)
	if errno != 0 { // only EINTR, because of the Go runtime's signals
		return nil
	}
	return p.ready[:n]
}

// receive reads once from a non-blocking connection, and parses the data. It returns the number of
// bytes, and whether the answer is complete.
func receive(fd int, r *reply, buffer []byte) (n int, ended bool, err error) {
	n, err = rawRead(fd, buffer)
	switch {
	case err != nil && later(err):
		return 0, false, nil
	case err != nil:
		return 0, false, os.NewSyscallError("read", err)
	case n == 0:
		err = r.closed()
	default:
		err = r.feed(buffer[:n])
	}
	return n, err == nil && r.ended(), err
}

// member is one connection of a fleet.
type member struct {
	fd    int
	reply reply
	gone  bool
}

// fleet is a set of connections that are read when data arrives.
type fleet struct {
	poll     *poller
	members  []*member
	buffer   [64 << 10]byte
	now      int64 // time of receipt of the current data
	endless  bool  // the end of an answer is a failure
	ended    int   // answers that have ended
	failures int
	failure  error // the first

	stdinClosed bool // if the fleet watches stdin
}

const stdinNumber = -1

// readStdin discards what is written to stdin, and notices its end.
func (f *fleet) readStdin() {
	n, err := rawRead(syscall.Stdin, f.buffer[:])
	f.stdinClosed = n == 0 && (err == nil || !later(err))
}

func newFleet() (*fleet, error) {
	poll, err := newPoller()
	return &fleet{poll: poll}, err
}

// add watches a connection from now on.
func (f *fleet) add(m *member) error {
	if err := f.poll.add(m.fd, len(f.members)); err != nil {
		return err
	}
	f.members = append(f.members, m)
	return nil
}

// sweep waits until a time (monotonic ns) for data, and reads what has arrived.
func (f *fleet) sweep(until int64) {
	// Rounded up: repeated waits of zero milliseconds would keep the core busy.
	wait := (until - monotonic() + 999_999) / 1_000_000
	if wait < 0 {
		wait = 0
	}
	for _, event := range f.poll.wait(int(wait)) {
		if event.Fd == stdinNumber {
			f.readStdin()
		} else {
			f.read(f.members[event.Fd])
		}
	}
}

// sweepUntil reads arriving data until a time, and reads at least once.
func (f *fleet) sweepUntil(moment int64) {
	for f.sweep(moment); monotonic() < moment; {
		f.sweep(moment)
	}
}

func (f *fleet) read(m *member) {
	if m.gone {
		return
	}
	f.now = monotonic() // the parsers of frames use it
	_, ended, err := receive(m.fd, &m.reply, f.buffer[:])
	if ended {
		f.ended++
		if f.endless {
			err = errShort
		}
	}
	if err != nil {
		f.fail(m, err)
	}
}

// fail removes a connection; the others continue.
func (f *fleet) fail(m *member, err error) {
	f.failures++
	if f.failure == nil {
		f.failure = err
	}
	f.leave(m)
}

func (f *fleet) leave(m *member) {
	if !m.gone {
		m.gone = true
		_ = syscall.Close(m.fd)
	}
}

func (f *fleet) close() {
	for _, m := range f.members {
		f.leave(m)
	}
}

// readUntil reads from a blocking connection that is not watched yet.
func (f *fleet) readUntil(m *member, done func() bool) error {
	for !done() {
		n, err := blockingRead(m.fd, f.buffer[:])
		f.now = monotonic()
		switch {
		case err != nil:
		case n == 0:
			err = m.reply.closed()
		default:
			err = m.reply.feed(f.buffer[:n])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readAnswer reads one complete answer from a blocking connection.
func (f *fleet) readAnswer(m *member) error { return f.readUntil(m, m.reply.ended) }
