package caddymodule_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	_ "github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// BenchmarkRelay runs the gateway beside plain reverse_proxy: one process, one
// simulated upstream, one client, in turns. It reports the CPU time of the
// whole process per request, and its ratio; the client's and the upstream's
// share, measured without anything between them, is taken off both.
func BenchmarkRelay(b *testing.B) {
	const streamed = `{"model":"claude-sonnet-5-5","max_tokens":1024,"stream":true,"messages":[{"role":"user","content":"Say hi in five words."}]}`
	for _, bench := range []struct {
		name    string
		body    string
		reply   simulator.Reply
		clients int // at the same time
	}{
		{"small request", `{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"Say hi in five words."}]}`, simulator.Reply{Text: "Hi there, nice to see you."}, 1},
		{"stream of 200 events", streamed, simulator.Reply{Deltas: 194}, 1},
		// Paced, every event is relayed by itself.
		{"20 paced streams of 200 events", streamed, simulator.Reply{Deltas: 194, Pause: time.Millisecond}, 20},
		{"50 kB request", `{"model":"claude-sonnet-5-5","max_tokens":64,"messages":[{"role":"user","content":"` + strings.Repeat(`A line of text with \"quotes\" in it.\n`, 1300) + `"}]}`, simulator.Reply{Text: "Hi there, nice to see you."}, 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			side := startPair(b, simulator.Fixed(bench.reply, []byte(bench.body)))
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			post := func(url string) {
				request, _ := http.NewRequest(http.MethodPost, url+"/v1/messages", strings.NewReader(bench.body))
				request.Header.Set("X-Api-Key", "sk-bench")
				request.Header.Set("Anthropic-Version", "2023-06-01")
				request.Header.Set("Content-Type", "application/json")
				response, err := client.Do(request)
				if err != nil {
					b.Error(err)
					return
				}
				defer response.Body.Close()
				if response.StatusCode != http.StatusOK {
					text, _ := io.ReadAll(response.Body)
					b.Errorf("%s answered %d: %s", url, response.StatusCode, text)
				}
				io.Copy(io.Discard, bufio.NewReader(response.Body))
			}
			const batch = 20
			var direct, proxy, gateway [2]time.Duration // CPU, wall
			measure := func(sum *[2]time.Duration, url string) {
				cpu, wall := cpuTime(), time.Now()
				var clients sync.WaitGroup
				for range bench.clients {
					clients.Go(func() {
						for range batch / bench.clients {
							post(url)
						}
					})
				}
				clients.Wait()
				sum[0] += cpuTime() - cpu
				sum[1] += time.Since(wall)
			}
			for range 3 * batch { // connections, caches
				post(side.direct)
				post(side.proxy)
				post(side.gateway)
			}
			rounds := 0
			for b.Loop() {
				measure(&direct, side.direct)
				measure(&proxy, side.proxy)
				measure(&gateway, side.gateway)
				rounds++
			}
			per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(rounds*batch) }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(per(direct[0]), "direct-cpu-ns")
			b.ReportMetric(per(proxy[0]), "proxy-cpu-ns")
			b.ReportMetric(per(gateway[0]), "gateway-cpu-ns")
			b.ReportMetric(float64(gateway[0]-direct[0])/float64(proxy[0]-direct[0]), "cpu-ratio")
			b.ReportMetric(float64(gateway[0])/float64(proxy[0]), "whole-cpu-ratio")
			b.ReportMetric(float64(gateway[1])/float64(proxy[1]), "whole-wall-ratio")
		})
	}
}

type pair struct{ direct, proxy, gateway string }

// startPair serves the gateway and reverse_proxy in front of one upstream.
func startPair(b *testing.B, reply simulator.Reply) pair {
	sim, err := simulator.Start(simulator.Config{Keep: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { sim.Close() })
	sim.Set("", simulator.Always(reply))
	side := pair{sim.URL, "http://" + gatewaytest.FreeAddress(b), "http://" + gatewaytest.FreeAddress(b)}
	store := b.TempDir()
	b.Cleanup(func() { // Caddy does not wait until the store is closed; who opens it next does
		ledger, err := sqliteledger.Open(context.Background(), store, sqliteledger.Options{LockWait: 10 * time.Second})
		if err == nil {
			err = ledger.Close()
		}
		if err != nil {
			b.Error(err)
		}
	})
	loadCaddyfile(b, fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	log {
		level ERROR
	}
}
%s {
	reverse_proxy %s {
		flush_interval -1
	}
}
%s {
	sub2api {
		store embedded %s
		account main {
			api_key sk-upstream
			base_url %s
			concurrency 64
		}
		group default
		user bench {
			balance 1000000
			concurrency 0
			key sk-bench default
		}
	}
}`, side.proxy, strings.TrimPrefix(sim.URL, "http://"), side.gateway, store, sim.URL))
	return side
}

func loadCaddyfile(tb testing.TB, text string) {
	tb.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		tb.Fatal(err, warnings)
	}
	if err := caddy.Load(config, true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { caddy.Stop() })
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
