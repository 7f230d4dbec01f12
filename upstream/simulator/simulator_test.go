package simulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

func TestScriptsAreChosenInOrder(t *testing.T) {
	sim := start(t, simulator.Config{})
	sim.Set("", simulator.Always(simulator.Reply{Status: 500}))
	sim.Set("a", func(r *simulator.Request) simulator.Reply {
		return simulator.Reply{Status: 529, Message: r.Model + r.RawQuery}
	})
	sim.Queue("", simulator.Reply{Status: 400}, simulator.Reply{Status: 404})
	sim.Queue("a", simulator.Reply{Status: 429})
	var got []int
	for _, credential := range []string{"a", "b", "a", "a", "b"} {
		response, err := post(t.Context(), sim, sim.Client(), credential, documentBody)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, response.StatusCode)
		if message := gjson.GetBytes(body, "error.message").String(); response.StatusCode == 529 && message != "claude-opus-5-5beta=true" {
			t.Errorf("the script saw %q", message)
		}
	}
	// a's queue, the common queue, the common queue, a's script, the common script
	if diff := cmp.Diff([]int{429, 400, 404, 529, 500}, got); diff != "" {
		t.Error(diff)
	}
	sim.Set("a", nil)
	sim.Set("", nil)
	if got := gjson.GetBytes(read(t, sim, "a", documentBody), "type").String(); got != "message" {
		t.Errorf("without scripts: %q", got)
	}
}

func TestRequestsAreRecordedAsTheyCame(t *testing.T) {
	sim := start(t, simulator.Config{Keep: 2})
	for _, body := range []string{documentBody, documentBody, streamBody} {
		read(t, sim, "a", body)
	}
	requests := sim.Requests()
	if len(requests) != 2 {
		t.Fatalf("%d kept, want 2", len(requests))
	}
	r := requests[1]
	if r.Method != "POST" || r.Path != "/v1/messages" || r.RawQuery != "beta=true" || string(r.Body) != streamBody ||
		r.Credential != "a" || r.Header.Get("X-Api-Key") != "a" || !r.Stream || r.Model != "claude-opus-5-5" ||
		r.ContentLength != int64(len(streamBody)) || r.Status != 200 || r.Done.Before(r.Time) || r.OutputTokens == 0 {
		t.Errorf("recorded %+v", r)
	}
	if requests[0].ID == r.ID || !strings.HasPrefix(r.ID, "req_") {
		t.Errorf("ids %q and %q", requests[0].ID, r.ID)
	}
	if a := sim.Account("a"); a != (simulator.Account{Requests: 3, Messages: 3, MaxInFlight: 1}) {
		t.Errorf("account %+v", a)
	}
	sim.Reset()
	if a := sim.Account("a"); len(sim.Requests()) != 0 || a != (simulator.Account{}) {
		t.Errorf("after Reset: %+v, %d requests", a, len(sim.Requests()))
	}
	unkept := start(t, simulator.Config{Keep: -1})
	read(t, unkept, "a", documentBody)
	if len(unkept.Requests()) != 0 || unkept.Account("a").Messages != 1 {
		t.Errorf("recording off: %d kept, %+v", len(unkept.Requests()), unkept.Account("a"))
	}
}

// A client that keeps to N at a time, counting an answer as over when its end
// came, must never be seen with more.
func TestMaxInFlightNeverCountsTwice(t *testing.T) {
	const limit, workers, each = 3, 12, 20
	sim := start(t, simulator.Config{})
	client := sim.Client()
	slots := make(chan struct{}, limit)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for j := range each {
				body := []string{streamBody, documentBody}[(i+j)%2]
				if j%5 == 4 {
					sim.Queue("a", simulator.Reply{Status: 529})
				}
				slots <- struct{}{}
				response, err := post(t.Context(), sim, client, "a", body)
				if err != nil {
					t.Error(err)
					<-slots
					return
				}
				_, err = io.ReadAll(response.Body)
				<-slots
				response.Body.Close()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if a := sim.Account("a"); a.MaxInFlight > limit || a.MaxInFlight < 1 || a.InFlight != 0 || a.Messages != workers*each {
		t.Errorf("account %+v", a)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := start(t, simulator.Config{Memory: true})
		sim.Set("a", simulator.Always(simulator.Reply{Fault: simulator.Fault{Kind: simulator.Hang, After: 1}}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := sim.Wait(ctx, func() bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nothing happens: %v", err)
		}
		requestCtx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, func() {
			response, err := post(requestCtx, sim, sim.Client(), "a", streamBody)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			time.AfterFunc(time.Minute, leave)
			if _, err := io.ReadAll(response.Body); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		began := time.Now()
		if err := sim.Wait(t.Context(), func() bool { return sim.Account("a").InFlight == 1 }); err != nil || time.Since(began) != time.Minute {
			t.Errorf("the request's coming: %v after %v", err, time.Since(began))
		}
		gone := func() bool { return !sim.Requests()[0].Disconnected.IsZero() }
		if err := sim.Wait(t.Context(), gone); err != nil || time.Since(began) != 2*time.Minute {
			t.Errorf("the client's going: %v after %v", err, time.Since(began))
		}
	})
}

func TestProtocols(t *testing.T) {
	for name, test := range map[string]struct {
		config simulator.Config
		adjust func(*http.Transport)
		proto  string
	}{
		"HTTP/1.1":   {simulator.Config{}, func(*http.Transport) {}, "HTTP/1.1"},
		"h2c":        {simulator.Config{}, h2c, "HTTP/2.0"},
		"HTTPS":      {simulator.Config{TLS: true}, func(t *http.Transport) { t.ForceAttemptHTTP2 = false }, "HTTP/1.1"},
		"h2":         {simulator.Config{TLS: true}, func(*http.Transport) {}, "HTTP/2.0"},
		"in memory":  {simulator.Config{Memory: true}, func(*http.Transport) {}, "HTTP/1.1"},
		"memory h2c": {simulator.Config{Memory: true}, h2c, "HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			sim := start(t, test.config)
			client := sim.Client()
			test.adjust(client.Transport.(*http.Transport))
			defer client.CloseIdleConnections()
			for _, fault := range []simulator.FaultKind{simulator.NoFault, simulator.Reset} {
				sim.Queue("a", simulator.Reply{Fault: simulator.Fault{Kind: fault, After: 2}})
				response, err := post(t.Context(), sim, client, "a", streamBody)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if (err == nil) != (fault == simulator.NoFault) || len(names(body)) < 2 {
					t.Errorf("fault %v: error %v, events %q", fault, err, names(body))
				}
				if response.Proto != test.proto {
					t.Errorf("protocol %s, want %s", response.Proto, test.proto)
				}
			}
		})
	}
}

func h2c(t *http.Transport) {
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
}

func TestRefusalsThatARequestEarns(t *testing.T) {
	sim := start(t, simulator.Config{})
	mark := `{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}`
	newest := http.Header{"Anthropic-Version": {"2026-10-21"}}
	for name, test := range map[string]struct {
		method, path, body string
		header             http.Header
		status             int
		message            string
	}{
		"no credential":    {"POST", "/v1/messages", documentBody, http.Header{"X-Api-Key": nil}, 401, "x-api-key header is required"},
		"no version":       {"POST", "/v1/messages", documentBody, http.Header{"Anthropic-Version": nil}, 400, "anthropic-version: header is required"},
		"not JSON":         {"POST", "/v1/messages", "{", nil, 400, "The request body is not valid JSON: expected an object"},
		"no model":         {"POST", "/v1/messages", `{"max_tokens":1,"messages":[{}]}`, nil, 400, "model: Field required"},
		"no max_tokens":    {"POST", "/v1/messages", `{"model":"m","messages":[{}]}`, nil, 400, "max_tokens: Field required"},
		"no messages":      {"POST", "/v1/messages", `{"model":"m","max_tokens":1,"messages":[]}`, nil, 400, "messages: at least one message is required"},
		"five marks":       {"POST", "/v1/messages", `{"model":"m","max_tokens":1,"system":[` + mark + "," + mark + `],"messages":[{"content":[` + mark + "," + mark + "," + mark + `]}]}`, nil, 400, "A maximum of 4 blocks with cache_control may be provided. Found 5."},
		"sampling":         {"POST", "/v1/messages", `{"model":"m","max_tokens":1,"top_k":1,"messages":[{}]}`, newest, 400, "top_k: Extra inputs are not permitted"},
		"sampling, before": {"POST", "/v1/messages", `{"model":"m","max_tokens":1,"top_k":1,"messages":[{}]}`, nil, 200, ""},
		"too large":        {"POST", "/v1/messages", strings.Repeat(" ", 33<<20), nil, 413, "Request exceeds the maximum size"},
		"method":           {"GET", "/v1/messages", "", nil, 405, "Method Not Allowed"},
		"path":             {"GET", "/", "", nil, 404, "Not Found"},
		"count":            {"POST", "/v1/messages/count_tokens", `{"model":"m","messages":[{}]}`, nil, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), test.method, sim.URL+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{"X-Api-Key": {"a"}, "Anthropic-Version": {"2023-06-01"}}
			for name, values := range test.header {
				r.Header[name] = values
			}
			response, err := sim.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got := gjson.GetBytes(body, "error.message").String(); response.StatusCode != test.status || got != test.message {
				t.Errorf("%d %s", response.StatusCode, body)
			}
			if id := gjson.GetBytes(body, "request_id").String(); test.status != 200 && id != response.Header.Get("Request-Id") {
				t.Errorf("request id %q in the body, %q in the header", id, response.Header.Get("Request-Id"))
			}
		})
	}
}

func TestErrorRepliesAndTheirHeaders(t *testing.T) {
	sim := start(t, simulator.Config{})
	at := time.Unix(1_800_000_000, 0)
	window := func(name, status string, reset time.Time) simulator.Window {
		return simulator.Window{Name: name, Status: status, Reset: reset, Utilization: 1.25}
	}
	const unified = "anthropic-ratelimit-unified-"
	for name, test := range map[string]struct {
		reply  simulator.Reply
		body   string            // part of it
		header map[string]string // "" for one that must be absent
	}{
		"burst": {simulator.Reply{Status: 429, RetryAfter: 1500 * time.Millisecond}, `"type":"rate_limit_error"`,
			map[string]string{"retry-after": "2", unified + "status": "", "anthropic-ratelimit-requests-limit": "", "content-type": "application/json"}},
		"two windows rejected": {simulator.Reply{Status: 429, Limits: &simulator.Limits{Claim: "seven_day_opus",
			Windows: []simulator.Window{window("5h", "rejected", at), window("7d", "rejected", at.Add(time.Hour)), window("7d_opus", "allowed", at.Add(2*time.Hour))}}}, `"rate_limit_error"`,
			map[string]string{unified + "status": "rejected", unified + "reset": "1800003600", unified + "representative-claim": "seven_day_opus",
				unified + "5h-status": "rejected", unified + "5h-reset": "1800000000", unified + "7d_opus-utilization": "1.25"}},
		"allowed, RFC 3339": {simulator.Reply{Limits: &simulator.Limits{RFC3339: true, Overage: "allowed", Windows: []simulator.Window{window("5h", "allowed", at)}}}, `"type":"message"`,
			map[string]string{unified + "status": "allowed", unified + "5h-reset": "2027-01-15T08:00:00Z", unified + "overage-status": "allowed"}},
		"fast": {simulator.Reply{Status: 429, Limits: &simulator.Limits{FastReset: at}}, `"rate_limit_error"`,
			map[string]string{"anthropic-fast-output-tokens-remaining": "0", "anthropic-fast-input-tokens-reset": "2027-01-15T08:00:00Z", unified + "status": ""}},
		"ramp limit": {simulator.Reply{Status: 429, ErrorCode: "ramp_limit_exceeded"}, `"details":{"error_code":"ramp_limit_exceeded"},"type":"rate_limit_error","message":"Your usage is growing`, nil},
		"credit":     {simulator.Reply{Status: 400, Message: simulator.CreditBalanceTooLow}, `"type":"invalid_request_error","message":"Your credit balance is too low`, nil},
		"HTML":       {simulator.Reply{Status: 502, Body: []byte(simulator.BadGatewayHTML)}, "<h1>502 Bad Gateway</h1>", map[string]string{"content-type": "text/html; charset=UTF-8"}},
		"teapot":     {simulator.Reply{Status: 418, ErrorType: "policy_blocked", Message: "No."}, `"type":"policy_blocked","message":"No."`, nil},
		"own header": {simulator.Reply{Header: http.Header{"X-Should-Retry": {"false"}, "request-id": nil}}, `"type":"message"`,
			map[string]string{"x-should-retry": "false", "request-id": "", "anthropic-ratelimit-requests-limit": "4000"}},
	} {
		t.Run(name, func(t *testing.T) {
			sim.Queue("a", test.reply)
			response, err := post(t.Context(), sim, sim.Client(), "a", documentBody)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || !bytes.Contains(body, []byte(test.body)) {
				t.Errorf("body %s, %v", body, err)
			}
			for name, want := range test.header {
				if got := response.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
	response, err := post(t.Context(), sim, sim.Client(), "sk-ant-oat01-x", documentBody)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.Header.Get(unified+"5h-status") != "allowed" {
		t.Errorf("a subscription's token has headers %v", response.Header)
	}
}

func TestTokenEndpoint(t *testing.T) {
	sim := start(t, simulator.Config{TokenLifetime: time.Hour})
	refresh := func(token string) (int, gjson.Result) {
		t.Helper()
		response, err := sim.Client().PostForm(sim.URL+simulator.TokenPath,
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"me"}})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || !json.Valid(body) {
			t.Fatalf("%s, %v", body, err)
		}
		return response.StatusCode, gjson.ParseBytes(body)
	}
	status, first := refresh("r0")
	if status != 200 || first.Get("access_token").String() != "sk-ant-oat01-sim-1" || first.Get("expires_in").Int() != 3600 {
		t.Fatalf("%d %s", status, first)
	}
	if status, again := refresh("r0"); status != 400 || again.Get("error").String() != "invalid_grant" {
		t.Errorf("a spent token: %d %s", status, again)
	}
	next := first.Get("refresh_token").String()
	sim.Queue("", simulator.Reply{Status: 500}) // not for this endpoint
	sim.Queue(simulator.TokenPath, simulator.Reply{Status: 400}, simulator.Reply{Status: 503})
	if status, refused := refresh(next); status != 400 || refused.Get("error").String() != "invalid_grant" {
		t.Errorf("refused: %d %s", status, refused)
	}
	if status, down := refresh(next); status != 503 || down.Get("error").String() != "server_error" {
		t.Errorf("down: %d %s", status, down)
	}
	if status, second := refresh(next); status != 200 || second.Get("refresh_token").String() == next {
		t.Errorf("rotated: %d %s", status, second)
	}
	if a := sim.Account(simulator.TokenPath); a != (simulator.Account{Requests: 5, Messages: 5, MaxInFlight: 1}) {
		t.Errorf("counts %+v", a)
	}
	if r := sim.Requests()[4]; r.Credential != next || r.Path != simulator.TokenPath {
		t.Errorf("recorded %+v", r)
	}
	response, err := sim.Client().Post(sim.URL+"/v1/oauth/token", "application/json", strings.NewReader(`{"grant_type":"password"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 400 {
		t.Errorf("another grant: %d", response.StatusCode)
	}
}
