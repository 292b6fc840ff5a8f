// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

// Command egress connects to targets with the code of kube-apiserver, as an EgressSelectorConfiguration says.
//
//	egress -config FILE [flags] URL               fetches, and writes a line for each response or error
//	egress -config FILE -pipe HOST:PORT           connects stdin and stdout to a target, each half on its own
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/egressselector"
)

// requestTimeout bounds a request from dial to last byte: nothing in these tests takes as long.
const requestTimeout = 30 * time.Second

func main() {
	config := flag.String("config", "", "file with an EgressSelectorConfiguration")
	pipe := flag.Bool("pipe", false, "connect stdin and stdout to HOST:PORT")
	ca := flag.String("ca", "", "file with the CA of targets")
	count := flag.Int("count", 1, "requests; 0 does not end")
	parallel := flag.Int("parallel", 1, "requests at a time")
	interval := flag.Duration("interval", 0, "time between requests")
	flag.Parse()
	if err := run(*config, *pipe, *ca, *count, *parallel, *interval, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(config string, isPipe bool, ca string, count, parallel int, interval time.Duration, target string) error {
	dial, err := clusterDialer(config)
	if err != nil {
		return err
	}
	if isPipe {
		return pipe(dial, target)
	}
	get, err := getter(dial, ca)
	if err != nil {
		return err
	}
	return repeat(count, parallel, interval, func() error { return get(target) })
}

// clusterDialer does what kube-apiserver does with --egress-selector-config-file.
func clusterDialer(path string) (utilnet.DialFunc, error) {
	config, err := egressselector.ReadEgressSelectorConfiguration(path)
	if err != nil {
		return nil, err
	}
	if errs := egressselector.ValidateEgressSelectorConfiguration(config); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	selector, err := egressselector.NewEgressSelector(config)
	if err != nil {
		return nil, err
	}
	dial, err := selector.Lookup(egressselector.Cluster.AsNetworkContext())
	if err == nil && dial == nil {
		err = fmt.Errorf("%s: no selection for cluster", path)
	}
	return dial, err
}

// getter gives a function that fetches and writes a line; all its calls share connections.
func getter(dial utilnet.DialFunc, ca string) (func(url string) error, error) {
	roots := x509.NewCertPool()
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificates", ca)
		}
	}
	var dials atomic.Int64
	// The defaults of kube-apiserver's clients of kubelets, HTTP/2 among them.
	transport := utilnet.SetTransportDefaults(&http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots},
	})
	client := &http.Client{Transport: transport, Timeout: requestTimeout}
	return func(url string) error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		hash := sha256.New()
		size, err := io.Copy(hash, response.Body)
		if err != nil {
			return err
		}
		fmt.Printf("%d %s size=%d sha256=%x dials=%d\n", response.StatusCode, response.Proto, size, hash.Sum(nil), dials.Load())
		return nil
	}, nil
}

// repeat calls do, and tells the last error at the end if there is one, the others as they come.
func repeat(count, parallel int, interval time.Duration, do func() error) error {
	var started, failed atomic.Int64
	var group sync.WaitGroup
	for range parallel {
		group.Go(func() {
			for count == 0 || started.Add(1) <= int64(count) {
				if err := do(); err != nil {
					failed.Add(1)
					fmt.Printf("error: %v\n", err)
				}
				time.Sleep(interval)
			}
		})
	}
	group.Wait()
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d requests failed", n, count)
	}
	return nil
}

// halfCloser is a connection that can end one direction: *tls.Conn and *net.UnixConn are.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// pipe ends when the target has sent everything and stdin has ended, or at the first error.
func pipe(dial utilnet.DialFunc, target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	dialled, err := dial(ctx, "tcp", target)
	if err != nil {
		return err
	}
	defer dialled.Close()
	conn, ok := dialled.(halfCloser)
	if !ok {
		return fmt.Errorf("%T cannot be closed for writing", dialled)
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		sent <- errors.Join(err, conn.CloseWrite())
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return err
	}
	return <-sent
}
