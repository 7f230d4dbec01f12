package nodes_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// benchClients are the requests under way at once.
const benchClients = 32

// BenchmarkCost measures the CPU time that one request costs a gateway, and, where
// that shares its store, the Redis server. A turn is a streamed answer of 9
// events in a session of many; 100 accounts serve them.
func BenchmarkCost(b *testing.B) {
	b.Run("embedded", func(b *testing.B) { cost(b, nil) })
	b.Run("redis", func(b *testing.B) {
		redistest.Require(b)
		cost(b, redistest.Start(b, redistest.AppendOnly(redistest.EverySecond)))
	})
}

func cost(b *testing.B, server *redistest.Server) {
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { sim.Close() })
	sim.Set("", simulator.Always(simulator.Reply{Deltas: 4}))
	f := &fleet{
		t: b, sim: sim, answered: map[string]time.Time{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchClients, DisableCompression: true}},
	}
	b.Cleanup(f.http.CloseIdleConnections)
	p := plan{accounts: accounts("a", 100, 64, sonnet)}
	if server != nil {
		p = over(b, server, p.accounts)
		f.client = p.client
		b.Cleanup(func() { f.client.Close() })
	}
	text := f.caddyfile(p, filepath.Join(b.TempDir(), "spool"))
	if server == nil {
		text = regexp.MustCompile(`store redis[^}]*}`).ReplaceAllString(text, "store embedded "+b.TempDir())
	}
	n := gatewaytest.Start(b, "A", text)
	n.Wait()
	f.turns(b, n, 500)
	gateway, store := cpu(b, n), f.storeCPU()
	b.ResetTimer()
	f.turns(b, n, b.N)
	b.StopTimer()
	b.ReportMetric(float64((cpu(b, n)-gateway).Microseconds())/float64(b.N), "gateway-µs/request")
	b.ReportMetric(float64((f.storeCPU()-store).Microseconds())/float64(b.N), "store-µs/request")
}

// turns asks count questions, benchClients at a time, in 200 sessions.
func (f *fleet) turns(b *testing.B, n *gatewaytest.Gateway, count int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range benchClients {
		all.Go(func() {
			for i := next.Add(1); i <= int64(count); i = next.Add(1) {
				if a := f.ask(n, question{session: fmt.Sprint("turns-", i%200), stream: true}); !a.whole() {
					b.Error(a)
					return
				}
			}
		})
	}
	all.Wait()
}

// cpu is the CPU time that the gateway has used.
func cpu(b *testing.B, n *gatewaytest.Gateway) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Pid()))
	if err != nil {
		b.Skip("no /proc here to read CPU times from")
	}
	// proc_pid_stat(5): after the name in brackets, utime and stime are the 12th and
	// 13th, in hundredths of a second.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0
	for _, text := range fields[11:13] {
		n, _ := strconv.Atoi(text)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// storeCPU is the CPU time that the Redis server has used; 0 without one.
func (f *fleet) storeCPU() (used time.Duration) {
	if f.client == nil {
		return 0
	}
	info := f.client.(*redis.Client).Info(f.t.Context(), "cpu").Val()
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			seconds, _ := strconv.ParseFloat(value, 64)
			used += time.Duration(seconds * float64(time.Second))
		}
	}
	return used
}
