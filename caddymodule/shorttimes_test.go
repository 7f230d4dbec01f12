package caddymodule_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing/sqliteledger"
	"github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// hasty is a gateway in this process whose fixed times are short, over two accounts
// of which key-a is tried first.
type hasty struct {
	url string
	sim *simulator.Server
}

func startHasty(t *testing.T, paid, answering time.Duration, words string) *hasty {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	undo := caddymodule.ShortTimes(paid, answering)
	store := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() { // Caddy does not wait until the store is closed; who opens it next does
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		ledger, err := sqliteledger.Open(context.Background(), store, sqliteledger.Options{LockWait: 10 * time.Second})
		if err == nil {
			err = ledger.Close()
		}
		if err != nil {
			t.Error(err)
		}
		undo()
	})
	h := &hasty{url: "http://" + gatewaytest.FreeAddress(t), sim: sim}
	loadCaddyfile(t, fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	grace_period 1s
	log {
		level ERROR
	}
}
%s {
	sub2api {
		store embedded %s
		account a {
			api_key key-a
			base_url %[3]s
			priority 1
		}
		account b {
			api_key key-b
			base_url %[3]s
		}
		group default
		user alice {
			balance 100
			key sk-alice default
		}
		%[4]s
	}
}`, h.url, store, sim.URL, words))
	return h
}

func (h *hasty) post(t *testing.T, model string, stream bool) *http.Response {
	t.Helper()
	body := fmt.Sprintf(`{"model":"%s","max_tokens":64,"stream":%t,"messages":[{"role":"user","content":"hello"}]}`, model, stream)
	request, _ := http.NewRequest(http.MethodPost, h.url+"/v1/messages", strings.NewReader(body))
	request.Header.Set("X-Api-Key", "sk-alice")
	request.Header.Set("X-Claude-Code-Session-Id", model)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// What a load balancer says after a long time, or a connection that ends then, may
// have been paid for: such a request is not sent again. What the API itself says is
// an answer.
func TestAnAnswerThatMayBePaidIsNotAskedForAgain(t *testing.T) {
	page := func(status int) simulator.Reply {
		return simulator.Reply{Status: status, Body: []byte(simulator.BadGatewayHTML)}
	}
	fault := func(kind simulator.FaultKind, after, bytes int) simulator.Reply {
		return simulator.Reply{Fault: simulator.Fault{Kind: kind, After: after, Bytes: bytes}}
	}
	h := startHasty(t, 200*time.Millisecond, time.Minute, "")
	for i, test := range []struct {
		name   string
		reply  simulator.Reply
		stream bool
		late   int // the client's status where it comes late; 200 = another account's
	}{
		{"500 page", page(500), false, 502},
		{"502 page", page(502), false, 502},
		{"503 page", page(503), false, 502},
		{"504 page", page(504), false, 504},
		{"524 page", page(524), false, 502},
		{"403 page", page(403), false, 502},
		{"408 page", page(408), false, 502},
		{"409 page", page(409), false, 502},
		{"200 page", simulator.Reply{Body: []byte("<html>")}, false, 502},
		{"another API's words", simulator.Reply{Body: []byte(`{"code":1113,"msg":"no"}`)}, false, 502},
		{"502 with JSON of its own", simulator.Reply{Status: 502, Body: []byte(`{"message":"upstream timed out"}`)}, false, 502},
		{"reset", fault(simulator.Reset, simulator.BeforeHeader, 0), false, 502},
		{"cut", fault(simulator.Cut, simulator.BeforeHeader, 0), false, 502},
		{"cut in the body", fault(simulator.Cut, 0, 30), false, 502},
		{"end in the body", fault(simulator.Truncate, 0, 30), false, 502},
		{"a stream", simulator.Reply{Events: []simulator.Event{{Name: "message_stop", Data: `{"type":"message_stop"}`}}}, false, 502},

		{"500 of the API", simulator.Reply{Status: 500}, false, 200},
		{"504 of the API", simulator.Reply{Status: 504}, false, 200},
		{"529 of the API", simulator.Reply{Status: 529}, false, 200},
		{"403 of the API", simulator.Reply{Status: 403}, false, 200},
		{"429 page", page(429), false, 200},
		{"529 page", page(529), false, 200},
		{"200 with an error of the API", simulator.Reply{Body: []byte(`{"type":"error","error":{"type":"overloaded_error","message":"no"}}`)}, false, 200},
		{"stream: 502 page", page(502), true, 200},
		{"stream: cut", fault(simulator.Cut, simulator.BeforeHeader, 0), true, 200},
		{"stream: no stream", simulator.Reply{Body: []byte("<html>")}, true, 200},
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, late %t", test.name, late), func(t *testing.T) {
				model := fmt.Sprintf("claude-%d-%t", i, late) // what comes last does so for its model
				if late {
					test.reply.HeaderDelay = 300 * time.Millisecond
				}
				h.sim.Set("key-a", func(r *simulator.Request) simulator.Reply {
					if r.Model == model && gjson.GetBytes(r.Body, "max_tokens").Int() == 64 { // else the gateway's own question
						return test.reply
					}
					return simulator.Reply{}
				})
				from := len(h.sim.Requests())
				response := h.post(t, model, test.stream)
				body, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				want, asked := 200, []string{"key-a", "key-b"}
				if late && test.late != 200 {
					want, asked = test.late, asked[:1]
				}
				if response.StatusCode != want {
					t.Errorf("%d %s, want %d", response.StatusCode, body, want)
				}
				if got := response.Header.Get("X-Should-Retry"); (got == "false") != (want != 200) {
					t.Errorf("x-should-retry %q", got)
				}
				var got []string
				for _, r := range h.sim.Requests()[from:] {
					if gjson.GetBytes(r.Body, "max_tokens").Int() == 64 {
						got = append(got, r.Credential)
					}
				}
				// One that ends on a used connection goes once more, on a new one.
				if got = slices.Compact(got); !slices.Equal(got, asked) {
					t.Errorf("asked %q, want %q", got, asked)
				}
			})
		}
	}
}

// An account that has begun to answer, and says nothing yet, keeps its client
// waiting in silence for a fixed time at most.
func TestAClientHearsOfAnAccountThatHasBegunToAnswer(t *testing.T) {
	const soon = 300 * time.Millisecond
	pings := simulator.Reply{Pause: 50 * time.Millisecond, Fault: simulator.Fault{Kind: simulator.Pings, After: 1}}
	delayed := pings
	delayed.HeaderDelay = 400 * time.Millisecond
	for _, test := range []struct {
		name      string
		keepalive string
		replies   []simulator.Reply // of key-a and key-b
		first     time.Duration     // of the first comment; 0 = none in a second
		more      bool              // others follow within the second
	}{
		{"pings", "100ms after 10m", []simulator.Reply{pings}, soon, true},
		{"pings, seldom", "10m after 10m", []simulator.Reply{pings}, soon, false},
		{"a header alone", "100ms after 10m", []simulator.Reply{{FirstDelay: time.Minute}}, soon, true},
		{"a late header", "100ms after 10m", []simulator.Reply{delayed}, 400*time.Millisecond + soon, true},
		{"the after time is sooner", "100ms after 100ms", []simulator.Reply{pings}, 100 * time.Millisecond, true},
		{"none", "0", []simulator.Reply{pings}, 0, false},
		{"no header", "100ms after 10m", []simulator.Reply{{HeaderDelay: time.Minute}}, 0, false},
		{"another account after a failure", "100ms after 10m", []simulator.Reply{{Status: 529}, pings}, soon, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := startHasty(t, time.Minute, soon, "relay {\nkeepalive "+test.keepalive+"\n}")
			for i, reply := range test.replies {
				h.sim.Queue([]string{"key-a", "key-b"}[i], reply)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			request, _ := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/messages", strings.NewReader(
				`{"model":"claude-sonnet-5-5","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"hello"}]}`))
			request.Header.Set("X-Api-Key", "sk-alice")
			began := time.Now()
			var comments []time.Duration
			if response, err := http.DefaultClient.Do(request); err == nil {
				for lines := bufio.NewScanner(response.Body); lines.Scan(); {
					switch line := lines.Text(); {
					case line == ": keepalive":
						comments = append(comments, time.Since(began))
					case line != "":
						t.Errorf("the client got %q", line)
					}
				}
				response.Body.Close()
			}
			if test.first == 0 {
				if len(comments) > 0 {
					t.Errorf("comments after %v", comments)
				}
				return
			}
			if len(comments) == 0 || comments[0] < test.first-20*time.Millisecond || comments[0] > test.first+250*time.Millisecond {
				t.Fatalf("comments after %v, want the first after %v", comments, test.first)
			}
			if test.more != (len(comments) > 1) {
				t.Errorf("comments after %v", comments)
			}
		})
	}
}
