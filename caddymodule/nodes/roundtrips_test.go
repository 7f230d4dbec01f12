package nodes_test

import (
	"context"
	"io"
	"net"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// tap is a way to a Redis server on which round trips are counted: each time that
// a connection asks after it was answered.
type tap struct {
	addr  string
	trips atomic.Int64
}

func startTap(t *testing.T, server string) *tap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tap := &tap{addr: listener.Addr().String()}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); listener.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { tap.carry(ctx, client, server) })
		}
	})
	return tap
}

// carry connects a client to the server until one of them leaves.
func (tap *tap) carry(ctx context.Context, client net.Conn, addr string) {
	defer client.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
	var asking atomic.Bool
	go func() {
		defer client.Close()
		io.Copy(watched{client, func() { asking.Store(false) }}, server)
	}()
	io.Copy(watched{server, func() {
		if !asking.Swap(true) {
			tap.trips.Add(1)
		}
	}}, client)
}

// watched tells of every write, before it.
type watched struct {
	io.Writer
	tell func()
}

func (w watched) Write(p []byte) (int, error) {
	w.tell()
	return w.Writer.Write(p)
}

var evalshaCalls = regexp.MustCompile(`cmdstat_evalsha:calls=(\d+)`)

// scripts is how many scripts the server has run.
func (f *fleet) scripts() int {
	f.t.Helper()
	info, err := f.client.Info(context.Background(), "commandstats").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	found := evalshaCalls.FindStringSubmatch(info)
	if found == nil {
		f.t.Fatalf("no script was run:\n%s", info)
	}
	n, _ := strconv.Atoi(found[1])
	return n
}

// A request costs three round trips: for the user's slot and the money to be set aside, for the
// account's slot, and for the record, with which both slots are given back.
func TestARequestCostsThreeRoundTrips(t *testing.T) {
	server := redistest.Start(t)
	tap := startTap(t, server.Addr)
	p := over(t, server, accounts("a", 6, 2, sonnet))
	p.urls = []string{"redis://" + tap.addr}
	f := launch(t, p)
	f.sim.Set("", simulator.Always(simulator.Reply{}))
	n := f.nodes[0]
	ask := func(i int) {
		if a := f.ask(n, question{stream: i%2 == 0, session: "conversation-" + strconv.Itoa(i%10)}); !a.whole() {
			t.Error(a)
		}
	}
	for i := range 20 { // the scripts are known, and the sets of candidates
		ask(i)
	}
	const requests = 100
	trips, scripts, began := tap.trips.Load(), f.scripts(), time.Now()
	for i := range requests {
		ask(i)
	}
	took := time.Since(began)
	trips, scripts = tap.trips.Load()-trips, f.scripts()-scripts

	idleTrips, idleScripts := tap.trips.Load(), f.scripts()
	time.Sleep(took)
	trips -= tap.trips.Load() - idleTrips
	scripts -= f.scripts() - idleScripts
	t.Logf("%d requests in %v: %d round trips and %d scripts more than without them", requests, took.Round(time.Millisecond), trips, scripts)
	// The three gateways' own beats are not in step with the two periods.
	const slack = 6
	if most := int64(3*requests + slack); trips > most {
		t.Errorf("%d requests took %d round trips, more than %d", requests, trips, most)
	}
	if most := 5*requests + slack; scripts > most {
		t.Errorf("%d requests ran %d scripts, more than %d", requests, scripts, most)
	}
}
