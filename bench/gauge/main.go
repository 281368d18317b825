// Gauge is the benchmark's fake OpenAI API, and a load generator for what wrk cannot measure:
// latency at a fixed rate, many event streams, idle connections, large bodies, connections for one
// request, and requests that all differ.
//
//	main.go       the command line; every subcommand prints one JSON object as its last line
//	clock.go      one clock for both ends of a stream, and a ticker finer than Go's
//	histogram.go  percentiles of any number of samples in constant memory, within 0.1 %
//	wire.go       requests and answers; the layout of a frame, and its check
//	heads.go      the request headers of clients, with IDs that vary
//	bodies.go     the questions and answers of mixed traffic
//	reply.go      an incremental parser of HTTP/1.1 responses, without allocation
//	poll.go       raw sockets with epoll: thousands of connections on one thread
//	upstream.go   the fake OpenAI API: its connections and the headers of requests
//	requestbody.go  how it reads a body
//	answers.go    its answers
//	outlet.go     its sockets, with and without TLS
//	wheel.go      its streams with a rate: one timer writes for all of them
//	connect.go    a CONNECT proxy
//	load.go       requests at the maximum rate, on kept and on fresh connections
//	open.go       requests at rising rates to an upstream that takes its time
//	latency.go    requests at fixed times, whether or not earlier ones have been answered
//	streams.go    frames per second, lost frames, and the time that a relay adds to each
//	hold.go       connections and streams held open while the benchmark measures memory
//	transfer.go   one large upload or download
//
// What it reports as an error:
//
//  1. An answer that is not a 200 with exactly the expected body, to the byte.
//  2. A frame that differs in a byte, is repeated, or is out of order. A missing frame is lost.
//  3. A stream that ends early, or that continues after its end.
//  4. A connection that was closed although the answer was keep-alive.
//
// Each ends in exit status 1 and a line on stderr. The figures measured until then are still
// printed, for diagnosis only.
//
// The process shares one core with the upstream or the clients at the other end. So the clients
// use no goroutines, and do not use the CPU while idle. IPv4 loopback only.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
)

// report is the output of a subcommand: the figures by their names in the JSON.
type report map[string]interface{}

var subcommands = map[string]func(arguments []string) (report, error){
	"upstream": upstream,
	"connect":  connect,
	"load":     saturate,
	"open":     open,
	"latency":  latency,
	"streams":  streams,
	"hold":     hold,
	"transfer": transfer,
}

func main() {
	if len(os.Args) < 2 || subcommands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gauge upstream|connect|load|open|latency|streams|hold|transfer [-help]")
		os.Exit(2)
	}
	runtime.GOMAXPROCS(1)
	// Clients allocate memory mostly while they start; a later garbage collection would be
	// measured as latency of the relay. The upstream, which runs longer, overrides the setting.
	debug.SetGCPercent(-1)
	raiseFileLimit()

	figures, failure := subcommands[os.Args[1]](os.Args[2:])
	if figures != nil {
		line, err := json.Marshal(figures)
		if err != nil {
			panic(err) // only for NaN
		}
		fmt.Printf("%s\n", line)
	}
	if failure != nil {
		fmt.Fprintf(os.Stderr, "gauge %s: %v\n", os.Args[1], failure)
		os.Exit(1)
	}
}

// raiseFileLimit raises the limit of open sockets to the hard limit; if that is too low, the
// call that opens a further socket fails.
func raiseFileLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// options returns a subcommand's flags; an invalid command line ends the process with status 2.
func options(name string) *flag.FlagSet {
	return flag.NewFlagSet("gauge "+name, flag.ExitOnError)
}

// usage ends the process because of an invalid combination of options.
func usage(flags *flag.FlagSet, problem string) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", flags.Name(), problem)
	os.Exit(2)
}

// target is the measured server: an IPv4 address and a port.
type target struct {
	host    string // for the Host header
	address syscall.SockaddrInet4
}

// parseTarget accepts http://127.0.0.1:8080 and http://localhost:8080.
func parseTarget(text string) (target, error) {
	var to target
	parsed, err := url.Parse(text)
	if err != nil {
		return to, err
	}
	port, err := strconv.Atoi(parsed.Port())
	if err != nil || parsed.Scheme != "http" || (parsed.Path != "" && parsed.Path != "/") {
		return to, fmt.Errorf("%q is not of the form http://127.0.0.1:PORT", text)
	}
	name := parsed.Hostname()
	if name == "localhost" {
		name = "127.0.0.1"
	}
	ip := net.ParseIP(name).To4()
	if ip == nil {
		return to, fmt.Errorf("%q is not an IPv4 address", name)
	}
	to.host, to.address.Port = parsed.Host, port
	copy(to.address.Addr[:], ip)
	return to, nil
}
