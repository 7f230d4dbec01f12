package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// BenchmarkSettleUnderLoad is how long the last chunk of an answer waits for its
// record, with the embedded store, while that many clients for each core keep all
// busy.
func BenchmarkSettleUnderLoad(b *testing.B) {
	for _, clients := range []int{8, 32} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { benchmarkSettleUnderLoad(b, clients) })
	}
}

func benchmarkSettleUnderLoad(b *testing.B, clients int) {
	const body = `{"model":"claude-sonnet-5-5","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Say hi in five words."}]}`
	var mu sync.Mutex
	var all []time.Duration
	defer caddymodule.OnSettle(func(took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, took)
	})()
	side := startPair(b, simulator.Fixed(simulator.Reply{Text: "Hi there, nice to see you."}, []byte(body)))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	b.SetParallelism(clients)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			request, _ := http.NewRequest(http.MethodPost, side.gateway+"/v1/messages", strings.NewReader(body))
			request.Header.Set("X-Api-Key", "sk-bench")
			response, err := client.Do(request)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
				b.Errorf("%d, %v", response.StatusCode, err)
			}
			response.Body.Close()
		}
	})
	b.StopTimer()
	mu.Lock()
	defer mu.Unlock()
	if len(all) != b.N {
		b.Fatalf("%d records of %d requests", len(all), b.N)
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1e3, "p99-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
