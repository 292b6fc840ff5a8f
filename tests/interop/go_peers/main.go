// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

// Command go_peers is a server or an agent on quic-go, for the tests beside this folder: what the other end of
// docs/migration.md does on the wire, with its limits, and without its flags and logs.
//
//	go_peers server CERTS         writes the addresses that it listens on
//	go_peers agent CERTS SERVER   serves CONNECT
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

func main() {
	log.SetFlags(0)
	switch {
	case len(os.Args) == 3 && os.Args[1] == "server":
		log.Fatal(serve(os.Args[2]))
	case len(os.Args) == 4 && os.Args[1] == "agent":
		log.Fatal(dial(os.Args[2], os.Args[3]))
	}
	log.Fatalf("usage: %s server CERTS | agent CERTS SERVER", os.Args[0])
}

// limits are those of the peer that it stands for.
func limits(keepAlive time.Duration) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:       2 * time.Second,
		MaxIdleTimeout:             5 * time.Second,
		KeepAlivePeriod:            keepAlive,
		MaxIncomingStreams:         10_000,
		MaxIncomingUniStreams:      10_000,
		MaxStreamReceiveWindow:     246 << 20,
		MaxConnectionReceiveWindow: 500 << 20,
	}
}

// identity reads NAME.pem, NAME.key and ca.pem.
func identity(dir, name string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in ca.pem")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ServerName:   "quic-tunnel-server",
		NextProtos:   []string{"quic-echo-example"},
	}, nil
}

// openStream opens a stream to the agent that came last. A function, because releases of quic-go differ in its types.
type openStream func() (io.ReadWriteCloser, error)

func serve(dir string) error {
	config, err := identity(dir, "server")
	if err != nil {
		return err
	}
	agents, err := quic.ListenAddr("127.0.0.1:0", config, limits(0))
	if err != nil {
		return err
	}
	clients, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	log.Printf("quic listener on %s", agents.Addr())
	log.Printf("tcp listener on %s", clients.Addr())

	opens := make(chan openStream, 1)
	go func() {
		for {
			agent, err := agents.Accept(context.Background())
			if err != nil {
				log.Fatal(err)
			}
			select {
			case <-opens:
			default:
			}
			opens <- func() (io.ReadWriteCloser, error) { return agent.OpenStreamSync(agent.Context()) }
			log.Print("agent connected")
		}
	}()
	for {
		client, err := clients.Accept()
		if err != nil {
			return err
		}
		open := <-opens
		opens <- open
		stream, err := open()
		if err != nil {
			client.Close()
			continue
		}
		go join(client, stream)
	}
}

// join copies both ways, and closes both when the first copy ends. Closing a stream ends what is sent, and what comes
// in is not read any more.
func join(a, b io.ReadWriteCloser) {
	var once sync.Once
	forward := func(to, from io.ReadWriteCloser) {
		io.Copy(to, from)
		once.Do(func() {
			a.Close()
			b.Close()
		})
	}
	go forward(a, b)
	forward(b, a)
}

func dial(dir, server string) error {
	config, err := identity(dir, "client")
	if err != nil {
		return err
	}
	connection, err := quic.DialAddr(context.Background(), server, config, limits(2*time.Second))
	if err != nil {
		return err
	}
	_, err = connection.OpenStream()
	log.Printf("connected, a stream of its own: %v", err)
	for {
		stream, err := connection.AcceptStream(context.Background())
		if err != nil {
			return err
		}
		go connect(stream)
	}
}

// connect serves one CONNECT request. The client gets the end when both copies are over.
func connect(stream io.ReadWriteCloser) {
	defer stream.Close()
	client := bufio.NewReader(stream)
	request, err := http.ReadRequest(client)
	if err != nil || request.Method != http.MethodConnect {
		io.WriteString(stream, "HTTP/1.1 405 Method Not Allowed\r\n\r\n")
		return
	}
	target, err := net.Dial("tcp", request.RequestURI)
	if err != nil {
		io.WriteString(stream, "HTTP/1.1 400 Bad Request\r\n\r\n")
		return
	}
	defer target.Close()
	io.WriteString(stream, "HTTP/1.1 200 OK\r\n\r\n")
	var both sync.WaitGroup
	both.Add(2)
	forward := func(to io.Writer, from io.Reader) {
		defer both.Done()
		io.Copy(to, from)
	}
	go forward(target, client)
	go forward(stream, target)
	both.Wait()
}
