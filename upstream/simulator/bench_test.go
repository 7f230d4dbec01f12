package simulator_test

import (
	"io"
	"testing"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func BenchmarkReply(b *testing.B) {
	long := simulator.Reply{Deltas: 1000}
	for _, bench := range []struct {
		name, body string
		reply      simulator.Reply
		events     int
	}{
		{"stream of 1000 deltas", streamBody, long, 1006},
		{"fixed stream of 1000 deltas", streamBody, simulator.Fixed(long, []byte(streamBody)), 1006},
		{"small document", documentBody, simulator.Reply{}, 1},
		{"fixed small document", documentBody, simulator.Fixed(simulator.Reply{}, []byte(documentBody)), 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			sim, err := simulator.Start(simulator.Config{Keep: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer sim.Close()
			sim.Set("", simulator.Always(bench.reply))
			client := sim.Client()
			defer client.CloseIdleConnections()
			b.ReportAllocs()
			for b.Loop() {
				response, err := post(b.Context(), sim, client, "a", bench.body)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, response.Body); err != nil {
					b.Fatal(err)
				}
				response.Body.Close()
			}
			b.ReportMetric(float64(b.N*bench.events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
