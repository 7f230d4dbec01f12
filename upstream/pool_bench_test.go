package upstream_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// A small request over a connection that exists, beside net/http's own pool.
func BenchmarkRoundTrip(b *testing.B) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Write([]byte(`{"input_tokens":9}`))
		}))
		plain := &http.Transport{DisableCompression: true}
		if protocol == "HTTP/2" {
			server.EnableHTTP2 = true
			server.StartTLS()
			plain = server.Client().Transport.(*http.Transport)
			plain.DisableCompression = true
		} else {
			server.Start()
		}
		defer server.Close()
		var pools upstream.Transports
		if plain.TLSClientConfig != nil {
			pools.Trust(plain.TLSClientConfig.RootCAs)
		}
		defer pools.Close()
		for name, transport := range map[string]http.RoundTripper{
			"http.Transport": plain,
			"pool":           pools.For(&upstream.Account{Name: "main", Concurrency: 8}),
		} {
			b.Run(protocol+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				body := bytes.Repeat([]byte("x"), 512)
				for b.Loop() {
					request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL+"/v1/messages", bytes.NewReader(body))
					if err != nil {
						b.Fatal(err)
					}
					response, err := transport.RoundTrip(request)
					if err != nil {
						b.Fatal(err)
					}
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			})
		}
	}
}
