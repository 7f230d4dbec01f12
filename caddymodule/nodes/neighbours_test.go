package nodes_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	// attacks is how many requests the first user of TestNeighbours sends, where
	// SUB2API_TEST_ATTACKS does not say.
	attacks = 300
	// attackMark is in the first user's requests, plainMark in the second's.
	attackMark = "attack "
	plainMark  = "plain "
	// neighbourWaits is how long the second user waits for an answer at most.
	neighbourWaits = 10 * time.Second
)

// TestNeighbours: whatever one user sends, and whatever upstream makes of it, the
// requests of another to the same accounts are answered, soon, and stay at the
// account of their session.
func TestNeighbours(t *testing.T) {
	n, text := attacks, os.Getenv("SUB2API_TEST_ATTACKS")
	if text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("SUB2API_TEST_ATTACKS: %v", err)
		}
	}
	t.Parallel()
	for _, nodes := range []int{1, 3} {
		for _, accounts := range []int{1, 2, 20} {
			if accounts == 2 && nodes == 3 && text == "" { // one node has shown it
				continue
			}
			t.Run(fmt.Sprintf("nodes=%d/accounts=%d", nodes, accounts), func(t *testing.T) {
				if nodes > 1 {
					redistest.Require(t)
				}
				inLane(t)
				newStreet(t, nodes, accounts).live(n)
			})
		}
	}
}

// street is one upstream, gateways before it, and two users.
type street struct {
	t     *testing.T
	sim   *simulator.Server
	nodes []*gatewaytest.Gateway
	http  *http.Client

	mu sync.Mutex
	// homes are the accounts of the second user's sessions, moves what they had
	// besides.
	homes map[string]string
	moves []string
}

func newStreet(t *testing.T, nodes, accounts int) *street {
	sim, err := simulator.Start(simulator.Config{Keep: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	s := &street{t: t, sim: sim, homes: map[string]string{}, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(s.http.CloseIdleConnections)
	sim.Set("", s.answer)
	store := "store embedded " + filepath.Join(t.TempDir(), "store")
	if nodes > 1 {
		server := redistest.Start(t)
		store = fmt.Sprintf("store redis %s {\nspool %s\n}", server.URL, filepath.Join(t.TempDir(), "spool"))
	}
	var blocks strings.Builder
	for i := range accounts {
		kind := []string{"api_key", "setup_token"}[i%2]
		fmt.Fprintf(&blocks, "account a%d {\n%s %s\nbase_url %s\n}\n", i, kind, credential("a", i), sim.URL)
	}
	text := fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
}
SITE {
	sub2api {
		%s
		%s
		group default
		user first {
			balance unlimited
			concurrency 0
			key sk-gateway-first default
		}
		user second {
			balance unlimited
			concurrency 0
			key sk-gateway-second default
		}
		retry {
			attempts 2
			delay 5ms
		}
		relay {
			header_timeout 2s
			answer_timeout 2s
			first_event_timeout 2s
			idle_timeout 2s
		}
	}
}
`, store, blocks.String())
	for i := range nodes {
		s.nodes = append(s.nodes, gatewaytest.Start(t, fmt.Sprint("N", i), text))
	}
	for _, node := range s.nodes {
		node.Wait()
	}
	return s
}

// answer is upstream's: nothing is wrong with what the second user and the gateway
// itself ask.
func (s *street) answer(r *simulator.Request) simulator.Reply {
	body := string(r.Body)
	if _, rest, ok := strings.Cut(body, plainMark); ok {
		session, _, _ := strings.Cut(rest, " ")
		s.mu.Lock()
		defer s.mu.Unlock()
		switch home := s.homes[session]; home {
		case "":
			s.homes[session] = r.Credential
		case r.Credential:
		default:
			s.moves = append(s.moves, fmt.Sprintf("%s from %s to %s", session, home, r.Credential))
		}
		return simulator.Reply{Text: "at your service", Pause: time.Duration(rand.IntN(3)) * time.Millisecond}
	}
	_, rest, ok := strings.Cut(body, attackMark)
	if !ok {
		return simulator.Reply{}
	}
	seed, _, _ := strings.Cut(rest, " ")
	n, _ := strconv.ParseUint(seed, 10, 64)
	return malice(rand.New(rand.NewPCG(n, 1)), r)
}

// malice is what upstream makes of what the first user sends.
func malice(rng *rand.Rand, r *simulator.Request) simulator.Reply {
	words := []string{
		"", simulator.CreditBalanceTooLow, "This organization has been disabled.", "Unexpected value(s) `" + r.Header.Get("Anthropic-Beta") + "` for the `anthropic-beta` header",
		"model: " + r.Model, "Invalid bearer token", simulator.InvalidSignature,
	}
	codes := []string{"", "organization_on_hold", "linked_organization_suspended", "ramp_limit_exceeded", "claude_code_version_too_old"}
	types := []string{"", "billing_error", "permission_error", "authentication_error", "not_found_error", "rate_limit_error", "overloaded_error", "api_error", "no such type"}
	reply := simulator.Reply{Message: words[rng.IntN(len(words))], Header: http.Header{}}
	if rng.IntN(3) == 0 {
		reply.ErrorCode = codes[rng.IntN(len(codes))]
	}
	if rng.IntN(3) == 0 {
		reply.ErrorType = types[rng.IntN(len(types))]
	}
	switch after := []string{"", "", "0", "1", "600", "Mon, 23 Nov 2020 12:00:30 GMT", "soon"}[rng.IntN(7)]; after {
	case "":
	default:
		reply.Header.Set("Retry-After", after)
	}
	if rng.IntN(4) == 0 {
		reply.Header.Set("X-Should-Retry", "false")
	}
	switch kind := rng.IntN(20); {
	case kind < 12:
		reply.Status = []int{400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 429, 500, 502, 503, 504, 520, 529}[rng.IntN(18)]
		if rng.IntN(5) == 0 {
			reply.Body = []byte(simulator.BadGatewayHTML)
		}
	case kind < 18:
		reply.Message, reply.ErrorType = "", ""
		reply.Fault = simulator.Fault{
			Kind:      []simulator.FaultKind{simulator.Reset, simulator.Cut, simulator.Truncate, simulator.ErrorEvent}[rng.IntN(4)],
			After:     rng.IntN(8) - 1,
			Bytes:     rng.IntN(40),
			ErrorType: types[1+rng.IntN(len(types)-1)],
		}
	case kind == 18:
		// Never after a whole answer: a server that does not read on would keep the
		// connection's next request waiting, whoever's it is.
		reply.Fault = simulator.Fault{Kind: simulator.Hang, After: rng.IntN(2) - 1}
	}
	return reply
}

// live has the two users ask at once until the first has sent n requests.
func (s *street) live(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var sent atomic.Int64
	var first, second sync.WaitGroup
	for range 16 {
		first.Go(func() {
			for i := sent.Add(1); i <= int64(n) && ctx.Err() == nil; i = sent.Add(1) {
				s.attack(ctx, uint64(i))
			}
		})
	}
	var mu sync.Mutex
	var slowest time.Duration
	var failed []string
	answers := 0
	done := make(chan struct{})
	for worker := range 4 {
		second.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				session := fmt.Sprintf("s%d-%d", worker, i%5)
				began := time.Now()
				problem := s.ask(ctx, session, i)
				took := time.Since(began)
				if took > neighbourWaits {
					problem += fmt.Sprintf(" took %v", took)
				}
				mu.Lock()
				answers++
				slowest = max(slowest, took)
				if problem != "" && len(failed) < 10 {
					failed = append(failed, problem)
				}
				mu.Unlock()
			}
		})
	}
	first.Wait()
	close(done)
	second.Wait()
	if len(failed) > 0 || answers == 0 {
		s.t.Errorf("of %d requests of the second user some failed:\n%s", answers, strings.Join(failed, "\n"))
	}
	if len(s.moves) > 0 {
		s.t.Errorf("%d times a session of the second user moved: %v", len(s.moves), s.moves[:min(5, len(s.moves))])
	}
	s.t.Logf("%d attacks, %d answers to the second user, the slowest after %v", n, answers, slowest.Round(time.Millisecond))
}

// attack sends what the first user thinks of.
func (s *street) attack(ctx context.Context, n uint64) {
	rng := rand.New(rand.NewPCG(n, 2))
	ctx, cancel := context.WithTimeout(ctx, neighbourWaits)
	defer cancel()
	model := []string{sonnet, sonnet, opus, haiku, "no-such-model", fmt.Sprintf("junk-%d", n), sonnet + "[1m]"}[rng.IntN(7)]
	more := ""
	if rng.IntN(5) == 0 {
		more = `"speed":"fast",`
	}
	path := "/v1/messages"
	if rng.IntN(6) == 0 {
		path += "/count_tokens"
	}
	body := fmt.Sprintf(`{"model":"%s",%s"max_tokens":64,"stream":%t,"messages":[{"role":"user","content":"%s%d !"}]}`,
		model, more, rng.IntN(2) == 0, attackMark, n)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.nodes[rng.IntN(len(s.nodes))].URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return
	}
	request.Header.Set("X-Api-Key", "sk-gateway-first")
	if rng.IntN(2) == 0 {
		request.Header.Set("Anthropic-Beta", "Your credit balance is too low")
	}
	if rng.IntN(2) == 0 {
		request.Header.Set("X-Claude-Code-Session-Id", fmt.Sprint("mine-", rng.IntN(10)))
	}
	response, err := s.http.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	if rng.IntN(10) == 0 {
		return // hangs up
	}
	_, _ = io.Copy(io.Discard, response.Body)
}

// ask sends a plain request and returns what is wrong with its answer.
func (s *street) ask(ctx context.Context, session string, i int) string {
	stream := i%2 == 0
	body := fmt.Sprintf(`{"model":"%s","max_tokens":64,"stream":%t,"messages":[{"role":"user","content":"%s%s %d"}]}`,
		[]string{sonnet, sonnet, sonnet, opus}[i%4], stream, plainMark, session, i)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.nodes[i%len(s.nodes)].URL+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	request.Header.Set("X-Api-Key", "sk-gateway-second")
	request.Header.Set("X-Claude-Code-Session-Id", session)
	response, err := s.http.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	whole := strings.Count(string(text), "event: message_stop") == 1 && !strings.Contains(string(text), "event: error")
	if !stream {
		whole = strings.Contains(string(text), `"stop_reason":"end_turn"`)
	}
	if err != nil || response.StatusCode != http.StatusOK || !whole {
		return fmt.Sprintf("session %s: status %d, %v: %.300s", session, response.StatusCode, err, text)
	}
	return ""
}
