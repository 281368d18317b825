package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// connectProxy relays the bytes of CONNECT tunnels; its /status counts them.
type connectProxy struct{ tunnels int64 }

// connect serves until SIGTERM or SIGINT.
func connect(arguments []string) (report, error) {
	flags := options("connect")
	address := flags.String("listen", "127.0.0.1:0", "address and port")
	_ = flags.Parse(arguments)
	listener, err := net.Listen("tcp4", *address)
	if err != nil {
		return nil, err
	}
	p := &connectProxy{}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 1)
	go func() { failed <- p.accept(listener) }()
	select {
	case <-stop:
		return report{"tunnels": atomic.LoadInt64(&p.tunnels)}, nil
	case err := <-failed:
		return nil, err
	}
}

func (p *connectProxy) accept(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go p.serve(conn.(*net.TCPConn))
	}
}

func (p *connectProxy) serve(client *net.TCPConn) {
	defer client.Close()
	reader := bufio.NewReaderSize(client, 4<<10)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	if request.Method != "CONNECT" {
		body := fmt.Sprintf(`{"tunnels":%d}`, atomic.LoadInt64(&p.tunnels))
		_, _ = client.Write(jsonResponse("200 OK", body))
		return
	}
	server, err := net.Dial("tcp4", request.Host)
	if err != nil {
		_, _ = client.Write(jsonResponse("502 Bad Gateway", "{}"))
		return
	}
	defer server.Close()
	atomic.AddInt64(&p.tunnels, 1)
	if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		return
	}
	early, _ := reader.Peek(reader.Buffered()) // sent together with the request
	if _, err := server.Write(early); err != nil {
		return
	}
	go join(client, server.(*net.TCPConn))
	join(server.(*net.TCPConn), client)
}

// join copies one direction until its end, and passes the end on. Go uses splice for it.
func join(to, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	_ = to.CloseWrite()
}
