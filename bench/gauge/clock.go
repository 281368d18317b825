package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

const clockMonotonic = 1 // CLOCK_MONOTONIC, which all processes of a machine read alike

// clockOffset turns Go's own reading of that clock, which costs no system call, into its value.
var clockStart, clockOffset = calibrate()

// calibrate reads the clock by a system call between two readings of Go's, until these are close.
func calibrate() (time.Time, int64) {
	start := time.Now()
	best, offset := int64(1<<62), int64(0)
	for i := 0; i < 100; i++ {
		var now syscall.Timespec
		before := time.Since(start)
		syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
		after := time.Since(start)
		if width := int64(after - before); width < best {
			best, offset = width, now.Nano()-int64(before+after)/2
		}
	}
	return start, offset
}

// monotonic is now, in nanoseconds, comparable between processes.
func monotonic() int64 { return clockOffset + int64(time.Since(clockStart)) }

// A Go timer is late by up to a millisecond; the kernel's timers, as files, by microseconds.

type timerSetting struct{ interval, first syscall.Timespec }

// newTimer makes a timer that is readable once it has fired.
func newTimer() (int, error) {
	fd, _, errno := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic,
		syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("timerfd_create", errno)
	}
	return int(fd), nil
}

// setTimer lets a timer fire at a moment (ns), and then at each interval if that is not zero.
func setTimer(fd int, at, interval int64) {
	const absolute = 1 // TFD_TIMER_ABSTIME
	setting := timerSetting{syscall.NsecToTimespec(interval), syscall.NsecToTimespec(at)}
	syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(fd), absolute,
		uintptr(unsafe.Pointer(&setting)), 0, 0, 0)
}

// clearTimer makes a timer that has fired unreadable until it fires again.
func clearTimer(fd int) {
	var count [8]byte
	_, _ = rawRead(fd, count[:])
}

// ticker fires at an interval; unlike Go's it holds to one much below a millisecond.
type ticker struct{ file *os.File }

func newTicker(interval time.Duration) (*ticker, error) {
	fd, err := newTimer()
	if err != nil {
		return nil, err
	}
	setTimer(fd, monotonic()+int64(interval), int64(interval))
	return &ticker{os.NewFile(uintptr(fd), "ticker")}, nil
}

// wait returns at the next tick, at once if one was missed; how many were, the clock tells.
func (t *ticker) wait() error {
	var count [8]byte
	_, err := t.file.Read(count[:])
	return err
}

func (t *ticker) stop() { _ = t.file.Close() }
